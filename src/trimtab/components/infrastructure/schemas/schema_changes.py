"""What differs between two versions of a provider's schema, for the kinds that are enabled: what users gave and can no longer give.

two Schemas --walk--> lines: a field gone, of another type, required now, no longer to be given; and what is new
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from trimtab.components.infrastructure.protocol.schema import Attribute, Block, ProviderSchema, Schema, fields
from trimtab.components.infrastructure.protocol.types import to_json
from trimtab.components.infrastructure.schemas.mapping import api_path

GONE = "there is no such resource any more"


class SchemaChange(Struct, frozen=True):
    """One line. breaks: whether manifests that were right may be wrong now."""

    resource: str
    text: str
    breaks: bool = False


def schema_changes(before: ProviderSchema, after: ProviderSchema, kinds: Sequence[str]) -> list[SchemaChange]:
    """Of these kinds, in their order."""
    out: list[SchemaChange] = []
    for kind in kinds:
        old, new = before.resources.get(kind), after.resources.get(kind)
        if new is None:
            out.append(SchemaChange(kind, GONE, breaks=True))
        elif old is not None:
            out += _of_kind(kind, old, new)
    return out


def _of_kind(kind: str, old: Schema, new: Schema) -> Iterator[SchemaChange]:
    before, after = dict(fields(old.block)), dict(fields(new.block))
    for path in sorted(before.keys() | after.keys()):
        for text, breaks in _of_field(before.get(path), after.get(path)):
            block = new.block if path in after else old.block
            yield SchemaChange(kind, f"{api_path(block, path)}: {text}", breaks)
    for path, text in _of_blocks(old.block, new.block):
        yield SchemaChange(kind, f"{path}: {text}", breaks=True)
    if old.version != new.version:
        yield SchemaChange(kind, f"its state is of version {new.version}, and was of {old.version}")


def _of_field(old: Attribute | None, new: Attribute | None) -> Iterator[tuple[str, bool]]:
    if old is None:
        assert new is not None
        yield ("is new, and required", True) if new.required else ("is new", False)
        return
    if new is None:
        yield "is gone", old.given
        return
    if to_json(old.implied) != to_json(new.implied):
        yield f"is {new.implied}, and was {old.implied}", True
    if new.required and not old.required:
        yield "is required now", True
    if old.given and not new.given:
        yield "is set by the provider alone now", True
    if old.given and new.secret != old.secret:
        yield (
            ("is sensitive now: name a Secret" if new.secret else "is not sensitive any more: give it itself"),
            True,
        )
    if new.deprecated and not old.deprecated:
        yield f"is deprecated: {new.deprecated}", False


def _of_blocks(old: Block, new: Block) -> Iterator[tuple[str, str]]:
    """Blocks that are nested otherwise; their fields are told by themselves."""
    for name, nested in old.blocks.items():
        other = new.blocks.get(name)
        if other is not None and other.nesting != nested.nesting:
            yield name, f"is a {other.nesting}, and was a {nested.nesting}"


def by_resource(found: Sequence[SchemaChange]) -> Mapping[str, list[SchemaChange]]:
    """The changes of each resource, in the order in which they were found."""
    out: dict[str, list[SchemaChange]] = {}
    for one in found:
        out.setdefault(one.resource, []).append(one)
    return out


__all__ = ["GONE", "SchemaChange", "by_resource", "schema_changes"]
