"""What the same requests to the real kube-apiserver have shown (tests/conformance/test_conformance_differential.py), one by one."""

from __future__ import annotations

from typing import Any

import pytest

from api_in_process import Api

SPACE = "/api/v1/namespaces/default"
CONFIGS = f"{SPACE}/configmaps"
ROLES = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
TEMPLATE = {"metadata": {"labels": {"app": "w"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}
DEPLOYMENT: dict[str, Any] = {
    "metadata": {"name": "a"},
    "spec": {"selector": {"matchLabels": {"app": "w"}}, "template": TEMPLATE},
}


async def test_what_a_go_struct_leaves_out_and_what_it_always_writes(api: Api) -> None:
    spec = {**DEPLOYMENT["spec"], "paused": False, "minReadySeconds": 0}
    made = (await api.post(DEPLOYMENTS, {**DEPLOYMENT, "spec": spec})).ok()
    role = (await api.post(ROLES, {"metadata": {"name": "empty"}})).ok()

    assert made["status"] == {}
    assert not {"paused", "minReadySeconds"} & set(made["spec"])
    assert role["rules"] is None
    assert "managedFields" not in role["metadata"]


async def test_null_in_a_map_of_texts_is_the_empty_text(api: Api) -> None:
    made = (await api.post(CONFIGS, {"metadata": {"name": "a", "labels": {"x": None}}, "data": {"k": None}})).ok()

    assert (made["metadata"]["labels"], made["data"]) == ({"x": ""}, {"k": ""})


async def test_a_json_patch_that_does_not_go_with_the_object_is_invalid(api: Api) -> None:
    (await api.post(CONFIGS, {"metadata": {"name": "a"}})).ok()
    path = f"{CONFIGS}/a"
    kind = "application/json-patch+json"

    refused = await api.patch(path, [{"op": "remove", "path": "/data/k"}], kind)

    assert refused.status == 422
    assert refused.message.startswith("the server rejected our request due to an error in our request")


async def test_a_put_creates_a_role_but_no_configmap(api: Api) -> None:
    assert (await api.put(f"{ROLES}/new", {"metadata": {"name": "new"}})).status == 201
    assert (await api.put(f"{CONFIGS}/new", {"metadata": {"name": "new"}})).status == 404


async def test_a_put_of_a_lease_says_which_version_it_replaces(api: Api) -> None:
    (await api.post(LEASES, {"metadata": {"name": "a"}})).ok()

    refused = await api.put(f"{LEASES}/a", {"metadata": {"name": "a"}})

    assert refused.status == 422
    assert refused.message.endswith("metadata.resourceVersion: Invalid value: 0: must be specified for an update")


async def test_options_that_do_not_go_together_are_invalid(api: Api) -> None:
    lonely = await api.get(f"{CONFIGS}?resourceVersionMatch=Exact")
    wrong = await api.delete(f"{CONFIGS}/a?propagationPolicy=Wrong")

    assert (lonely.status, lonely.message) == (
        422,
        'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: '
        "resourceVersionMatch is forbidden unless resourceVersion is provided",
    )
    assert (wrong.status, wrong.message) == (
        422,
        'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "Wrong": '
        'supported values: "Foreground", "Background", "Orphan", "nil"',
    )


async def test_an_applied_field_that_no_schema_knows_is_refused_however_lenient(api: Api) -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "dta": {}}

    refused = await api.apply(f"{CONFIGS}/a?fieldValidation=Ignore", config, "m")

    assert refused.status == 500
    assert refused.message == (
        "failed to create typed patch object (/a; /v1, Kind=ConfigMap): .dta: field not declared in schema"
    )


async def test_an_applied_empty_map_is_owned_though_it_is_not_written(api: Api) -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {}}

    made = (await api.apply(f"{CONFIGS}/a", config, "m")).ok()

    assert "data" not in made
    assert made["metadata"]["managedFields"][0]["fieldsV1"] == {"f:data": {}}


async def test_who_applies_what_is_there_already_owns_it_without_a_time(api: Api) -> None:
    (await api.post(CONFIGS, {"metadata": {"name": "a"}, "data": {"k": "v"}})).ok()
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}}

    made = (await api.apply(f"{CONFIGS}/a", config, "m")).ok()

    entry = made["metadata"]["managedFields"][0]
    assert (entry["manager"], "time" in entry) == ("m", False)


async def test_who_gives_up_all_of_the_metadata_that_it_owned_leaves_the_object_its_name(api: Api) -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "annotations": {"note": "x"}}}
    (await api.apply(f"{CONFIGS}/a", config, "m")).ok()

    left = (await api.apply(f"{CONFIGS}/a", {**config, "metadata": {"name": "a"}}, "m")).ok()

    assert (left["metadata"]["name"], left["metadata"].get("annotations")) == ("a", None)


async def test_a_collection_is_deleted_as_it_was_listed(api: Api) -> None:
    made = (await api.post(CONFIGS, {"metadata": {"name": "only", "labels": {"mine": "yes"}}})).ok()

    gone = (await api.delete(f"{CONFIGS}?labelSelector=mine")).ok()

    assert [one["metadata"]["resourceVersion"] for one in gone["items"]] == [made["metadata"]["resourceVersion"]]


@pytest.mark.parametrize(
    ("written", "shown"), [("0.5", "500m"), ("1000m", "1"), ("1024Mi", "1Gi"), ("1000", "1k"), ("1e3", "1e3"), (2, "2")]
)
async def test_amounts_are_shown_as_kubernetes_writes_them(api: Api, written: Any, shown: str) -> None:
    body = {"metadata": {"name": "q"}, "spec": {"hard": {"requests.memory": written}}}

    made = (await api.post("/api/v1/namespaces/default/resourcequotas", body)).ok()

    assert made["spec"]["hard"] == {"requests.memory": shown}


async def test_more_pods_cannot_be_ready_than_there_are(api: Api) -> None:
    labels = {"app": "w"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    path = "/apis/apps/v1/namespaces/default/replicasets"
    (await api.post(path, {"metadata": {"name": "r"}, "spec": spec})).ok()

    refused = await api.patch(f"{path}/r/status", {"status": {"replicas": 1, "readyReplicas": 2}})

    assert refused.status == 422
    assert "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas" in refused.message


async def test_a_daemon_set_counts_the_changes_of_its_template(api: Api) -> None:
    labels = {"app": "w"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    path, name = "/apis/apps/v1/namespaces/default/daemonsets", "deprecated.daemonset.template.generation"
    body = {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": labels}, "template": template}}
    made = (await api.post(path, body)).ok()
    image = {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "j"}]}}}}

    changed = (await api.patch(f"{path}/d", image)).ok()
    labelled = (await api.patch(f"{path}/d", {"metadata": {"labels": {"a": "b"}}})).ok()

    counts = [one["metadata"]["annotations"][name] for one in (made, changed, labelled)]
    assert counts == ["1", "2", "2"]
