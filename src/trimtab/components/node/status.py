"""The status of a pod as the kubelet writes it: phase, conditions, container states with reasons, address. Pure.

Rules of phases and conditions: the Kubernetes documentation on the pod lifecycle. Times of transitions are set by the
runtime when the status is applied; messages are for a person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from trimtab.api import JSON
from trimtab.api.core import (
    Container,
    ContainerStateTerminated,
    ContainerStatus,
    EphemeralContainer,
    Pod,
    ResourceRequirements,
)
from trimtab.components.node import backoff
from trimtab.components.node.decide import (
    EVICTED,
    PORTS_TAKEN,
    Eviction,
    Health,
    Seen,
    has_begun,
    is_sidecar,
    not_yet,
    past_deadline,
    resize_block,
    resizing,
    restarts,
    target_missing,
)
from trimtab.components.node.resize import shown, wanted
from trimtab.components.node.sandboxes import ContainerView

SIGNAL_BASE = 128

REASONS = {
    "ContainerCreating": "The pod's network, volumes or container are being set up.",
    "PodInitializing": "The pod's init containers have not finished yet.",
    "ContainersNotReady": "A container is not running, or its readiness or startup probe does not succeed yet.",
    "ContainersNotInitialized": "An init container has not finished yet, or failed; its logs say why.",
    "ReadinessGatesNotReady": "The containers are ready, but a readiness gate is not True yet: whoever sets it has not agreed.",
    "PodCompleted": "All containers of the pod ended with success.",
    "PodFailed": "A container of the pod ended with an error and the pod's restartPolicy does not start it again.",
    "CrashLoopBackOff": "The container keeps ending soon after its start; it is started again after a growing delay. Its logs say why it ends.",
    "ErrImagePull": "The image could not be fetched; the message says why. It is tried again.",
    "ImagePullBackOff": "The image could not be fetched several times; it is tried again after a growing delay.",
    "ErrImageNeverPull": "The image is not on this node and imagePullPolicy is Never. Build or load it, or change the policy.",
    "InvalidImageName": "The image reference is not valid; the message says where.",
    "SignatureValidationFailed": "A ClusterImagePolicy wants a signature that the image does not have, or that cannot be looked for now; the "
    "message says which. It is tried again, at once when a policy changes.",
    "CreateContainerConfigError": "The container's configuration names something that does not exist or does not fit; the message says what.",
    "CreateContainerError": "The container could not be created; the message is the runtime's.",
    "RunContainerError": "The container was created but its process could not be started, often because the command does not exist in the image.",
    "FailedMount": "A volume could not be set up; the message says which and why.",
    "HostPortConflict": "Another pod or a program of this machine has a hostPort that the pod asks for; the message says who.",
    "NodePorts": "Another pod on the node has a hostPort that this one asks for, so the node refuses it; the message says which.",
    "FailedCreatePodSandBox": "The pod's network or its pause process could not be set up; the message is the runtime's.",
    "ContainerStatusUnknown": "The container was lost, with its sandbox; nothing is known of how it ended.",
    "OOMKilled": "The container used more memory than its limit and was ended by the kernel. Raise resources.limits.memory or use less.",
    "Deferred": "The node has not enough to give the pod what it asks for now; it does once others need less.",
    "Infeasible": "The pod asks for more than the node has at all; it keeps what it has.",
    "Error": "The container's process ended with an error or by a signal.",
    "Completed": "The container's process ended with success.",
    "DeadlineExceeded": "The pod ran longer than its activeDeadlineSeconds.",
    "Evicted": "The node ran short of something, or the pod exceeded a limit of its disk space; the message has the numbers. "
    "Ask for what it needs (resources.requests), raise the limit, or use less.",
    "TerminationByKubelet": "The node ended the pod: it is evicted, and the message says for want of what.",
    "KubeletHasInsufficientMemory": "The node is short of memory; the message has the numbers. Pods that use more than they asked "
    "for are evicted.",
    "KubeletHasSufficientMemory": "There is enough memory.",
    "KubeletHasDiskPressure": "The node is short of disk space or inodes. Unused images and the remains of ended pods are removed, "
    "then pods evicted.",
    "KubeletHasNoDiskPressure": "There is enough disk space.",
    "KubeletHasInsufficientPID": "The node is short of process ids.",
    "KubeletHasSufficientPID": "There are enough process ids.",
    "NodeReady": "The node runs pods.",
    "NodeNotReady": "The node cannot run pods now; the message says what is missing.",
}
"""Every reason that this component writes, with what it means."""


def pod_status(pod: Pod, seen: Seen, now: datetime, *, host_ip: str) -> JSON:
    """The status of `pod` from what is seen of it. Conditions come without times."""
    before = {s.name: s for s in (*pod.status.container_statuses, *pod.status.init_container_statuses)}
    inits_done = _inits_done(pod, seen)
    waiting_reason = "ContainerCreating" if inits_done else "PodInitializing"
    inits = [
        _container_status(pod, c, seen, now, before.get(c.name), "PodInitializing", init=True)
        for c in pod.spec.init_containers
    ]
    mains = [
        _container_status(pod, c, seen, now, before.get(c.name), waiting_reason, init=False)
        for c in pod.spec.containers
    ]
    overdue = past_deadline(pod, now) and pod.status.phase != "Succeeded"
    stopped = not any("running" in status["state"] for status in inits)
    cut_short = (overdue or seen.evicted is not None) and stopped
    phase = _phase(pod, mains, inits, inits_done=inits_done, overdue=cut_short)
    sandbox = seen.sandbox
    ip = (host_ip if pod.spec.host_network else sandbox.ip) if sandbox is not None else pod.status.pod_ip
    if seen.sandboxes and sandbox is None and phase in ("Running", "Pending"):
        ip = ""
    status: JSON = {
        "phase": phase,
        "observedGeneration": pod.metadata.generation,
        "conditions": _conditions(pod, mains, inits, phase, inits_done=inits_done, placed=sandbox is not None),
        "containerStatuses": mains,
        "hostIP": host_ip,
        "startTime": _stamp(pod.status.start_time or now),
        "qosClass": qos_class(pod),
    }
    if inits:
        status["initContainerStatuses"] = inits
    if pod.spec.ephemeral_containers:
        status["ephemeralContainerStatuses"] = [
            _ephemeral_status(pod, c, seen, now) for c in pod.spec.ephemeral_containers
        ]
    if ip:
        status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
    if phase == "Running" and (asking := resizing(pod, seen)):
        status["conditions"].append(_resize(asking, seen))
    block = seen.blocks.get("")
    if phase == "Failed" and (evicted := _evicted(pod, seen)) is not None:
        status |= {"reason": evicted.reason, "message": evicted.message}
        if evicted.reason == EVICTED:
            condition = {"type": "DisruptionTarget", **_condition("True", "TerminationByKubelet", evicted.message)}
            status["conditions"].append(condition)
    elif overdue and phase == "Failed":
        status |= {"reason": "DeadlineExceeded", "message": "the pod ran longer than its activeDeadlineSeconds"}
    elif block is not None and phase == "Pending":
        status |= {"reason": block.reason, "message": block.message}
    return status


def _evicted(pod: Pod, seen: Seen) -> Eviction | None:
    """Why the pod was evicted or refused, as known now or as its status says since; None when it was not."""
    if seen.evicted is not None and pod.status.phase not in ("Succeeded", "Failed"):
        return seen.evicted
    known = pod.status.reason in (EVICTED, PORTS_TAKEN)
    return Eviction(pod.status.message, reason=pod.status.reason) if known else None


def _resize(asking: Sequence[Container], seen: Seen) -> JSON:
    """The condition of a pod whose containers `asking` are to get other resources."""
    if seen.resize_waits is not None:
        said = _condition("True", seen.resize_waits.reason, seen.resize_waits.message)
        return {"type": "PodResizePending", **said}
    failed = next((block for c in asking if (block := seen.blocks.get(resize_block(c.name)))), None)
    said = _condition("True", "Error", failed.message) if failed is not None else _condition("True")
    return {"type": "PodResizeInProgress", **said}


# Containers


def _container_status(
    pod: Pod,
    container: Container,
    seen: Seen,
    now: datetime,
    before: ContainerStatus | None,
    waiting_reason: str,
    *,
    init: bool,
) -> JSON:
    found = seen.containers.get(container.name, ())
    view = found[0] if found else None
    current = seen.current(container.name)
    health = seen.health.get(view.id, Health()) if view is not None else Health()
    if view is None:
        return _unseen(pod, container, seen, before, waiting_reason)
    state, last = _states(pod, container, view, found[1:], seen, now, current is None, waiting_reason, init=init)
    if "running" not in state and "terminated" not in state and not last and before is not None:
        last = _last_of(before)
    running = "running" in state
    status: JSON = {
        "name": container.name,
        "ready": _ready(view, health, running, init=init, sidecar=is_sidecar(container)),
        "started": running and health.started,
        "restartCount": view.attempt,
        "image": container.image,
        "imageID": view.image_ref,
        "containerID": f"containerd://{view.id}",
        "state": state,
    }
    if running:
        status |= shown(seen.granted.get(view.id) or wanted(container))
    if last:
        status["lastState"] = last
    return status


def _ephemeral_status(pod: Pod, container: EphemeralContainer, seen: Seen, now: datetime) -> JSON:
    """Of a container that is started once: what became of it stays, whatever became of the sandbox it was in."""
    before = next((s for s in pod.status.ephemeral_container_statuses if s.name == container.name), None)
    if seen.newest(container.name) is None and before is not None and has_begun(pod, container.name):
        ended = before.state.terminated or ContainerStateTerminated(
            exit_code=SIGNAL_BASE + 9,
            reason="ContainerStatusUnknown",
            message="the container was lost with the pod's sandbox",
            started_at=before.state.running.started_at if before.state.running is not None else None,
            finished_at=now,
            container_id=before.container_id,
        )
        return _left(container, before) | {"state": _kept(ended)}
    status = _container_status(pod, container, seen, now, before, "ContainerCreating", init=False) | {"ready": False}
    if "waiting" in status["state"] and (missing := target_missing(container, seen)):
        status["state"] = _waiting("ContainerCreating", missing)
    return status


def _left(container: Container, before: ContainerStatus) -> JSON:
    return {
        "name": container.name,
        "ready": False,
        "started": False,
        "restartCount": before.restart_count,
        "image": container.image,
        "imageID": before.image_id,
        "containerID": before.container_id,
    }


def _ready(view: ContainerView, health: Health, running: bool, *, init: bool, sidecar: bool) -> bool:
    if init and not sidecar:
        return view.state == "exited" and view.exit_code == 0
    return running and health.started and health.ready


def _states(
    pod: Pod,
    container: Container,
    view: ContainerView,
    older: Sequence[ContainerView],
    seen: Seen,
    now: datetime,
    lost: bool,
    waiting_reason: str,
    *,
    init: bool,
) -> tuple[JSON, JSON]:
    """`state` and `lastState`. lost: its sandbox is gone, so it will be made anew."""
    last = terminated(older[0], seen) if older and older[0].state == "exited" else {}
    if view.state == "running":
        return {"running": {"startedAt": _stamp(view.started_at)}}, last
    if view.state != "exited":
        return _waiting(waiting_reason), last
    ended = terminated(view, seen)
    over = pod.status.phase in ("Succeeded", "Failed") or seen.evicted is not None
    if pod.metadata.deletion_timestamp is not None or over:
        return ended, last
    if not restarts(pod, container, view.exit_code, init=init):
        return ended, last
    block = seen.blocks.get(container.name)
    if block is not None:
        return _waiting(block.reason, block.message), ended
    at = backoff.restart_at(view)
    if at is not None and not_yet(at, now) and not lost:
        where = f"pod {pod.name} in namespace {pod.namespace}"
        text = f"back-off {backoff.earned_s(view)}s restarting failed container {container.name} of {where}"
        return _waiting("CrashLoopBackOff", text), ended
    return ended, last


def _unseen(pod: Pod, container: Container, seen: Seen, before: ContainerStatus | None, waiting_reason: str) -> JSON:
    """A container of which there is nothing on the node (yet, or no more)."""
    status: JSON = {
        "name": container.name,
        "ready": False,
        "started": False,
        "restartCount": 0,
        "image": container.image,
        "imageID": "",
    }
    over = pod.metadata.deletion_timestamp is not None or pod.status.phase in ("Succeeded", "Failed")
    if before is not None and over and before.state.terminated is not None:
        return _left(container, before) | {"ready": before.ready, "state": _kept(before.state.terminated)}
    block = seen.blocks.get(container.name)
    if block is None and waiting_reason == "ContainerCreating":
        block = seen.blocks.get("")
        if block is not None:
            return status | {"state": _waiting(waiting_reason, block.message)}
    state = _waiting(block.reason, block.message) if block is not None else _waiting(waiting_reason)
    return status | {"state": state}


def _waiting(reason: str, message: str = "") -> JSON:
    return {"waiting": {"reason": reason} | ({"message": message} if message else {})}


def terminated(view: ContainerView, seen: Seen | None = None) -> JSON:
    """An ended container as `state.terminated`."""
    reason = view.reason or ("Completed" if view.exit_code == 0 else "Error")
    body: JSON = {
        "exitCode": view.exit_code,
        "reason": reason,
        "startedAt": _stamp(view.started_at),
        "finishedAt": _stamp(view.finished_at),
        "containerID": f"containerd://{view.id}",
    }
    if view.message:
        body["message"] = view.message
    return {"terminated": {key: value for key, value in body.items() if value is not None}}


def ended_how(view: ContainerView) -> str:
    """How a container ended, in a few words: `exit code 3`, `signal 9`, `out of memory`."""
    if view.reason == "OOMKilled":
        return "out of memory"
    if SIGNAL_BASE < view.exit_code <= SIGNAL_BASE + 64:
        return f"signal {view.exit_code - SIGNAL_BASE}"
    return f"exit code {view.exit_code}"


def _last_of(before: ContainerStatus) -> JSON:
    return _kept(before.last_state.terminated) if before.last_state.terminated is not None else {}


def _kept(ended: ContainerStateTerminated) -> JSON:
    """How a container ended, as the API has it already."""
    body = {
        "exitCode": ended.exit_code,
        "reason": ended.reason,
        "message": ended.message or None,
        "startedAt": _stamp(ended.started_at),
        "finishedAt": _stamp(ended.finished_at),
        "containerID": ended.container_id,
    }
    return {"terminated": {key: value for key, value in body.items() if value is not None}}


# The pod as a whole


def _inits_done(pod: Pod, seen: Seen) -> bool:
    if any(seen.newest(c.name) is not None for c in pod.spec.containers):
        return True
    for container in pod.spec.init_containers:
        view = seen.newest(container.name)
        if view is None:
            return False
        if is_sidecar(container):
            if view.state != "running" or not seen.health.get(view.id, Health()).started:
                return False
        elif view.state != "exited" or view.exit_code != 0:
            return False
    return True


def _phase(pod: Pod, mains: list[JSON], inits: list[JSON], *, inits_done: bool, overdue: bool) -> str:
    if pod.status.phase in ("Succeeded", "Failed"):
        return pod.status.phase
    states = [status["state"] for status in mains]
    if overdue and not any("running" in state for state in states):
        return "Failed"
    if not inits_done:
        failed = any(
            "terminated" in status["state"] and status["state"]["terminated"]["exitCode"] != 0 for status in inits
        )
        return "Failed" if failed and pod.spec.restart_policy == "Never" else "Pending"
    if any("waiting" in s["state"] and "lastState" not in s for s in mains):
        return "Pending"
    if all("terminated" in state for state in states) and states:
        policy = pod.spec.restart_policy or "Always"
        codes = [state["terminated"]["exitCode"] for state in states]
        if pod.metadata.deletion_timestamp is not None or policy == "Never":
            return "Succeeded" if not any(codes) else "Failed"
        if policy == "OnFailure" and not any(codes):
            return "Succeeded"
    return "Running"


def _initialized(status: JSON) -> bool:
    """Whether an init container has done its part: it succeeded or, as a sidecar, started."""
    ended = status["state"].get("terminated")
    return bool(status.get("started")) if ended is None else ended.get("exitCode") == 0


def _conditions(
    pod: Pod, mains: list[JSON], inits: list[JSON], phase: str, *, inits_done: bool, placed: bool
) -> list[JSON]:
    """The node's own conditions. PodScheduled is the scheduler's, the gates' conditions are others'. placed: the pod has a
    sandbox with a network."""
    unready = [status["name"] for status in mains if not status["ready"]]
    if phase in ("Succeeded", "Failed"):
        why = ("PodCompleted", "") if phase == "Succeeded" else ("PodFailed", "")
        containers = ready = _condition("False", *why)
    else:
        message = f"containers with unready status: [{' '.join(unready)}]"
        containers = _condition("False", "ContainersNotReady", message) if unready else _condition("True")
        ready = containers if unready else _gates(pod)
    initialized = _condition("True")
    if not inits_done:
        names = " ".join(status["name"] for status in inits if not _initialized(status))
        initialized = _condition("False", "ContainersNotInitialized", f"containers with incomplete status: [{names}]")
    elif phase == "Succeeded":
        initialized = _condition("True", "PodCompleted")
    # An ended pod's sandbox is on its way out.
    ready_to_start = _condition(str(placed and phase not in ("Succeeded", "Failed")))
    return [
        {"type": "PodReadyToStartContainers", **ready_to_start},
        {"type": "Initialized", **initialized},
        {"type": "Ready", **ready},
        {"type": "ContainersReady", **containers},
    ]


def _gates(pod: Pod) -> JSON:
    states = {c.type: c.status for c in pod.status.conditions}
    missing = [g.condition_type for g in pod.spec.readiness_gates if states.get(g.condition_type) != "True"]
    if not missing:
        return _condition("True")
    return _condition("False", "ReadinessGatesNotReady", f"waiting for the readiness gate {', '.join(missing)}")


def _condition(status: str, reason: str = "", message: str = "") -> JSON:
    body: JSON = {"status": status}
    if reason:
        body["reason"] = reason
    if message:
        body["message"] = message
    return body


def qos_class(pod: Pod) -> str:
    """Guaranteed, Burstable or BestEffort, from requests and limits of cpu and memory."""
    wanted: list[Mapping[str, Any]] = []
    guaranteed = True
    for container in (*pod.spec.containers, *pod.spec.init_containers):
        resources = container.resources or ResourceRequirements()
        limits = {k: str(v) for k, v in resources.limits.items() if k in ("cpu", "memory")}
        requests = {k: str(v) for k, v in resources.requests.items() if k in ("cpu", "memory")}
        wanted += [limits, requests]
        guaranteed &= set(limits) == {"cpu", "memory"} and (limits | requests) == limits
    if not any(wanted):
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _stamp(at: datetime | None) -> str | None:
    """RFC 3339 in whole seconds, as Kubernetes writes times of pods."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at is not None else None
