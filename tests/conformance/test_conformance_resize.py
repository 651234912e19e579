"""`pods/NAME/resize`: what may change through it, and the words of what may not, on either server."""

from __future__ import annotations

import json
import time
from typing import Any

import kubernetes
import pytest
from kubernetes.client.rest import ApiException

COUNTED_S = 60.0
SMALL = {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"cpu": "30m", "memory": "64Mi"}}
BIG = {"requests": {"cpu": "25m", "memory": "48Mi"}, "limits": {"cpu": "35m", "memory": "96Mi"}}


@pytest.fixture
def core(client: Any) -> Any:
    return kubernetes.client.CoreV1Api(client)


def made(core: Any, namespace: str, *, name: str = "web", resources: Any = SMALL, **more: Any) -> Any:
    containers = [{"name": "a", "image": "i", "resources": resources}, {"name": "b", "image": "i"}]
    body = {"metadata": {"name": name}, "spec": {"containers": containers, **more}}
    return core.create_namespaced_pod(namespace, body)


def resized(core: Any, namespace: str, patch: Any, name: str = "web", **query: Any) -> Any:
    return core.patch_namespaced_pod_resize(name, namespace, patch, **query)


def refused(core: Any, namespace: str, *containers: Any, name: str = "web") -> str:
    with pytest.raises(ApiException) as caught:
        resized(core, namespace, {"spec": {"containers": list(containers)}}, name)
    assert caught.value.status == 422
    return str(json.loads(caught.value.body)["message"])


def test_a_resize_changes_resources_and_nothing_else(core: Any, namespace: str) -> None:
    before = made(core, namespace)
    patch = {
        "metadata": {"labels": {"no": "thing"}},
        "spec": {"containers": [{"name": "a", "image": "other", "resources": BIG}], "activeDeadlineSeconds": 5},
        "status": {"message": "nothing"},
    }
    after = resized(core, namespace, patch)
    assert after.spec.containers[0].resources.limits == BIG["limits"]
    assert after.spec.containers[0].resources.requests == BIG["requests"]
    assert (after.spec.containers[0].image, after.metadata.labels, after.spec.active_deadline_seconds) == (
        "i",
        None,
        None,
    )
    assert after.status.message is None
    assert (before.metadata.generation, after.metadata.generation) == (1, 2)
    assert (
        core.read_namespaced_pod_resize("web", namespace).metadata.resource_version == after.metadata.resource_version
    )
    again = core.replace_namespaced_pod_resize("web", namespace, after)
    assert again.metadata.resource_version == after.metadata.resource_version


def test_through_the_pod_itself_resources_stay_as_they_are(core: Any, namespace: str) -> None:
    made(core, namespace)
    with pytest.raises(ApiException) as caught:
        core.patch_namespaced_pod("web", namespace, {"spec": {"containers": [{"name": "a", "resources": BIG}]}})
    assert "pod updates may not change fields other than" in str(json.loads(caught.value.body)["message"])


def test_nothing_is_taken_away_by_a_resize(core: Any, namespace: str) -> None:
    made(core, namespace)
    said = refused(core, namespace, {"name": "a", "resources": {"limits": {"cpu": None}}})
    assert said == (
        'Pod "web" is invalid: spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed'
    )
    said = refused(core, namespace, {"name": "a", "resources": {"limits": None, "requests": {"cpu": None}}})
    assert "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed" in said
    assert "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed" in said


def test_the_qos_class_stays(core: Any, namespace: str) -> None:
    made(core, namespace, resources={})
    said = refused(core, namespace, {"name": "a", "resources": {"requests": {"cpu": "1"}}})
    assert said == (
        'Pod "web" is invalid: spec: Invalid value: "BestEffort": Pod QOS Class may not change as a result of resizing'
    )


def test_containers_are_neither_added_nor_other_resources_given(core: Any, namespace: str) -> None:
    made(core, namespace)
    said = refused(core, namespace, {"name": "new", "image": "i"})
    assert "spec.containers: Forbidden: containers may not be added or removed on resize" in said
    said = refused(core, namespace, {"name": "a", "resources": {"requests": {"ephemeral-storage": "1Gi"}}})
    assert said == 'Pod "web" is invalid: spec: Forbidden: only cpu and memory resources are mutable'


def test_a_quota_is_asked_about_what_a_resize_adds(core: Any, namespace: str) -> None:
    made(core, namespace, containers=[{"name": "a", "image": "i", "resources": SMALL}])
    core.create_namespaced_resource_quota(
        namespace, {"metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": "22m"}}}
    )
    deadline = time.monotonic() + COUNTED_S
    while not ((found := core.read_namespaced_resource_quota("q", namespace).status) and found.used):
        assert time.monotonic() < deadline, "the quota is not counted; until it is, the real server refuses everything"
    with pytest.raises(ApiException) as caught:
        resized(core, namespace, {"spec": {"containers": [{"name": "a", "resources": BIG}]}})
    assert caught.value.status == 403
    assert "exceeded quota: q, requested: requests.cpu=5m" in str(json.loads(caught.value.body)["message"])
