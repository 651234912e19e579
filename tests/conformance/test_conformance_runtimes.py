"""What a RuntimeClass gives the pods that name it, on either server."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import kubernetes
import pytest


@pytest.fixture
def runtime(client: Any) -> Iterator[str]:
    """A RuntimeClass with overhead, a node selector and a toleration."""
    name = f"runtime-{secrets.token_hex(3)}"
    api = kubernetes.client.NodeV1Api(client)
    api.create_runtime_class(
        {
            "metadata": {"name": name},
            "handler": "runc",
            "overhead": {"podFixed": {"cpu": "10m", "memory": "1Mi"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "t", "operator": "Exists"}]},
        }
    )
    yield name
    api.delete_runtime_class(name)


def pod(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x"}], **spec}}


def refused(client: Any, namespace: str, body: dict[str, Any]) -> str:
    with pytest.raises(kubernetes.client.ApiException) as caught:
        kubernetes.client.CoreV1Api(client).create_namespaced_pod(namespace, body)
    assert caught.value.status == 403
    return str(caught.value.body)


def test_a_pod_gets_what_its_runtime_takes_and_where_it_is(client: Any, namespace: str, runtime: str) -> None:
    core = kubernetes.client.CoreV1Api(client)
    mine = [{"key": "mine", "operator": "Exists"}, {"key": "t", "operator": "Exists"}]
    body = pod("one", runtimeClassName=runtime, nodeSelector={"c": "d"}, tolerations=mine)
    spec = core.create_namespaced_pod(namespace, body).spec
    assert spec.overhead == {"cpu": "10m", "memory": "1Mi"}
    assert spec.node_selector == {"a": "b", "c": "d"}
    assert [t.key for t in spec.tolerations].count("t") == 1
    same = pod("two", runtimeClassName=runtime, overhead={"cpu": "0.01", "memory": "1024Ki"})
    assert core.create_namespaced_pod(namespace, same).spec.overhead == {"cpu": "10m", "memory": "1Mi"}


def test_a_pod_that_says_otherwise_is_refused(client: Any, namespace: str, runtime: str) -> None:
    other = pod("other", runtimeClassName=runtime, overhead={"cpu": "20m"})
    assert "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead" in refused(
        client, namespace, other
    )
    elsewhere = pod("elsewhere", runtimeClassName=runtime, nodeSelector={"a": "c"})
    assert "conflict: runtimeClass.scheduling.nodeSelector[a] = b; pod.spec.nodeSelector[a] = c" in refused(
        client, namespace, elsewhere
    )
    alone = pod("alone", overhead={"cpu": "20m"})
    assert "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead" in refused(
        client, namespace, alone
    )
    missing = refused(client, namespace, pod("missing", runtimeClassName="none"))
    assert 'pods \\"missing\\" is forbidden: pod rejected: RuntimeClass \\"none\\" not found' in missing
