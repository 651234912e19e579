"""`trimtab describe`: one object as a person wants to read it, its events, and who changed what of it last."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from trimtab.api import JSON, Ref
from trimtab.cli.kinds import kind_and_name, resolve_one
from trimtab.cli.objects import _NAMESPACE
from trimtab.cli.output import table
from trimtab.cli.target import Target
from trimtab.engine.errors import EngineError, NotFound


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="KIND NAME")
@_NAMESPACE
@click.pass_obj
def describe(target: Target, what: tuple[str, ...], namespace: str | None) -> None:
    """Show one object: what it says, its conditions, who manages which part, and its events."""

    async def run() -> None:
        text, names = kind_and_name(what)
        if len(names) != 1:
            raise EngineError("describe shows one object: give KIND NAME")
        async with target.client() as client:
            kind = await resolve_one(client, text)
            where = (namespace or target.default_namespace()) if kind.namespaced else None
            obj = await client.get(kind, names[0], where)
            if obj is None:
                raise NotFound(f"there is no {Ref(kind.api_version, kind.kind, where, names[0])}")
            from trimtab.api.core import Event

            selector = f"involvedObject.name={names[0]},involvedObject.kind={kind.kind}"
            events = await client.list(Event.resource_type, where, fields=selector)
        for line in lines(obj):
            click.echo(line)
        _print_events(events["items"])

    asyncio.run(run())


def lines(obj: JSON) -> list[str]:
    """The object as indented text: metadata in short, conditions as one line each, the rest as it is."""
    meta = obj["metadata"]
    found = [str(Ref.of_wire(obj))]
    for name, value in (
        ("created", meta.get("creationTimestamp")),
        ("deleting since", meta.get("deletionTimestamp")),
        ("labels", _pairs(meta.get("labels"))),
        ("annotations", _pairs(meta.get("annotations"))),
        ("owned by", ", ".join(f"{o['kind']} {o['name']}" for o in meta.get("ownerReferences", ()))),
        ("finalizers", ", ".join(meta.get("finalizers", ()))),
        ("managers", ", ".join(sorted({m["manager"] for m in meta.get("managedFields", ()) if m.get("manager")}))),
    ):
        if value:
            found.append(f"  {name}: {value}")
    for key, value in obj.items():
        if key in ("apiVersion", "kind", "metadata"):
            continue
        if obj["kind"] == "Secret" and key in ("data", "stringData"):
            value = {name: f"{len(text) * 3 // 4} bytes" for name, text in value.items()}
        if key == "status" and isinstance(value, dict) and value.get("conditions"):
            found.append("conditions:")
            for condition in value["conditions"]:
                said = condition.get("message") or condition.get("reason") or ""
                found.append(f"  {condition['type']}={condition['status']}" + (f"  {said}" if said else ""))
            value = {name: part for name, part in value.items() if name != "conditions"}
        found.append(f"{key}:")
        found += _text(value, 1)
    return found


def _pairs(values: dict[str, str] | None) -> str:
    return ", ".join(f"{k}={v if len(v) <= 60 else v[:57] + '...'}" for k, v in (values or {}).items())


def _text(value: Any, depth: int) -> list[str]:
    pad = "  " * depth
    if isinstance(value, dict):
        found = []
        for key, part in value.items():
            if isinstance(part, (dict, list)) and part:
                found += [f"{pad}{key}:", *_text(part, depth + 1)]
            else:
                found.append(f"{pad}{key}: {_scalar(part)}")
        return found
    if isinstance(value, list):
        found = []
        for part in value:
            if isinstance(part, (dict, list)) and part:
                inner = _text(part, depth + 1)
                found += [f"{pad}- {inner[0].strip()}", *inner[1:]]
            else:
                found.append(f"{pad}- {_scalar(part)}")
        return found
    return [f"{pad}{_scalar(value)}"]


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _print_events(events: list[JSON]) -> None:
    if not events:
        click.echo("events: none")
        return
    click.echo("events:")
    events.sort(
        key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime") or e["metadata"].get("creationTimestamp"))
    )
    rows = []
    for event in events[-20:]:
        when = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp")
        rows.append((when, event.get("type"), event.get("reason"), event.get("count") or 1, event.get("message")))
    table(("when", "type", "reason", "count", "message"), rows)
