"""How results are printed: tables for people, JSON or YAML for programs, colour only on a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import click

Format = Literal["table", "wide", "json", "yaml", "name"]


def output_option(*formats: str) -> Callable[[Any], Any]:
    """The option `-o`; the first format is the default."""
    choices = formats or ("table", "json", "yaml")
    return click.option(
        "-o",
        "--output",
        "fmt",
        type=click.Choice(choices),
        default=choices[0],
        show_default=True,
        help="Output format.",
    )


def dump(value: Any, fmt: str) -> None:
    """Prints a value as JSON or YAML."""
    if fmt == "yaml":
        import yaml

        click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)
    else:
        click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints aligned columns, three blanks apart; the last column is not padded."""
    for line in table_lines(headers, rows):
        click.echo(line)


def table_lines(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    texts = [[str(h).upper() for h in headers], *([_cell(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(headers))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in texts]


def _cell(value: Any) -> str:
    return "<none>" if value is None or value == "" else str(value).replace("\n", " ")


def colour(text: str, name: str) -> str:
    """The text in a colour when stdout is a terminal that wants it (https://no-color.org)."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    return click.style(text, fg=name)


def mebibytes(size_bytes: float) -> str:
    """`52 MiB`: the unit of `kubectl top`, the dashboard and every command here."""
    return f"{size_bytes / (1 << 20):.0f} MiB"


def age(seconds: float) -> str:
    """A duration in one or two units: `42s`, `5m`, `3h`, `2d`."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "m"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // unit)}{name}"
    return f"{int(seconds // 86400)}d"
