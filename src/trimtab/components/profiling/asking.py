"""From words on a command line to a question at the endpoint `query`, and from its answer to what is printed.

    app=shop pod!=web-1 --last 1h --> selector=app="shop",pod!="web-1"&start=-3600 --API--> Answer --> text, JSON, HTML

Shared by all commands of `trimtab profile`; nothing here loads numpy.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol

import click
import msgspec

from trimtab.client import ApiError, WireClient
from trimtab.components.profiling.kinds import DEFAULT, Profiler
from trimtab.components.profiling.naming import INTERPRETERS
from trimtab.components.profiling.terms import seconds
from trimtab.runtime.commands import Refused

_TERM = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(!~|=~|!=|=)(.*)", re.DOTALL)
SUFFIXES = {".pb.gz": "pprof", ".pprof": "pprof", ".speedscope.json": "speedscope", ".folded": "folded"}


class Target(Protocol):
    """What the command line's global options named."""

    @property
    def is_embedded(self) -> bool: ...

    def client(self) -> AbstractAsyncContextManager[WireClient]: ...


class NotEnabled(Refused):
    """There is no Profiler."""

    exit_code = 4

    def __init__(self) -> None:
        super().__init__("profiling is not enabled: trimtab profile enable")


# Words


def selector_of(terms: Sequence[str]) -> str:
    """`app=shop`, `image=~sha256:ab.*` as a selector of Prometheus' syntax. Raises `click.UsageError`."""
    parts = []
    for term in terms:
        match = _TERM.fullmatch(term)
        if match is None:
            raise click.UsageError(
                f"{term!r} selects nothing: write LABEL=VALUE, LABEL!=VALUE, LABEL=~REGEX or LABEL!~REGEX"
            )
        name, operator, value = match.groups()
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        parts.append(f'{name}{operator}"{quoted}"')
    return ",".join(parts)


def moment(text: str, option: str) -> int:
    """`2h` (that long ago) or `2026-03-01T12:00` (of this machine's time zone) as a question tells it: Unix seconds, or seconds from
    now. Raises `click.UsageError`."""
    try:
        return -seconds(text)
    except ValueError:
        pass
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        raise click.UsageError(
            f"{option} {text!r}: write an age such as 2h, or a time such as 2026-03-01T12:00"
        ) from None


def stretch(last: str | None, since: str | None, until: str | None) -> dict[str, str]:
    """The parameters `start` and `end`. Raises `click.UsageError`."""
    if last is not None and (since is not None or until is not None):
        raise click.UsageError("give --last, or --from and --to")
    if last is not None:
        return {"start": str(moment(last, "--last"))}
    told = {"start": str(moment(since, "--from"))} if since is not None else {}
    return told | ({"end": str(moment(until, "--to"))} if until is not None else {})


def options(*given: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator, in this order."""

    def decorate(function: Any) -> Any:
        for option in reversed(given):
            function = option(function)
        return function

    return decorate


selectors = click.argument("selectors", nargs=-1, metavar="[LABEL=VALUE]...")
when = options(
    click.option("--last", metavar="DURATION", help="The last 15m, 2h, 1d ...  [default: 1h]"),
    click.option("--from", "since", metavar="TIME", help="From this time: 2h (ago), 2026-03-01T12:00."),
    click.option("--to", "until", metavar="TIME", help="Until this time.  [default: now]"),
)
counted = click.option(
    "--type", "kind", default="cpu", show_default=True, help="What is counted: see `trimtab profile labels`."
)

native = click.option(
    "--native",
    "interpreter",
    is_flag=True,
    help="Show what the interpreter does for Python functions by its own functions; else it is theirs.",
)


def hidden(hide: str, interpreter: bool) -> str:
    """The pattern of frames that stacks are shown without: what the user gave, and the interpreter unless it is to be seen."""
    parts = [*([f"(?:{hide})"] if hide else []), *([] if interpreter else [INTERPRETERS])]
    return "|".join(parts)


filters = options(
    click.option("--focus", default="", metavar="REGEX", help="Only stacks with such a function."),
    click.option("--ignore", default="", metavar="REGEX", help="No stacks with such a function."),
    click.option("--hide", default="", metavar="REGEX", help="Stacks without these frames."),
    native,
)


# Questions


def path(subresource: str) -> str:
    return Profiler.resource_type.path(None, DEFAULT, subresource)


def ask(target: Target, parameters: Mapping[str, str], subresource: str = "query") -> bytes:
    """What the endpoint answers.

    Raises:
        NotEnabled: there is no Profiler.
        ApiError, ConnectionError, EngineError: one line each.
    """

    async def get() -> bytes:
        async with target.client() as client:
            query = {name: value for name, value in parameters.items() if value != ""}
            return (await client.send("GET", path(subresource), query)).body

    found: bytes = called(get)
    return found


def called(work: Callable[[], Any]) -> Any:
    """Runs an asynchronous call, with a line of its own for a Profiler that is not there."""
    try:
        return asyncio.run(work())
    except ApiError as err:
        if err.status == 404 and "profilers" in str(err):
            raise NotEnabled from None
        if err.status == 400:
            raise Refused(str(err)) from None
        raise


def show(body: bytes, fmt: str, *, rows: int = 30, boxes: bool = False) -> None:
    """Prints an answer of `query`: as text, as JSON."""
    from trimtab.components.profiling.queries import shapes, terminal

    if fmt == "json":
        click.echo(json.dumps(json.loads(body), indent=2, ensure_ascii=False))
        return
    answer: shapes.Answer = msgspec.json.decode(body, type=shapes.Answer)
    if isinstance(answer, shapes.TopAnswer | shapes.TreeAnswer) and not answer.side.total:
        of = f" of {answer.side.selector}" if answer.side.selector else ""
        click.echo(f"there are no samples{of} in that time", err=True)
        return
    width = shutil.get_terminal_size((100, 24)).columns
    for line in terminal.lines(answer, width=width, rows=rows, colour=_coloured(), boxes=boxes):
        click.echo(line)


def _coloured() -> bool:
    import os

    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


# Files


def format_of(file: str) -> str:
    """By the end of its name; pprof for the standard output. Raises `click.UsageError`."""
    if file == "-":
        return "pprof"
    for suffix, form in SUFFIXES.items():
        if file.endswith(suffix):
            return form
    raise click.UsageError(f"{file}: name it {', '.join(SUFFIXES)}, or give --format")


def save(file: str, content: bytes) -> None:
    """Raises `Refused`."""
    try:
        with click.open_file(file, "wb") as out:
            out.write(content)
    except OSError as err:
        raise Refused(f"{file} cannot be written: {err.strerror}") from None
    if file != "-":
        click.echo(f"{file}: {len(content):,} bytes", err=True)
