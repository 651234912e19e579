"""The official Python client against the API: what programs rely on."""

from __future__ import annotations

import threading
from typing import Any

import kubernetes
import pytest
from kubernetes.client import ApiException


@pytest.fixture
def core(client: Any) -> Any:
    return kubernetes.client.CoreV1Api(client)


def config(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"suite": "conformance"}}, "data": data}


def test_crud(core: Any, namespace: str) -> None:
    made = core.create_namespaced_config_map(namespace, config("a", x="1"))
    assert made.metadata.uid
    made.data["x"] = "2"
    changed = core.replace_namespaced_config_map("a", namespace, made)
    assert changed.data == {"x": "2"}
    with pytest.raises(ApiException) as caught:
        core.replace_namespaced_config_map("a", namespace, made)
    assert caught.value.status == 409
    with pytest.raises(ApiException) as caught:
        core.create_namespaced_config_map(namespace, config("a"))
    assert caught.value.status == 409
    assert core.patch_namespaced_config_map("a", namespace, {"data": {"y": "3"}}).data == {"x": "2", "y": "3"}
    core.delete_namespaced_config_map("a", namespace)
    with pytest.raises(ApiException) as caught:
        core.read_namespaced_config_map("a", namespace)
    assert caught.value.status == 404


def test_lists_in_pieces(core: Any, namespace: str) -> None:
    for i in range(7):
        core.create_namespaced_config_map(namespace, config(f"c{i}"))
    names: list[str] = []
    token = None
    while True:
        page = core.list_namespaced_config_map(namespace, limit=3, _continue=token, label_selector="suite=conformance")
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"c{i}" for i in range(7)]


def test_a_watch_resumes_without_loss(core: Any, namespace: str) -> None:
    after = core.list_namespaced_config_map(namespace).metadata.resource_version
    for i in range(5):
        core.create_namespaced_config_map(namespace, config(f"c{i}"))
    seen: list[str] = []
    for _ in range(5):
        watch = kubernetes.watch.Watch()
        for event in watch.stream(
            core.list_namespaced_config_map,
            namespace,
            resource_version=after,
            timeout_seconds=10,
            label_selector="suite=conformance",
        ):
            seen.append(event["object"].metadata.name)
            after = event["object"].metadata.resource_version
            watch.stop()
    assert seen == [f"c{i}" for i in range(5)]


def test_a_selector_turns_changes_into_arrivals_and_departures(core: Any, namespace: str) -> None:
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "a", "labels": {"app": "web"}}})
    after = core.list_namespaced_config_map(namespace).metadata.resource_version
    events: list[str] = []

    def follow() -> None:
        stream = kubernetes.watch.Watch().stream(
            core.list_namespaced_config_map,
            namespace,
            resource_version=after,
            label_selector="app=web",
            timeout_seconds=3,
        )
        events.extend(event["type"] for event in stream)

    thread = threading.Thread(target=follow)
    thread.start()
    for labels in ({"app": "db"}, {"app": "web"}, {"app": "web", "x": "y"}):
        core.patch_namespaced_config_map("a", namespace, {"metadata": {"labels": labels}})
    core.delete_namespaced_config_map("a", namespace)
    thread.join(timeout=20)

    assert events == ["DELETED", "ADDED", "MODIFIED", "DELETED"]


def test_finalizers(core: Any, namespace: str) -> None:
    body = config("held")
    body["metadata"]["finalizers"] = ["conformance.example/hold"]
    core.create_namespaced_config_map(namespace, body)
    core.delete_namespaced_config_map("held", namespace)
    assert core.read_namespaced_config_map("held", namespace).metadata.deletion_timestamp is not None
    core.patch_namespaced_config_map("held", namespace, {"metadata": {"finalizers": None}})
    with pytest.raises(ApiException) as caught:
        core.read_namespaced_config_map("held", namespace)
    assert caught.value.status == 404


def test_a_collection_is_deleted(core: Any, namespace: str) -> None:
    for i in range(3):
        core.create_namespaced_config_map(namespace, config(f"c{i}"))
    core.delete_collection_namespaced_config_map(namespace, label_selector="suite=conformance")
    assert core.list_namespaced_config_map(namespace, label_selector="suite=conformance").items == []


def test_leases_elect_one_leader(client: Any, namespace: str) -> None:
    leases = kubernetes.client.CoordinationV1Api(client)
    made = leases.create_namespaced_lease(
        namespace, {"metadata": {"name": "leader"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15}}
    )
    version = made.metadata.resource_version
    body = {"metadata": {"name": "leader", "resourceVersion": version}, "spec": {"holderIdentity": "b"}}
    leases.replace_namespaced_lease("leader", namespace, body)
    body["spec"]["holderIdentity"] = "c"
    with pytest.raises(ApiException) as caught:
        leases.replace_namespaced_lease("leader", namespace, body)
    assert caught.value.status == 409


def test_the_dynamic_client_applies(client: Any, namespace: str) -> None:
    dynamic = kubernetes.dynamic.DynamicClient(client)
    configs = dynamic.resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}}
    applied = configs.server_side_apply(body=body, name="a", namespace=namespace, field_manager="conformance")
    assert applied.data.to_dict() == {"x": "1"}
    managers = [entry.manager for entry in applied.metadata.managedFields]
    assert managers == ["conformance"]


def test_access_can_be_asked_for(client: Any) -> None:
    authorization = kubernetes.client.AuthorizationV1Api(client)
    spec = {"resourceAttributes": {"verb": "create", "resource": "pods", "namespace": "default"}}
    assert authorization.create_self_subject_access_review({"spec": spec}).status.allowed is True
