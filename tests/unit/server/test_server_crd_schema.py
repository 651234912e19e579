"""CRD schemas: what is structural, and how custom objects are pruned, defaulted and validated."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.server.crd_schema import SchemaInvalid, compile_crd_schema
from trimtab.server.formats import format_check
from trimtab.server.structural import FieldError
from trimtab.server.structural_rules import DEPTH_MAX


def of(**spec: Any) -> dict[str, Any]:
    """A CRD schema whose spec has these properties."""
    return {"type": "object", "properties": {"spec": {"type": "object", "properties": spec}}}


def widget(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "x.dev/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec}


def faults(property_schema: dict[str, Any], value: Any) -> list[str]:
    """What is wrong with `spec.v` being `value`."""
    return [str(error) for error in compile_crd_schema(of(v=property_schema)).validate(widget(v=value))]


# --- structural schemas -------------------------------------------------------------------------------------------

TEXT = {"type": "string"}
KEYED = {"type": "object", "required": ["name"], "properties": {"name": TEXT}}
P = "openAPIV3Schema"
V = f"{P}.properties[spec].properties[v]"


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({}, f"{P}.type: Required value: must be object at the root"),
        ({"type": "string"}, f'{P}.type: Invalid value: "string": must be object at the root'),
        ({"type": "object", "nullable": True}, f"{P}.nullable: Forbidden: nullable cannot be true at the root"),
        (
            {
                "type": "object",
                "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}},
            },
            f"{P}.properties[metadata].properties[labels]: Forbidden: must not be set: only name and generateName may be restricted",
        ),
        (of(v={}), f"{V}.type: Required value: must not be empty for specified object fields"),
        (
            of(v={"type": "text"}),
            f'{V}.type: Unsupported value: "text": supported values: "array", "boolean", "integer", "number", "object", "string"',
        ),
        (of(v={"type": "array"}), f"{V}.items: Required value: must be specified"),
        (
            of(v={"type": "array", "items": [TEXT]}),
            f"{V}.items: Forbidden: items must be a schema object and not an array",
        ),
        (
            of(v={"type": "array", "items": {}}),
            f"{V}.items.type: Required value: must not be empty for specified object fields",
        ),
        (of(v={**TEXT, "$ref": "#/x"}), f"{V}.$ref: Forbidden: must not be set in a structural schema"),
        (
            of(v={"type": "array", "items": TEXT, "uniqueItems": True}),
            f"{V}.uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ),
        (
            of(v={"type": "object", "properties": {"a": TEXT}, "additionalProperties": TEXT}),
            f"{V}.additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ),
        (
            of(v={"type": "object", "additionalProperties": False}),
            f"{V}.additionalProperties: Forbidden: additionalProperties cannot be set to false",
        ),
        (
            of(v={"type": "object", "x-kubernetes-preserve-unknown-fields": False}),
            f"{V}.x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
        ),
        (
            of(v={"type": "integer", "x-kubernetes-int-or-string": True}),
            f'{V}.type: Invalid value: "integer": must be empty if x-kubernetes-int-or-string is true',
        ),
        (
            of(v={"type": "object", "x-kubernetes-embedded-resource": True}),
            f"{V}.properties: Required value: must not be empty if x-kubernetes-embedded-resource is true "
            "without x-kubernetes-preserve-unknown-fields",
        ),
        (
            of(v={**TEXT, "pattern": "("}),
            f'{V}.pattern: Invalid value: "(": must be a valid regular expression, but isn\'t: '
            "error parsing regexp: missing closing ): `(`",
        ),
        (
            of(v={**TEXT, "allOf": [{"type": "string"}]}),
            f"{V}.allOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            of(v={"type": "object", "anyOf": [{"properties": {"b": {"minimum": 1}}}]}),
            f"{V}.properties[b]: Required value: because it is defined in {V}.anyOf[0].properties[b]",
        ),
        (
            of(v={"type": "array", "items": TEXT, "x-kubernetes-list-type": "bag"}),
            f'{V}.x-kubernetes-list-type: Unsupported value: "bag": supported values: "atomic", "map", "set"',
        ),
        (
            of(v={**TEXT, "x-kubernetes-list-type": "set"}),
            f"{V}.type: Invalid value: must be array if x-kubernetes-list-type is specified",
        ),
        (
            of(v={"type": "array", "items": KEYED, "x-kubernetes-list-type": "set"}),
            f"{V}.items: Invalid value: items must be scalars or atomic when x-kubernetes-list-type is set",
        ),
        (
            of(v={"type": "array", "items": KEYED, "x-kubernetes-list-type": "map"}),
            f"{V}.x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
        ),
        (
            of(
                v={
                    "type": "array",
                    "items": KEYED,
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["id"],
                }
            ),
            f'{V}.x-kubernetes-list-map-keys[0]: Invalid value: "id": must be a key defined in items.properties',
        ),
        (
            of(
                v={
                    "type": "array",
                    "items": {"type": "object", "properties": {"name": TEXT}},
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                }
            ),
            f"{V}.items.properties[name].default: Required value: this property is in x-kubernetes-list-map-keys, "
            "so it must have a default or be a required property",
        ),
        (
            of(v={"type": "integer", "default": "x"}),
            f'{V}.default: Invalid value: "string": in body must be of type integer: "string"',
        ),
        (
            of(v={"type": "object", "properties": {"a": TEXT}, "default": {"b": 1}}),
            f"{V}.default: Invalid value: must not have fields that get pruned: b",
        ),
        (
            of(v={**TEXT, "default": None}),
            f"{V}.default: Invalid value: null: must not be null unless nullable is true",
        ),
        (of(v={**TEXT, "maxLength": "9"}), f'{V}.maxLength: Invalid value: "9": must be an integer'),
        (of(v={**TEXT, "minimum": True}), f"{V}.minimum: Invalid value: true: must be a number"),
        (of(v={**KEYED, "required": [1]}), f"{V}.required: Invalid value: must be a list of field names"),
        (
            of(v={**TEXT, "not": {"pattern": "("}}),
            f"{V}.not.pattern: Invalid value: "
            '"(": must be a valid regular expression, but isn\'t: error parsing regexp: missing closing ): `(`',
        ),
        (of(v="string"), f'{V}: Invalid value: "string": must be a schema'),
    ],
)
def test_a_schema_that_is_not_structural_says_where(schema: dict[str, Any], fault: str) -> None:
    with pytest.raises(SchemaInvalid) as caught:
        compile_crd_schema(schema)

    assert str(caught.value).splitlines() == [fault]


def test_several_faults_are_all_told() -> None:
    with pytest.raises(SchemaInvalid) as caught:
        compile_crd_schema(of(a={}, b={"type": "array"}))

    assert len(caught.value.errors) == 2


def test_int_or_string_may_state_its_types() -> None:
    types = [{"type": "integer"}, {"type": "string"}]
    both = {"x-kubernetes-int-or-string": True}

    for schema in ({**both, "anyOf": types}, {**both, "allOf": [{"anyOf": types}, {"pattern": "^x"}]}, both):
        assert faults(schema, "x") == []
        assert faults(schema, 1.5) != []
    assert faults(both, True) != []


def test_a_schema_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(DEPTH_MAX * 3):
        schema = {"type": "array", "items": schema}

    with pytest.raises(SchemaInvalid, match=f"must not be nested deeper than {DEPTH_MAX} levels"):
        compile_crd_schema(of(v=schema))


# --- prune and default --------------------------------------------------------------------------------------------


def test_unknown_fields_are_pruned_except_where_they_are_preserved() -> None:
    schema = compile_crd_schema(
        of(
            known=TEXT,
            free={
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": True,
                "properties": {"strict": {"type": "object", "properties": {"a": TEXT}}},
            },
            labels={"type": "object", "additionalProperties": {"type": "object", "properties": {"x": TEXT}}},
        )
    )
    obj = widget(
        known="k", gone=1, free={"any": {"thing": [1]}, "strict": {"a": "x", "b": 1}}, labels={"l": {"x": "1", "y": 2}}
    )
    obj["status"] = {"x": 1}
    obj["metadata"]["nonsense"] = True

    dropped = schema.prune(obj)

    assert sorted(dropped) == ["metadata.nonsense", "spec.free.strict.b", "spec.gone", "spec.labels.l.y", "status"]
    assert obj == widget(known="k", free={"any": {"thing": [1]}, "strict": {"a": "x"}}, labels={"l": {"x": "1"}})


def test_an_embedded_resource_keeps_its_identity() -> None:
    schema = compile_crd_schema(
        of(v={"type": "object", "x-kubernetes-embedded-resource": True, "properties": {"spec": {"type": "object"}}})
    )
    inner = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "junk": 1}, "spec": {}, "other": 1}
    obj = widget(v=inner)

    dropped = schema.prune(obj)

    assert sorted(dropped) == ["spec.v.metadata.junk", "spec.v.other"]
    assert [str(e) for e in schema.validate(widget(v={"kind": "Pod"}))] == ["spec.v.apiVersion: Required value"]


def test_defaults_fill_in_what_is_missing_at_every_depth() -> None:
    schema = compile_crd_schema(
        of(
            count={"type": "integer", "default": 3},
            nested={"type": "object", "default": {}, "properties": {"on": {"type": "boolean", "default": True}}},
            items={
                "type": "array",
                "items": {"type": "object", "properties": {"port": {"type": "integer", "default": 80}}},
            },
            absent={"type": "object", "properties": {"x": {"type": "integer", "default": 1}}},
        )
    )
    obj = widget(items=[{}, {"port": 1}])

    schema.default(obj)

    assert obj["spec"] == {"count": 3, "nested": {"on": True}, "items": [{"port": 80}, {"port": 1}]}


def test_null_counts_as_missing_where_it_is_not_allowed() -> None:
    schema = compile_crd_schema(
        of(
            plain=TEXT,
            defaulted={"type": "integer", "default": 3},
            allowed={**TEXT, "nullable": True},
            both={"type": "integer", "nullable": True, "default": 1},
        )
    )
    obj = widget(plain=None, defaulted=None, allowed=None, both=None)

    schema.default(obj)

    assert obj["spec"] == {"defaulted": 3, "allowed": None, "both": None}
    assert schema.validate(obj) == []


def test_defaults_are_fresh_copies() -> None:
    schema = compile_crd_schema(of(v={"type": "array", "items": TEXT, "default": ["a"]}))
    first, second = widget(), widget()
    schema.default(first)
    first["spec"]["v"].append("b")

    schema.default(second)

    assert second["spec"]["v"] == ["a"]


# --- validate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "value", "fault"),
    [
        ({"type": "integer"}, "x", 'Invalid value: "string": spec.v in body must be of type integer: "string"'),
        ({"type": "string"}, 1, 'Invalid value: "integer": spec.v in body must be of type string: "integer"'),
        ({"type": "boolean"}, 0, 'Invalid value: "integer": spec.v in body must be of type boolean: "integer"'),
        ({"type": "number"}, True, 'Invalid value: "boolean": spec.v in body must be of type number: "boolean"'),
        ({"type": "object"}, [], 'Invalid value: "array": spec.v in body must be of type object: "array"'),
        ({"type": "string"}, None, 'Invalid value: "null": spec.v in body must be of type string: "null"'),
        ({"type": "string", "enum": ["a", "b"]}, "c", 'Unsupported value: "c": supported values: "a", "b"'),
        ({"type": "string", "pattern": "^a+$"}, "ab", "Invalid value: \"ab\": spec.v in body should match '^a+$'"),
        ({"type": "string", "pattern": "^a$"}, "a\n", "Invalid value: \"a\\n\": spec.v in body should match '^a$'"),
        ({"type": "integer", "minimum": 1}, 0, "Invalid value: 0: spec.v in body should be greater than or equal to 1"),
        (
            {"type": "integer", "minimum": 1, "exclusiveMinimum": True},
            1,
            "Invalid value: 1: spec.v in body should be greater than 1",
        ),
        ({"type": "number", "maximum": 1.5}, 2, "Invalid value: 2: spec.v in body should be less than or equal to 1.5"),
        (
            {"type": "number", "maximum": 2, "exclusiveMaximum": True},
            2,
            "Invalid value: 2: spec.v in body should be less than 2",
        ),
        ({"type": "integer", "multipleOf": 2}, 3, "Invalid value: 3: spec.v in body should be a multiple of 2"),
        ({"type": "string", "minLength": 2}, "a", 'Invalid value: "a": spec.v in body should be at least 2 chars long'),
        ({"type": "string", "maxLength": 2}, "abc", "Too long: may not be more than 2 bytes"),
        (
            {"type": "array", "items": TEXT, "minItems": 1},
            [],
            "Invalid value: 0: spec.v in body should have at least 1 items",
        ),
        ({"type": "array", "items": TEXT, "maxItems": 1}, ["a", "b"], "Too many: 2: must have at most 1 items"),
        (
            {"type": "object", "additionalProperties": TEXT, "minProperties": 1},
            {},
            "Invalid value: 0: spec.v in body should have at least 1 properties",
        ),
        ({"type": "string", "format": "ipv4"}, "x", 'Invalid value: "x": spec.v in body must be of type ipv4: "x"'),
        (
            {"type": "string", "anyOf": [{"pattern": "^a"}, {"pattern": "^b"}]},
            "c",
            'Invalid value: "c": "spec.v" must validate at least one schema (anyOf)',
        ),
        (
            {"type": "integer", "oneOf": [{"minimum": 1}, {"minimum": 2}]},
            3,
            'Invalid value: 3: "spec.v" must validate one and only one schema (oneOf). Found 2 valid alternatives',
        ),
        (
            {"type": "integer", "oneOf": [{"minimum": 1}, {"minimum": 2}]},
            0,
            'Invalid value: 0: "spec.v" must validate one and only one schema (oneOf). Found none valid',
        ),
        (
            {"type": "integer", "not": {"minimum": 5}},
            6,
            'Invalid value: 6: "spec.v" must not validate the schema (not)',
        ),
        (
            {"type": "integer", "allOf": [{"minimum": 1}]},
            0,
            "Invalid value: 0: spec.v in body should be greater than or equal to 1",
        ),
    ],
)
def test_a_fault_is_told_in_kubernetes_words(schema: dict[str, Any], value: Any, fault: str) -> None:
    assert faults(schema, value) == [f"spec.v: {fault}"]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer"}, 1.0),
        ({"type": "number"}, 1),
        ({"type": "string", "nullable": True}, None),
        ({"type": "string", "format": "no-such-format"}, "x"),
        ({"type": "string", "pattern": "a$|b"}, "xa"),
        ({"type": "string", "maxLength": 2}, "ab"),
        ({"x-kubernetes-preserve-unknown-fields": True}, {"a": [1, {"b": None}]}),
    ],
)
def test_what_is_valid_passes(schema: dict[str, Any], value: Any) -> None:
    assert faults(schema, value) == []


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"^[[:alpha:]]+\z", "abc", "abc1"),
        (r"^[[:digit:][:lower:]]+$", "a1", "A"),
        (r"^\d$", "1", "\u0661"),
        (r"^(a$|b)", "a", "a\n"),
        (r"^\\$", "\\", "\\\\"),
    ],
)
def test_patterns_mean_what_they_mean_in_re2(pattern: str, good: str, bad: str) -> None:
    schema = {"type": "string", "pattern": pattern}

    assert faults(schema, good) == []
    assert len(faults(schema, bad)) == 1


def test_lists_of_type_map_and_set_have_no_duplicates() -> None:
    keyed = {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["a"],
            "properties": {"a": TEXT, "b": {"type": "integer", "default": 0}},
        },
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["a", "b"],
    }
    unique = {"type": "array", "items": TEXT, "x-kubernetes-list-type": "set"}

    assert faults(keyed, [{"a": "x", "b": 1}, {"a": "x", "b": 2}, {"a": "x", "b": 1}]) == [
        'spec.v[2]: Duplicate value: {"a":"x","b":1}'
    ]
    assert faults(unique, ["x", "y", "x"]) == ['spec.v[2]: Duplicate value: "x"']


def test_the_name_of_an_object_may_be_restricted() -> None:
    schema = compile_crd_schema(
        {
            "type": "object",
            "properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}}},
        }
    )

    assert [str(e) for e in schema.validate({"metadata": {"name": "four"}})] == [
        "metadata.name: Too long: may not be more than 3 bytes"
    ]


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date-time", "2025-01-31T10:00:00.123Z", "2025-01-32T10:00:00Z"),
        ("date", "2025-01-31", "31.1.2025"),
        ("byte", "aGk=", "aGk"),
        ("ipv4", "10.0.0.1", "10.0.0.256"),
        ("ipv6", "fd00::1", "10.0.0.1"),
        ("cidr", "10.0.0.0/8", "10.0.0.0"),
        ("uri", "https://x.dev/y", "not a uri"),
        ("email", "a@x.dev", "a.x.dev"),
        ("hostname", "web.x.dev", "-web"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
        ("uuid4", "123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
        ("mac", "00:00:5e:00:53:01", "00:00"),
        ("duration", "1h30m", "soon"),
        ("hexcolor", "#ff8800", "#ff880"),
        ("rgbcolor", "rgb(1,20,255)", "rgb(1,20,256)"),
        ("k8s-short-name", "web-1", "Web"),
        ("k8s-long-name", "web.x.dev", "web_x"),
        ("bsonobjectid", "507f1f77bcf86cd799439011", "507f"),
        ("isbn", "978-3-16-148410-0", "978"),
        ("creditcard", "4111 1111 1111 1111", "4111"),
        ("ssn", "123-45-6789", "123"),
    ],
)
def test_formats(name: str, good: str, bad: str) -> None:
    check = format_check(name)
    assert check is not None
    errors: list[FieldError] = []

    check(good, None, errors)
    assert errors == []
    check(bad, None, errors)

    assert len(errors) == 1


# --- random schemas -----------------------------------------------------------------------------------------------

SCHEMA = st.recursive(
    st.sampled_from([TEXT, {"type": "integer", "default": 1}, {"type": "boolean"}, {**TEXT, "nullable": True}]),
    lambda below: st.one_of(
        st.builds(
            lambda p: {"type": "object", "properties": p}, st.dictionaries(st.sampled_from("abc"), below, max_size=3)
        ),
        st.builds(lambda v: {"type": "object", "additionalProperties": v}, below),
        st.builds(lambda i: {"type": "array", "items": i}, below),
    ),
    max_leaves=8,
)
VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(0, 2), st.sampled_from(["", "x"])),
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(st.sampled_from("abcd"), below, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abc"), SCHEMA, max_size=3),
    st.dictionaries(st.sampled_from("abcd"), VALUE, max_size=4),
)
def test_pruning_and_defaulting_settle_at_once(properties: dict[str, Any], spec: dict[str, Any]) -> None:
    schema = compile_crd_schema(of(**properties))
    obj = widget(**copy.deepcopy(spec))

    schema.prune(obj)
    schema.default(obj)
    settled = copy.deepcopy(obj)

    assert schema.prune(obj) == []
    schema.default(obj)
    assert obj == settled
    assert [str(e) for e in schema.validate(obj)] == [str(e) for e in schema.validate(settled)]
    assert set(obj["spec"]) <= set(properties)


JUNK_SCHEMA = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-1, 2), st.sampled_from(["object", "array", "string", "map", "set", "("])
    ),
    lambda below: st.one_of(
        st.lists(below, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "properties",
                    "items",
                    "additionalProperties",
                    "default",
                    "enum",
                    "pattern",
                    "required",
                    "anyOf",
                    "not",
                    "minimum",
                    "maxLength",
                    "nullable",
                    "x-kubernetes-list-type",
                    "x-kubernetes-list-map-keys",
                    "x-kubernetes-preserve-unknown-fields",
                    "x-kubernetes-embedded-resource",
                ]
            ),
            below,
            max_size=5,
        ),
    ),
    max_leaves=20,
)


@settings(max_examples=400, deadline=None)
@given(JUNK_SCHEMA)
def test_a_junk_schema_is_refused_or_works(junk: Any) -> None:
    try:
        schema = compile_crd_schema({"type": "object", "properties": {"spec": junk}})
    except SchemaInvalid:
        return

    for value in ({}, [], "x", 1, None, {"a": {"b": [1]}}):
        obj = {"spec": copy.deepcopy(value)}
        schema.prune(obj)
        schema.default(obj)
        schema.validate(obj)
