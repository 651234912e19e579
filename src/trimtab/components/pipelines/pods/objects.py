"""What the API is given of a step: a Job of one pod, a Secret, and a NetworkPolicy, which belong to the Job and go with it.

Job  ttlSecondsAfterFinished     whoever made it is gone: its pod ends with the connection, the Job with the pod
     activeDeadlineSeconds       the connection never came, or nobody noticed its end
pod  containers: step            waits for orders (see `script`)
     initContainers: services    sidecars: they start first and end last, in the same network, so a name is an address of loopback
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.ci.runs.ports import EngineFault, Job
from trimtab.ci.sandbox.services import addresses
from trimtab.components.pipelines.pods.image import StepImage
from trimtab.components.pipelines.pods.script import AGENT, HOME, PEER, SERVICE, TOOL

JSON = dict[str, Any]

EXECUTION = "ci.trimtab.dev/execution"
PEER_OF = "ci.trimtab.dev/peer-of"
STEP = "step"
START_S = 900
"""How long a pod may take besides its step's own time: a node is found, images are pulled."""
FINISHED_S = 5
GRACE_S = 1
PEER_S = 900
SHM_BYTES = "1Gi"
READY = f"{HOME}/ready"
ANNOTATION_MAX = 200
_SECURITY: JSON = {"runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": False, "allowPrivilegeEscalation": False}


@dataclass(frozen=True)
class Part:
    """One container: its name in the pod, the job it does, the image it has, by reference and by content."""

    container: str
    job: Job
    reference: str
    image: StepImage

    @property
    def secrets(self) -> dict[str, str]:
        """By variable the key in the Secret, which is also the variable of the container."""
        prefix = self.container.upper().replace("-", "_")
        return {name: f"TRIMTAB_{prefix}_{number}" for number, name in enumerate(sorted(self.job.secrets))}


def parts_of(job: Job) -> dict[str, str]:
    """By the container's name whose it is: "" the step's own, else that of a service."""
    return {STEP: "", **{f"service-{number}": name for number, name in enumerate(job.services)}}


def the_job(
    name: str, namespace: str, parts: Mapping[str, Part], services: Mapping[str, str], timeout_s: float
) -> JSON:
    """services: by container the name of the service."""
    step = parts[STEP]
    labels = {EXECUTION: name, "app.kubernetes.io/managed-by": "trimtab-ci"}
    where = addresses(list(services.values()))
    deadline_s = int(timeout_s) + START_S
    pod: JSON = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": deadline_s,
        "terminationGracePeriodSeconds": GRACE_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "hostname": "step",
        "nodeSelector": _nodes(step),
        "hostAliases": [{"ip": ip, "hostnames": [service]} for service, ip in where.items()],
        "initContainers": [_service(parts[one], name) for one in services],
        "containers": [_step(step, name)],
        "volumes": [{"name": f"shm-{one}", "emptyDir": {"medium": "Memory", "sizeLimit": SHM_BYTES}} for one in parts],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels,
            "annotations": {"ci.trimtab.dev/step": step.job.step[:ANNOTATION_MAX]},
        },
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": FINISHED_S,
            "activeDeadlineSeconds": deadline_s,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def the_peer(name: str, namespace: str, owner: JSON, step: Part) -> JSON:
    """A Job of a pod beside the step's, in the open: what the step reaches of it says whether its policy is enforced."""
    labels = {PEER_OF: name, "app.kubernetes.io/managed-by": "trimtab-ci"}
    pod: JSON = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": PEER_S,
        "terminationGracePeriodSeconds": GRACE_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "nodeSelector": _nodes(step),
        "containers": [
            {
                "name": STEP,
                "image": step.reference,
                "command": [TOOL, "sh", "-c", PEER],
                "args": [],
                "workingDir": "/",
                "securityContext": _SECURITY,
            }
        ],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{name}-peer", "namespace": namespace, "labels": labels, "ownerReferences": [owner]},
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": 0,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _nodes(part: Part) -> JSON:
    platform = part.image.platform
    return {"kubernetes.io/os": platform.os, "kubernetes.io/arch": platform.architecture}


def the_secret(name: str, namespace: str, owner: JSON, parts: Mapping[str, Part]) -> JSON | None:
    """The values of all secrets of a step and its services; None where there are none."""
    data = {
        key: base64.b64encode(part.job.secrets[variable].encode()).decode()
        for part in parts.values()
        for variable, key in part.secrets.items()
    }
    if not data:
        return None
    meta = {"name": name, "namespace": namespace, "labels": {EXECUTION: name}, "ownerReferences": [owner]}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "immutable": True, "data": data}


def the_policy(name: str, namespace: str, owner: JSON) -> JSON:
    """Nothing in, nothing out."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace, "labels": {EXECUTION: name}, "ownerReferences": [owner]},
        "spec": {"podSelector": {"matchLabels": {EXECUTION: name}}, "policyTypes": ["Ingress", "Egress"]},
    }


def owner_of(job: JSON) -> JSON:
    meta = job["metadata"]
    return {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}


def _step(part: Part, secret: str) -> JSON:
    requests = {"cpu": f"{max(1, round(part.job.cpus * 1000))}m"}
    resources: JSON = {"requests": requests}
    if part.job.memory_bytes:
        resources = {
            "requests": {**requests, "memory": str(part.job.memory_bytes)},
            "limits": {"memory": str(part.job.memory_bytes)},
        }
    return {
        **_container(part, secret, [TOOL, "sh", "-c", AGENT]),
        "stdin": True,
        "stdinOnce": True,
        "resources": resources,
    }


def _service(part: Part, secret: str) -> JSON:
    return {**_container(part, secret, [TOOL, "sh", "-c", SERVICE]), "restartPolicy": "Always", **_probe(part)}


def _probe(part: Part) -> JSON:
    ready = part.job.action.get("ready", "")
    if not ready:
        return {}
    port = re.fullmatch(r":(\d{1,5})", ready)
    how: JSON = {"tcpSocket": {"port": int(port[1])}} if port else {"exec": {"command": [TOOL, "sh", READY]}}
    return {"readinessProbe": {**how, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 1}}


def probe_words(name: str, job: Job) -> list[str]:
    """The command that says whether a service is ready; none for a port. Raises `EngineFault`."""
    ready = job.action.get("ready", "")
    if not ready or re.fullmatch(r":(\d{1,5})", ready):
        return []
    try:
        return shlex.split(ready)
    except ValueError as err:
        raise EngineFault(f"service {name}: ready={ready!r} is no command: {err}") from None


def _container(part: Part, secret: str, command: list[str]) -> JSON:
    return {
        "name": part.container,
        "image": part.reference,
        "imagePullPolicy": "IfNotPresent",
        # Kubernetes puts variables of its own in place of $(NAME); a dollar of ours is two of its.
        "command": [word.replace("$", "$$") for word in command],
        "args": [],
        "workingDir": "/",
        "env": [
            {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}} for key in part.secrets.values()
        ],
        "securityContext": _SECURITY,
        "volumeMounts": [{"name": f"shm-{part.container}", "mountPath": "/dev/shm"}],
    }
