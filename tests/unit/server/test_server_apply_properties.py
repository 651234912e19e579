"""Laws of server-side apply that must hold for any configurations, found by random search."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trimtab.server.apply import ApplyConflict, apply, track_update
from trimtab.server.fieldset import (
    Fields,
    canonical,
    difference_roots,
    has_member,
    intersection_roots,
    union_roots,
)
from trimtab.server.merge import compare, field_set, item_element
from trimtab.server.schemas import compile_crd_schema
from trimtab.server.structural import ANY, Node

ITEM: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "port": {"type": "integer", "default": 80},
        "value": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
SCHEMA = compile_crd_schema(
    {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "count": {"type": "integer"},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "items": {
                        "type": "array",
                        "items": ITEM,
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["name", "port"],
                    },
                    "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                    "args": {"type": "array", "items": {"type": "string"}},
                    "whole": {
                        "type": "object",
                        "additionalProperties": {"type": "string"},
                        "x-kubernetes-map-type": "atomic",
                    },
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        },
    },
    api_version="x.dev/v1",
    kind="Thing",
)

law = settings(max_examples=60, deadline=None)

NAMES = st.sampled_from(["a", "b", "c", "d"])
TEXT = st.sampled_from(["x", "y", "z"])
LABELS = st.dictionaries(NAMES, TEXT, max_size=3)
FREE = st.recursive(
    st.one_of(TEXT, st.integers(0, 2), st.booleans()),
    lambda children: st.one_of(st.dictionaries(NAMES, children, max_size=3), st.lists(children, max_size=2)),
    max_leaves=5,
)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


ITEMS = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES}, optional={"port": st.sampled_from([80, 81]), "value": TEXT, "labels": LABELS}
    ),
    max_size=4,
    unique_by=lambda item: (item["name"], item.get("port", 80)),
)
SPEC = optional(
    count=st.integers(0, 3),
    labels=LABELS,
    items=ITEMS,
    tags=st.lists(TEXT, unique=True, max_size=3),
    args=st.lists(TEXT, max_size=3),
    whole=LABELS,
    free=st.dictionaries(NAMES, FREE, max_size=3),
)


def thing(spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "x.dev/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": copy.deepcopy(spec)}


CONFIG = SPEC.map(thing)


def put(live: dict[str, Any] | None, config: dict[str, Any], manager: str, *, force: bool = True) -> dict[str, Any]:
    now = "2025-01-01T00:00:00Z"
    return apply(live, copy.deepcopy(config), manager=manager, force=force, schema=SCHEMA, now=now)


def owned(obj: dict[str, Any], manager: str) -> Fields:
    for entry in obj["metadata"].get("managedFields", []):
        if entry["manager"] == manager:
            fields: Fields = entry["fieldsV1"]
            return fields
    return {}


def tidy(value: Any, node: Node = SCHEMA.root) -> Any:
    """Without empty containers, and with lists of type map and set in one order: what apply does not promise."""
    if isinstance(value, dict):
        out = {key: tidy(child, node.child(key) or ANY) for key, child in value.items() if key != "managedFields"}
        return {key: child for key, child in out.items() if child not in ({}, [])}
    if isinstance(value, list) and (node.keys or node.unique):
        return [tidy(item, node.items or ANY) for item in sorted(value, key=lambda item: item_element(node, item))]
    return value


def missing(node: Node, value: Any, fields: Fields, path: str = "") -> Iterator[str]:
    """Owned fields that the object does not have."""
    for element, below in fields.items():
        if element == ".":
            continue
        if element.startswith("f:"):
            key = element[2:]
            if not isinstance(value, dict) or key not in value:
                yield path + element
                continue
            yield from missing(node.child(key) or ANY, value[key], below, path + element)
        else:
            found = [item for item in value if item_element(node, item) == element]
            if not found:
                yield path + element
            else:
                yield from missing(node.items or ANY, found[0], below, path + element)


@law
@given(CONFIG, CONFIG)
def test_applying_twice_is_applying_once(before: dict[str, Any], config: dict[str, Any]) -> None:
    live = put(put(None, before, "other"), config, "me")

    assert put(live, config, "me") == live


@law
@given(CONFIG, CONFIG)
def test_one_manager_alone_gets_exactly_what_it_applied_last(first: dict[str, Any], second: dict[str, Any]) -> None:
    result = put(put(None, first, "me"), second, "me")

    assert tidy(result) == tidy(put(None, second, "me"))


@law
@given(CONFIG, CONFIG, CONFIG)
def test_a_forced_apply_wins_every_field_it_names(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    live = put(put(None, a, "a"), b, "b")

    result = put(live, c, "c")

    assert compare(SCHEMA.root, result, put(result, c, "c")) == ({}, {})
    wanted = difference_roots(
        field_set(SCHEMA.root, c), {"f:apiVersion": {}, "f:kind": {}, "f:metadata": {"f:name": {}}}
    )
    assert owned(result, "c") == wanted
    changed, _ = compare(SCHEMA.root, live, result)
    for other in ("a", "b"):
        assert intersection_roots(owned(result, other), changed) == {}


@law
@given(CONFIG, CONFIG)
def test_without_force_a_conflict_or_no_one_loses_anything(a: dict[str, Any], b: dict[str, Any]) -> None:
    live = put(None, a, "a")
    before = copy.deepcopy(live)

    try:
        result = put(live, b, "b", force=False)
    except ApplyConflict:
        assert live == before
        return

    assert owned(result, "a") == owned(live, "a")
    assert tidy(put(result, a, "a", force=False)) == tidy(result)


@law
@given(CONFIG, CONFIG)
def test_giving_up_removes_what_nobody_else_holds(a: dict[str, Any], b: dict[str, Any]) -> None:
    live = put(put(None, a, "a"), b, "b")

    nothing = {key: value for key, value in thing({}).items() if key != "spec"}
    result = put(live, nothing, "a")

    assert owned(result, "a") == {}
    assert tidy(result) == tidy(put(None, b, "b"))


@law
@given(CONFIG, CONFIG, CONFIG)
def test_every_owned_field_exists(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    live = put(put(None, a, "a"), b, "b")
    new = thing(c["spec"])
    track_update(live, new, manager="u", schema=SCHEMA, now="2025-01-01T00:00:01Z")
    result = put(new, a, "b")

    for obj in (live, new, result):
        for entry in obj["metadata"].get("managedFields", []):
            assert canonical(entry["fieldsV1"]) == entry["fieldsV1"]
            if entry["operation"] == "Update" or entry["manager"] == "b":
                # An emptied list or map is owned by being empty; everything else must be there.
                gone = list(missing(SCHEMA.root, obj, entry["fieldsV1"]))
                assert gone == []


@law
@given(CONFIG, CONFIG)
def test_an_update_owns_what_it_changed_and_nothing_it_removed(a: dict[str, Any], b: dict[str, Any]) -> None:
    live = put(None, a, "a")
    assume("managedFields" in live["metadata"])  # who applies nothing leaves an object that is not tracked
    new = thing(b["spec"])

    track_update(live, new, manager="u", schema=SCHEMA, now="2025-01-01T00:00:01Z")

    changed, removed = compare(SCHEMA.root, live, new)
    changed.pop("f:metadata", None)
    assert difference_roots(changed, owned(new, "u")) == {}
    assert intersection_roots(owned(new, "a"), changed) == {}
    assert intersection_roots(owned(new, "a"), removed) == {}


# --- the algebra of sets ------------------------------------------------------------------------------------------

ELEMENT = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"y"'])


def node_of(children: dict[str, Fields], member: bool) -> Fields:
    if not children:
        return {}
    return {".": {}, **children} if member else children


NODE: st.SearchStrategy[Fields] = st.recursive(
    st.just({}),
    lambda below: st.builds(node_of, st.dictionaries(ELEMENT, below, min_size=1, max_size=3), st.booleans()),
    max_leaves=8,
)
SET = st.dictionaries(ELEMENT, NODE, max_size=3)


def members(fields: Fields, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    out = set()
    for element, below in fields.items():
        if element != ".":
            here = (*path, element)
            if has_member(below):
                out.add(here)
            out |= members(below, here)
    return out


@law
@given(SET, SET)
def test_sets_are_sets(a: Fields, b: Fields) -> None:
    before = copy.deepcopy((a, b))

    assert members(union_roots(a, b)) == members(a) | members(b)
    assert members(intersection_roots(a, b)) == members(a) & members(b)
    assert members(difference_roots(a, b)) == members(a) - members(b)
    assert (a, b) == before


@law
@given(SET)
def test_an_empty_set_has_one_form(a: Fields) -> None:
    assert difference_roots(a, a) == {}
    assert intersection_roots(a, {}) == {}
    assert union_roots(a, {}) == a
    assert union_roots({}, a) == a
