"""Plans in text and JSON, in the order of references; and differences of ordinary objects."""

from __future__ import annotations

from typing import Any

from hypothesis import given as having
from hypothesis import strategies as st

from trimtab.api import JSON
from trimtab.cli.differences import differences, given
from trimtab.components.infrastructure.protocol.values import UNKNOWN
from trimtab.components.infrastructure.questions import planning
from trimtab.components.infrastructure.questions.asking import Outputs
from trimtab.components.infrastructure.questions.ordering import needs, place_of, waves

GROUP = "cloud.tf.trimtab.dev/v1"


def plan(action: str, *changes: JSON, **more: Any) -> JSON:
    identity = {"apiVersion": GROUP, "kind": "Server", "namespace": "default", "name": "web"}
    return {**identity, "action": action, "changes": list(changes), **more}


def test_a_plan_reads_as_everybody_knows_it() -> None:
    made = plan(
        "create",
        {"path": "name", "after": "web", "cause": "spec"},
        {"path": "address", "after": "(known after apply)"},
        {"path": "passwordSecretRef", "after": "(sensitive)", "cause": "spec"},
        {"path": "disk", "after": []},
        warnings=["size: small is deprecated"],
    )
    changed = plan(
        "replace",
        {"path": "region", "before": "eu", "after": "us", "cause": "spec", "replaces": True},
        {"path": 'tags["a"]', "before": "x", "after": "(absent)", "cause": "drift"},
        {"path": "size", "before": "(absent)", "after": {"cpu": 2, "disk": None}, "cause": "spec"},
        reason="ReplaceDenied",
        message="a change of region would delete it and make it anew; spec.policy.replace is deny",
    )
    lost = plan("", error="there is no ProviderConfig default in namespace default")
    waits = plan("create", reason="Waiting", message="Network main is not there, whose id is referred to")

    assert planning.text([made, changed, lost, waits, plan("none")]) == (
        "  + Server default/web: create\n"
        '    + name: "web"\n'
        "    + address: (known after apply)\n"
        "    + passwordSecretRef: (sensitive)\n"
        "      warning: size: small is deprecated\n"
        "\n"
        "-/+ Server default/web: replace\n"
        '    ~ region: "eu" -> "us"  # forces replacement, spec\n'
        '    - tags["a"]: "x"  # drift\n'
        '    + size: {"cpu": 2}  # spec\n'
        "      not done: a change of region would delete it and make it anew; spec.policy.replace is deny\n"
        "\n"
        "  ! Server default/web: cannot be planned\n"
        "      there is no ProviderConfig default in namespace default\n"
        "\n"
        "  + Server default/web: create\n"
        "      waits: Network main is not there, whose id is referred to\n"
        "\n"
        "Plan: 2 to create, 1 to replace; 1 is as it should be; 1 cannot be planned."
    )


def test_the_exit_status_says_whether_something_would_change() -> None:
    assert planning.exit_code([]) == planning.exit_code([plan("none")]) == 0
    assert planning.exit_code([plan("none"), plan("delete")]) == 2
    assert planning.exit_code([plan("delete"), plan("", error="?")]) == 1
    assert planning.text([plan("none"), plan("none")]) == "No changes; 2 are as they should be."
    assert planning.text([]) == "No changes."


def test_the_document_has_every_field_of_every_object() -> None:
    told = planning.document([plan("update", {"path": "size", "after": "large"}), plan("")])
    assert told["changes"] is False  # of one nobody can say
    assert told["summary"] == {"create": 0, "update": 1, "replace": 0, "delete": 0, "none": 0, "error": 1}
    first, second = told["objects"]
    assert first["changes"] == [
        {"path": "size", "before": None, "after": "large", "cause": "provider", "replaces": False}
    ]
    assert list(first) == list(second)


def test_what_is_long_is_cut() -> None:
    line = planning.change_line({"path": "a", "after": "x" * 1000}, "create")
    assert len(line) < 300
    assert line.endswith("... (1002 characters)")


# References


def thing(name: str, *to: str, namespace: str = "default") -> JSON:
    references = [{"field": "x", "source": {"kind": "Thing", "name": one, "field": "id"}} for one in to]
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": GROUP, "kind": "Thing", "metadata": meta, "spec": {"references": references}}


@having(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20), st.randoms())
def test_what_is_referred_to_comes_first(pairs: list[tuple[int, int]], random: Any) -> None:
    """Edges from a larger to a smaller number have no circle."""
    edges = [(max(a, b), min(a, b)) for a, b in pairs if a != b]
    objects = [thing(str(n), *(str(b) for a, b in edges if a == n)) for n in range(10)]
    random.shuffle(objects)
    seen: set[Any] = set()
    ordered, circles = waves(objects)
    assert not circles
    for wave in ordered:
        for obj in wave:
            assert needs(obj) <= seen
        seen |= set(map(place_of, wave))
    assert len(seen) == 10


def test_a_circle_is_named_by_its_members_and_the_rest_has_an_order() -> None:
    around = [thing("a", "b"), thing("b", "c", "free"), thing("c", "a"), thing("self", "self")]
    ordered, circles = waves(
        [thing("late", "free"), *around, thing("free"), thing("user", "late", "next"), thing("next", "b")]
    )
    assert [[one["metadata"]["name"] for one in wave] for wave in ordered] == [["free"], ["late"]]
    circle = (
        "they refer to each other in a circle, so that none can be made first: Thing a -> Thing b -> Thing c -> Thing a"
    )
    assert {obj["metadata"]["name"]: why for obj, why in circles} == {
        "a": circle,
        "b": circle,
        "c": circle,
        "self": "they refer to each other in a circle, so that none can be made first: Thing self -> Thing self",
        "next": f"it refers to Thing b, which cannot be made: {circle}",
        "user": f"it refers to Thing next, which cannot be made: {circle}",
    }
    assert len(waves([thing("a", "b"), thing("b", "a", namespace="other")])[0]) == 1


def test_a_long_circle_is_told_in_short() -> None:
    _, circles = waves([thing(f"{n:04}", f"{(n + 1) % 2000:04}") for n in range(2000)])
    (why,) = {why for _, why in circles}
    assert why.endswith(
        "first: Thing 0000 -> Thing 0001 -> Thing 0002 -> Thing 0003 -> Thing 0004 -> (1995 more) -> Thing 0000"
    )
    assert len(circles) == 2000


def test_what_is_not_known_yet_is_so_within_and_around_it() -> None:
    outputs = Outputs(known={"name": "web", "disk": [{"label": "root"}]}, unknown=("id", "disk[0].serial"))
    assert outputs.value("id") is UNKNOWN
    assert outputs.value("disk[0].serial") is UNKNOWN
    assert outputs.value("disk") is UNKNOWN
    assert outputs.value("disk[0].label") == "root"
    assert outputs.value("nothing") is None


# Ordinary objects

VALUES = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "a", "b-c", "d/e"]), inner),
    max_leaves=12,
)


@having(VALUES, VALUES)
def test_differences_are_none_exactly_when_nothing_differs(a: Any, b: Any) -> None:
    before, after = ({"kind": "Thing", "metadata": {"name": "x"}, "spec": value} for value in (a, b))
    found = differences(before, after)
    assert (found == []) == (_meant(a) == _meant(b))


def _meant(value: Any) -> Any:
    """The order of members that have names means nothing."""
    if isinstance(value, dict):
        return {key: _meant(one) for key, one in value.items()}
    if isinstance(value, list) and value:
        names = [one.get("name") if isinstance(one, dict) else None for one in value]
        if None not in names and len(set(map(str, names))) == len(names):
            return {"by name": {str(one["name"]): _meant(one) for one in value}}
        return [_meant(one) for one in value]
    return value


def test_members_of_lists_are_compared_by_name_and_secrets_hidden() -> None:
    def pod(*containers: JSON) -> JSON:
        return {"kind": "Pod", "metadata": {"name": "web", "uid": "1"}, "spec": {"containers": list(containers)}}

    a, b = {"name": "a", "image": "x:1"}, {"name": "b", "image": "y:1"}
    found = differences(pod(a, b), pod({"name": "b", "image": "y:2"}, a))
    assert found == [{"path": "spec.containers[b].image", "before": "y:1", "after": "y:2", "cause": "spec"}]

    def secret(text: str) -> JSON:
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"tls.key": text}}

    assert differences(secret("YQ=="), secret("Yg==")) == [
        {"path": 'data."tls.key"', "before": "(sensitive)", "after": "(sensitive)", "cause": "spec"}
    ]
    assert given(secret("YQ==")) == [
        {"path": 'data."tls.key"', "before": None, "after": "(sensitive)", "cause": "spec"}
    ]
