"""A plan's lines: what differs, because of whom, and what must not be shown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.components.infrastructure.loop.keeping import Action, Look
from trimtab.components.infrastructure.loop.telling import kept_drift
from trimtab.components.infrastructure.protocol.provider import State
from trimtab.components.infrastructure.protocol.schema import Attribute, Block, NestedBlock, fill
from trimtab.components.infrastructure.protocol.types import NUMBER, STRING, list_of, map_of, object_of, set_of
from trimtab.components.infrastructure.protocol.values import UNKNOWN, same
from trimtab.components.infrastructure.schemas.changes import (
    ABSENT,
    SENSITIVE,
    Change,
    at,
    bare,
    changes,
    differences,
    digest,
    ignoring,
    put,
    steps,
)

BLOCK = Block(
    attributes={
        "id": Attribute(type=STRING, computed=True),
        "label": Attribute(type=STRING, required=True),
        "region": Attribute(type=STRING, required=True),
        "size": Attribute(type=STRING, optional=True, computed=True),
        "password": Attribute(type=STRING, optional=True, sensitive=True),
        "tags": Attribute(type=set_of(STRING), optional=True),
        "labels": Attribute(type=map_of(STRING), optional=True),
    },
    blocks={"pool": NestedBlock("list", Block(attributes={"count": Attribute(type=NUMBER, required=True)}))},
)


def value(**fields: Any) -> dict[str, Any]:
    return fill(BLOCK, {"id": "7", "label": "a", "region": "eu", "size": "s", "pool": [{"count": 3}]} | fields)  # type: ignore[no-any-return]


def lines(**of: Any) -> list[tuple[str, Any, Any, str, bool]]:
    return [(c.path, c.before, c.after, c.cause, c.replaces) for c in changes(BLOCK, **of)]


def config(**fields: Any) -> dict[str, Any]:
    return fill(BLOCK, {"label": "a", "region": "eu", "pool": [{"count": 3}]} | fields)  # type: ignore[no-any-return]


def test_drift_is_what_somebody_changed_and_goes_back() -> None:
    assert lines(prior=value(), live=value(label="hacked", pool=[{"count": 9}]), config=config(), planned=value()) == [
        ("label", "hacked", "a", "drift", False),
        ("pool[0].count", 9, 3, "drift", False),
    ]


def test_what_somebody_put_into_a_set_is_drift_in_whatever_order_it_is_planned() -> None:
    kept, there = value(tags=["a", "b"]), value(tags=["c", "b", "a"])
    assert lines(prior=kept, live=there, config=config(tags=["b", "a"]), planned=value(tags=["b", "a"])) == [
        ("tags[]", "c", ABSENT, "drift", False)
    ]
    assert lines(prior=kept, live=there, config=config(tags=["b"]), planned=value(tags=["b"])) == [
        ("tags[]", "c", ABSENT, "spec", False),
        ("tags[]", "a", ABSENT, "spec", False),
    ]


def test_spec_is_what_the_user_changed_and_the_rest_is_the_providers() -> None:
    planned = value(label="b", size=UNKNOWN, region="us")
    assert lines(
        prior=value(), live=value(), config=config(label="b", region="us"), planned=planned, replace=("region",)
    ) == [
        ("label", "a", "b", "spec", False),
        ("region", "eu", "us", "spec", True),
        ("size", "s", "(known after apply)", "provider", False),
    ]


def test_what_is_no_longer_given_is_the_users_doing() -> None:
    assert lines(prior=value(labels={"a": "1"}), live=value(labels={"a": "1"}), config=config(), planned=value()) == [
        ("labels", {"a": "1"}, None, "spec", False)
    ]


def test_what_is_changed_both_outside_and_by_the_user_is_the_users() -> None:
    assert lines(prior=value(), live=value(label="hacked"), config=config(label="new"), planned=value(label="new")) == [
        ("label", "hacked", "new", "spec", False)
    ]


def test_members_of_sets_and_keys_of_maps_come_and_go() -> None:
    live, planned = value(tags=["a", "b"], labels={"x": "1", "y": "2"}), value(tags=["c", "b"], labels={"x": "3"})
    assert lines(prior=live, live=live, config=config(tags=["c", "b"], labels={"x": "3"}), planned=planned) == [
        ('labels["x"]', "1", "3", "spec", False),
        ('labels["y"]', "2", ABSENT, "spec", False),
        ("tags[]", "a", ABSENT, "spec", False),
        ("tags[]", ABSENT, "c", "spec", False),
    ]


def test_what_is_sensitive_is_never_in_a_line() -> None:
    found = lines(
        prior=value(password="a"), live=value(password="a"), config=config(password="b"), planned=value(password="b")
    )
    assert found == [("password", SENSITIVE, SENSITIVE, "spec", False)]


def test_what_is_made_is_said_field_by_field() -> None:
    planned = value(id=UNKNOWN, size=UNKNOWN, password="hush")
    assert lines(prior=None, live=None, config=config(password="hush"), planned=planned) == [
        ("id", None, "(known after apply)", "provider", False),
        ("label", None, "a", "spec", False),
        ("password", None, SENSITIVE, "spec", False),
        ("pool", None, [{"count": 3}], "spec", False),
        ("region", None, "eu", "spec", False),
        ("size", None, "(known after apply)", "provider", False),
    ]


def test_a_digest_is_of_the_plan_and_of_what_is_hidden_in_it() -> None:
    plan = changes(BLOCK, prior=value(), live=value(label="x"), config=config(), planned=value())
    one = digest("update", plan, config(password="a"), b"key")
    assert one == digest("update", plan, config(password="a"), b"key")
    assert len({one, digest("update", plan, config(password="b"), b"key"), digest("replace", plan, config(password="a"), b"key"), digest("update", [], config(password="a"), b"key"), digest("update", plan, config(password="a"), b"other")}) == 5  # fmt: skip


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.b[0].c", ["a", "b", 0, "c"]),
        ('labels["a.b[1]"].x', ["labels", "a.b[1]", "x"]),
        ("a", ["a"]),
        ("", []),
    ],
)
def test_paths(path: str, expected: list[str | int]) -> None:
    assert steps(path) == expected


def test_a_path_without_its_indexes() -> None:
    assert bare('pool[0].labels["a.]b"].x') == "pool.labels.x"


def test_places_are_read_and_written() -> None:
    thing = {"pool": [{"labels": {"a.b": 1}}]}
    assert at(thing, 'pool[0].labels["a.b"]') == 1
    assert at(thing, "pool[3].x") is None
    assert put(thing, 'pool[0].labels["a.b"]', 2) == {"pool": [{"labels": {"a.b": 2}}]}
    assert put(thing, "pool[3].x", 2) == thing


def test_what_is_ignored_is_left_as_it_is() -> None:
    live = value(label="theirs", pool=[{"count": 9}, {"count": 8}], labels={"a": "1"})
    out = ignoring(BLOCK, live, config(), ["pool[*].count", "label", "no.such"])
    assert out["label"] == "theirs"
    assert out["pool"] == [{"count": 9}]
    assert out["region"] == "eu"


leaf = st.sampled_from(["a", "b", None])
OBJECT = object_of({"x": STRING, "m": map_of(STRING), "l": list_of(STRING), "s": set_of(STRING)})
objects = st.fixed_dictionaries(
    {
        "x": leaf,
        "m": st.one_of(st.none(), st.dictionaries(st.sampled_from(["k", "a.b", 'q"']), leaf)),
        "l": st.one_of(st.none(), st.lists(leaf, max_size=3)),
        "s": st.one_of(st.none(), st.lists(leaf, max_size=3)),
    }
)


@given(objects, objects)
def test_there_is_a_difference_exactly_where_values_differ(a: Any, b: Any) -> None:
    found = list(differences(OBJECT, a, b))
    assert bool(found) == (not same(OBJECT, a, b))
    mended = a
    for one in found:
        if not one.path.endswith("[]") and ABSENT not in (one.before, one.after):
            mended = put(mended, one.path, at(b, one.path))
    if all(not d.path.endswith("[]") and ABSENT not in (d.before, d.after) for d in found):
        assert same(OBJECT, mended, b)


def test_what_a_cloud_changes_that_nobody_gave_is_no_news() -> None:
    def look(action: Action, **given: Any) -> Look:
        drifted = tuple(Change(path, "", "", "provider") for path in ("tags[]", "size", "pool[0].count"))
        return Look(action, State({}), None, config(**given), drifted=drifted)

    assert kept_drift(look("none", tags=["a"])) == ["tags[]", "pool[0].count"]
    assert kept_drift(look("none", pool=[])) == []
    assert kept_drift(look("update")) == ["tags[]", "size", "pool[0].count"]
