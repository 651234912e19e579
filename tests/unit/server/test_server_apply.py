"""Server-side apply: ownership, conflicts, removal, and the texts that kubectl shows."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from trimtab.server.apply import UPDATE_MANAGERS_MAX, ApplyConflict, apply, track_update
from trimtab.server.merge import ApplyInvalid
from trimtab.server.schemas import Schema, builtin, compile_crd_schema

T0, T1, T2 = "2025-01-01T00:00:00Z", "2025-01-01T00:00:01Z", "2025-01-01T00:00:02Z"


def schema(api_version: str = "apps/v1", kind: str = "Deployment") -> Schema:
    found = builtin(api_version, kind)
    assert found is not None
    return found


def deployment(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}


def template(*containers: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"containers": list(containers)}}


def config_map(**data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data}


def owners(obj: dict[str, Any]) -> dict[str, Any]:
    return {entry["manager"]: entry["fieldsV1"] for entry in obj["metadata"].get("managedFields", [])}


def applied(live: Any, patch: Any, manager: str = "a", now: str = T0, **more: Any) -> dict[str, Any]:
    chosen = more.pop("schema", None) or schema(patch["apiVersion"], patch["kind"])
    return apply(live, copy.deepcopy(patch), manager=manager, now=now, schema=chosen, **more)


def test_the_first_apply_creates_the_object_and_owns_what_it_says() -> None:
    obj = applied(None, deployment(replicas=2, template=template({"name": "one", "ports": [{"containerPort": 80}]})))

    [entry] = obj["metadata"]["managedFields"]
    assert {key: entry[key] for key in entry if key != "fieldsV1"} == {
        "manager": "a",
        "operation": "Apply",
        "apiVersion": "apps/v1",
        "time": T0,
        "fieldsType": "FieldsV1",
    }
    port = 'k:{"containerPort":80,"protocol":"TCP"}'
    one = {".": {}, "f:name": {}, "f:ports": {port: {".": {}, "f:containerPort": {}}}}
    containers = {'k:{"name":"one"}': one}
    assert entry["fieldsV1"] == {"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": containers}}}}


def test_fields_stand_in_the_order_in_which_kubernetes_writes_them() -> None:
    """Clients compare the bytes of `fieldsV1`; a dict's own equality would not tell."""
    first = applied(None, config_map(b="1", a="2"))
    obj = applied(first, {**config_map(c="3", b="1", a="2"), "metadata": {"name": "c", "labels": {"z": "1", "y": "2"}}})
    [entry] = obj["metadata"]["managedFields"]
    assert json.dumps(entry["fieldsV1"]) == json.dumps(entry["fieldsV1"], sort_keys=True)
    assert list(entry["fieldsV1"]["f:data"]) == ["f:a", "f:b", "f:c"]


def test_applying_the_same_again_changes_nothing_not_even_a_time() -> None:
    live = applied(None, deployment(replicas=2))

    assert applied(live, deployment(replicas=2), now=T1) == live


def test_arguments_are_not_changed() -> None:
    live = applied(None, config_map(a="1", b="2"))
    patch = config_map(a="9")
    before = copy.deepcopy((live, patch))

    apply(live, patch, manager="a", schema=schema("v1", "ConfigMap"), now=T1)

    assert (live, patch) == before


def test_a_field_of_another_manager_is_a_conflict_in_kubectls_words() -> None:
    live = applied(None, deployment(replicas=2))

    with pytest.raises(ApplyConflict) as caught:
        applied(live, deployment(replicas=3), "b")

    assert str(caught.value) == 'Apply failed with 1 conflict: conflict with "a": .spec.replicas'
    assert caught.value.causes() == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "a"', "field": ".spec.replicas"}
    ]


def test_several_conflicts_are_listed_by_manager() -> None:
    live = applied(None, deployment(replicas=2, paused=True))
    new = copy.deepcopy(live)
    new["spec"]["minReadySeconds"] = 5
    track_update(live, new, manager="kubectl-edit", schema=schema(), now=T1)

    with pytest.raises(ApplyConflict) as caught:
        applied(new, deployment(replicas=3, paused=False, minReadySeconds=6), "b")

    assert str(caught.value) == (
        "Apply failed with 3 conflicts: "
        'conflicts with "a":\n- .spec.paused\n- .spec.replicas\n'
        'conflicts with "kubectl-edit" using apps/v1:\n- .spec.minReadySeconds'
    )


def test_a_conflict_names_list_items_by_their_keys() -> None:
    live = applied(None, deployment(template=template({"name": "one", "image": "a"})))

    with pytest.raises(ApplyConflict) as caught:
        applied(live, deployment(template=template({"name": "one", "image": "b"})), "b")

    assert caught.value.conflicts == [('"a"', '.spec.template.spec.containers[name="one"].image')]


def test_force_takes_the_field_over() -> None:
    live = applied(None, deployment(replicas=2, paused=True))

    obj = applied(live, deployment(replicas=3), "b", T1, force=True)

    assert obj["spec"] == {"replicas": 3, "paused": True}
    assert owners(obj) == {"a": {"f:spec": {"f:paused": {}}}, "b": {"f:spec": {"f:replicas": {}}}}


def test_the_same_value_is_shared_not_fought_over() -> None:
    live = applied(None, deployment(replicas=2))

    obj = applied(live, deployment(replicas=2), "b", T1)

    assert owners(obj) == {"a": {"f:spec": {"f:replicas": {}}}, "b": {"f:spec": {"f:replicas": {}}}}


def test_what_is_no_longer_applied_goes_unless_another_holds_it() -> None:
    live = applied(None, config_map(a="1", b="2", c="3"))
    live = applied(live, config_map(b="2"), "b")

    obj = applied(live, config_map(c="3"), "a", T1)

    assert obj["data"] == {"b": "2", "c": "3"}


def test_unowned_fields_stay() -> None:
    live = applied(None, config_map(a="1"))
    live["data"]["unowned"] = "x"

    obj = applied(live, config_map(b="2"), "a", T1)

    assert obj["data"] == {"unowned": "x", "b": "2"}


def test_a_container_that_is_no_longer_applied_goes_with_its_defaults() -> None:
    live = applied(None, deployment(template=template({"name": "one"}, {"name": "two"})))
    schema().default(live)

    obj = applied(live, deployment(template=template({"name": "two"})), now=T1)

    assert [c["name"] for c in obj["spec"]["template"]["spec"]["containers"]] == ["two"]


def test_an_item_that_another_also_applies_keeps_the_others_fields_only() -> None:
    live = applied(None, deployment(template=template({"name": "one", "image": "x", "tty": True})))
    live = applied(live, deployment(template=template({"name": "one", "image": "x"})), "b")

    obj = applied(live, deployment(template=template({"name": "two"})), now=T1)

    assert obj["spec"]["template"]["spec"]["containers"] == [{"name": "one", "image": "x"}, {"name": "two"}]


def test_items_follow_the_order_of_the_configuration_around_those_of_others() -> None:
    live = applied(None, deployment(template=template({"name": "a"}, {"name": "b"}, {"name": "c"})))
    live = applied(live, deployment(template=template({"name": "sidecar"})), "b")

    obj = applied(live, deployment(template=template({"name": "c"}, {"name": "a"}, {"name": "b"})), now=T1)

    names = [c["name"] for c in obj["spec"]["template"]["spec"]["containers"]]
    assert [name for name in names if name != "sidecar"] == ["c", "a", "b"]
    assert "sidecar" in names


def test_sets_merge_by_value() -> None:
    def pod(*finalizers: str) -> dict[str, Any]:
        meta = {"name": "c", "finalizers": list(finalizers)}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}

    live = applied(None, pod("x/one", "x/two"))
    live = applied(live, pod("x/three"), "b")

    obj = applied(live, pod("x/two"), "a", T1)

    assert sorted(obj["metadata"]["finalizers"]) == ["x/three", "x/two"]
    assert owners(obj)["a"] == {"f:metadata": {"f:finalizers": {'v:"x/two"': {}}}}


def test_an_atomic_value_is_owned_as_a_whole() -> None:
    live = applied(None, deployment(selector={"matchLabels": {"app": "web"}}))

    with pytest.raises(ApplyConflict) as caught:
        applied(live, deployment(selector={"matchLabels": {"app": "web", "tier": "x"}}), "b")

    assert caught.value.conflicts == [('"a"', ".spec.selector")]


@pytest.mark.parametrize(
    ("patch", "text"),
    [
        (deployment(foo=1), ".spec.foo: field not declared in schema"),
        (
            deployment(template=template({"name": "one"}, {"name": "one"})),
            '.spec.template.spec.containers: duplicate entries for key {"name":"one"}',
        ),
        (
            deployment(template=template({"image": "x"})),
            ".spec.template.spec.containers: an item omits all keys of the associative list (name)",
        ),
        (deployment(template="x"), ".spec.template: expected map, got 'x'"),
        (
            {**deployment(), "metadata": {"name": "web", "managedFields": []}},
            ".metadata.managedFields: must not be set in an applied configuration",
        ),
    ],
)
def test_a_configuration_that_cannot_be_merged_is_refused_in_one_line(patch: dict[str, Any], text: str) -> None:
    with pytest.raises(ApplyInvalid) as caught:
        applied(None, patch)

    assert str(caught.value) == text


def test_status_is_only_written_through_its_subresource() -> None:
    live = applied(None, {**deployment(replicas=2), "status": {"replicas": 9}})
    assert "status" not in live

    obj = applied(live, {**deployment(replicas=7), "status": {"replicas": 2}}, "b", T1, subresource="status")

    assert (obj["spec"], obj["status"]) == ({"replicas": 2}, {"replicas": 2})
    entry = obj["metadata"]["managedFields"][1]
    assert (entry["manager"], entry["subresource"], entry["fieldsV1"]) == (
        "b",
        "status",
        {"f:status": {"f:replicas": {}}},
    )


def test_a_conflict_over_status_names_the_subresource() -> None:
    live = applied(None, {**deployment(), "status": {"replicas": 2}}, "a", T0, subresource="status")

    with pytest.raises(ApplyConflict) as caught:
        applied(live, {**deployment(), "status": {"replicas": 3}}, "b", T1, subresource="status")

    assert caught.value.conflicts == [('"a" with subresource "status"', ".status.replicas")]


def test_an_object_from_before_tracking_belongs_to_before_first_apply() -> None:
    live = config_map(a="1", b="2")

    with pytest.raises(ApplyConflict) as caught:
        applied(live, config_map(a="9"))
    obj = applied(live, config_map(a="9"), force=True)

    assert caught.value.conflicts == [('"before-first-apply" using v1', ".data.a")]
    assert owners(obj) == {"a": {"f:data": {"f:a": {}}}, "before-first-apply": {"f:data": {".": {}, "f:b": {}}}}


def test_a_zero_creation_time_in_a_configuration_means_nothing() -> None:
    patch = config_map(a="1")
    patch["metadata"]["creationTimestamp"] = None
    live = applied(None, config_map(a="1"))
    live["metadata"]["creationTimestamp"] = T0

    assert applied(live, patch, now=T1) == live


# --- kubectl moves from client-side to server-side apply ----------------------------------------------------------


def client_side_applied(data: dict[str, str]) -> dict[str, Any]:
    obj = config_map(**data)
    written = json.dumps(obj)
    obj["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": written}
    track_update(None, obj, manager="kubectl-client-side-apply", schema=schema("v1", "ConfigMap"), now=T0)
    return obj


def test_kubectl_takes_over_what_its_client_side_apply_wrote() -> None:
    live = client_side_applied({"a": "1"})

    obj = applied(live, config_map(a="2"), "kubectl", T1)

    assert obj["data"] == {"a": "2"}
    written = obj["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]
    assert json.loads(written)["data"] == {"a": "2"}


def test_another_manager_conflicts_with_client_side_apply() -> None:
    live = client_side_applied({"a": "1"})

    with pytest.raises(ApplyConflict) as caught:
        applied(live, config_map(a="2"), "b", T1)

    assert (
        str(caught.value) == 'Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using v1: .data.a'
    )


def test_kubectl_still_conflicts_over_what_somebody_changed_since() -> None:
    live = client_side_applied({"a": "1", "b": "1"})
    new = copy.deepcopy(live)
    new["data"]["b"] = "changed"
    track_update(live, new, manager="other", schema=schema("v1", "ConfigMap"), now=T1)

    with pytest.raises(ApplyConflict) as caught:
        applied(new, config_map(a="2", b="2"), "kubectl", T2)

    assert caught.value.conflicts == [('"other" using v1', ".data.b")]


# --- create, update, patch ----------------------------------------------------------------------------------------


def updated(old: dict[str, Any] | None, manager: str = "u", now: str = T1, **data: str) -> dict[str, Any]:
    new = copy.deepcopy(old) if old else config_map()
    new["data"] = data
    track_update(old, new, manager=manager, schema=schema("v1", "ConfigMap"), now=now)
    return new


def test_a_create_owns_everything_but_identity() -> None:
    obj = updated(None, a="1")

    assert owners(obj) == {"u": {"f:data": {".": {}, "f:a": {}}}}


def test_an_update_takes_what_it_changed_and_leaves_the_rest() -> None:
    live = applied(None, config_map(a="1", b="2"))

    obj = updated(live, a="1", b="9")

    assert owners(obj) == {"a": {"f:data": {"f:a": {}}}, "u": {"f:data": {"f:b": {}}}}


def test_an_update_that_removes_a_field_takes_it_from_its_owner() -> None:
    live = applied(None, config_map(a="1", b="2"))

    obj = updated(live, a="1")

    assert owners(obj) == {"a": {"f:data": {"f:a": {}}}}


def test_an_update_that_changes_nothing_keeps_times() -> None:
    live = updated(None, a="1")

    assert updated(live, now=T2, a="1") == live


def test_an_update_without_managed_fields_keeps_the_old_ones() -> None:
    live = updated(None, a="1")
    new = config_map(a="1")

    track_update(live, new, manager="old-client", schema=schema("v1", "ConfigMap"), now=T2)

    assert new["metadata"]["managedFields"] == live["metadata"]["managedFields"]


@pytest.mark.parametrize("reset", [[], [{}]])
def test_an_empty_list_stops_tracking(reset: list[Any]) -> None:
    live = updated(None, a="1")
    new = config_map(a="1")
    new["metadata"]["managedFields"] = reset

    track_update(live, new, manager="u", schema=schema("v1", "ConfigMap"), now=T2)

    assert owners(new) == {}


def test_a_client_may_rewrite_managed_fields() -> None:
    live = updated(None, a="1")
    new = copy.deepcopy(live)
    new["metadata"]["managedFields"][0]["manager"] = "renamed"

    track_update(live, new, manager="u", schema=schema("v1", "ConfigMap"), now=T2)

    assert list(owners(new)) == ["renamed"]


@pytest.mark.parametrize(
    "broken",
    [
        [{"manager": "x"}],
        [{"manager": "x", "operation": "Steal", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {}}],
        [{"manager": "x", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"k:{": {}}}],
        [{"manager": "x", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:a": 1}}],
        "nonsense",
    ],
)
def test_managed_fields_that_cannot_be_read_are_ignored(broken: Any) -> None:
    live = updated(None, a="1")
    new = copy.deepcopy(live)
    new["metadata"]["managedFields"] = broken

    track_update(live, new, manager="u", schema=schema("v1", "ConfigMap"), now=T2)

    assert new["metadata"]["managedFields"] == live["metadata"]["managedFields"]


def test_a_subresource_cannot_rewrite_managed_fields() -> None:
    live = applied(None, deployment(replicas=1))
    new = {**copy.deepcopy(live), "status": {"replicas": 1}}
    new["metadata"]["managedFields"] = []

    track_update(live, new, manager="u", schema=schema(), now=T1, subresource="status")

    assert owners(new) == {"a": {"f:spec": {"f:replicas": {}}}, "u": {"f:status": {"f:replicas": {}}}}


def test_the_oldest_updaters_are_merged_into_one() -> None:
    live: dict[str, Any] | None = None
    for index in range(UPDATE_MANAGERS_MAX + 5):
        data = {**(live["data"] if live else {}), f"k{index}": "x"}
        live = updated(live, f"m{index}", f"2025-01-01T00:00:{index:02}Z", **data)

    assert live is not None
    names = list(owners(live))
    assert len(names) == UPDATE_MANAGERS_MAX
    assert "ancient-changes" in names
    assert "m0" not in names
    assert f"m{UPDATE_MANAGERS_MAX + 4}" in names


def test_a_built_in_struct_that_is_always_there_is_owned_by_nobody() -> None:
    obj = deployment(replicas=1, template=template({"name": "one", "image": "x"}))

    track_update(None, obj, manager="u", schema=schema(), now=T0)

    one = {".": {}, "f:image": {}, "f:name": {}}
    expected = {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {'k:{"name":"one"}': one}}}}
    assert owners(obj) == {"u": {"f:spec": expected}}


# --- custom kinds -------------------------------------------------------------------------------------------------

WIDGET = compile_crd_schema(
    {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                    "whole": {
                        "type": "object",
                        "additionalProperties": {"type": "string"},
                        "x-kubernetes-map-type": "atomic",
                    },
                    "plain": {"type": "array", "items": {"type": "string"}},
                    "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                },
            }
        },
    },
    api_version="x.dev/v1",
    kind="Widget",
)


def widget(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "x.dev/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec}


def test_unknown_parts_of_a_custom_kind_merge_key_by_key() -> None:
    live = applied(None, widget(free={"a": {"x": 1}, "b": [1, 2]}), schema=WIDGET)

    obj = applied(live, widget(free={"a": {"y": 2}}), "b", T1, schema=WIDGET)

    assert obj["spec"]["free"] == {"a": {"x": 1, "y": 2}, "b": [1, 2]}


def test_lists_without_a_type_and_atomic_maps_are_replaced() -> None:
    live = applied(None, widget(plain=["a", "b"], whole={"x": "1"}), schema=WIDGET)

    obj = applied(live, widget(plain=["c"], whole={"y": "2"}), "b", T1, schema=WIDGET, force=True)

    assert obj["spec"] == {"plain": ["c"], "whole": {"y": "2"}}
    assert owners(obj) == {"b": {"f:spec": {"f:plain": {}, "f:whole": {}}}}


def test_set_values_are_told_apart_by_type() -> None:
    live = applied(None, widget(tags=["1", "<x>"]), schema=WIDGET)

    assert owners(live)["a"]["f:spec"]["f:tags"] == {'v:"1"': {}, 'v:"\\u003cx\\u003e"': {}}
