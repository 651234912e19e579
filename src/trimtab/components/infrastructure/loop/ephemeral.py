"""Fields whose value is had anew each time it is sent, from an ephemeral resource: of objects write-only ones, of a ProviderConfig any.

    spec.ephemeral: {field: {type, field, config, ...}} --fresh--> Fresh: place in the configuration, Opening, mark

As the value is another one each time it tells nobody whether it has to be sent again: its declaration does. The mark is that, with its
`version`, which is for a person to count up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from trimtab.components.infrastructure.kinds import Ephemeral
from trimtab.components.infrastructure.programs.leases import Opening
from trimtab.components.infrastructure.protocol.schema import Attribute, Block, fields
from trimtab.components.infrastructure.protocol.values import UNKNOWN, Value
from trimtab.components.infrastructure.schemas.changes import at, put
from trimtab.components.infrastructure.schemas.mapping import FieldFault, api_path


class Fresh(Struct, frozen=True):
    """One such field of an object: its place in the provider's names, the attribute there, and what opens it."""

    path: str
    attribute: Attribute
    opening: Opening


def places(block: Block, declared: Mapping[str, Ephemeral]) -> dict[str, tuple[str, Attribute]]:
    """The field of each declaration in the provider's names. Raises `FieldFault`."""
    known = {api_path(block, path).removesuffix("SecretRef"): (path, one) for path, one in fields(block)}
    out = {}
    for name in declared:
        found = known.get(re.sub(r"\[\d+\]", "[*]", name))
        if found is None:
            raise FieldFault(f"spec.ephemeral.{name}", "forProvider has no such field")
        path, attribute = found
        if not attribute.write_only:
            could = ", ".join(sorted(api for api, (_, one) in known.items() if one.write_only)) or "there is none"
            raise FieldFault(
                f"spec.ephemeral.{name}",
                f"it stays in the state, and what is had anew each time must not: of write-only fields {could}",
            )
        for index in re.findall(r"\[\d+\]", name):
            path = path.replace("[*]", index, 1)
        out[name] = (path, attribute)
    return out


def unfilled(block: Block, config: Value, declared: Mapping[str, Ephemeral]) -> Value:
    """A configuration in which these fields are unknown, as they are until the last moment. Raises `FieldFault`."""
    for name, (path, _) in places(block, declared).items():
        if at(config, path) is not None:
            raise FieldFault(f"spec.ephemeral.{name}", "forProvider gives it, too: take one of them out")
        changed = put(config, path, UNKNOWN)
        if at(changed, path) is not UNKNOWN:
            raise FieldFault(f"spec.ephemeral.{name}", "forProvider has nothing at this place")
        config = changed
    return config


def marks(block: Block, declared: Mapping[str, Ephemeral]) -> dict[str, str]:
    """By the field's place in the provider's names: what makes it be sent again. Raises `FieldFault`."""
    return {
        path: json.dumps(msgspec.to_builtins(declared[name]), sort_keys=True)
        for name, (path, _) in places(block, declared).items()
    }


__all__ = ["Fresh", "marks", "places", "unfilled"]
