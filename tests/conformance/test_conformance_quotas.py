"""LimitRange and ResourceQuota: defaults, bounds and what is counted, in the words of the real API server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import kubernetes
import pytest
from kubernetes.client.rest import ApiException

COUNTED_S = 60.0


@pytest.fixture
def core(client: Any) -> Any:
    return kubernetes.client.CoreV1Api(client)


def pod(name: str = "p", *resources: dict[str, Any], **spec: Any) -> dict[str, Any]:
    containers = [
        {"name": f"c{i}", "image": "registry.invalid/i:1", "resources": asked}
        for i, asked in enumerate(resources or ({},))
    ]
    body = {"containers": containers, "automountServiceAccountToken": False, **spec}
    return {"metadata": {"name": name}, "spec": body}


def said(action: Callable[[], Any], code: int = 403) -> str:
    with pytest.raises(ApiException) as caught:
        action()
    assert caught.value.status == code, caught.value.body
    return str(json.loads(caught.value.body)["message"])


def limit(core: Any, namespace: str, **item: Any) -> Any:
    body = {"metadata": {"name": "limits"}, "spec": {"limits": [{"type": "Container", **item}]}}
    return core.create_namespaced_limit_range(namespace, body)


def quota(core: Any, namespace: str, hard: dict[str, str], **spec: Any) -> None:
    """Makes a quota and waits until it counts: the real server refuses everything before."""
    core.create_namespaced_resource_quota(namespace, {"metadata": {"name": "q"}, "spec": {"hard": hard, **spec}})
    counts(core, namespace, {})


def counts(core: Any, namespace: str, used: dict[str, str]) -> None:
    deadline = time.monotonic() + COUNTED_S
    while True:
        status = core.read_namespaced_resource_quota("q", namespace).status
        found = (status and status.used) or {}
        if status and status.hard and used.items() <= found.items():
            return
        assert time.monotonic() < deadline, f"wanted {used}, counted {found}"


# LimitRange


def test_a_limit_range_completes_itself_and_gives_defaults(core: Any, namespace: str) -> None:
    made = limit(core, namespace, max={"cpu": "2", "memory": "1Gi"}, min={"cpu": "100m"}, default={"memory": "512Mi"})
    [item] = made.spec.limits
    assert item.default == {"cpu": "2", "memory": "512Mi"}
    assert item.default_request == {"cpu": "2", "memory": "512Mi"}

    got = core.create_namespaced_pod(namespace, pod("p", {}, {"limits": {"cpu": "1"}}, {"requests": {"memory": "1Mi"}}))

    [first, second, third] = [container.resources for container in got.spec.containers]
    assert (first.requests, first.limits) == (item.default_request, item.default)
    assert (second.requests, second.limits) == ({"cpu": "1", "memory": "512Mi"}, {"cpu": "1", "memory": "512Mi"})
    assert third.requests == {"cpu": "2", "memory": "1Mi"}
    assert got.metadata.annotations["kubernetes.io/limit-ranger"] == (
        "LimitRanger plugin set: cpu, memory request for container c0; cpu, memory limit for container c0; "
        "memory request for container c1; memory limit for container c1; "
        "cpu request for container c2; cpu, memory limit for container c2"
    )
    assert got.status.qos_class == "Burstable"


@pytest.mark.parametrize(
    ("item", "resources", "told"),
    [
        (
            {"min": {"cpu": "100m"}},
            {"requests": {"cpu": "50m"}, "limits": {"cpu": "200m"}},
            "minimum cpu usage per Container is 100m, but request is 50m",
        ),
        (
            {"max": {"memory": "1Gi"}},
            {"limits": {"memory": "2Gi"}},
            "maximum memory usage per Container is 1Gi, but limit is 2Gi",
        ),
        (
            {"maxLimitRequestRatio": {"cpu": "2"}},
            {"requests": {"cpu": "1"}, "limits": {"cpu": "4"}},
            "cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000",
        ),
        (
            {"type": "Pod", "max": {"memory": "1Gi"}},
            {},
            "maximum memory usage per Pod is 1Gi.  No limit is specified",
        ),
        (
            {"type": "Pod", "max": {"cpu": "1"}},
            {"requests": {"cpu": "2"}, "limits": {"cpu": "2"}},
            "maximum cpu usage per Pod is 1, but limit is 2",
        ),
    ],
)
def test_what_is_out_of_bounds_is_refused(
    core: Any, namespace: str, item: dict[str, Any], resources: dict[str, Any], told: str
) -> None:
    limit(core, namespace, **item)

    assert said(lambda: core.create_namespaced_pod(namespace, pod("p", resources))) == f'pods "p" is forbidden: {told}'


def test_several_bounds_are_told_together(core: Any, namespace: str) -> None:
    limit(core, namespace, max={"memory": "1Gi"})

    asks = ({"limits": {"memory": size}} for size in ("2Gi", "3Gi", "2Gi"))
    message = said(lambda: core.create_namespaced_pod(namespace, pod("p", *asks)))

    one = "maximum memory usage per Container is 1Gi, but limit is"
    assert message == f'pods "p" is forbidden: [{one} 2Gi, {one} 3Gi]'


def test_claims_have_bounds_too(core: Any, namespace: str) -> None:
    limit(core, namespace, type="PersistentVolumeClaim", min={"storage": "1Gi"}, max={"storage": "2Gi"})

    def claim(size: str) -> Any:
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
        return core.create_namespaced_persistent_volume_claim(namespace, {"metadata": {"name": "c"}, "spec": spec})

    refused = 'persistentvolumeclaims "c" is forbidden: '
    assert said(lambda: claim("1Mi")) == (
        f"{refused}minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"
    )
    assert said(lambda: claim("3Gi")) == (
        f"{refused}maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"
    )
    claim("2Gi")


def test_bounds_that_contradict_each_other_are_refused(core: Any, namespace: str) -> None:
    message = said(lambda: limit(core, namespace, min={"cpu": "2"}, max={"cpu": "1"}), 422)

    assert "min value 2 is greater than max value 1" in message


# ResourceQuota


def test_pods_are_counted_and_one_too_many_is_refused(core: Any, namespace: str) -> None:
    quota(core, namespace, {"pods": "2", "requests.cpu": "1", "limits.memory": "1Gi"})
    asks = {"requests": {"cpu": "400m"}, "limits": {"memory": "256Mi", "cpu": "1"}}
    for name in ("a", "b"):
        core.create_namespaced_pod(namespace, pod(name, asks))
    counts(core, namespace, {"pods": "2", "requests.cpu": "800m", "limits.memory": "512Mi"})

    assert said(lambda: core.create_namespaced_pod(namespace, pod("c", asks))) == (
        'pods "c" is forbidden: exceeded quota: q, requested: pods=1,requests.cpu=400m, used: pods=2,requests.cpu=800m, '
        "limited: pods=2,requests.cpu=1"
    )

    core.delete_namespaced_pod("a", namespace, grace_period_seconds=0)
    counts(core, namespace, {"pods": "1", "requests.cpu": "400m"})
    core.create_namespaced_pod(namespace, pod("c", asks))


def test_what_is_limited_must_be_said(core: Any, namespace: str) -> None:
    quota(core, namespace, {"requests.cpu": "1", "memory": "1Gi", "limits.cpu": "2"})

    message = said(lambda: core.create_namespaced_pod(namespace, pod("p", {}, {"requests": {"memory": "1Mi"}})))

    assert message == (
        'pods "p" is forbidden: failed quota: q: must specify limits.cpu for: c0,c1; memory for: c0; requests.cpu for: c0,c1'
    )


def test_objects_services_and_storage_are_counted(core: Any, namespace: str) -> None:
    hard = {"configmaps": "2", "count/secrets": "1", "services.nodeports": "1", "requests.storage": "3Gi"}
    quota(core, namespace, hard)
    core.create_namespaced_secret(namespace, {"metadata": {"name": "one"}})
    counts(core, namespace, {"count/secrets": "1"})

    refused = said(lambda: core.create_namespaced_secret(namespace, {"metadata": {"name": "two"}}))
    assert refused == (
        'secrets "two" is forbidden: exceeded quota: q, requested: count/secrets=1, used: count/secrets=1, '
        "limited: count/secrets=1"
    )
    ports = [{"name": "a", "port": 1}, {"name": "b", "port": 2}]
    service = {"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": ports}}
    assert "requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1" in said(
        lambda: core.create_namespaced_service(namespace, service)
    )
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "4Gi"}}}
    claim = {"metadata": {"name": "c"}, "spec": spec}
    assert "requested: requests.storage=4Gi, used: requests.storage=0, limited: requests.storage=3Gi" in said(
        lambda: core.create_namespaced_persistent_volume_claim(namespace, claim)
    )


def test_a_scope_counts_some_pods_only(core: Any, namespace: str) -> None:
    quota(core, namespace, {"pods": "1"}, scopes=["BestEffort"])
    core.create_namespaced_pod(namespace, pod("a"))
    counts(core, namespace, {"pods": "1"})
    assert "exceeded quota: q" in said(lambda: core.create_namespaced_pod(namespace, pod("b")))

    core.create_namespaced_pod(namespace, pod("c", {"requests": {"cpu": "1m"}}))
