"""`trimtab timeline | why | graph`: what happened, why, and who may make what happen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trimtab.api import Ref
from trimtab.cli.output import colour, dump, output_option
from trimtab.cli.target import Target
from trimtab.engine.errors import EngineError, NotFound

if TYPE_CHECKING:
    from trimtab.runtime.journal import Entry
    from trimtab.runtime.journal_read import JournalReader, Why
    from trimtab.runtime.journal_text import Story

COLOURS = {"failed": "red", "failing": "red", "warned": "yellow", "healed": "green", "deleted": "yellow"}
DETAIL_VERBS = ("status",)
"""Left out of `why` where there is more to tell: every status that a reconciler wrote."""
SAID_MAX = 4
"""Of each sort that `why` shows of what was said of an object."""


_STATE_OPTION = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="With --context: the directory of its `trimtab run` (~/.local/state/trimtab/HOST).",
)


def _reader(target: Target, state: Path | None) -> JournalReader:
    from trimtab.engine.processes import JOURNAL
    from trimtab.runtime.journal_read import JournalReader

    path = _directory(target, state).joinpath(*JOURNAL)
    try:
        return JournalReader(path)
    except FileNotFoundError as err:
        if target.is_embedded:
            raise EngineError(str(err)) from None
        raise EngineError(
            f"{path}: no journal; it is kept where `trimtab run` runs for this cluster: ask there, or give its --state"
        ) from None
    except PermissionError as err:
        raise EngineError(f"{err.filename or path} cannot be read: run this with sudo") from None


def _directory(target: Target, state: Path | None) -> Path:
    """Where the journal is: with the engine's data, or with what `trimtab run` keeps for another cluster."""
    if target.is_embedded:
        if state is not None:
            raise EngineError(
                "--state belongs to another cluster's `trimtab run`: name it with --context, or give --data"
            )
        return Path(target.settings().data)
    from trimtab.engine import beside

    return state or beside.default_state(target.server())


@click.command()
@click.argument("obj", required=False, metavar="[KIND/NAME]")
@click.option("-n", "--namespace", default="default", show_default=True, help="Of the object.")
@click.option("-f", "--follow", is_flag=True, help="Go on as it happens.")
@click.option("--since", metavar="DURATION", help="Only what is newer: 30s, 5m, 2h, 1d.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="The newest so many.")
@click.option("--component", default="", help="Only what this component said (engine: the supervisor).")
@click.option("--all", "everything", is_flag=True, help="Every write, also what another line tells in better words.")
@_STATE_OPTION
@output_option("table", "json", "yaml")
@click.pass_obj
def timeline(
    target: Target,
    obj: str | None,
    namespace: str,
    follow: bool,
    since: str | None,
    limit: int,
    component: str,
    everything: bool,
    state: Path | None,
    fmt: str,
) -> None:
    """Show what happened, oldest first: of everything, or of one object.

    \b
    trimtab timeline -f
    trimtab timeline deploy/web --since 1h
    """
    from trimtab.cli.durations import seconds

    reader = _reader(target, state)
    try:
        ref = _ref(obj, namespace, reader) if obj else None
        start = datetime.now(UTC) - timedelta(seconds=seconds(since)) if since else None
        from trimtab.runtime.journal_text import Story

        story = None if everything or fmt != "table" else Story()
        last = max((e.id for e in reader.timeline(limit=1)), default=0)
        shown = _newest(reader, limit, story, since=start, object=ref, component=component)
        if fmt != "table" and not follow:
            from trimtab.runtime.journal_text import entry_json

            dump([entry_json(e) for e in shown], fmt)
            return
        for entry in shown:
            _show(entry, fmt)
        if follow:
            asyncio.run(_follow(reader, last, ref, component, story, fmt))
    finally:
        reader.close()


def _newest(reader: JournalReader, limit: int, story: Story | None, **chosen: Any) -> list[Entry]:
    """The newest `limit` entries that are shown, however many are left out between them; story None: all are."""
    size = limit
    while True:
        entries = reader.timeline(limit=size, **chosen)
        shown = entries if story is None else [told for entry in entries if (told := story.told(entry)) is not None]
        if len(shown) >= limit or len(entries) < size:
            return shown[-limit:]
        size *= 4
        if story is not None:
            story.begin()


async def _follow(
    reader: JournalReader, after: int, ref: Ref | None, component: str, story: Story | None, fmt: str
) -> None:
    async for entry in reader.follow(after):
        about = ref is None or ref in (entry.object, entry.cause, entry.subject)
        if about and (not component or entry.component == component):
            told = entry if story is None else story.told(entry)
            if told is not None:
                _show(told, fmt)


def _show(entry: Entry, fmt: str) -> None:
    if fmt == "table":
        from trimtab.runtime.journal_text import time_text

        click.echo(f"{time_text(entry.at, dated=True)}  {colour(sentence(entry), COLOURS.get(entry.verb, 'reset'))}")
    else:
        from trimtab.runtime.journal_text import entry_json

        dump(entry_json(entry), fmt)


def sentence(entry: Entry) -> str:
    """One line for a person: about what, what, by whom, because of what."""
    from trimtab.runtime.journal_text import in_words, short

    return entry.message if entry.component == "engine" else short(in_words(entry))


@click.command()
@click.argument("obj", metavar="KIND/NAME")
@click.option("-n", "--namespace", default="default", show_default=True, help="Of the object.")
@click.option("--limit", type=click.IntRange(1, 100), default=5, show_default=True, help="Its last so many changes.")
@_STATE_OPTION
@output_option("table", "json", "yaml")
@click.pass_obj
def why(target: Target, obj: str, namespace: str, limit: int, state: Path | None, fmt: str) -> None:
    """Why an object is as it is: its last changes, newest first, each with its chain of causes.

    \b
    trimtab why deployment/web
    trimtab why process/api
    """
    reader = _reader(target, state)
    try:
        ref = _ref(obj, namespace, reader)
        chains = _telling(reader.why(ref, limit=limit * 10))[:limit]
        said = _said(e for e in reader.timeline(object=ref, limit=50) if e.object == ref)
    finally:
        reader.close()
    from trimtab.runtime.journal_text import entry_json, time_text, why_json, why_text

    if fmt != "table":
        dump(
            {
                "object": str(ref),
                "changes": why_json(chains),
                "said": [entry_json(e) for e in said],
            },
            fmt,
        )
        return
    if not chains and not said:
        raise NotFound(f"the journal knows nothing of {ref}: does it exist? (`trimtab get {obj}`)")
    click.echo(why_text(ref, chains) if chains else str(ref))
    for entry in said:
        text = sentence(entry)
        click.echo(f"last said: {time_text(entry.at)}  {text if entry.verb == 'said' else colour(text, 'yellow')}")


def _said(entries: Iterable[Entry]) -> list[Entry]:
    """What was last said of an object, oldest first: complaints, and steps that took a time."""
    both = sorted(entries, key=lambda e: e.id)
    complaints = [e for e in both if e.verb in ("warned", "failed")][-SAID_MAX:]
    steps = [e for e in both if e.verb == "said" and e.duration_ms is not None][-SAID_MAX:]
    return sorted([*complaints, *steps], key=lambda e: e.id)


def _telling(chains: list[Why]) -> list[Why]:
    """What changed the object itself; its statuses only where that is all there is."""
    return [c for c in chains if c.entry.verb not in DETAIL_VERBS] or chains


def _ref(text: str, namespace: str, reader: JournalReader) -> Ref:
    """The object that `KIND/NAME` names; kinds as the components and the API know them, so that no engine need run, and those that came
    while it ran (a provider's, composed ones) as the journal does."""
    from trimtab.api import all_kinds
    from trimtab.cli.kinds import _matching, _unknown
    from trimtab.engine import registry

    kind, _, name = text.partition("/")
    if not name:
        raise EngineError(f"write an object as KIND/NAME, for example deployment/{kind}")
    if kind == "process":
        return Ref("", "Process", None, name)
    assert registry.COMPONENTS  # importing them makes their kinds known
    known = [k.resource_type for k in all_kinds()]
    found = _matching(kind, known)
    if not found:
        word, _, group = kind.lower().partition(".")
        for ref in reader.named(name):
            one = ref.kind.lower()
            called = word in (one, f"{one}s", f"{one}es", f"{one[:-1]}ies") and ref.api_version.startswith(group)
            if called and ref.namespace in (None, namespace):
                return ref
        raise NotFound(_unknown(kind, known))
    return Ref(found[0].api_version, found[0].kind, namespace if found[0].namespaced else None, name)


@click.command()
@click.option("--component", default="", help="Only this component.")
@click.option(
    "-o", "--output", "fmt", type=click.Choice(["text", "dot", "json", "yaml"]), default="text", show_default=True,
    help="dot: for Graphviz.",
)  # fmt: skip
def graph(component: str, fmt: str) -> None:
    """Show which component reads, owns and writes which kinds: the declarations that are enforced at run time."""
    from trimtab.engine.registry import COMPONENTS
    from trimtab.runtime.graph import graph as of

    chosen = [c for c in COMPONENTS if component in ("", c.name)]
    if not chosen:
        raise NotFound(f"there is no component {component!r}: there are {', '.join(c.name for c in COMPONENTS)}")
    made = of(chosen)
    if fmt in ("json", "yaml"):
        dump(made.to_json(), fmt)
    else:
        click.echo(made.to_dot() if fmt == "dot" else made.to_text())
