"""What a user may write for a kind: `pod`, `pods`, `po`, `Pod`, `deployments.apps`, a category (`all`, `managed`), several with commas."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trimtab.api import ResourceType, all_kinds
from trimtab.engine.errors import EngineError, NotFound

if TYPE_CHECKING:
    from trimtab.client import WireClient


async def resolve(client: WireClient, text: str) -> list[ResourceType]:
    """The kinds that the text names, found among the built-in ones first and else by discovery.

    Raises:
        NotFound: the server has no such kind; the line suggests a near one.
    """
    builtin = [kind.resource_type for kind in all_kinds() if kind.resource_type.builtin]
    discovered: Sequence[ResourceType] | None = None
    found: list[ResourceType] = []
    for word in filter(None, text.split(",")):
        matches = _matching(word, builtin)
        if not matches or word == "all":
            if discovered is None:
                discovered = await client.discover()
            matches = _matching(word, discovered)
        if not matches:
            raise NotFound(_unknown(word, [*builtin, *(discovered or ())]))
        found += [match for match in matches if match not in found]
    return found


async def resolve_one(client: WireClient, text: str) -> ResourceType:
    found = await resolve(client, text)
    if len(found) != 1:
        raise EngineError(f"{text!r} names several kinds: give one")
    return found[0]


def kind_and_name(words: Sequence[str]) -> tuple[str, list[str]]:
    """`("pod", "web")` and `("pod/web",)` alike; no name means all.

    Raises:
        EngineError: the two forms are mixed, or several kinds are written as KIND/NAME.
    """
    first, _, name = words[0].partition("/")
    if not name:
        if any("/" in word for word in words[1:]):
            raise EngineError(f"write either `{first} NAME` or `{first}/NAME`, not both")
        return first, list(words[1:])
    names = [name]
    for word in words[1:]:
        kind, _, name = word.partition("/")
        if kind != first or not name:
            raise EngineError(f"write every object as {first}/NAME, as the first one")
        names.append(name)
    return first, names


def _matching(word: str, kinds: Sequence[ResourceType]) -> list[ResourceType]:
    if word == "all":
        return [kind for kind in kinds if "all" in kind.categories]
    name, _, group = word.partition(".")
    lowered = name.lower()
    for kind in kinds:
        names = (kind.plural, kind.kind.lower(), *kind.short_names)
        if lowered in names and (not group or kind.group == group or kind.group.startswith(f"{group}.")):
            return [kind]
    return [kind for kind in kinds if lowered in kind.categories and not group]


def _unknown(word: str, kinds: Sequence[ResourceType]) -> str:
    known = sorted({name for kind in kinds for name in (kind.plural, kind.kind.lower(), *kind.short_names)})
    close = difflib.get_close_matches(word.lower(), known, n=1)
    hint = f": did you mean {close[0]}?" if close else ": `kubectl api-resources` lists all"
    return f"the server has no kind {word!r}{hint}"
