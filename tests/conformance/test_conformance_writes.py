"""What random stories told to both servers found wanting here, each in a few requests, on either server."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from differential_operations import APPLY, JSON_PATCH, MERGE, STRATEGIC
from differential_replay import Api, Ask, Outcome, Replay

JSON = dict[str, Any]
Asking = Callable[..., Outcome]
CORE = "/api/v1/namespaces/<ns>"
DEPLOYMENTS = "/apis/apps/v1/namespaces/<ns>/deployments"
JOBS = "/apis/batch/v1/namespaces/<ns>/jobs"
CONTAINERS = [{"name": "main", "image": "i"}]


@pytest.fixture
def ask(kubeconfig: Path) -> Iterator[Asking]:
    """Sends one request, with `<ns>` for a namespace of the test's own."""
    api = Api(kubeconfig)
    replay = Replay(api, f"writes-{secrets.token_hex(3)}")
    replay.begin()
    try:
        yield lambda method, path, body=None, media="application/json", until=None, **query: replay.run(
            Ask(method, path, body, query, media, until=until)
        )
    finally:
        replay.end()
        api.close()


def deployment(name: str, **spec: Any) -> JSON:
    template = {"metadata": {"labels": {"app": "w"}}, "spec": {"containers": CONTAINERS}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": "w"}}, "template": template, **spec},
    }


def job(name: str, **spec: Any) -> JSON:
    template = {"spec": {"containers": CONTAINERS, "restartPolicy": "Never"}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": template, **spec},
    }


def scale(replicas: int | None) -> JSON:
    spec = {} if replicas is None else {"replicas": replicas}
    return {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "a"}, "spec": spec}


def holders(ask: Asking) -> set[tuple[str, str, str]]:
    """Who is noted for the number of replicas: manager, operation, subresource."""
    managed = ask("GET", f"{DEPLOYMENTS}/a").body["metadata"]["managedFields"]
    return {
        (one["manager"], one["operation"], one.get("subresource", ""))
        for one in managed
        if "f:replicas" in one["fieldsV1"].get("f:spec", {})
    }


def test_an_apply_to_scale_finds_conflicts_and_shares_the_number(ask: Asking) -> None:
    path = f"{DEPLOYMENTS}/a/scale"
    assert ask("POST", DEPLOYMENTS, deployment("a"), fieldManager="maker").status == 201
    refused = ask("PATCH", path, scale(3), APPLY, fieldManager="one")
    assert (refused.status, refused.body["message"]) == (
        409,
        'Apply failed with 1 conflict: conflict with "maker" using autoscaling/v1: .spec.replicas',
    )
    assert ask("PATCH", path, scale(3), APPLY, fieldManager="one", force="true").body["spec"] == {"replicas": 3}
    assert holders(ask) == {("one", "Apply", "scale")}
    assert ask("PATCH", path, scale(3), APPLY, fieldManager="two").status == 200
    assert holders(ask) == {("one", "Apply", "scale"), ("two", "Apply", "scale")}
    assert ask("PATCH", path, scale(0), APPLY, fieldManager="two", force="true").body["spec"] == {}
    assert holders(ask) == {("two", "Apply", "scale")}


def test_a_scale_to_zero_is_noted_for_nobody(ask: Asking) -> None:
    assert ask("POST", DEPLOYMENTS, deployment("a"), fieldManager="maker").status == 201
    assert ask("PUT", f"{DEPLOYMENTS}/a/scale", scale(0), fieldManager="one").status == 200
    assert holders(ask) == set()
    assert ask("GET", f"{DEPLOYMENTS}/a").body["spec"]["replicas"] == 0


def test_an_applied_scale_has_a_kind_and_known_fields_only(ask: Asking) -> None:
    path = f"{DEPLOYMENTS}/a/scale"
    assert ask("POST", DEPLOYMENTS, deployment("a")).status == 201
    bare = ask("PATCH", path, {"spec": {"replicas": 1}}, APPLY, fieldManager="one")
    assert (bare.status, bare.body["message"]) == (400, "invalid object type: /, Kind=")
    odd = ask("PATCH", path, {**scale(1), "spec": {"x": 1}}, APPLY, fieldManager="one")
    assert odd.body["message"].endswith("Kind=Scale): .spec.x: field not declared in schema")


def test_a_strict_patch_is_refused_as_a_bad_patch(ask: Asking) -> None:
    path = f"{CORE}/configmaps/a"
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    assert ask("POST", f"{CORE}/configmaps", made).status == 201
    strategic = ask("PATCH", path, {"datum": {"a": 1.5, "b": [True]}}, STRATEGIC, fieldValidation="Strict")
    assert (strategic.status, strategic.body["reason"]) == (422, "Invalid")
    assert (
        'patch: Invalid value: "map[datum:map[a:1.5 b:[true]]]": strict decoding error: unknown field "datum"'
        in (strategic.body["message"])
    )
    merged = ask("PATCH", path, '{"data":{"a":"1","a":"2"},"x":1}', MERGE, fieldValidation="Strict")
    assert 'strict decoding error: duplicate field "data.a", unknown field "x"' in merged.body["message"]
    assert 'patch: Invalid value: "{\\"apiVersion\\":' in merged.body["message"]
    edits = '[{"op":"add","op":"add","path":"/datum","value":"x"}]'
    edited = ask("PATCH", path, edits, JSON_PATCH, fieldValidation="Strict")
    assert 'json patch duplicate field "[0].op", unknown field "datum"' in edited.body["message"]


def test_a_deleted_job_leaves_its_pods_unless_asked_otherwise(ask: Asking) -> None:
    assert ask("POST", JOBS, job("a")).status == 201
    gone = ask("DELETE", f"{JOBS}/a")
    assert gone.body["metadata"]["finalizers"] == ["orphan"]
    assert "child pods are preserved by default when jobs are deleted" in gone.warnings[0]
    assert ask("POST", JOBS, job("b")).status == 201
    assert ask("DELETE", f"{JOBS}/b", propagationPolicy="Background").body["status"] == "Success"


def test_what_may_change_of_a_job(ask: Asking) -> None:
    def causes(name: str, **spec: Any) -> set[tuple[str, str]]:
        refused = ask("PATCH", f"{JOBS}/{name}", {"spec": spec}, MERGE)
        assert refused.status == 422, refused.body
        return {(one["field"], one["reason"]) for one in refused.body["details"]["causes"]}

    assert ask("POST", JOBS, job("indexed", completionMode="Indexed", completions=2, parallelism=2)).status == 201
    assert causes("indexed", completions=None) == {("spec.completions", "FieldValueRequired")}
    assert causes("indexed", completions=3) == {("spec.completions", "FieldValueInvalid")}
    assert ask("PATCH", f"{JOBS}/indexed", {"spec": {"completions": 3, "parallelism": 3}}, MERGE).status == 200
    assert ask("POST", JOBS, job("idle", suspend=True)).status == 201
    assert (
        ask("PATCH", f"{JOBS}/idle", {"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}}, MERGE).status
        == 200
    )
    changed = [{"name": "main", "image": "other"}]
    assert causes("idle", template={"spec": {"containers": changed}}) == {("spec.template.spec", "FieldValueInvalid")}


def test_only_a_load_balancer_has_addresses_outside(ask: Asking) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}
    assert ask("POST", f"{CORE}/services", service).status == 201
    status = {"status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}
    refused = ask("PATCH", f"{CORE}/services/a/status", status, MERGE)
    assert refused.body["message"].endswith(
        "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"
    )
    assert ask("PATCH", f"{CORE}/services/a", {"spec": {"type": "LoadBalancer"}}, MERGE).status == 200
    assert ask("PATCH", f"{CORE}/services/a/status", status, MERGE).status == 200


def test_init_containers_have_the_hosts_ports_each_for_itself(ask: Asking) -> None:
    port = [{"containerPort": 80, "hostPort": 81}]
    first = {"name": "first", "image": "i", "ports": port}
    spec = {
        "containers": [{**CONTAINERS[0], "ports": port}],
        "initContainers": [first, {**first, "name": "second"}],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}
    assert ask("POST", f"{CORE}/pods", pod, dryRun="All").status == 201
    spec["containers"] = [*spec["containers"], {"name": "more", "image": "i", "ports": port}]
    assert '"TCP//81"' in ask("POST", f"{CORE}/pods", pod, dryRun="All").body["message"]


def test_a_field_selector_that_asks_for_nothing_selects_all(ask: Asking) -> None:
    for selector in ("=", "!=", "==,"):
        assert ask("GET", f"{CORE}/serviceaccounts", fieldSelector=selector).body["items"], selector
    assert ask("GET", f"{CORE}/serviceaccounts", fieldSelector="=a").status == 400


def test_an_applied_object_that_does_not_exist_has_to_say_its_name(ask: Asking) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}}
    refused = ask("PATCH", f"{CORE}/configmaps/a", body, APPLY, fieldManager="one")
    assert (refused.status, refused.body["message"]) == (
        400,
        "the name of the object (a based on URL) was undeterminable: name must be provided",
    )


def test_a_watch_shows_what_left_its_selection_as_it_was_last_seen(ask: Asking) -> None:
    path = f"{CORE}/configmaps"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"app": "web"}}}
    assert ask("POST", path, body).status == 201
    assert ask("PATCH", f"{path}/a", {"metadata": {"labels": None}, "data": {"a": "b"}}, MERGE).status == 200
    last = ask("PATCH", f"{path}/a", {"metadata": {"labels": {"app": "web"}}}, MERGE).body["metadata"][
        "resourceVersion"
    ]
    assert ask("POST", path, {**body, "metadata": {"name": "end", "labels": {"app": "web"}}}).status == 201
    seen = ask("GET", path, until="end", watch="1", resourceVersion="<start>", labelSelector="app=web")
    added, left, back = (event["object"] for event in seen.body[:3])
    assert [event["type"] for event in seen.body[:3]] == ["ADDED", "DELETED", "ADDED"]
    assert left["metadata"]["labels"] == {"app": "web"}
    assert "data" not in left
    assert int(added["metadata"]["resourceVersion"]) < int(left["metadata"]["resourceVersion"]) < int(last)
    assert back["data"] == {"a": "b"}


def test_what_may_change_of_a_priority_class(ask: Asking) -> None:
    path, name = "/apis/scheduling.k8s.io/v1/priorityclasses", f"writes-{secrets.token_hex(3)}"
    body = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": 5}
    assert ask("POST", path, body).status == 201
    try:
        refused = ask("PATCH", f"{path}/{name}", {"value": 6, "preemptionPolicy": "Never"}, MERGE)
        assert "value: Forbidden: may not be changed in an update." in refused.body["message"]
        assert 'preemptionPolicy: Invalid value: "Never": field is immutable' in refused.body["message"]
        assert ask("PATCH", f"{path}/{name}", {"description": "x"}, MERGE).status == 200
    finally:
        ask("DELETE", f"{path}/{name}")


def test_a_csi_node_without_drivers(ask: Asking) -> None:
    path, name = "/apis/storage.k8s.io/v1/csinodes", f"writes-{secrets.token_hex(3)}"
    body = {"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": name}, "spec": {"drivers": None}}
    made = ask("POST", path, body)
    ask("DELETE", f"{path}/{name}")
    assert (made.status, made.body["spec"]) == (201, {"drivers": None})


def test_defaults_that_came_after_an_object_was_stored_show_when_it_is_read(ask: Asking) -> None:
    group = f"g{secrets.token_hex(3)}.example.com"
    path = f"/apis/{group}/v1/namespaces/<ns>/things"
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    spec: JSON = {"type": "object", "properties": {"text": {"type": "string"}, "more": {"type": "integer"}}}
    schema = {"type": "object", "properties": {"spec": spec}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"}
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"things.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
    }
    assert ask("POST", crds, crd).status == 201
    try:
        body = {"apiVersion": f"{group}/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": {"more": 1}}
        made = until(lambda: ask("POST", path, body), lambda answer: answer.status == 201)
        spec["properties"]["text"]["default"] = "given"
        assert ask("PATCH", f"{crds}/things.{group}", {"spec": {"versions": [version]}}, MERGE).status == 200
        shown = {"more": 1, "text": "given"}
        read = until(lambda: ask("GET", f"{path}/a"), lambda answer: answer.body["spec"] == shown)
        assert read.body["metadata"] == made.body["metadata"]
        assert ask("GET", path).body["items"][0]["spec"] == shown
        assert ask("PATCH", f"{path}/a", {"spec": {"text": None}}, MERGE).body["spec"] == shown
    finally:
        ask("DELETE", f"{crds}/things.{group}")


def until(asked: Callable[[], Outcome], holds: Callable[[Outcome], bool]) -> Outcome:
    """The answer that holds; a changed definition is served a moment later."""
    deadline = time.monotonic() + 60
    while not holds(answer := asked()):
        assert time.monotonic() < deadline, answer.body
        time.sleep(0.05)
    return answer
