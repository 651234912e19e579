"""Pod Security levels: what a labelled namespace refuses and warns of, in the words of the real API server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import kubernetes
import pytest
from kubernetes.client.rest import ApiException

LABEL = "pod-security.kubernetes.io/"
DECENT = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}

BEYOND_BASELINE: dict[str, dict[str, Any]] = {
    "privileged": {"containers": [{"securityContext": {"privileged": True}}]},
    "two-privileged": {
        "containers": [{"securityContext": {"privileged": True}}, {"securityContext": {"privileged": True}}]
    },
    "host-namespaces": {"hostNetwork": True, "hostPID": True, "hostIPC": True},
    "host-path": {
        "volumes": [{"name": "v", "hostPath": {"path": "/etc"}}, {"name": "w", "hostPath": {"path": "/var"}}]
    },
    "host-port": {"containers": [{"ports": [{"containerPort": 80, "hostPort": 80}]}]},
    "host-ports": {
        "containers": [{"ports": [{"containerPort": 81, "hostPort": 81}, {"containerPort": 80, "hostPort": 80}]}]
    },
    "capabilities": {"containers": [{"securityContext": {"capabilities": {"add": ["NET_ADMIN", "CHOWN", "BPF"]}}}]},
    "seccomp-of-pod": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}},
    "seccomp-of-container": {"containers": [{"securityContext": {"seccompProfile": {"type": "Unconfined"}}}]},
    "several": {"hostPID": True, "containers": [{"securityContext": {"privileged": True}}]},
}
BEYOND_RESTRICTED: dict[str, dict[str, Any]] = {
    "nothing-said": {"containers": [{"securityContext": None}]},
    "of-two-one": {"containers": [{"securityContext": DECENT}, {"securityContext": None}]},
    "root": {"containers": [{"securityContext": DECENT | {"runAsUser": 0}}]},
    "root-allowed": {"containers": [{"securityContext": DECENT | {"runAsNonRoot": False}}]},
    "capability": {
        "containers": [
            {"securityContext": DECENT | {"capabilities": {"drop": ["ALL"], "add": ["CHOWN", "NET_BIND_SERVICE"]}}}
        ]
    },
    "volume": {"containers": [{"securityContext": DECENT}], "volumes": [{"name": "v", "hostPath": {"path": "/etc"}}]},
    "pod-false": {
        "securityContext": {"runAsNonRoot": False},
        "containers": [{"securityContext": {**DECENT, "runAsNonRoot": None}}],
    },
}
CASES = [
    ("baseline", "privileged", 'privileged (container "c0" must not set securityContext.privileged=true)'),
    ("baseline", "two-privileged", 'privileged (containers "c0", "c1" must not set securityContext.privileged=true)'),
    ("baseline", "host-namespaces", "host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)"),
    ("baseline", "host-path", 'hostPath volumes (volumes "v", "w")'),
    ("baseline", "host-port", 'hostPort (container "c0" uses hostPort 80)'),
    ("baseline", "host-ports", 'hostPort (container "c0" uses hostPorts 80, 81)'),
    (
        "baseline",
        "capabilities",
        'non-default capabilities (container "c0" must not include "BPF", "NET_ADMIN" in securityContext.capabilities.add)',
    ),
    (
        "baseline",
        "seccomp-of-pod",
        'seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")',
    ),
    (
        "baseline",
        "seccomp-of-container",
        'seccompProfile (container "c0" must not set securityContext.seccompProfile.type to "Unconfined")',
    ),
    (
        "baseline",
        "several",
        'host namespaces (hostPID=true), privileged (container "c0" must not set securityContext.privileged=true)',
    ),
    ("baseline", "nothing-said", ""),
    ("baseline", "of-two-one", ""),
    ("baseline", "root", ""),
    ("baseline", "root-allowed", ""),
    ("baseline", "capability", ""),
    ("baseline", "volume", 'hostPath volumes (volume "v")'),
    ("baseline", "pod-false", ""),
    (
        "restricted",
        "host-path",
        'allowPrivilegeEscalation != false (container "c0" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "c0" must set securityContext.capabilities.drop=["ALL"]), restricted volume types (volumes "v", "w" use restricted volume type "hostPath"), runAsNonRoot != true (pod or container "c0" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "c0" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")',
    ),
    (
        "restricted",
        "seccomp-of-pod",
        'allowPrivilegeEscalation != false (container "c0" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "c0" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "c0" must set securityContext.runAsNonRoot=true), seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")',
    ),
    (
        "restricted",
        "several",
        'host namespaces (hostPID=true), privileged (container "c0" must not set securityContext.privileged=true), allowPrivilegeEscalation != false (container "c0" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "c0" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "c0" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "c0" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")',
    ),
    (
        "restricted",
        "nothing-said",
        'allowPrivilegeEscalation != false (container "c0" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "c0" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "c0" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "c0" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")',
    ),
    (
        "restricted",
        "of-two-one",
        'allowPrivilegeEscalation != false (container "c1" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "c1" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "c1" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "c1" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")',
    ),
    ("restricted", "root", 'runAsUser=0 (container "c0" must not set runAsUser=0)'),
    (
        "restricted",
        "root-allowed",
        'runAsNonRoot != true (container "c0" must not set securityContext.runAsNonRoot=false)',
    ),
    (
        "restricted",
        "capability",
        'unrestricted capabilities (container "c0" must not include "CHOWN" in securityContext.capabilities.add)',
    ),
    ("restricted", "volume", 'restricted volume types (volume "v" uses restricted volume type "hostPath")'),
    ("restricted", "pod-false", "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)"),
]


def pod_spec(changes: dict[str, Any]) -> dict[str, Any]:
    containers = changes.get("containers", [{}])
    made = [{"name": f"c{i}", "image": "registry.invalid/i:1", **container} for i, container in enumerate(containers)]
    return {"automountServiceAccountToken": False, **changes, "containers": made}


def label(client: Any, namespace: str, **labels: str) -> None:
    body = {"metadata": {"labels": {f"{LABEL}{mode}": level for mode, level in labels.items()}}}
    kubernetes.client.CoreV1Api(client).patch_namespace(namespace, body)


def refused(client: Any, namespace: str, changes: dict[str, Any]) -> str:
    """What the server says to a pod that it refuses; "" where it takes it."""
    pod = {"metadata": {"name": "p"}, "spec": pod_spec(changes)}
    try:
        kubernetes.client.CoreV1Api(client).create_namespaced_pod(namespace, pod, dry_run="All")
    except ApiException as err:
        if err.status != 403:
            raise
        return str(json.loads(err.body)["message"])
    return ""


@pytest.mark.parametrize(("level", "name", "told"), CASES, ids=[f"{level}-{name}" for level, name, _ in CASES])
def test_what_a_labelled_namespace_refuses(client: Any, namespace: str, level: str, name: str, told: str) -> None:
    label(client, namespace, enforce=level)

    said = refused(client, namespace, {**BEYOND_BASELINE, **BEYOND_RESTRICTED}[name])

    assert said == (f'pods "p" is forbidden: violates PodSecurity "{level}:latest": {told}' if told else "")


def test_a_decent_pod_is_let_in_anywhere_and_a_wild_one_where_nothing_is_enforced(client: Any, namespace: str) -> None:
    decent = {"containers": [{"securityContext": DECENT}]}
    assert refused(client, namespace, BEYOND_BASELINE["several"]) == ""
    label(client, namespace, enforce="restricted")

    assert refused(client, namespace, decent) == ""


def test_a_label_that_says_nothing_is_refused(client: Any, namespace: str) -> None:
    with pytest.raises(ApiException) as caught:
        label(client, namespace, enforce="strict")

    assert caught.value.status == 422
    message = json.loads(caught.value.body)["message"]
    assert f'metadata.labels[{LABEL}enforce]: Invalid value: "strict": must be one of' in message


def test_warnings_of_pods_workloads_and_stricter_labels(
    kubectl: Callable[..., str], client: Any, namespace: str
) -> None:
    kubectl("create", "-f", "-", stdin=json.dumps(manifest("v1", "Pod", pod_spec({"hostPID": True}))))
    label(client, namespace, warn="baseline")
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod_spec({"hostPID": True})}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template, "replicas": 0}

    said = kubectl("create", "-f", "-", stdin=json.dumps(manifest("apps/v1", "Deployment", spec)), errors=True)
    assert 'Warning: would violate PodSecurity "baseline:latest": host namespaces (hostPID=true)' in said

    said = kubectl("label", "namespace", namespace, f"{LABEL}enforce=baseline", errors=True)
    assert (
        f'Warning: existing pods in namespace "{namespace}" violate the new PodSecurity enforce level "baseline:latest"'
        in said
    )
    assert "Warning: p: host namespaces" in said


def manifest(api_version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "p"}, "spec": spec}
