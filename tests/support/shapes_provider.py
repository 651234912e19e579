#!/usr/bin/env python3
"""A Terraform provider that only plans: kinds with every shape that a schema can have, as a program: `shapes_provider.py [5|6]`.

It has no cloud. What it is for: whether our proposals, plans and lines are those of Terraform's own core, which talks to the very same
program. So it plans as real ones do: what is computed and not given is unknown when the resource is made, and, of some fields, whenever
another one changes.
"""

from __future__ import annotations

import sys
from typing import Any

from provider_server import attribute, error, serve
from trimtab.components.infrastructure.protocol.messages import Version
from trimtab.components.infrastructure.protocol.types import (
    BOOL,
    DYNAMIC,
    NUMBER,
    STRING,
    Type,
    list_of,
    map_of,
    object_of,
    set_of,
)
from trimtab.components.infrastructure.protocol.values import UNKNOWN, decode, encode

VERSION: Version = 5 if "5" in sys.argv[1:] else 6
NESTING = {"single": 1, "list": 2, "set": 3, "map": 4, "group": 5}

ID = attribute("id", STRING, computed=True)
REGION = attribute("region", STRING, optional=True)


def nested(name: str, nesting: str, *attributes: dict[str, Any], **flags: Any) -> dict[str, Any]:
    """An attribute that holds objects (protocol 6)."""
    return {"name": name, "nested_type": {"attributes": list(attributes), "nesting": NESTING[nesting]}, **flags}


def block(
    name: str, nesting: str, *attributes: dict[str, Any], blocks: tuple[dict[str, Any], ...] = ()
) -> dict[str, Any]:
    inner = {"attributes": list(attributes), "block_types": list(blocks)}
    return {"type_name": name, "nesting": NESTING[nesting], "block": inner}


RULE = (
    attribute("port", NUMBER, required=True),
    attribute("host", STRING, optional=True),
    attribute("rule_id", STRING, computed=True),
    attribute("weight", NUMBER, optional=True, computed=True),
    attribute("aliases", set_of(STRING), optional=True, computed=True),
    attribute("notes", list_of(STRING), optional=True, computed=True),
)
KINDS: dict[str, dict[str, Any]] = {
    "shapes_plain": {
        "attributes": [
            ID,
            REGION,
            attribute("name", STRING, required=True),
            attribute("count_of", NUMBER, optional=True),
            attribute("size", STRING, optional=True, computed=True),
            attribute("on", BOOL, optional=True),
            attribute("revision", NUMBER, computed=True),
            attribute("secret", STRING, optional=True, sensitive=True),
        ]
    },
    "shapes_collections": {
        "attributes": [
            ID,
            REGION,
            attribute("names", list_of(STRING), optional=True),
            attribute("zones", set_of(STRING), optional=True),
            attribute("labels", map_of(STRING), optional=True),
            attribute("made_labels", map_of(STRING), optional=True, computed=True),
            attribute("limits", object_of({"cpu": NUMBER, "memory": STRING}), optional=True),
            attribute("disks", list_of(object_of({"size": NUMBER, "kind": STRING})), optional=True),
            attribute("routes", set_of(object_of({"to": STRING, "via": STRING})), optional=True, computed=True),
            attribute("matrix", list_of(list_of(NUMBER)), optional=True),
            attribute("anything", DYNAMIC, optional=True),
        ]
    },
    "shapes_blocks": {
        "attributes": [ID, REGION],
        "block_types": [
            block("rule", "list", *RULE),
            block("peer", "set", *RULE),
            block("owner", "single", attribute("team", STRING, optional=True), attribute("owner_id", STRING, computed=True)),
            block(
                "pool",
                "list",
                attribute("kind", STRING, required=True),
                attribute("pool_id", STRING, computed=True),
                blocks=(
                    block("taint", "set", attribute("key", STRING, required=True), attribute("made", STRING, computed=True)),
                    block("autoscale", "list", attribute("least", NUMBER, optional=True), attribute("most", NUMBER, optional=True)),
                ),
            ),
        ],
    },
}  # fmt: skip
NESTED: dict[str, dict[str, Any]] = {
    "shapes_maps": {  # blocks by key, and a block that is always there
        "attributes": [ID, REGION],
        "block_types": [
            block("by_name", "map", *RULE),
            block("settings", "group", attribute("mode", STRING, optional=True), attribute("made", STRING, optional=True, computed=True)),
        ],
    },
    "shapes_nested": {
        "attributes": [
            ID,
            REGION,
            nested("one", "single", *RULE, optional=True),
            nested("some", "list", *RULE, optional=True),
            nested("any", "set", *RULE, optional=True),
            nested("keyed", "map", *RULE, optional=True),
            nested("made", "list", *RULE, optional=True, computed=True),
            nested("made_any", "set", *RULE, optional=True, computed=True),
            nested("only_made", "single", attribute("address", STRING, computed=True), attribute("port", NUMBER, computed=True), computed=True),
            nested("deep", "list", attribute("name", STRING, required=True), nested("inner", "set", *RULE, optional=True), optional=True),
            nested("full", "set", attribute("name", STRING, required=True), nested("list", "list", *RULE, optional=True, computed=True),
                nested("map", "map", *RULE, optional=True, computed=True), optional=True),
        ]
    },
}  # fmt: skip
SERVED = KINDS | (NESTED if VERSION == 6 else {})
FORCES = "region"
"""The field for whose change everything is made anew."""


def _type(block: dict[str, Any]) -> Type:
    of = {one["name"]: _attribute_type(one) for one in block["attributes"]}
    for one in block.get("block_types", ()):
        of[one["type_name"]] = _wrapped(one["nesting"], _type(one["block"]))
    return object_of(of)


def _attribute_type(one: dict[str, Any]) -> Type:
    from trimtab.components.infrastructure.protocol.types import parse

    if "type" in one:
        return parse(one["type"])
    return _wrapped(one["nested_type"]["nesting"], _type(one["nested_type"]))


def _wrapped(nesting: int, of: Type) -> Type:
    return {2: list_of, 3: set_of, 4: map_of}.get(nesting, lambda inner: inner)(of)


TYPES = {name: _type(block) for name, block in SERVED.items()}


def _settle(block: dict[str, Any], value: Any) -> None:
    """Makes unknown what the provider will compute, wherever there is nothing yet."""
    if not isinstance(value, dict):
        return
    for one in block["attributes"]:
        inner = value.get(one["name"])
        if inner is None and one.get("computed"):
            value[one["name"]] = UNKNOWN
        elif "nested_type" in one:
            _each(one["nested_type"]["nesting"], one["nested_type"], inner)
    for one in block.get("block_types", ()):
        _each(one["nesting"], one["block"], value.get(one["type_name"]))


def _each(nesting: int, block: dict[str, Any], value: Any) -> None:
    match nesting, value:
        case ((2 | 3), list()):
            for one in value:
                _settle(block, one)
        case 4, dict():
            for one in value.values():
                _settle(block, one)
        case _:
            _settle(block, value)


class Shapes:
    def schema(self, _: Any) -> dict[str, Any]:
        resources = [{"key": name, "value": {"version": 1, "block": block}} for name, block in SERVED.items()]
        return {"provider": {"block": {"attributes": []}}, "resource_schemas": resources}

    def prepare(self, request: Any) -> dict[str, Any]:
        return {"prepared_config": {"msgpack": request.config.msgpack}} if VERSION == 5 else {}

    def configure(self, _: Any) -> dict[str, Any]:
        return {}

    def validate(self, request: Any) -> dict[str, Any]:
        config = decode(TYPES[request.type_name], request.config.msgpack)
        return error("There is no region moon", "region") if config.get("region") == "moon" else {}

    def upgrade(self, request: Any) -> dict[str, Any]:
        of = TYPES[request.type_name]
        from trimtab.components.infrastructure.protocol.values import decode_json

        return {"upgraded_state": {"msgpack": encode(of, decode_json(of, request.raw_state.json))}}

    def read(self, request: Any) -> dict[str, Any]:
        return {"new_state": {"msgpack": request.current_state.msgpack}, "private": request.private}

    def plan(self, request: Any) -> dict[str, Any]:
        of, block = TYPES[request.type_name], SERVED[request.type_name]
        prior, proposed = decode(of, request.prior_state.msgpack), decode(of, request.proposed_new_state.msgpack)
        if proposed is None:
            return {"planned_state": {"msgpack": encode(of, None)}}
        _settle(block, proposed)
        if "revision" in proposed and prior is not None and prior["name"] != proposed["name"]:
            proposed["revision"] = UNKNOWN
        replaces = prior is not None and prior[FORCES] != proposed[FORCES]
        return {
            "planned_state": {"msgpack": encode(of, proposed)},
            "requires_replace": [{"steps": [{"attribute_name": FORCES}]}] if replaces else [],
            "planned_private": b"planned",
        }

    def stop(self, _: Any) -> dict[str, Any]:
        return {}


if __name__ == "__main__":
    serve(Shapes(), VERSION)
