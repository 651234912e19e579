"""JSON patch, merge patch and strategic merge patch: results, refusals, and that a diff applied gives the target."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.server.patch import (
    JsonPatchRefused,
    PatchError,
    json_patch,
    merge_patch,
    strategic_merge_patch,
)
from trimtab.server.schemas import Schema, builtin
from trimtab.server.structural import ANY, Node

law = settings(max_examples=100, deadline=None)


def schema(api_version: str = "apps/v1", kind: str = "Deployment") -> Schema:
    found = builtin(api_version, kind)
    assert found is not None
    return found


def refusal(attempt: Callable[[], Any]) -> str:
    """The words of a refusal, or nothing when the patch is applied; any other exception fails the test."""
    try:
        attempt()
    except PatchError as err:
        return str(err)
    return ""


# --- merge patch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("doc", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": "b"}, ["c"], ["c"]),
    ],
)
def test_merge_patch_gives_what_its_rfc_says(doc: Any, patch: Any, result: Any) -> None:
    before = copy.deepcopy(doc)

    assert merge_patch(doc, patch) == result
    assert doc == before


# --- JSON patch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("doc", "op", "result"),
    [
        ({"a": 1}, {"op": "add", "path": "/b", "value": 2}, {"a": 1, "b": 2}),
        ({"a": [1, 3]}, {"op": "add", "path": "/a/1", "value": 2}, {"a": [1, 2, 3]}),
        ({"a": [1]}, {"op": "add", "path": "/a/-", "value": 2}, {"a": [1, 2]}),
        ({"a": [1]}, {"op": "add", "path": "/a/1", "value": 2}, {"a": [1, 2]}),
        ({"a": 1}, {"op": "add", "path": "", "value": {"b": 2}}, {"b": 2}),
        ({"a": [1, 2]}, {"op": "remove", "path": "/a/0"}, {"a": [2]}),
        ({"a": {"b": 1}}, {"op": "replace", "path": "/a/b", "value": 2}, {"a": {"b": 2}}),
        ({"a/b": 1, "c~d": 2}, {"op": "remove", "path": "/a~1b"}, {"c~d": 2}),
        ({"a/b": 1, "c~d": 2}, {"op": "remove", "path": "/c~0d"}, {"a/b": 1}),
        ({"a": {"b": 1}, "c": {}}, {"op": "move", "from": "/a/b", "path": "/c/d"}, {"a": {}, "c": {"d": 1}}),
        ({"a": {"b": 1}}, {"op": "copy", "from": "/a", "path": "/c"}, {"a": {"b": 1}, "c": {"b": 1}}),
        ({"a": 1}, {"op": "test", "path": "/a", "value": 1.0}, {"a": 1}),
        ({"a": 1}, {"op": "test", "path": "/b", "value": None}, {"a": 1}),
    ],
)
def test_json_patch_gives_what_its_rfc_says(doc: Any, op: Any, result: Any) -> None:
    before = copy.deepcopy(doc)

    assert json_patch(doc, [op]) == result
    assert doc == before


@pytest.mark.parametrize(
    ("op", "text"),
    [
        ({"op": "remove", "path": "/z"}, "JSON patch operation 0: '/z': 'z' does not exist"),
        ({"op": "add", "path": "/z/y", "value": 1}, "JSON patch operation 0: '/z/y': 'z' does not exist"),
        ({"op": "add", "path": "/a/5", "value": 1}, "JSON patch operation 0: '/a/5': index 5 is beyond the list of 2"),
        ({"op": "remove", "path": "/a/-"}, "JSON patch operation 0: '/a/-': '-' is not an index of a list"),
        ({"op": "remove", "path": "/a/01"}, "JSON patch operation 0: '/a/01': '01' is not an index of a list"),
        (
            {"op": "test", "path": "/b", "value": 1},
            "JSON patch operation 0: test failed: '/b' does not have the expected value",
        ),
        (
            {"op": "fly", "path": "/a"},
            "JSON patch operation 0: unknown op 'fly'; it is one of add, remove, replace, move, copy, test",
        ),
        ({"op": "add", "path": "/a"}, 'JSON patch operation 0: op "add" needs a value'),
        ({"op": "remove", "path": "a"}, "JSON patch operation 0: path 'a' must start with a slash"),
        ({"op": "remove"}, "JSON patch operation 0: path must be a JSON pointer"),
        ({"op": "move", "from": "/a", "path": "/a/0"}, "JSON patch operation 0: cannot move a value into itself"),
        ({"op": "copy", "from": "/z", "path": "/y"}, "JSON patch operation 0: from: '/z' does not exist"),
        ({"op": "remove", "path": ""}, "JSON patch operation 0: the whole document cannot be removed"),
        (
            {"op": "add", "path": "/b/c", "value": 1},
            "JSON patch operation 0: '/b/c': 'c' is below a value that is neither object nor list",
        ),
        ("x", "JSON patch operation 0: must be an object with op and path"),
    ],
)
def test_json_patch_refuses_in_one_line(op: Any, text: str) -> None:
    with pytest.raises(PatchError) as caught:
        json_patch({"a": [1, 2], "b": True}, [op])

    assert str(caught.value) == text


def test_a_failed_test_can_be_told_from_a_broken_patch() -> None:
    with pytest.raises(JsonPatchRefused):
        json_patch({"a": 1}, [{"op": "test", "path": "/a", "value": True}])


def test_json_patch_is_all_or_nothing() -> None:
    doc = {"a": [1]}

    with pytest.raises(PatchError, match="operation 1"):
        json_patch(doc, [{"op": "add", "path": "/a/-", "value": 2}, {"op": "remove", "path": "/z"}])

    assert doc == {"a": [1]}


def test_a_json_patch_must_be_a_list_of_bounded_length() -> None:
    with pytest.raises(PatchError, match="must be a list of operations"):
        json_patch({}, {"op": "add"})
    with pytest.raises(PatchError, match="at most 10000 are allowed"):
        json_patch({}, [{}] * 10_001)


VALUE = st.recursive(
    st.one_of(st.booleans(), st.integers(0, 3), st.sampled_from(["", "x", "a/b"])),
    lambda below: st.one_of(
        st.dictionaries(st.sampled_from(["a", "b", "~/"]), below, max_size=3), st.lists(below, max_size=3)
    ),
    max_leaves=8,
)
DOCUMENT = st.dictionaries(st.sampled_from(["a", "b", "~/"]), VALUE, max_size=3)


def same(a: Any, b: Any) -> bool:
    """Equality in which true is not 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def merge_diff(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            out[key] = merge_diff(before, value)
        elif key not in old or not same(value, before):
            out[key] = value
    return out


def json_diff(old: Any, new: Any, path: str = "") -> list[dict[str, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        ops = [{"op": "remove", "path": f"{path}/{pointer(key)}"} for key in old if key not in new]
        for key, value in new.items():
            here = f"{path}/{pointer(key)}"
            ops += json_diff(old[key], value, here) if key in old else [{"op": "add", "path": here, "value": value}]
        return ops
    if isinstance(old, list) and isinstance(new, list):
        ops = [op for i, (a, b) in enumerate(zip(old, new, strict=False)) for op in json_diff(a, b, f"{path}/{i}")]
        ops += [{"op": "remove", "path": f"{path}/{i}"} for i in reversed(range(len(new), len(old)))]
        return ops + [{"op": "add", "path": f"{path}/-", "value": value} for value in new[len(old) :]]
    return [] if same(old, new) else [{"op": "replace", "path": path, "value": new}]


def pointer(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


@law
@given(DOCUMENT, DOCUMENT)
def test_a_merge_diff_leads_to_its_target(old: dict[str, Any], new: dict[str, Any]) -> None:
    before = copy.deepcopy(old)

    assert same(merge_patch(old, merge_diff(old, new)), new)
    assert same(old, before)


@law
@given(DOCUMENT, DOCUMENT)
def test_a_json_diff_leads_to_its_target(old: dict[str, Any], new: dict[str, Any]) -> None:
    before = copy.deepcopy(old)

    assert same(json_patch(old, json_diff(old, new)), new)
    assert same(old, before)


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(["add", "test", "/a", "/a/0", "/-", ""])),
    lambda below: st.one_of(
        st.dictionaries(st.sampled_from(["op", "path", "from", "value", "a"]), below, max_size=4),
        st.lists(below, max_size=4),
    ),
    max_leaves=15,
)


@law
@given(DOCUMENT, JUNK)
def test_any_junk_is_refused_as_a_patch_error(doc: dict[str, Any], junk: Any) -> None:
    assert "\n" not in refusal(lambda: json_patch(doc, junk))


# --- strategic merge patch ----------------------------------------------------------------------------------------


def pod_spec(patch: Any, **spec: Any) -> Any:
    """The pod template's spec after a strategic merge patch of it."""
    doc = {"spec": {"template": {"spec": spec}}}
    before = copy.deepcopy(doc)
    result = strategic_merge_patch(doc, {"spec": {"template": {"spec": patch}}}, schema())
    assert doc == before
    return result["spec"]["template"]["spec"]


def names(*items: str) -> list[dict[str, str]]:
    return [{"name": name} for name in items]


@pytest.mark.parametrize(
    ("spec", "patch", "result"),
    [
        pytest.param(
            {"containers": [{"name": "a", "image": "1"}, {"name": "b"}]},
            {"containers": [{"name": "a", "image": "2"}]},
            {"containers": [{"name": "a", "image": "2"}, {"name": "b"}]},
            id="items merge by key",
        ),
        pytest.param(
            {"containers": names("a", "b")},
            {"containers": [{"name": "a", "$patch": "delete"}]},
            {"containers": names("b")},
            id="delete an item",
        ),
        pytest.param(
            {"containers": names("a", "b")},
            {"containers": [{"$patch": "replace"}, {"name": "c"}]},
            {"containers": names("c")},
            id="replace a list",
        ),
        pytest.param(
            {"securityContext": {"runAsUser": 1}},
            {"securityContext": {"$patch": "replace", "fsGroup": 2}},
            {"securityContext": {"fsGroup": 2}},
            id="replace a map",
        ),
        pytest.param({"hostname": "x"}, {"hostname": None}, {}, id="null deletes"),
        pytest.param(
            {"containers": [{"name": "a", "command": ["x", "y"]}]},
            {"containers": [{"name": "a", "command": ["z"]}]},
            {"containers": [{"name": "a", "command": ["z"]}]},
            id="a list without a strategy is replaced",
        ),
        pytest.param(
            {"tolerations": [{"key": "a"}]},
            {"tolerations": [{"key": "b"}]},
            {"tolerations": [{"key": "b"}]},
            id="atomic list",
        ),
        pytest.param(
            {"containers": names("a", "b", "c")},
            {"$setElementOrder/containers": names("c", "a"), "containers": [{"name": "b", "$patch": "delete"}]},
            {"containers": names("c", "a")},
            id="order",
        ),
        pytest.param(
            {"containers": names("a", "server", "b")},
            {"$setElementOrder/containers": names("b", "a", "new"), "containers": names("new")},
            {"containers": names("server", "b", "a", "new")},
            id="items that only the server has keep their place",
        ),
        pytest.param(
            {"volumes": [{"name": "v", "emptyDir": {}}]},
            {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]},
            {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]},
            id="retainKeys",
        ),
        pytest.param(
            {},
            {"containers": [{"name": "a", "image": None, "$retainKeys": ["name"]}]},
            {"containers": names("a")},
            id="new",
        ),
        pytest.param({}, {"affinity": {"$patch": "delete"}}, {}, id="deleting what is not there"),
        pytest.param(
            {"imagePullSecrets": []}, {"imagePullSecrets": names("x")}, {"imagePullSecrets": names("x")}, id="empty"
        ),
    ],
)
def test_strategic_merge_patch(spec: Any, patch: Any, result: Any) -> None:
    assert pod_spec(patch, **spec) == result


def test_primitive_lists_merge_as_sets() -> None:
    doc = {"metadata": {"finalizers": ["a", "b", "c"]}}
    patch = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["d", "b"]}}

    result = strategic_merge_patch(doc, patch, schema())

    assert sorted(result["metadata"]["finalizers"]) == ["b", "c", "d"]


def test_primitive_lists_can_be_ordered() -> None:
    doc = {"metadata": {"finalizers": ["a", "b", "c"]}}
    patch = {
        "metadata": {
            "$setElementOrder/finalizers": ["d", "c", "b"],
            "$deleteFromPrimitiveList/finalizers": ["a"],
            "finalizers": ["d"],
        }
    }

    assert strategic_merge_patch(doc, patch, schema())["metadata"]["finalizers"] == ["d", "c", "b"]


def test_a_deployments_strategy_can_change_its_type() -> None:
    doc = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}

    assert strategic_merge_patch(doc, patch, schema()) == {"spec": {"strategy": {"type": "Recreate"}}}


def test_a_field_with_strategy_replace_is_replaced() -> None:
    budget = schema("policy/v1", "PodDisruptionBudget")
    doc = {"spec": {"selector": {"matchLabels": {"a": "1"}}}}

    result = strategic_merge_patch(doc, {"spec": {"selector": {"matchLabels": {"b": "2"}}}}, budget)

    assert result == {"spec": {"selector": {"matchLabels": {"b": "2"}}}}


@pytest.mark.parametrize(
    ("patch", "text"),
    [
        ([], "a strategic merge patch must be an object"),
        ({"$patch": "fly"}, "patch: unknown $patch 'fly'; it is replace, delete or merge"),
        (
            {"spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}},
            "spec.template.spec.containers: an item does not contain declared merge key: name",
        ),
        (
            {"spec": {"template": {"spec": {"containers": ["x"]}}}},
            "spec.template.spec.containers: a list must not mix objects and scalars",
        ),
        (
            {"spec": {"template": {"spec": {"$setElementOrder/containers": names("a"), "containers": names("z")}}}},
            "spec.template.spec.containers: item 'z' is not in $setElementOrder, or not in the same order",
        ),
        (
            {"spec": {"$retainKeys": ["replicas"], "paused": True}},
            "spec: $retainKeys does not list 'paused', which the patch sets",
        ),
        ({"spec": {"$retainKeys": 1}}, "spec: $retainKeys must be a list of field names"),
        ({"metadata": {"$setElementOrder/finalizers": 1}}, "metadata: $setElementOrder/finalizers must be a list"),
        (
            {"metadata": {"$deleteFromPrimitiveList/finalizers": 1}},
            "metadata: $deleteFromPrimitiveList/finalizers must be a list",
        ),
    ],
)
def test_a_strategic_patch_that_makes_no_sense_is_refused_in_one_line(patch: Any, text: str) -> None:
    doc = {"metadata": {"finalizers": ["a"]}, "spec": {"template": {"spec": {"containers": names("a")}}}}

    with pytest.raises(PatchError) as caught:
        strategic_merge_patch(doc, patch, schema())

    assert str(caught.value) == text


ENV = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from("abc")}, optional={"value": st.sampled_from("xy")}),
    max_size=3,
    unique_by=lambda item: item["name"],
)
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from("abcd")},
        optional={"image": st.sampled_from("xy"), "env": ENV, "args": st.lists(st.sampled_from("xy"), max_size=2)},
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda item: item["name"],
)
POD = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"finalizers": st.lists(st.sampled_from("xyz"), unique=True, min_size=1, max_size=3)},
            optional={"labels": st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy"), min_size=1)},
        ),
        "spec": st.fixed_dictionaries({"containers": CONTAINERS}, optional={"hostname": st.sampled_from("xy")}),
    }
)


def strategic_diff(node: Node, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What kubectl computes: a patch, with orders and deletions, that leads from one object to the other."""
    out: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        child = node.child(key) or ANY
        before = old.get(key)
        if before == value:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            out[key] = strategic_diff(child, before, value)
        elif isinstance(value, list) and isinstance(before, list) and "merge" in child.strategy and before:
            _list_diff(child, key, before, value, out)
        else:
            out[key] = value
    return out


def _list_diff(node: Node, key: str, old: list[Any], new: list[Any], out: dict[str, Any]) -> None:
    if not node.merge_key:
        out[f"$setElementOrder/{key}"] = new
        out[f"$deleteFromPrimitiveList/{key}"] = [item for item in old if item not in new]
        out[key] = [item for item in new if item not in old]
        return
    merge_key = node.merge_key
    before = {item[merge_key]: item for item in old}
    changes: list[Any] = []
    for item in new:
        previous = before.pop(item[merge_key], None)
        if previous is None:
            changes.append(item)
        elif previous != item:
            changes.append({merge_key: item[merge_key], **strategic_diff(node.items or ANY, previous, item)})
    changes += [{merge_key: name, "$patch": "delete"} for name in before]
    out[f"$setElementOrder/{key}"] = [{merge_key: item[merge_key]} for item in new]
    out[key] = changes


@law
@given(POD, POD)
def test_a_strategic_diff_leads_to_its_target(old: dict[str, Any], new: dict[str, Any]) -> None:
    pod = schema("v1", "Pod")
    before = copy.deepcopy(old)

    assert strategic_merge_patch(old, strategic_diff(pod.root, old, new), pod) == new
    assert old == before


DIRECTIVES = st.sampled_from(
    [
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$deleteFromPrimitiveList/finalizers",
        "containers",
        "spec",
        "metadata",
        "finalizers",
        "name",
        "env",
    ]
)
STRATEGIC_JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.sampled_from(["a", "delete", "replace", "merge", "x"])),
    lambda below: st.one_of(st.dictionaries(DIRECTIVES, below, max_size=4), st.lists(below, max_size=4)),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(POD, STRATEGIC_JUNK)
def test_any_strategic_junk_is_applied_or_refused_in_one_line(pod: dict[str, Any], junk: Any) -> None:
    for patch in (junk, {"spec": junk}, {"metadata": junk}, {"spec": {"containers": junk}}):
        assert "\n" not in refusal(lambda patch=patch: strategic_merge_patch(pod, patch, schema("v1", "Pod")))
