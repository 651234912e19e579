"""What was begun to be made and whose answer never came: looked for, and taken for ours only when it can be nothing else.

    config --tagged--> config with the object's uid                                        (policy.adopt: ifTagged)
    before it is made --Finder.there--> keys of what is there           (kept with the attempt)
    answer lost       --Finder.ours---> what is there now, was not there then, and is as it was given; or bears the uid

Five ways to look, the first that the provider has: ListResource; import by an identity of which every part is given; import by an id
that the plan knows; a data source of the same name that takes a `name`; one of its plural that gives the ids of all. Where there is none,
its name may be its id: what can be imported by it since is it, and that nothing can says nothing. Then only a person can say.
"""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

from msgspec import Struct

from trimtab.components.infrastructure.programs.rate import BUSY
from trimtab.components.infrastructure.protocol.provider import CALL_S, Imported, Listed, ProviderError, State
from trimtab.components.infrastructure.protocol.schema import Attribute, Block, ProviderSchema
from trimtab.components.infrastructure.protocol.types import NUMBER, STRING, Type
from trimtab.components.infrastructure.protocol.values import UNKNOWN, Value, plain, same

LIST_MAX = 5000
"""Where more are there, nobody lists them for each that is made."""
PAGES = frozenset({10, 20, 25, 30, 40, 50, 100, 200, 250, 500, 1000})
"""A data source that gives so many may have given a page of them: that something is not among them means nothing then."""
CANDIDATES_MAX = 20
"""So many of what nothing but the id is known of are looked at, to see whether one is ours."""
HURRIED_S = 10.0
"""So long a data source is waited for before something is made. Some wait minutes for what is not there (AWS's of IAM policies: two)."""
PATIENT_S = 180.0
"""So long after an answer was lost, where nothing else says that it is not there."""
NAMES = ("name", "label")
TAG_KEY, TAG_PREFIX = "trimtab-object", "trimtab:"
"""Of a map of tags, and of a list of them: in letters that every cloud takes, 44 characters at most."""
TAGS = ("tags", "labels")
NOT_FOUND = re.compile(
    r"not found|no .{0,60}found|could ?n.t find|there is no|does ?n.t exist|does not exist|non-existent|\b404\b", re.I
)
LOST = re.compile(
    r"time.?out|timed out|deadline|\bEOF\b|hung up|broken pipe|reset by peer|connection (reset|closed|aborted|refused|was)|\b5\d\d\b|unexpected end"
    r"|bad gateway|unavailable|internal (server )?error|cancell?ed",
    re.I,
)
"""Errors after which something may have been made all the same."""

PASSING = re.compile(rf"{LOST.pattern}|{BUSY.pattern}", re.I)
"""Errors that are worth asking again."""


class Searched(Protocol):
    """The part of a provider that looking needs."""

    async def read(self, kind: str, state: State) -> State: ...
    async def import_(self, kind: str, name: str) -> list[Imported]: ...
    async def import_identity(self, kind: str, identity: Value) -> list[Imported]: ...
    async def data(self, kind: str, config: Value, *, timeout_s: float) -> Value: ...
    async def list_(self, kind: str, config: Value, limit: int) -> list[Listed]: ...


class Found(Struct, frozen=True):
    """Something that is there. key: tells it from all others of its kind. value: as far as looking told; None when it did not."""

    key: str
    value: Value
    identity: Value = None


class Finder:
    """Looks for resources of one kind."""

    def __init__(self, provider: Searched, served: ProviderSchema, kind: str) -> None:
        self._provider = provider
        self._served = served
        self._kind = kind
        self._block = served.resources[kind].block

    async def there(self, config: Value, expected: str, *, patient: bool = False) -> list[Found] | None:
        """What is there that could be what `config` makes; None when there is no way to look. expected: its id, if the plan knows it.
        patient: a data source that waits for what is not there is waited for.

        Raises:
            ProviderError: it did not answer.
        """
        timeout_s = PATIENT_S if patient else HURRIED_S
        for way in (self._listed, self._by_identity, self._by_id, self._by_data, self._by_plural):
            try:
                found = await way(config, expected, timeout_s)
            except ProviderError as err:
                if not err.diagnostics or PASSING.search(str(err)):
                    raise
                return None  # this credential may not look
            if found is not None:
                return found
        return None

    async def ours(self, config: Value, expected: str, before: list[str], uid: str) -> list[Found] | None:
        """Of what is there, what can be the one that was begun: it bears the uid, or, where nothing does, came since and is as given.
        None: nobody can say."""
        found = await self.there(config, expected, patient=True)
        if found is None:
            return None
        tag = tag_of(self._block, config)
        fresh = [one for one in found if tag is not None or one.key not in before]
        if sum(one.value is None for one in fresh) > CANDIDATES_MAX:
            return None
        out = []
        for one in fresh:
            if one.value is None and (one := await self._whole(one)).value is None:
                return None  # it could be this one, and nobody can look at it
            if tag_of(self._block, one.value) == uid if tag is not None else as_given(self._block, one.value, config):
                out.append(one)
        return out

    async def free(self, config: Value) -> str:
        """Its name, when nothing can be imported by that yet; empty when it has none, or there is no telling."""
        name = next((config[one] for one in NAMES if isinstance(config.get(one), str) and config[one]), "")
        try:
            return "" if not name or await self._by_id(config, name) else name
        except ProviderError:
            return ""  # ids are of another form

    async def under(self, name: str, config: Value) -> list[Found] | None:
        """What can be imported by a name that was free, and is as given; None when nobody can say. Raises `ProviderError`: it did not answer."""
        try:
            found = await self._by_id(config, name)
        except ProviderError as err:
            if not err.diagnostics or PASSING.search(str(err)):
                raise
            return None
        return [one for one in found or () if as_given(self._block, one.value, config)] or None

    async def lists(self, value: Value, key: str) -> bool:
        """Whether a cloud lists what it says is not there when it is read: the second opinion. value: as it last was. key: its id.
        Raises `ProviderError`: it did not answer."""
        for way in (self._listed, self._named, self._by_plural):
            try:
                found = await way(value, "", HURRIED_S)
            except ProviderError as err:
                if not err.diagnostics or PASSING.search(str(err)):
                    raise
                return False
            if found is not None:
                return any(one.key == key for one in found)
        return False

    async def take(self, one: Found) -> State:
        """The state of what was found, with what the provider itself remembers of it; value None when it is gone."""
        name = one.value.get("id") if isinstance(one.value, dict) else one.key
        imported: list[Imported] = []
        if one.identity is not None:
            imported = await self._imported(self._provider.import_identity(self._kind, one.identity))
        elif isinstance(name, str) and name:
            imported = await self._imported(self._provider.import_(self._kind, name))
        state = imported[0].state if imported else State(one.value, b"", one.identity)
        return state if state.value is None else await self._provider.read(self._kind, state)

    async def _whole(self, one: Found) -> Found:
        try:
            state = await self.take(one)
        except ProviderError as err:
            if not err.diagnostics or PASSING.search(str(err)):
                raise
            return one  # not to be imported by what it was listed as
        return Found(one.key, state.value, one.identity)

    # The ways

    async def _listed(self, config: Value, _: str, __: float) -> list[Found] | None:
        schema = self._served.lists.get(self._kind)
        if schema is None or self._kind not in self._served.identities:
            return None
        asked = _asked(schema.block, config, required_only=True)
        if asked is None:
            return None
        rows = await self._provider.list_(self._kind, asked, LIST_MAX + 1)
        if len(rows) > LIST_MAX:
            return None
        return [Found(_key(row.value, row.identity), row.value, row.identity) for row in rows]

    async def _by_identity(self, config: Value, _: str, __: float) -> list[Found] | None:
        identity = self._served.identities.get(self._kind)
        if identity is None or not identity.required:
            return None
        parts = {name: config.get(name) for name in identity.attributes if name in self._block.attributes}
        parts = {name: part for name, part in parts.items() if part is not None and part is not UNKNOWN}
        if not identity.required <= parts.keys():
            return None
        return await self._read(await self._imported(self._provider.import_identity(self._kind, parts)))

    async def _by_id(self, _: Value, expected: str, __: float = HURRIED_S) -> list[Found] | None:
        if not expected:
            return None
        return await self._read(await self._imported(self._provider.import_(self._kind, expected)))

    async def _by_data(self, config: Value, _: str, timeout_s: float) -> list[Found] | None:
        named = await self._named(config, "", timeout_s)
        if not named:
            return named
        return await self._read(await self._imported(self._provider.import_(self._kind, named[0].key)))

    async def _named(self, config: Value, _: str, timeout_s: float) -> list[Found] | None:
        """The one of a name, as far as its id."""
        schema = self._served.data_sources.get(self._kind)
        if schema is None or "id" not in schema.block.attributes or "name" not in schema.block.attributes:
            return None
        asked = _asked(schema.block, config, required_only=True)
        if asked is None or not schema.block.attributes["name"].given or not isinstance(config.get("name"), str):
            return None
        try:
            value = await self._provider.data(self._kind, {**asked, "name": config["name"]}, timeout_s=timeout_s)
        except ProviderError as err:
            if err.diagnostics and NOT_FOUND.search(str(err)):
                return []
            if err.late:
                return None
            raise
        name = value.get("id") if isinstance(value, dict) else None
        return [] if name is None or name == "" else [Found(str(name), None)]

    async def _by_plural(self, config: Value, _: str, __: float) -> list[Found] | None:
        for name in plurals(self._kind):
            schema = self._served.data_sources.get(name)
            if schema is not None and (place := ids_in(schema.block)) is not None:
                break
        else:
            return None
        if (asked := _asked(schema.block, config, required_only=True)) is None:
            return None
        value = await self._provider.data(name, asked, timeout_s=CALL_S)
        rows = value.get(place) if isinstance(value, dict) else None
        if not isinstance(rows, list) or len(rows) > LIST_MAX or len(rows) in PAGES:
            return None
        ids = [str(row["id"] if isinstance(row, dict) else row) for row in rows if not _named_otherwise(row, config)]
        return [Found(one, None) for one in ids]

    async def _imported(self, question: Any) -> list[Imported]:
        try:
            found: list[Imported] = await question
        except ProviderError as err:
            if err.diagnostics and NOT_FOUND.search(str(err)):
                return []
            raise
        return [one for one in found if one.kind == self._kind]

    async def _read(self, imported: list[Imported]) -> list[Found]:
        states = [await self._provider.read(self._kind, one.state) for one in imported]
        return [Found(_key(s.value, s.identity), s.value, s.identity) for s in states if s.value is not None]


def plurals(kind: str) -> list[str]:
    """What a data source of all of a kind is called."""
    return [f"{kind}s", f"{kind}es", *([f"{kind[:-1]}ies"] if kind.endswith("y") else [])]


def ids_in(block: Block) -> str | None:
    """The one field of a data source that has all ids: in a list of objects with an `id`, or as `ids`; None when it is not plain which."""
    types = {name: one.implied for name, one in block.attributes.items() if one.computed and not one.required}
    types |= {name: one.implied for name, one in block.blocks.items()}
    rows = [name for name, of in types.items() if of.kind in ("list", "set") and _has_id(of.element)]
    if len(rows) == 1:
        return rows[0]
    ids = types.get("ids")
    return "ids" if not rows and ids is not None and ids.kind in ("list", "set") and ids.element == STRING else None


def _has_id(of: Type | None) -> bool:
    return of is not None and of.kind == "object" and of.attributes.get("id") in (STRING, NUMBER)


def _named_otherwise(row: Value, config: Value) -> bool:
    """Whether the row of a list has another name than what is given."""
    if not isinstance(row, dict):
        return False
    return any(
        isinstance(row.get(name), str) and isinstance(config.get(name), str) and row[name] != config[name]
        for name in NAMES
    )


def _asked(block: Block, config: Value, *, required_only: bool) -> dict[str, Value] | None:
    """What a list or a data source must be told, out of a resource's configuration; None when that does not have it."""
    wanted = [name for name, one in block.attributes.items() if one.required or not required_only]
    if any(one.min_items for one in block.blocks.values()):
        return None
    out = {name: config.get(name) for name in wanted}
    return None if any(value is None or value is UNKNOWN for value in out.values()) else out


def _key(value: Value, identity: Value) -> str:
    if isinstance(value, dict) and value.get("id"):
        return str(value["id"])
    return json.dumps(plain(identity if identity is not None else value), sort_keys=True)


def as_given(block: Block, value: Value, config: Value) -> bool:
    """Whether what is there can be what the configuration made: everything that is given and that can be seen is the same."""
    seen = False
    for name, attribute in block.attributes.items():
        given, there = config.get(name), value.get(name)
        if given is None or given is UNKNOWN or there is None or attribute.sensitive or attribute.write_only:
            continue
        if attribute.nested is None:
            if not same(attribute.implied, given, there):
                return False
            seen = True
    for name in block.blocks:
        given, there = config.get(name), value.get(name)
        if isinstance(given, list) and isinstance(there, list) and given and there and len(given) != len(there):
            return False
    return seen


# Tags


def tags_of(block: Block) -> str | None:
    """The field for tags of a kind: `tags` or `labels`, a map or a list of texts that can be given."""
    for name in TAGS:
        attribute = block.attributes.get(name)
        if attribute is not None and _takes_tags(attribute):
            return name
    return None


def _takes_tags(attribute: Attribute) -> bool:
    of = attribute.type
    plainly = attribute.given and not attribute.sensitive and not attribute.write_only
    return plainly and of is not None and of.kind in ("map", "set", "list") and of.element == STRING


def tagged(block: Block, config: Value, uid: str) -> Value:
    """A configuration whose tags also say whose it is. Raises `LookupError`: the kind has none."""
    name = tags_of(block)
    if name is None:
        raise LookupError("has neither tags nor labels that could say whose it is: use never, or id:NAME")
    given = config.get(name)
    if block.attributes[name].implied.kind == "map":
        return {**config, name: {**(given if isinstance(given, dict) else {}), TAG_KEY: uid}}
    return {**config, name: [*(given if isinstance(given, list) else []), f"{TAG_PREFIX}{uid}"]}


def tag_of(block: Block, value: Value) -> str | None:
    """The uid in the tags of a configuration or of what is there."""
    name = tags_of(block)
    found = value.get(name) if name is not None and isinstance(value, dict) else None
    if isinstance(found, dict):
        text = found.get(TAG_KEY)
        return text if isinstance(text, str) else None
    if isinstance(found, list):
        return next((t[len(TAG_PREFIX) :] for t in found if isinstance(t, str) and t.startswith(TAG_PREFIX)), None)
    return None


__all__ = ["LOST", "Finder", "Found", "Searched", "as_given", "tag_of", "tagged", "tags_of"]
