"""What of a cluster's objects counts as running, and in which order they come: pure functions of objects."""

from __future__ import annotations

import pytest

from trimtab.api import JSON
from trimtab.components.infrastructure.remote.order import Item, ManifestFault, named, wave
from trimtab.components.infrastructure.remote.readiness import pod_says, unready

READY = [{"type": "Ready", "status": "True"}]
SETS = "apps/v1"


@pytest.mark.parametrize(
    ("api_version", "kind", "spec", "status", "why"),
    [
        (SETS, "Deployment", {"replicas": 0}, {"observedGeneration": 2}, None),
        (SETS, "Deployment", {}, {"observedGeneration": 2, "updatedReplicas": 1}, "0 of 1 ready"),
        (SETS, "Deployment", {}, {"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 1}, "its newest form was not looked at yet"),
        (SETS, "Deployment", {"replicas": 3}, {"observedGeneration": 2, "updatedReplicas": 1, "availableReplicas": 3}, "1 of 3 are of its newest form"),
        (SETS, "StatefulSet", {"replicas": 2}, {"observedGeneration": 2, "updatedReplicas": 2, "readyReplicas": 2}, None),
        (SETS, "StatefulSet", {"replicas": 2, "updateStrategy": {"type": "OnDelete"}}, {"observedGeneration": 2, "readyReplicas": 1}, "1 of 2 ready"),
        (SETS, "DaemonSet", {}, {"observedGeneration": 2, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 2}, "2 of 3 ready"),
        ("batch/v1", "Job", {}, {}, "running"),
        ("batch/v1", "Job", {}, {"conditions": [{"type": "Complete", "status": "True"}]}, None),
        ("batch/v1", "Job", {}, {"conditions": [{"type": "Failed", "status": "True", "message": "too often"}]}, "failed: too often"),
        ("v1", "Pod", {}, {"phase": "Succeeded"}, None),
        ("v1", "Pod", {}, {"phase": "Running"}, "not ready"),
        ("v1", "Pod", {}, {"phase": "Running", "conditions": READY}, None),
        ("v1", "PersistentVolumeClaim", {}, {"phase": "Pending"}, None),
        ("v1", "PersistentVolumeClaim", {}, {"phase": "Lost"}, "lost its volume"),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition", {}, {}, "not established yet"),
        ("trimtab.dev/v1alpha1", "App", {}, {}, "has said nothing of itself yet"),
        ("trimtab.dev/v1alpha1", "App", {}, {"observedGeneration": 1, "conditions": READY}, "its newest form was not looked at yet"),
        ("trimtab.dev/v1alpha1", "App", {}, {"observedGeneration": 2, "conditions": READY}, None),
        ("x.example/v1", "Thing", {}, {}, None),
        ("x.example/v1", "Thing", {}, {"conditions": [{"type": "Ready", "status": "False", "message": "no disk"}]}, "no disk"),
        ("x.example/v1", "Thing", {}, "a text", None),
        ("v1", "ConfigMap", {}, {}, None),
    ],
)  # fmt: skip
def test_what_counts_as_running(api_version: str, kind: str, spec: JSON, status: JSON, why: str | None) -> None:
    live = {"metadata": {"name": "x", "generation": 2}, "spec": spec, "status": status}

    assert unready(Item(api_version, kind, "shop", "x"), live) == why


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, ""),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}]},
            "ImagePullBackOff: not found",
        ),
        (
            {"initContainerStatuses": [{"name": "migrate", "state": {"terminated": {"exitCode": 3}}}]},
            "container migrate ended with 3",
        ),
        ({"containerStatuses": [{"state": {"terminated": {"exitCode": 0}}}]}, ""),
        (
            {
                "containerStatuses": [
                    {
                        "name": "web",
                        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}},
                        "lastState": {
                            "terminated": {"exitCode": 1, "message": "Traceback\nKeyError: 'DATABASE_URL'\n"}
                        },
                    }
                ]
            },
            "CrashLoopBackOff: container web ended with 1: KeyError: 'DATABASE_URL'",
        ),
        (
            {"containerStatuses": [{"name": "web", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]},
            "container web ended with OOMKilled",
        ),
        (
            {
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}
                ]
            },
            "Unschedulable: no node",
        ),
    ],
)
def test_a_pod_says_what_keeps_it(status: JSON, says: str) -> None:
    assert pod_says({"metadata": {"name": "x"}, "status": status}) == says


def test_namespaces_and_definitions_come_first_and_objects_of_defined_kinds_last() -> None:
    places = ["v1/Namespace", "apiextensions.k8s.io/v1/CustomResourceDefinition", "v1/Secret", "rbac.authorization.k8s.io/v1/Role"]  # fmt: skip
    places += ["apps/v1/Deployment", "batch/v1/Job", "trimtab.dev/v1alpha1/App"]

    waves = [wave(Item(*place.rsplit("/", 1), "", "x")) for place in places]

    assert waves == [0, 1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ({"kind": "ConfigMap", "metadata": {"name": "a"}}, "spec.manifests[1]: it has no apiVersion"),
        ({"apiVersion": "v1", "metadata": {"name": "a"}}, "spec.manifests[1]: it has no kind"),
        ({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ""}}, "spec.manifests[1]: it has no metadata.name"),
        ({"apiVersion": "v1", "kind": "ConfigMap", "metadata": "a"}, "spec.manifests[1]: it has no metadata.name"),
        ("kind: ConfigMap", "spec.manifests[1]: not an object"),
        ({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}, "spec.manifests[1]: ConfigMap a is in the list twice"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_no_object_is_named_by_its_place(manifest: object, says: str) -> None:
    first = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}

    with pytest.raises(ManifestFault) as fault:
        named([first, manifest])
    assert str(fault.value) == says
