"""`trimtab profile`: what every process of the machine spends its time on.

enable, disable, status: the Profiler. top, flame, diff, labels, export: questions at its endpoints. push: what others measured.
record (recording.py): measures now, without an engine.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import click

from trimtab.client import Client, WireClient
from trimtab.components.profiling.agent import types
from trimtab.components.profiling.asking import (
    NotEnabled,
    Target,
    ask,
    called,
    counted,
    filters,
    format_of,
    hidden,
    path,
    save,
    selector_of,
    selectors,
    show,
    stretch,
    when,
)
from trimtab.components.profiling.kinds import DEFAULT, Profiler
from trimtab.components.profiling.recording import record
from trimtab.runtime.commands import Refused

MANAGER = "trimtab-profile"
START_S = 60.0
LOOK_S = 0.3
ELF = b"\x7fELF"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def profile() -> None:
    """What every process of this machine spends its time on.

    \b
    trimtab profile enable                          from now on, within one percent of a core
    trimtab profile top app=shop --last 15m         the functions that cost most
    trimtab profile diff app=shop                   the last hour against the one before
    trimtab profile record --seconds 10 --pid 4711  now, without an engine
    """


# The Profiler


def _types(ctx: click.Context, parameter: click.Parameter, text: str | None) -> list[str] | None:
    try:
        return list(types.parse(text)) if text is not None else None
    except ValueError as err:
        raise click.UsageError(str(err)) from None


@profile.command()
@click.option("--hz", type=click.IntRange(1, 200), help="How often each CPU is looked at, a second (19).")
@click.option(
    "--types",
    "kinds",
    callback=_types,
    metavar="TYPE,...",
    help=f"What is measured (cpu), of {', '.join(types.NAMES)}; the last is the first that the budget leaves out.",
)
@click.option("--retention", metavar="DURATION", help="How long profiles are kept (14d).")
@click.option("--max-disk", metavar="SIZE", help="What they may take on the disk (10Gi).")
@click.option("--no-wait", is_flag=True, help="Do not wait until the machine is measured.")
@click.pass_obj
def enable(
    target: Target, hz: int | None, kinds: list[str] | None, retention: str | None, max_disk: str | None, no_wait: bool
) -> None:
    """Measure this machine from now on. What is not said stays as it is."""
    spec = {
        name: value
        for name, value in (("hz", hz), ("types", kinds), ("retention", retention), ("maxDisk", max_disk))
        if value is not None
    }

    async def apply() -> Profiler | None:
        async with target.client() as wire:
            return await enabled(wire, spec, wait=not no_wait)

    found = called(apply)
    if found is None:
        click.echo("profiling is enabled")
        return
    reason, message = _ready(found)
    if reason[0] != "True":
        raise Refused(
            f"profiling is enabled, but {reason[1] or 'Starting'}: {message or 'the node agent has not said how it is'}"
        )
    click.echo(f"profiling: {reason[1]}, {message}")


async def enabled(wire: WireClient, spec: dict[str, Any], *, wait: bool) -> Profiler | None:
    """Makes the Profiler, or changes it; with `wait`, what it is when the agent has begun, or could not."""
    body = json.dumps(
        {
            "apiVersion": Profiler.resource_type.api_version,
            "kind": "Profiler",
            "metadata": {"name": DEFAULT},
            "spec": spec,
        }
    )
    await wire.send(
        "PATCH",
        Profiler.resource_type.path(None, DEFAULT),
        {"fieldManager": MANAGER, "force": "true"},
        body.encode(),
        "application/apply-patch+yaml",
    )
    if not wait:
        return None
    client = Client(wire.transport, agent=MANAGER)
    deadline = time.monotonic() + START_S
    while True:
        found = await client.get(Profiler, DEFAULT)
        if found is None:
            raise NotEnabled
        current = found.status.observed_generation >= found.metadata.generation
        if (current and _ready(found)[0][1] not in ("", "Starting")) or time.monotonic() > deadline:
            return found
        await asyncio.sleep(LOOK_S)


def _ready(found: Profiler) -> tuple[tuple[str, str], str]:
    """(status, reason) and message of its condition."""
    for condition in found.status.conditions:
        if condition.type == "Ready":
            return (condition.status, condition.reason), condition.message
    return ("Unknown", ""), ""


@profile.command()
@click.pass_obj
def disable(target: Target) -> None:
    """Stop measuring. What is stored stays until the engine goes, or profiling is enabled again and it grows too old."""

    async def delete() -> None:
        async with target.client() as wire:
            await wire.send("DELETE", Profiler.resource_type.path(None, DEFAULT))

    called(delete)
    click.echo("profiling is disabled")


@profile.command()
@click.option("-o", "--output", "fmt", type=click.Choice(["table", "json"]), default="table", help="Output format.")
@click.pass_obj
def status(target: Target, fmt: str) -> None:
    """How the agent is, what it costs, what was lost. Exit status 1: this machine is not measured; 4: not enabled."""

    async def get() -> Profiler | None:
        async with target.client() as wire:
            return await Client(wire.transport, agent=MANAGER).get(Profiler, DEFAULT)

    found: Profiler | None = called(get)
    if found is None:
        raise NotEnabled
    (state, reason), message = _ready(found)
    agent, told = found.status.agent, found.status
    if fmt == "json":
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(told), indent=2))
    else:
        click.echo(f"{reason or 'Starting'}: {message}")
        if agent.hz:
            click.echo(f"measured: {', '.join(agent.types)}")
            for why in agent.missing.values():
                click.echo(f"not measured: {why}")
            click.echo(f"agent: {agent.cpu_percent:.2f} % of a core, {agent.memory_bytes / (1 << 20):.0f} MiB, {agent.hz} Hz, {agent.mode}, "
                       f"{agent.processes} processes, started {agent.restarts + 1} times")  # fmt: skip
        for error in told.scrape_errors.values():
            click.echo(f"not scraped: {error}")
        lost = ", ".join(f"{count:,} {why}" for why, count in sorted(told.lost.items()) if count)
        click.echo(f"samples: {told.samples:,}; lost: {lost or 'none'}")
        click.echo(
            f"stored: {told.disk_bytes / (1 << 20):.1f} MiB, kept {found.spec.retention}, at most {found.spec.max_disk}"
        )
    if state != "True":
        raise click.exceptions.Exit(1)


# Questions

_limit = click.option("-n", "--limit", type=click.IntRange(1), default=30, show_default=True, help="Lines at most.")
_before = click.option(
    "--before",
    "before",
    multiple=True,
    metavar="LABEL=VALUE",
    help="What it is compared with, such as image=sha256:...; may be given again.",
)


@profile.command()
@selectors
@when
@counted
@filters
@click.option("--by", default="function", show_default=True, help="function, line, file, binary, or a label.")
@click.option("--sort", type=click.Choice(["self", "total"]), default="self", show_default=True, help="By what.")
@click.option("--function", "function", default="", metavar="REGEX", help="This one's callers and callees instead.")
@click.option("--addresses", is_flag=True, help="What has no name by its address; otherwise it is one line a binary.")
@_limit
@click.option("-o", "--output", "fmt", type=click.Choice(["table", "json"]), default="table", help="Output format.")
@click.pass_obj
def top(
    target: Target, selectors: tuple[str, ...], last: str | None, since: str | None, until: str | None, kind: str,
    focus: str, ignore: str, hide: str, interpreter: bool, by: str, sort: str, function: str, addresses: bool, limit: int, fmt: str,
) -> None:  # fmt: skip
    """The functions that cost most.

    \b
    trimtab profile top app=shop --last 15m
    trimtab profile top --by app                    which app costs what
    trimtab profile top process=postgres --function ExecScan
    """
    told = (
        {"view": "sandwich", "function": function}
        if function
        else {"view": "top", "by": by, "sort": sort, "limit": str(limit)}
    )
    asked = {
        "type": kind,
        "selector": selector_of(selectors),
        "focus": focus,
        "ignore": ignore,
        "hide": hidden(hide, interpreter),
    }
    if not addresses:
        asked["anonymous"] = "1"
    show(ask(target, asked | told | stretch(last, since, until)), fmt, rows=limit)


@profile.command()
@selectors
@when
@counted
@filters
@click.option("--by", default="function", show_default=True, help="function, line, file or binary.")
@click.option("--boxes", is_flag=True, help="As icicle.")
@_limit
@click.option(
    "-o", "--output", "fmt", type=click.Choice(["tree", "json", "html"]), default="tree", help="Output format."
)
@click.pass_obj
def flame(
    target: Target, selectors: tuple[str, ...], last: str | None, since: str | None, until: str | None, kind: str,
    focus: str, ignore: str, hide: str, interpreter: bool, by: str, boxes: bool, limit: int, fmt: str,
) -> None:  # fmt: skip
    """The tree of calls, as wide as each costs.

    \b
    trimtab profile flame app=shop --boxes
    trimtab profile flame pod=web-1 --from 2026-03-01T12:00 --to 2026-03-01T12:10
    trimtab profile flame -o html > flame.html
    """
    asked = {
        "view": "tree",
        "type": kind,
        "selector": selector_of(selectors),
        "focus": focus,
        "ignore": ignore,
        "hide": hide if fmt == "html" else hidden(hide, interpreter),
        "by": by,
    }
    asked |= stretch(last, since, until)
    if fmt == "html":
        click.echo(ask(target, asked | {"embed": "1"}, "page").decode(), nl=False)
        return
    show(ask(target, asked), fmt, rows=limit, boxes=boxes)


@profile.command()
@selectors
@when
@_before
@click.option("--before-from", metavar="TIME", help="From when it is compared.")
@click.option("--before-to", metavar="TIME", help="Until when.")
@counted
@filters
@click.option("--by", default="function", show_default=True, help="function, line, file or binary.")
@click.option(
    "--per",
    type=click.Choice(["total", "second"]),
    default="total",
    show_default=True,
    help="What both sides are divided by.",
)
@click.option("--tree", is_flag=True, help="The tree of calls instead of the table.")
@_limit
@click.option(
    "-o", "--output", "fmt", type=click.Choice(["table", "json", "html"]), default="table", help="Output format."
)
@click.pass_obj
def diff(
    target: Target, selectors: tuple[str, ...], last: str | None, since: str | None, until: str | None, before: tuple[str, ...],
    before_from: str | None, before_to: str | None, kind: str, focus: str, ignore: str, hide: str, interpreter: bool, by: str, per: str, tree: bool,
    limit: int, fmt: str,
) -> None:  # fmt: skip
    """What costs more, or less, than before: two times, two images, two pods. Functions that were not there before are new.

    \b
    trimtab profile diff app=shop                             the last hour and the one before it
    trimtab profile diff app=shop image=sha256:ab12... --before app=shop --before image=sha256:cd34...
    trimtab profile diff app=shop --last 10m --before-from 1d --before-to 23h
    """
    asked = {
        "view": "diff" if tree or fmt == "html" else "top-diff", "type": kind, "selector": selector_of(selectors), "focus": focus,
        "ignore": ignore, "hide": hide if fmt == "html" else hidden(hide, interpreter), "by": by, "per": per, "limit": str(limit),
    }  # fmt: skip
    asked |= stretch(last, since, until)
    if before:
        asked["before_selector"] = selector_of(before)
    earlier = stretch(None, before_from, before_to)
    asked |= {f"before_{name}": value for name, value in earlier.items()}
    if fmt == "html":
        click.echo(ask(target, asked | {"embed": "1"}, "page").decode(), nl=False)
        return
    show(ask(target, asked), fmt, rows=limit)


@profile.command()
@when
@click.option("-o", "--output", "fmt", type=click.Choice(["table", "json"]), default="table", help="Output format.")
@click.pass_obj
def labels(target: Target, last: str | None, since: str | None, until: str | None, fmt: str) -> None:
    """What can be selected by, and what is counted."""
    show(ask(target, {"view": "labels"} | stretch(last, since, until)), fmt)


@profile.command()
@selectors
@when
@counted
@click.option(
    "--format", "form", type=click.Choice(["pprof", "speedscope", "folded"]), help="By the file's name when not said."
)
@click.option(
    "-o", "--output", "file", type=click.Path(dir_okay=False), required=True, help="The file; - is the standard output."
)
@click.pass_obj
def export(
    target: Target, selectors: tuple[str, ...], last: str | None, since: str | None, until: str | None, kind: str,
    form: str | None, file: str,
) -> None:  # fmt: skip
    """What is stored, for other tools.

    \b
    trimtab profile export app=shop -o shop.pb.gz            then: go tool pprof shop.pb.gz
    trimtab profile export app=shop -o shop.speedscope.json  then: open it in https://speedscope.app
    """
    asked = {"format": form or format_of(file), "type": kind, "selector": selector_of(selectors)} | stretch(
        last, since, until
    )
    save(file, ask(target, asked, "profiles"))


@profile.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("labels", nargs=-1, metavar="[LABEL=VALUE]...")
@click.option("--otlp", is_flag=True, help="It is an OTLP profile, not pprof.")
@click.pass_obj
def push(target: Target, file: Path, labels: tuple[str, ...], otlp: bool) -> None:
    """Put a profile into the store (pprof, OTLP), or an ELF file with debug information to those that name frames.

    \b
    trimtab profile push heap.pb.gz app=shop
    trimtab profile push /usr/lib/debug/.build-id/ab/cdef.debug
    """
    if wrong := [term for term in labels if "=" not in term]:
        raise click.UsageError(f"{wrong[0]!r} is no label: write LABEL=VALUE")
    body = file.read_bytes()
    is_elf = body.startswith(ELF)
    kind = "application/x-protobuf" if otlp else "application/octet-stream"

    async def send() -> bytes:
        async with target.client() as client:
            if is_elf:
                return (
                    await client.send("POST", path(f"buildid/{build_id_of(file)}/debuginfo"), None, body, kind)
                ).body
            query = dict(term.split("=", 1) for term in labels)
            return (await client.send("POST", path("profiles"), query, body, kind)).body

    told = json.loads(called(send))
    if is_elf:
        click.echo(f"{file}: names frames of build id {told['build_id']}")
    else:
        click.echo(f"{file}: {told['samples']:,} samples of {', '.join(told['types'])}")


def build_id_of(file: Path) -> str:
    """Raises `Refused`."""
    from trimtab.components.profiling.symbols.elf import examine
    from trimtab.components.profiling.symbols.sandbox import Sandbox

    with file.open("rb") as opened, Sandbox() as sandbox:
        (found,) = examine(sandbox, [opened.fileno()])
    if isinstance(found, Exception):
        raise Refused(f"{file}: {found}")
    if not found.has_own_id:
        raise Refused(f"{file} has no build id: link with -Wl,--build-id")
    return found.build_id


profile.add_command(record)
