"""Why a step has to run: what is different from the nearest record of it, in words.

    input /w: app/models.py changed (+2 files)
    image: sha256:3f5a0c1e -> sha256:9b1d22aa
    env FOO: a -> b
    secret DB changed
    evicted 3 h ago by the size limit
    never run before

A record keeps every component of its key, and the trees of its inputs, so that this is a comparison and no guess.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trimtab.ci.cache.blobs import Blobs, Lost
from trimtab.ci.cache.local import Record

VALUE_MAX = 60
"""Characters of a value that are shown."""


@dataclass(frozen=True)
class Change:
    """A component that differs. what: `added`, `removed` or `changed`; files: for an input, by path `+`, `-` or `~`."""

    component: str
    what: str
    words: str
    before: str = ""
    after: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Why:
    """The reason of a miss. kind: `changed`, `evicted`, `lost`, `never`, `version`; nearest: the key it was compared with."""

    kind: str
    words: str
    nearest: str = ""
    changes: tuple[Change, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `-o json` and for the note of a run."""
        return asdict(self)


NEVER = Why("never", "never run before")


def explain(components: Mapping[str, str], key: str, nearest: Record | None, blobs: Blobs, now: float) -> Why:
    """Why there is no result under `key`, which is of these components."""
    if nearest is None:
        return NEVER
    if nearest.key == key:
        if nearest.gone.startswith("lost: "):
            return Why("lost", nearest.gone.removeprefix("lost: "), key)
        return Why("evicted", f"evicted {ago(now - nearest.at)} ago {nearest.gone}".rstrip(), key)
    before = nearest.components
    if before.get("engine") != components.get("engine"):
        words = f"engine's key version {before.get('engine')} -> {components.get('engine')}"
        return Why("version", words, nearest.key)
    found = tuple(_changes(before, components, blobs))
    if not found:
        found = (Change("order", "changed", "inputs are laid in another order"),)
    return Why("changed", "; ".join(change.words for change in found), nearest.key, found)


def _changes(before: Mapping[str, str], after: Mapping[str, str], blobs: Blobs) -> list[Change]:
    names = [*after, *(name for name in before if name not in after)]
    return [
        _change(name, before.get(name), after.get(name), blobs) for name in names if before.get(name) != after.get(name)
    ]


def _change(name: str, before: str | None, after: str | None, blobs: Blobs) -> Change:
    what = "added" if before is None else "removed" if after is None else "changed"
    plain = name.rpartition(": ")[2]
    if plain.startswith("secret "):
        return Change(name, what, f"{name} {what}")
    if plain.startswith("input ") and before is not None and after is not None:
        if not (before.startswith("sha256:") and after.startswith("sha256:")):
            return Change(name, what, f"{name}: what gives it has changed", before, after)
        try:
            files = differing(before, after, blobs)
        except Lost:
            return Change(name, what, f"{name} changed (its former files are gone)", before, after)
        return Change(name, what, f"{name}: {_files(files)}", before, after, files)
    if before is None:
        return Change(name, what, f"{name} added: {_shown(name, after or '')}", "", after or "")
    if after is None:
        return Change(name, what, f"{name} removed", before, "")
    return Change(name, what, f"{name}: {_shown(name, before)} -> {_shown(name, after)}", before, after)


def differing(before: str, after: str, blobs: Blobs, below: str = "") -> dict[str, str]:
    """Between two trees the paths that are new (`+`), gone (`-`) or of another content (`~`). Raises `Lost`."""
    if before == after:
        return {}
    one = {name: (kind, value) for name, kind, value, _ in (blobs.entries(before) if before else ())}
    other = {name: (kind, value) for name, kind, value, _ in (blobs.entries(after) if after else ())}
    found: dict[str, str] = {}
    for name in sorted(one.keys() | other.keys()):
        was, now = one.get(name), other.get(name)
        if was == now:
            continue
        was_below = f"sha256:{was[1]}" if was and was[0] == "d" else ""
        now_below = f"sha256:{now[1]}" if now and now[0] == "d" else ""
        if was_below or now_below:
            found |= differing(was_below, now_below, blobs, f"{below}{name}/")
        if (was and not was_below) or (now and not now_below):
            old, new = was and not was_below, now and not now_below
            found[below + name] = "~" if old and new else "+" if new else "-"
    return found


VERBS = {"~": "changed", "+": "added", "-": "removed"}


def _files(files: Mapping[str, str]) -> str:
    if not files:
        return "a directory without files came or went"
    first = min(files, key=lambda path: ("~+-".index(files[path]), path))
    rest = len(files) - 1
    more = f" (+{rest} file{'s' if rest > 1 else ''})" if rest else ""
    return f"{first} {VERBS[files[first]]}{more}"


def _shown(name: str, value: str) -> str:
    if value.startswith("sha256:"):
        return value[:15]
    if name.rpartition(": ")[2].startswith("run ") and value.startswith("["):
        argv = json.loads(value)
        value = argv[2] if argv[:2] == ["/bin/sh", "-ec"] else " ".join(argv)
    value = " ".join(value.split()) if value.strip() else repr(value)
    return value if len(value) <= VALUE_MAX else value[: VALUE_MAX - 1] + "…"


def ago(seconds: float) -> str:
    """A span of time as one says it: `3 h`."""
    for limit, unit, length in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{max(int(seconds // length), 0)} {unit}"
    return f"{int(seconds // 86400)} days"
