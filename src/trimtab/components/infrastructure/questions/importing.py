"""What exists at a provider's, as a manifest that keeps it as it is.

    id --import, read--> state --what a user may give--> spec.forProvider, policy.adopt --plan--> nothing to do, or notes of what differs
    kind --ListResource--> ids of what is there

Of fields that both the user and the provider may set the values are given too, where the provider takes that; else it goes on setting them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from trimtab.api import JSON
from trimtab.components.infrastructure.loop.gathering import Blocked, existing, keeper_of
from trimtab.components.infrastructure.loop.keeping import Keeper, Look
from trimtab.components.infrastructure.loop.kept import Kept
from trimtab.components.infrastructure.programs.pool import Talk
from trimtab.components.infrastructure.protocol.provider import ProviderError, State
from trimtab.components.infrastructure.protocol.schema import Attribute, Block, NestedType, Nesting
from trimtab.components.infrastructure.protocol.values import Value, ValueFault, plain
from trimtab.components.infrastructure.schemas import naming
from trimtab.components.infrastructure.schemas.mapping import FieldFault, api_path, configured, shown

LIST_MAX = 500
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")
NAME_MAX = 63


class Wanted(Struct):
    """A question: what to write a manifest of; without an id, what there is."""

    resource: str
    id: str = ""
    name: str = ""


class Imported(Struct):
    """manifest: of what was named; notes: what a person has to add, or to know. there: ids of what there is, each with a few words."""

    manifest: JSON | None = None
    notes: list[str] = []
    there: list[tuple[str, str]] = []


async def imported(talk: Talk, wanted: Wanted, namespace: str, config: str) -> Imported:
    """Raises `Blocked`, `ProviderError`, `NotReady`: one line."""
    keeper = keeper_of(talk, wanted.resource)
    if not wanted.id:
        return Imported(there=await _there(talk, wanted.resource))
    live = await existing(talk, wanted.resource, wanted.id)
    if live.value is None:
        raise Blocked("ProviderError", f"there is no {wanted.resource} {wanted.id}")
    block = talk.schema.resources[wanted.resource].block
    given, look = await _given(talk, keeper, wanted.resource, block, live)
    provider = talk.provider.plugin.name
    spec: JSON = {"forProvider": given, "policy": {"adopt": f"id:{wanted.id}"}}
    if config != "default":
        spec = {"providerRef": {"name": config}, **spec}
    manifest = {
        "apiVersion": f"{naming.group(provider)}/{naming.VERSION}",
        "kind": naming.kind_name(provider, wanted.resource),
        "metadata": {"name": wanted.name or _name(live.value, wanted), "namespace": namespace},
        "spec": spec,
    }
    return Imported(manifest=manifest, notes=[*_secrets(block, live.value), *_changes(block, look)])


async def _there(talk: Talk, resource: str) -> list[tuple[str, str]]:
    if resource not in talk.schema.lists:
        raise Blocked(
            "NoList",
            f"{talk.provider.plugin.name} does not list {resource}: give the ID of one, as the provider's documentation says",
        )
    out = []
    for one in await talk.list_(resource, {}, LIST_MAX):
        value = one.value if isinstance(one.value, dict) else {}
        identity = plain(one.identity) or {}
        name = str(value.get("id") or identity.get("id") or ", ".join(f"{k}={v}" for k, v in identity.items()))
        out.append((name, str(value.get("name") or "")))
    return out


async def _given(talk: Talk, keeper: Keeper, resource: str, block: Block, live: State) -> tuple[JSON, Look | str]:
    """What to give so that nothing is to be done, and what the provider would do all the same, or refuses."""
    whole = given_of(block, live.value, both=True)
    look = await _looked(talk, keeper, resource, block, live, whole)
    if isinstance(look, Look) and look.action == "none":
        return whole, look
    # Of the older SDK, nothing and "" are one, and the latter is often refused: where there is a choice, it is not given.
    for both in (True, False):
        said = given_of(block, live.value, both=both, empty=False)
        look = await _looked(talk, keeper, resource, block, live, said)
        if isinstance(look, Look) and look.action == "none":
            break
    return said, look


async def _looked(talk: Talk, keeper: Keeper, resource: str, block: Block, live: State, given: JSON) -> Look | str:
    try:
        config = configured(block, given, _no_secret)
        if refused := [str(one) for one in await talk.validate(resource, config) if one.error]:
            return "; ".join(refused)
        return await keeper.look(keeper.keep(Kept(), live), config)
    except (FieldFault, ValueFault, ProviderError) as err:
        return str(err)


def _no_secret(name: str, key: str) -> str:
    raise LookupError(f"there is no Secret {name}")


def _name(value: Value, wanted: Wanted) -> str:
    """A name for the object: as it is named there, else by its kind and id."""
    named = value.get("name") or value.get("label") or "" if isinstance(value, dict) else ""
    text = _NOT_IN_NAMES.sub("-", str(named).lower()).strip("-")
    return (text or _NOT_IN_NAMES.sub("-", f"{wanted.resource}-{wanted.id}".lower()).strip("-"))[:NAME_MAX].rstrip("-")


def _secrets(block: Block, value: Value) -> list[str]:
    """Notes of what only a Secret may hold."""
    names = naming.of_block(block)
    out = []
    for name, attribute in block.attributes.items():
        if not attribute.given or not attribute.secret:
            continue
        field = names[name] + naming.SECRET_REF
        if attribute.required:
            out.append(
                f"{field} is required and sensitive: put the value into a Secret and name it: {field}: {{name: ..., key: ...}}"
            )
        elif isinstance(value, dict) and value.get(name) is not None:
            out.append(f"{name} is sensitive and set: it stays as it is unless {field} names a Secret")
    return out


def _changes(block: Block, look: Look | str) -> list[str]:
    if isinstance(look, str):
        return [f"the provider does not take it as it is: {look}"]
    if look.action == "none":
        return []
    fields = ", ".join(api_path(block, line.path) for line in look.lines)
    return [f"the provider would {look.action} it ({fields}): look at trimtab plan -f before you apply it"]


# What of a state a user may give


def given_of(block: Block, value: Value, *, both: bool, empty: bool = True) -> JSON:
    """The part of a state that is the user's, in the object's names. both: with what the provider may set as well; empty: with texts that
    are empty and need not be given."""
    if not isinstance(value, dict):
        return {}
    names = naming.of_block(block)
    out = _attributes(block.attributes, names, value, both=both, empty=empty)
    for name, nested in block.blocks.items():
        inner = _each(nested.nesting, value.get(name), lambda v, n=nested: given_of(n.block, v, both=both, empty=empty))
        if inner not in (None, [], {}):
            out[names[name]] = inner
    return out


def _attributes(
    attributes: Mapping[str, Attribute],
    names: Mapping[str, str],
    value: Mapping[str, Value],
    *,
    both: bool,
    empty: bool,
) -> JSON:
    out: JSON = {}
    for name, attribute in attributes.items():
        inner = value.get(name)
        if inner is None or not attribute.given or attribute.secret or attribute.deprecated:
            continue
        if (attribute.computed and not both) or (inner == "" and not empty and not attribute.required):
            continue
        if attribute.nested is not None:
            out[names[name]] = _nested(attribute.nested, inner, both=both, empty=empty)
        else:
            out[names[name]] = shown(Block(attributes={name: attribute}), {name: inner}).get(naming.camel(name))
    return out


def _nested(nested: NestedType, value: Value, *, both: bool, empty: bool) -> Any:
    names = naming.of_attributes(nested.attributes)
    return _each(
        nested.nesting,
        value,
        lambda v: _attributes(nested.attributes, names, v, both=both, empty=empty) if isinstance(v, dict) else plain(v),
    )


def _each(nesting: Nesting, value: Value, one: Any) -> Any:
    if nesting in ("list", "set") and isinstance(value, list):
        return [one(v) for v in value]
    if nesting == "map" and isinstance(value, dict):
        return {key: one(v) for key, v in value.items()}
    return None if value is None else one(value)


__all__ = ["Imported", "Wanted", "given_of", "imported"]
