"""What a pod's status says, and the line in which it is said."""

from __future__ import annotations

from trimtab.api import Condition
from trimtab.api.core import (
    PROXIED,
    ContainerState,
    ContainerStateTerminated,
    ContainerStateWaiting,
    ContainerStatus,
    PodReadinessGate,
)
from trimtab.components.workloads.pods import available, available_in_s, deletion_order, last_failure, trouble
from workload_pods import NOW, make_pod


def test_available_after_ready_without_a_break() -> None:
    assert available(make_pod(ready_for_s=0), 0, NOW)
    assert not available(make_pod(ready_for_s=4), 10, NOW)
    assert available_in_s(make_pod(ready_for_s=4), 10, NOW) == 6
    assert available(make_pod(ready_for_s=10), 10, NOW)
    assert available_in_s(make_pod(), 0, NOW) is None


def test_who_serves_least_goes_first() -> None:
    pods = [
        make_pod("old-ready", ready_for_s=90),
        make_pod("young-ready", ready_for_s=5),
        make_pod("unready"),
        make_pod("pending", phase="Pending"),
        make_pod("unplaced", phase="Pending", node=None),
        make_pod("cheap", ready_for_s=90),
    ]
    pods[-1].metadata.annotations["controller.kubernetes.io/pod-deletion-cost"] = "-5"
    assert [pod.name for pod in deletion_order(pods)] == [
        "unplaced",
        "pending",
        "unready",
        "cheap",
        "young-ready",
        "old-ready",
    ]


def _container(**state: object) -> dict[str, object]:
    return {"container_statuses": [ContainerStatus(name="main", **state)]}  # type: ignore[arg-type]


def test_a_crash_loop_is_told_with_its_last_words() -> None:
    ended = ContainerState(
        terminated=ContainerStateTerminated(exit_code=1, reason="Error", message="a\nno such table\n")
    )
    waiting = ContainerState(waiting=ContainerStateWaiting(reason="CrashLoopBackOff", message="back-off 40s"))
    pod = make_pod(status=_container(state=waiting, last_state=ended))
    assert trouble(pod) == "container main: CrashLoopBackOff: back-off 40s (last run exited with code 1: no such table)"
    assert last_failure(pod) == "container main: exited with code 1: no such table"


def test_a_missing_image_is_told() -> None:
    waiting = ContainerState(waiting=ContainerStateWaiting(reason="ImagePullBackOff", message="nope: not found"))
    assert trouble(make_pod(phase="Pending", status=_container(state=waiting))) == (
        "container main: ImagePullBackOff: nope: not found"
    )


def test_an_oom_kill_is_told() -> None:
    ended = ContainerState(terminated=ContainerStateTerminated(exit_code=137, reason="OOMKilled"))
    assert trouble(make_pod(phase="Failed", status=_container(state=ended))) == (
        "container main: exited with code 137 (OOMKilled)"
    )


def test_an_eviction_is_told() -> None:
    pod = make_pod(phase="Failed", status={"reason": "Evicted", "message": "low on memory"})
    assert trouble(pod) == "Evicted: low on memory"


def test_an_unplaced_pod_says_why() -> None:
    pod = make_pod(phase="Pending", node=None)
    pod.status.conditions.append(Condition(type="PodScheduled", status="False", message="no nodes available"))
    assert trouble(pod) == "not scheduled: no nodes available"


def test_a_waiting_gate_is_named() -> None:
    pod = make_pod(readiness_gates=[PodReadinessGate(condition_type=PROXIED)])
    for type_ in ("PodScheduled", "ContainersReady"):
        pod.status.conditions.append(Condition(type=type_, status="True"))
    assert trouble(pod) == "readiness gate proxy.trimtab.dev/attached is not True yet"


def test_a_starting_pod_is_in_no_trouble() -> None:
    waiting = ContainerState(waiting=ContainerStateWaiting(reason="ContainerCreating"))
    assert trouble(make_pod(phase="Pending", status=_container(state=waiting))) is None
