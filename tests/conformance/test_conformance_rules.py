"""Validation rules of custom kinds: what they say of objects, which are refused, and what they may cost.

`rules.json` holds what the real API server answered: `said` by `rules` about `object`, whose schema is `fields`; `refused`, what keeps
a rule from being taken; `costs`, schemas with rules and what is said of their highest cost.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from kubernetes.client.rest import ApiException

CASES = json.loads((Path(__file__).parent / "rules.json").read_text())
SERVED_S = 60.0
GROUP = "rules.example.com"


class Kinds:
    """Makes custom kinds and their objects."""

    def __init__(self, client: Any, namespace: str) -> None:
        self.extensions = kubernetes.client.ApiextensionsV1Api(client)
        self.objects = kubernetes.client.CustomObjectsApi(client)
        self.namespace = namespace
        self.made: list[str] = []

    def definition(self, schema: dict[str, Any], **version: Any) -> dict[str, Any]:
        name = f"r{secrets.token_hex(4)}"
        names = {"plural": name, "singular": name, "kind": name.capitalize()}
        first = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}, **version}
        spec = {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [first]}
        return {"metadata": {"name": f"{name}.{GROUP}"}, "spec": spec}

    def refused(self, schema: dict[str, Any], **version: Any) -> list[tuple[str, str]]:
        """(field, message) of what keeps such a kind from being made."""
        try:
            self.extensions.create_custom_resource_definition(self.definition(schema, **version), dry_run="All")
        except ApiException as err:
            return causes(err)
        return []

    def make(self, schema: dict[str, Any], **version: Any) -> str:
        """Makes a kind, waits until it is served, and returns its plural."""
        body = self.definition(schema, **version)
        plural = str(body["spec"]["names"]["plural"])
        self.extensions.create_custom_resource_definition(body)
        self.made.append(plural)
        deadline = time.monotonic() + SERVED_S
        while True:
            try:
                self.objects.list_namespaced_custom_object(GROUP, "v1", self.namespace, plural)
                return plural
            except ApiException as err:
                if err.status != 404 or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def create(self, plural: str, name: str = "one", **fields: Any) -> list[tuple[str, str]]:
        """Creates an object; (field, message) of what keeps it from that."""
        return said(
            lambda: self.objects.create_namespaced_custom_object(
                GROUP, "v1", self.namespace, plural, self.body(plural, name, **fields)
            )
        )

    def patch(self, plural: str, change: dict[str, Any], name: str = "one") -> list[tuple[str, str]]:
        return said(
            lambda: self.objects.patch_namespaced_custom_object(GROUP, "v1", self.namespace, plural, name, change)
        )

    def body(self, plural: str, name: str, **fields: Any) -> dict[str, Any]:
        return {"apiVersion": f"{GROUP}/v1", "kind": plural.capitalize(), "metadata": {"name": name}, **fields}

    def tighten(self, plural: str, schema: dict[str, Any]) -> None:
        """Changes the schema of a kind."""
        version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        change = {"spec": {"versions": [version]}}
        self.extensions.patch_custom_resource_definition(f"{plural}.{GROUP}", change)


def said(action: Callable[[], Any]) -> list[tuple[str, str]]:
    try:
        action()
    except ApiException as err:
        if err.status != 422:
            raise
        return causes(err)
    return []


def causes(err: ApiException) -> list[tuple[str, str]]:
    """Names of types that are made up for the occasion are evened out."""
    found = json.loads(err.body)["details"]["causes"]
    return [(cause["field"], re.sub(r"selfType\d+", "selfType", cause["message"])) for cause in found]


@pytest.fixture
def kinds(client: Any, namespace: str) -> Iterator[Kinds]:
    made = Kinds(client, namespace)
    yield made
    for plural in made.made:
        made.extensions.delete_custom_resource_definition(f"{plural}.{GROUP}")


def ruled(schema: dict[str, Any], *rules: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "x-kubernetes-validations": list(rules)}


def whole(spec: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"spec": spec}}


def test_what_rules_say_of_an_object(kinds: Kinds) -> None:
    spec = {"type": "object", "properties": CASES["fields"]}
    plural = kinds.make(whole(ruled(spec, *CASES["rules"])))

    found = kinds.create(plural, spec=CASES["object"])

    assert [message for _, message in found] == CASES["said"]
    assert {field for field, _ in found} == {"spec"}


def test_rules_that_cannot_be_compiled_are_refused_with_the_place(kinds: Kinds) -> None:
    spec = {"type": "object", "properties": CASES["fields"]}
    rules = [{"rule": rule} for rule, _ in CASES["refused"]]

    found: dict[int, list[str]] = {}
    for field, message in kinds.refused(whole(ruled(spec, *rules))):
        place = re.search(r"x-kubernetes-validations\[(\d+)\]", field)
        assert place is not None, (field, message)
        shown = message.partition("}: ")[2] if message.startswith("Invalid value: {") else message
        found.setdefault(int(place[1]), []).append(shown)

    for index, (rule, expected) in enumerate(CASES["refused"]):
        assert found.get(index, []) == expected, rule


def test_rules_that_could_cost_too_much_are_refused(kinds: Kinds) -> None:
    for schema, expected in CASES["costs"]:
        found = kinds.refused({"type": "object", "properties": {"f": schema}})
        assert sorted(map(list, found)) == expected, schema


def test_transition_rules_see_what_stood_there_before(kinds: Kinds) -> None:
    item = {
        "type": "object",
        "required": ["key"],
        "properties": {"key": {"type": "string"}, "size": {"type": "integer"}},
    }
    spec = {
        "type": "object",
        "properties": {
            "frozen": ruled({"type": "string"}, {"rule": "self == oldSelf", "message": "frozen is immutable"}),
            "first": ruled(
                {"type": "string"},
                {"rule": "oldSelf.hasValue() || self == 'a'", "optionalOldSelf": True, "message": "must begin with a"},
            ),
            "disks": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["key"],
                "items": ruled(
                    item,
                    {"rule": "self.size >= oldSelf.size", "messageExpression": "'not below %d'.format([oldSelf.size])"},
                ),
            },
        },
    }
    plural = kinds.make(whole(spec))

    assert kinds.create(plural, "zero", spec={"first": "b"}) == [
        ("spec.first", 'Invalid value: "b": must begin with a')
    ]
    disks = [{"key": "a", "size": 5}, {"key": "b", "size": 5}]
    assert kinds.create(plural, spec={"frozen": "x", "first": "a", "disks": disks}) == []
    assert kinds.patch(plural, {"spec": {"frozen": "y"}}) == [
        ("spec.frozen", 'Invalid value: "y": frozen is immutable')
    ]
    assert kinds.patch(plural, {"spec": {"first": "z"}}) == []
    changed = [{"key": "b", "size": 4}, {"key": "a", "size": 9}, {"key": "c", "size": 1}]
    assert kinds.patch(plural, {"spec": {"disks": changed}}) == [("spec.disks[0]", "Invalid value: not below 5")]


def test_a_stricter_schema_spares_what_an_update_leaves_alone(kinds: Kinds) -> None:
    loose = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}, "c": {"type": "string"}},
    }
    plural = kinds.make(whole(loose))
    assert kinds.create(plural, spec={"a": "long text", "b": "other", "c": "x"}) == []
    strict = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "maxLength": 4},
            "b": ruled({"type": "string"}, {"rule": "self.size() < 3", "message": "too long"}),
            "c": {"type": "string"},
        },
    }
    kinds.tighten(plural, whole(strict))
    deadline = time.monotonic() + SERVED_S
    while not kinds.create(plural, "probe", spec={"b": "long"}):
        assert time.monotonic() < deadline, "the stricter schema does not come into force"
        kinds.objects.delete_namespaced_custom_object(GROUP, "v1", kinds.namespace, plural, "probe")

    assert kinds.patch(plural, {"spec": {"c": "y"}}) == []
    assert kinds.patch(plural, {"spec": {"b": "changed"}}) == [("spec.b", 'Invalid value: "changed": too long')]
    assert [field for field, _ in kinds.patch(plural, {"spec": {"a": "changed"}})] == [
        "spec.a",
        "<nil>",
    ]
    assert kinds.patch(plural, {"spec": {"a": "ok", "b": "ok"}}) == []


def test_reasons_paths_and_what_blocks_rules(kinds: Kinds) -> None:
    spec = ruled(
        {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}},
        {"rule": "self.n < 1", "fieldPath": ".n", "reason": "FieldValueForbidden", "message": "n is forbidden"},
        {"rule": "self.n < 2", "fieldPath": ".s", "reason": "FieldValueRequired", "message": "s is required"},
        {"rule": "self.n < 3", "reason": "FieldValueDuplicate", "message": "not shown"},
    )
    root = ruled(whole(spec), {"rule": "self.metadata.name.startsWith('o')", "message": "the name must begin with o"})
    plural = kinds.make(root)

    assert kinds.create(plural, "two", spec={"n": 5}) == [
        ("<nil>", "Invalid value: the name must begin with o"),
        ("spec.n", "Forbidden: n is forbidden"),
        ("spec.s", "Required value: s is required"),
        ("spec", "Duplicate value"),
    ]
    assert kinds.create(plural, "two", spec={}) == [
        ("spec.n", "Required value"),
        (
            "<nil>",
            "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing "
            "errors to complete validation",
        ),
    ]
    assert kinds.create(plural, spec={"n": 0}) == []


def test_fields_that_selectors_may_name(kinds: Kinds) -> None:
    spec = {
        "type": "object",
        "properties": {"color": {"type": "string"}, "l": {"type": "array", "items": {"type": "string"}}},
    }
    paths = (".spec.color", ".spec.l", ".spec.nope", ".metadata.name", ".spec.color", "spec", ".spec['color']")
    entries = [{"jsonPath": path} for path in paths]

    refused = [message for _, message in kinds.refused(whole(spec), selectableFields=entries)]
    plural = kinds.make(whole(spec), selectableFields=[{"jsonPath": ".spec.color"}])
    for name, color in (("one", "red"), ("two", "blue"), ("three", "red")):
        assert kinds.create(plural, name, spec={"color": color}) == []
    listed = kinds.objects.list_namespaced_custom_object(
        GROUP, "v1", kinds.namespace, plural, field_selector="spec.color=red"
    )

    assert refused == [
        'Invalid value: ".spec.l": must point to a field of type string, boolean or integer. Enum string fields and strings '
        "with formats are allowed.",
        'Invalid value: ".spec.nope": is an invalid path: does not refer to a valid field',
        'Invalid value: ".metadata.name": is an invalid path: does not refer to a valid field',
        'Duplicate value: ".spec.color"',
        'Invalid value: "spec": is an invalid path: expected [ or . but got: spec',
        "Invalid value: \".spec['color']\": is an invalid path: array notation is not allowed",
    ]
    assert sorted(item["metadata"]["name"] for item in listed["items"]) == ["one", "three"]
    with pytest.raises(ApiException) as caught:
        kinds.objects.list_namespaced_custom_object(GROUP, "v1", kinds.namespace, plural, field_selector="spec.l=red")
    assert caught.value.status == 400
