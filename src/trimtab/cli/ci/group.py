"""`trimtab [OPTIONS] ci ...`: the same commands, reached through the root of the command tree."""

from __future__ import annotations

import click

from trimtab.cli.ci import main


@click.command(
    add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def ci(ctx: click.Context, /, arguments: tuple[str, ...]) -> None:
    """Pipelines of ship.py: what has not changed is not done again."""
    ctx.exit(main(arguments))
