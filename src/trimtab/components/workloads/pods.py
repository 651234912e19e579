"""What one pod's own status says: whether it counts, is ready, has been ready long enough, and if not, why.

Pure functions of a `Pod`. All the reconcilers here judge pods by these, so that they never disagree.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from trimtab.api import Condition
from trimtab.api.core import Container, ContainerStatus, Pod

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


def condition(pod: Pod, type_: str) -> Condition | None:
    """The pod's condition of that type, or None."""
    return next((c for c in pod.status.conditions if c.type == type_), None)


def holds(pod: Pod, type_: str) -> bool:
    """True when the condition is there and True."""
    found = condition(pod, type_)
    return found is not None and found.status == "True"


def deleting(pod: Pod) -> bool:
    return pod.metadata.deletion_timestamp is not None


def finished(pod: Pod) -> bool:
    """True when no container of the pod will run again."""
    return pod.status.phase in ("Succeeded", "Failed")


def active(pod: Pod) -> bool:
    """True when the pod counts towards its owner's replicas."""
    return not finished(pod) and not deleting(pod)


def ready(pod: Pod) -> bool:
    return holds(pod, "Ready")


def available_in_s(pod: Pod, min_ready_s: int, now: datetime) -> float | None:
    """Seconds until the pod has been ready for `min_ready_s`: 0 when it has, None when it is not ready at all."""
    found = condition(pod, "Ready")
    if found is None or found.status != "True":
        return None
    if min_ready_s <= 0:
        return 0.0
    since = found.last_transition_time
    if since is None:
        return float(min_ready_s)
    return max(0.0, min_ready_s - (now - since).total_seconds())


def available(pod: Pod, min_ready_s: int, now: datetime) -> bool:
    """True when the pod has been ready for `min_ready_s` without a break."""
    return available_in_s(pod, min_ready_s, now) == 0.0


def restarts(pod: Pod) -> int:
    return sum(status.restart_count for status in (*pod.status.init_container_statuses, *pod.status.container_statuses))


def ended_at(pod: Pod) -> datetime:
    """When the pod finished: when its last container ended, else when it was last heard of."""
    statuses = (*pod.status.init_container_statuses, *pod.status.container_statuses)
    ends = [s.state.terminated.finished_at for s in statuses if s.state.terminated and s.state.terminated.finished_at]
    if ends:
        return max(ends)
    changes = [c.last_transition_time for c in pod.status.conditions if c.last_transition_time]
    return max(changes, default=pod.metadata.creation_timestamp or _LONG_AGO)


_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def deletion_order(pods: Iterable[Pod]) -> list[Pod]:
    """The pods, those to delete first in front: whoever serves least goes first.

    The order of Kubernetes' `ActivePodsWithRanks`: unassigned, pending, not ready, cheap by annotation, ready for a
    shorter time, restarted more often, younger.
    """

    def rank(pod: Pod) -> tuple[object, ...]:
        found = condition(pod, "Ready")
        ready_at = found.last_transition_time if found and found.last_transition_time else None
        created = pod.metadata.creation_timestamp
        return (
            bool(pod.spec.node_name),
            {"Pending": 0, "": 0, "Unknown": 1}.get(pod.status.phase, 2),
            ready(pod),
            _cost(pod),
            -ready_at.timestamp() if ready_at else 0.0,
            -restarts(pod),
            -created.timestamp() if created else 0.0,
            pod.name,
        )

    return sorted(pods, key=rank)


def _cost(pod: Pod) -> int:
    try:
        return int(pod.metadata.annotations.get(DELETION_COST, "0"))
    except ValueError:
        return 0


def trouble(pod: Pod) -> str | None:
    """One line saying why the pod is not ready or why it failed; None when nothing is known to be wrong.

    For a person who sees only this line: which container, what happened, and what it said last.
    """
    statuses = {status.name: status for status in (*pod.status.init_container_statuses, *pod.status.container_statuses)}
    if pod.status.phase == "Failed" and pod.status.message and not statuses:
        return f"{pod.status.reason or 'Failed'}: {pod.status.message}"
    containers: list[Container] = [*pod.spec.init_containers, *pod.spec.containers]
    for container in containers:
        status = statuses.get(container.name)
        said = _container_trouble(status) if status else None
        if said:
            return f"container {container.name}: {said}"
    if pod.status.phase == "Failed":
        return ": ".join(filter(None, (pod.status.reason or "Failed", pod.status.message)))
    scheduled = condition(pod, "PodScheduled")
    if scheduled and scheduled.status == "False":
        return f"not scheduled: {scheduled.message or scheduled.reason}"
    return _not_ready(pod)


def last_failure(pod: Pod) -> str | None:
    """How a container of the pod that has been restarted since ended the last time; None when none failed."""
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        last = status.last_state.terminated
        if last and last.exit_code != 0:
            return f"container {status.name}: {_ended(last.exit_code, last.reason, last.message)}"
    return None


def _container_trouble(status: ContainerStatus) -> str | None:
    waiting, ended = status.state.waiting, status.state.terminated
    last = status.last_state.terminated
    if ended and ended.exit_code != 0:
        return _ended(ended.exit_code, ended.reason, ended.message)
    if waiting and waiting.reason not in ("", "ContainerCreating", "PodInitializing"):
        said = ": ".join(filter(None, (waiting.reason, waiting.message)))
        if last and last.exit_code != 0:
            return f"{said} (last run {_ended(last.exit_code, last.reason, last.message)})"
        return said
    return None


def _ended(exit_code: int, reason: str, message: str) -> str:
    text = f"exited with code {exit_code}"
    if reason and reason != "Error":
        text += f" ({reason})"
    last_words = message.strip().splitlines()
    return f"{text}: {last_words[-1].strip()}" if last_words else text


def _not_ready(pod: Pod) -> str | None:
    found = condition(pod, "Ready")
    if found is None or found.status == "True" or not holds(pod, "PodScheduled"):
        return None
    for gate in pod.spec.readiness_gates:
        if not holds(pod, gate.condition_type) and holds(pod, "ContainersReady"):
            return f"readiness gate {gate.condition_type} is not True yet"
    return found.message or None
