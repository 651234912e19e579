"""What a write of the status may change besides the status, on either server."""

from __future__ import annotations

from typing import Any

import kubernetes

NOTED = {"metadata": {"annotations": {"noted": "yes"}, "labels": {"seen": "yes"}}}


def test_a_status_patch_may_carry_annotations_and_labels(client: Any, namespace: str) -> None:
    core = kubernetes.client.CoreV1Api(client)
    before = core.read_namespace(namespace)
    after = core.patch_namespace_status(
        namespace, {**NOTED, "status": {"conditions": [{"type": "Seen", "status": "True"}]}}
    )
    assert after.metadata.annotations["noted"] == "yes"
    assert after.metadata.labels == {**(before.metadata.labels or {}), "seen": "yes"}
    assert [c.type for c in after.status.conditions] == ["Seen"]
    assert core.read_namespace(namespace).metadata.annotations["noted"] == "yes"


def test_a_status_patch_of_a_deployment_leaves_its_labels(client: Any, namespace: str) -> None:
    apps = kubernetes.client.AppsV1Api(client)
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "registry.invalid/i:1"}]},
    }
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    apps.create_namespaced_deployment(namespace, {"metadata": {"name": "web"}, "spec": spec})
    after = apps.patch_namespaced_deployment_status("web", namespace, {**NOTED, "spec": {"replicas": 4}})
    assert (after.metadata.annotations or {}).get("noted") == "yes"
    assert after.metadata.labels is None
    assert (after.spec.replicas, after.metadata.generation) == (0, 1)
