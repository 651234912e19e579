"""Two ends of the same story compared: the objects without what may differ (uids, versions, times, random names)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from trimtab.api import JSON, Ref, Resource
from trimtab.client.client import Client

VOLATILE = (
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "deletionTimestamp",
    "selfLink",
)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
DIFFERENCES_SHOWN = 8


async def dump(client: Client, kinds: Iterable[type[Resource]]) -> dict[type[Resource], Sequence[bytes]]:
    """All objects of these kinds, as bytes."""
    return {kind: (await client.list_raw(kind.resource_type))[0] for kind in kinds}


def wire(kind: type[Resource], raw: Iterable[bytes]) -> list[JSON]:
    """The objects decoded, with their `apiVersion` and `kind`."""
    place = kind.resource_type
    return [{"apiVersion": place.api_version, "kind": place.kind, **msgspec.json.decode(body)} for body in raw]


def fingerprint(objects: Iterable[JSON], aliases: Callable[[JSON], str | None] | None = None) -> list[tuple[str, str]]:
    """(reference, normalised JSON) of each object, sorted. Equal fingerprints mean the same state."""
    objects = list(objects)
    renames: dict[str, str] = {}
    for obj in objects:
        meta = obj["metadata"]
        renames[meta["uid"]] = f"uid of {Ref.of_wire(obj)}"
        if aliases is not None and (alias := aliases(obj)):
            renames[meta["name"]] = alias
    pattern = (
        re.compile("|".join(re.escape(name) for name in sorted(renames, key=len, reverse=True))) if renames else None
    )
    found: list[tuple[str, str]] = []
    for obj in objects:
        text = msgspec.json.encode(_stripped(obj), order="sorted").decode()
        where = str(Ref.of_wire(obj))
        if pattern is not None:
            # Twice, for a uid's replacement names an object that may itself have an alias.
            for _ in range(2):
                text = pattern.sub(lambda match: renames[match.group()], text)
                where = pattern.sub(lambda match: renames[match.group()], where)
        found.append((where, TIME.sub("<time>", text)))
    return sorted(found)


def _stripped(obj: Mapping[str, Any]) -> JSON:
    meta = {name: value for name, value in obj["metadata"].items() if name not in VOLATILE}
    if "finalizers" in meta:
        meta["finalizers"] = sorted(meta["finalizers"])
    out = {**obj, "metadata": meta}
    status = out.get("status")
    if isinstance(status, dict):
        # Which generation was seen differs where the generation does.
        status = out["status"] = {name: value for name, value in status.items() if name != "observedGeneration"}
        if isinstance(status.get("conditions"), list):
            status["conditions"] = sorted(status["conditions"], key=lambda c: str(c.get("type")))
    return out


def differences(expected: list[tuple[str, str]], found: list[tuple[str, str]]) -> list[str]:
    """Lines that say how two fingerprints differ; empty when they do not."""
    lines: list[str] = []
    left, right = _grouped(expected), _grouped(found)
    for where in sorted(left.keys() | right.keys()):
        wanted, got = left.get(where, []), right.get(where, [])
        if wanted == got:
            continue
        if not got:
            lines.append(f"{where}: missing")
        elif not wanted:
            lines.append(f"{where}: should not exist")
        elif len(wanted) != len(got):
            lines.append(f"{where}: {len(got)} of them instead of {len(wanted)}")
        else:
            pairs = zip(wanted, got, strict=True)
            for one, other in pairs:
                lines += [
                    f"{where}: {line}"
                    for line in _value_differences(msgspec.json.decode(one), msgspec.json.decode(other), "")
                ]
    return lines[:DIFFERENCES_SHOWN]


def _grouped(found: list[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for where, text in found:
        groups.setdefault(where, []).append(text)
    return groups


def _value_differences(one: Any, other: Any, path: str) -> list[str]:
    if one == other:
        return []
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            line
            for name in sorted(one.keys() | other.keys())
            for line in _value_differences(one.get(name), other.get(name), f"{path}.{name}" if path else name)
        ]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            line
            for i, (a, b) in enumerate(zip(one, other, strict=True))
            for line in _value_differences(a, b, f"{path}[{i}]")
        ]
    return [f"{path} is {other!r} instead of {one!r}"]
