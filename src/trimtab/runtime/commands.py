"""How a component's command says what a user is to change."""

from __future__ import annotations

from typing import IO, Any

import click


class Refused(click.ClickException):
    """One line for the user; the command ends with status 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Says it as every failure of the command line is said."""
        click.echo(f"trimtab: {self.message}", err=True)


__all__ = ["Refused"]
