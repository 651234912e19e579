"""What should happen next for a pod, one situation a test."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trimtab.api import from_wire
from trimtab.api.core import PROXIED, Pod
from trimtab.components.node import backoff
from trimtab.components.node.decide import (
    Block,
    Finish,
    Health,
    PullImage,
    RemoveContainer,
    RemoveSandbox,
    RunSandbox,
    Seen,
    StartContainer,
    StopContainer,
    StopSandbox,
    TearDown,
    decide,
)
from trimtab.components.node.sandboxes import ContainerView, Sandbox, State
from trimtab.components.node.status import pod_status

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
BOX = Sandbox("box", "u", "web", "shop", 0, True, NOW, "10.0.0.2")
HERE = frozenset({"i"})


def pod(*names: str, status: dict[str, Any] | None = None, meta: dict[str, Any] | None = None, **spec: Any) -> Pod:
    containers = [{"name": name, "image": "i"} for name in names or ("web",)]
    body = {
        "metadata": {"name": "web", "namespace": "shop", "uid": "u", **(meta or {})},
        "spec": {"containers": containers, **spec},
        "status": status or {},
    }
    return from_wire(Pod, body)


def view(name: str = "web", state: State = "running", attempt: int = 0, **changes: Any) -> ContainerView:
    made = ContainerView(f"{name}-{attempt}", "box", "u", name, attempt, state, NOW, NOW)
    if state == "exited":
        made = replace(made, finished_at=NOW, started_at=NOW - timedelta(seconds=1))
    return replace(made, **changes)


def seen(*views: ContainerView, **changes: Any) -> Seen:
    containers: dict[str, tuple[ContainerView, ...]] = {}
    for one in views:
        containers[one.name] = (*containers.get(one.name, ()), one)
    values: dict[str, Any] = {"sandboxes": (BOX,), "containers": containers, "images": HERE}
    return Seen(**(values | changes))


def deleting(in_s: float = 30, **meta: Any) -> dict[str, Any]:
    at = (NOW + timedelta(seconds=in_s)).isoformat()
    return {"deletionTimestamp": at, "deletionGracePeriodSeconds": 30, **meta}


# Coming up


def test_first_a_sandbox_then_the_image_then_the_container() -> None:
    assert decide(pod(), Seen(), NOW).actions == (RunSandbox(0),)
    assert [type(a) for a in decide(pod(), seen(images=frozenset()), NOW).actions] == [PullImage]
    assert not decide(pod(), seen(images=frozenset(), pulling=HERE), NOW).actions
    [start] = decide(pod(), seen(), NOW).actions
    assert isinstance(start, StartContainer)
    assert (start.attempt, start.earned_s) == (0, 0)
    assert not decide(pod(), seen(view()), NOW).actions


def test_a_block_is_waited_out() -> None:
    block = Block("FailedMount", "no", NOW + timedelta(seconds=7))
    plan = decide(pod(), Seen(blocks={"": block}), NOW)
    assert (plan.actions, plan.wake_at) == ((), block.retry_at)
    assert decide(pod(), Seen(blocks={"": block}), block.retry_at).actions == (RunSandbox(0),)


def test_init_containers_come_one_by_one_and_before_the_others() -> None:
    spec = {"initContainers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}

    def next_start(*views: ContainerView) -> str | None:
        actions = decide(pod(**spec), seen(*views), NOW).actions
        return actions[0].container.name if actions and isinstance(actions[0], StartContainer) else None

    done = view("a", "exited")
    assert next_start() == "a"
    assert next_start(view("a")) is None
    assert next_start(done) == "b"
    assert next_start(done, view("b", "exited")) == "web"
    assert next_start(done, view("b", "exited", exit_code=1)) == "b", "the first restart is at once"


def test_a_sidecar_must_have_started_and_ends_last() -> None:
    spec = {"initContainers": [{"name": "side", "image": "i", "restartPolicy": "Always"}]}
    side = view("side")
    starting = seen(side, health={side.id: Health(started=False)})
    assert not decide(pod(**spec), starting, NOW).actions
    [start] = decide(pod(**spec), seen(side), NOW).actions
    assert isinstance(start, StartContainer)
    assert start.container.name == "web"
    done = seen(view("web", "exited"), side)
    [stop] = decide(pod(**spec, restartPolicy="Never"), done, NOW).actions
    assert isinstance(stop, StopContainer)
    assert stop.view.name == "side"
    both = seen(view("web"), side)
    [first] = decide(pod(**spec, meta=deleting()), both, NOW).actions
    assert isinstance(first, StopContainer)
    assert first.view.name == "web"


# Ends and restarts


def test_the_first_restart_is_at_once_the_next_wait_longer_and_longer() -> None:
    ended = view(state="exited", exit_code=1)
    for earned, following in ((0, 10), (10, 20), (20, 40), (300, 300)):
        one = replace(ended, annotations={backoff.EARNED: str(earned)})
        at = NOW + timedelta(seconds=earned)
        plan = decide(pod(), seen(one), NOW)
        if earned:
            assert (plan.actions, plan.wake_at) == ((), at)
        [start] = decide(pod(), seen(one), at).actions
        assert isinstance(start, StartContainer)
        assert (start.attempt, start.earned_s) == (1, following)


def test_a_good_run_is_rewarded() -> None:
    ran = {"started_at": NOW - timedelta(seconds=61), "finished_at": NOW}
    one = view(state="exited", exit_code=137, annotations={backoff.EARNED: "10"}, **ran)
    [start] = decide(pod(), seen(one), NOW).actions
    assert isinstance(start, StartContainer)
    assert start.earned_s == backoff.FIRST_S


@pytest.mark.parametrize(
    ("policy", "code", "restarted", "phase"),
    [
        ("Always", 0, True, "Running"),
        ("OnFailure", 0, False, "Succeeded"),
        ("OnFailure", 1, True, "Running"),
        ("Never", 0, False, "Succeeded"),
        ("Never", 1, False, "Failed"),
    ],
)
def test_restart_policies(policy: str, code: int, restarted: bool, phase: str) -> None:
    one, what = pod(restartPolicy=policy), seen(view(state="exited", exit_code=code))
    assert bool(decide(one, what, NOW).actions) == restarted
    assert pod_status(one, what, NOW, host_ip="h")["phase"] == phase


def test_an_ended_pod_gives_its_address_back_and_never_runs_again() -> None:
    one = pod(restartPolicy="Never", status={"phase": "Succeeded"})
    assert decide(one, seen(view(state="exited")), NOW).actions == (StopSandbox("box"),)
    assert not decide(one, Seen(), NOW).actions


def test_failed_health_and_a_changed_image_stop_a_container() -> None:
    sick = seen(view(), health={"web-0": Health(failed="its liveness probe failed 3 times: no answer")})
    [stop] = decide(pod(), sick, NOW).actions
    assert isinstance(stop, StopContainer)
    assert stop.why == "its liveness probe failed 3 times: no answer"
    assert not decide(pod(), replace(sick, stopping=frozenset({"web-0"})), NOW).actions
    old = view(image="x", annotations={"trimtab.dev/image": "before"})
    [stop] = decide(pod(), seen(old), NOW).actions
    assert isinstance(stop, StopContainer)
    assert stop.why == "its image was changed"


def test_the_deadline_of_a_pod() -> None:
    start = {"startTime": (NOW - timedelta(seconds=10)).isoformat()}
    assert decide(pod(activeDeadlineSeconds=30, status=start), seen(view()), NOW).wake_at == NOW + timedelta(seconds=20)
    [stop] = decide(pod(activeDeadlineSeconds=10, status=start), seen(view()), NOW).actions
    assert isinstance(stop, StopContainer)
    ended = pod_status(pod(activeDeadlineSeconds=10, status=start), seen(view(state="exited")), NOW, host_ip="h")
    assert (ended["phase"], ended["reason"]) == ("Failed", "DeadlineExceeded")


# Losses


def test_a_lost_sandbox_is_replaced_once_nothing_runs_in_it() -> None:
    lost = replace(BOX, ready=False)
    assert decide(pod(), seen(view(), sandboxes=(lost,)), NOW).actions == (StopSandbox("box"),)
    assert decide(pod(), seen(view(state="exited"), sandboxes=(lost,)), NOW).actions == (RunSandbox(1),)
    fresh = replace(BOX, id="new", attempt=1)
    [start] = decide(pod(), seen(view(state="exited"), sandboxes=(fresh, lost)), NOW).actions
    assert isinstance(start, StartContainer)
    assert start.attempt == 1
    now_there = seen(view(attempt=1, sandbox_id="new"), view(state="exited"), sandboxes=(fresh, lost))
    assert decide(pod(), now_there, NOW).actions == (RemoveSandbox("box"),)


def test_a_container_that_was_never_started_or_is_unknown_is_made_anew() -> None:
    assert decide(pod(), seen(view(state="created")), NOW).actions == (RemoveContainer("web-0"),)
    [stop] = decide(pod(), seen(view(state="unknown")), NOW).actions
    assert isinstance(stop, StopContainer)


def test_only_the_last_ended_container_is_kept() -> None:
    views = [view(attempt=3), *(view(state="exited", attempt=n) for n in (2, 1, 0))]
    assert decide(pod(), seen(*views), NOW).actions == (RemoveContainer("web-1"), RemoveContainer("web-0"))


# Going down


def test_deletion_stops_tears_down_and_finishes() -> None:
    gone = pod(meta=deleting())
    [stop] = decide(gone, seen(view()), NOW).actions
    assert isinstance(stop, StopContainer)
    assert stop.grace_s == 30
    assert not decide(gone, seen(view(), stopping=frozenset({"web-0"})), NOW).actions
    assert decide(gone, seen(view(state="exited")), NOW).actions == (TearDown(),)
    assert decide(gone, Seen(torn_down=True), NOW).actions == (Finish(),)
    late = pod(meta=deleting(in_s=-100))
    [stop] = decide(late, seen(view()), NOW).actions
    assert isinstance(stop, StopContainer)
    assert stop.grace_s == 2
    force = pod(meta=deleting(0) | {"deletionGracePeriodSeconds": 0})
    [stop] = decide(force, seen(view()), NOW).actions
    assert isinstance(stop, StopContainer)
    assert stop.grace_s == 0


@pytest.mark.parametrize(
    ("gate", "left_s", "held"),
    [("True", 30, True), ("Unknown", 30, True), ("False", 30, False), (None, 30, False), ("True", -1, False)],
)
def test_sigterm_waits_for_the_proxies(gate: str | None, left_s: float, held: bool) -> None:
    conditions = [] if gate is None else [{"type": PROXIED, "status": gate}]
    gates = [{"conditionType": PROXIED}]
    one = pod(meta=deleting(left_s), readinessGates=gates, status={"conditions": conditions})
    plan = decide(one, seen(view()), NOW)
    assert bool(plan.actions) != held
    assert (plan.wake_at == one.metadata.deletion_timestamp) == held


# Status


def test_the_status_of_a_crash_loop() -> None:
    one = view(state="exited", exit_code=3, attempt=4, annotations={backoff.EARNED: "40"})
    status = pod_status(pod(), seen(one), NOW, host_ip="192.0.2.1")
    [container] = status["containerStatuses"]
    assert container["state"] == {
        "waiting": {
            "reason": "CrashLoopBackOff",
            "message": "back-off 40s restarting failed container web of pod web in namespace shop",
        }
    }
    assert container["lastState"]["terminated"]["exitCode"] == 3
    assert container["restartCount"] == 4
    assert status["phase"] == "Running"


def test_the_status_of_a_running_pod() -> None:
    one = view(image_ref="i@sha256:1")
    status = pod_status(pod(), seen(one, health={one.id: Health(ready=False)}), NOW, host_ip="192.0.2.1")
    assert (status["phase"], status["podIP"], status["hostIP"]) == ("Running", "10.0.0.2", "192.0.2.1")
    conditions = {c["type"]: c for c in status["conditions"]}
    assert conditions["Ready"]["reason"] == "ContainersNotReady"
    assert conditions["Ready"]["message"] == "containers with unready status: [web]"
    gated = pod(readinessGates=[{"conditionType": PROXIED}])
    conditions = {c["type"]: c for c in pod_status(gated, seen(one), NOW, host_ip="h")["conditions"]}
    assert conditions["ContainersReady"]["status"] == "True"
    assert conditions["Ready"]["message"] == f"waiting for the readiness gate {PROXIED}"


def test_the_status_of_a_pod_that_cannot_start() -> None:
    block = Block("FailedMount", 'volume x: configmap "c" not found', NOW)
    status = pod_status(pod(), Seen(blocks={"": block}), NOW, host_ip="h")
    assert (status["phase"], status["reason"]) == ("Pending", "FailedMount")
    assert status["containerStatuses"][0]["state"]["waiting"]["message"] == 'volume x: configmap "c" not found'


# Ephemeral containers


LOOK = {"name": "look", "image": "i", "targetContainerName": "web"}
BEGAN = {"ephemeralContainerStatuses": [{"name": "look", "containerID": "containerd://x", "state": {"running": {}}}]}


def test_an_ephemeral_container_is_started_beside_the_others() -> None:
    [start] = decide(pod(ephemeralContainers=[LOOK]), seen(view()), NOW).actions

    assert isinstance(start, StartContainer)
    assert (start.container.name, start.attempt) == ("look", 0)


def test_an_ephemeral_container_waits_for_whom_it_looks_at() -> None:
    one = pod(ephemeralContainers=[LOOK], restartPolicy="Never")
    ended = seen(view(state="exited", exit_code=0))

    assert not decide(one, ended, NOW).actions
    [status] = pod_status(one, ended, NOW, host_ip="")["ephemeralContainerStatuses"]
    assert status["state"]["waiting"] == {
        "reason": "ContainerCreating",
        "message": "the container web, whose processes look is to see, does not run",
    }


@pytest.mark.parametrize("policy", ["Always", "OnFailure", "Never"])
def test_an_ephemeral_container_that_ended_stays_so(policy: str) -> None:
    one = pod(ephemeralContainers=[LOOK], restartPolicy=policy)
    looked = seen(view(), view("look", "exited", exit_code=1))

    assert not decide(one, looked, NOW + timedelta(hours=1)).actions
    [status] = pod_status(one, looked, NOW, host_ip="")["ephemeralContainerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 1
    assert not status["ready"]


def test_an_ephemeral_container_that_is_gone_is_not_started_again() -> None:
    one = pod(ephemeralContainers=[LOOK], status=BEGAN)

    assert not decide(one, seen(view()), NOW).actions
    [status] = pod_status(one, seen(view()), NOW, host_ip="")["ephemeralContainerStatuses"]
    assert status["state"]["terminated"]["reason"] == "ContainerStatusUnknown"
    assert status["containerID"] == "containerd://x"


def test_a_lost_sandbox_is_kept_until_the_status_knows_what_ran_in_it() -> None:
    new = replace(BOX, id="new", attempt=1)
    found = seen(view(sandbox_id="new", attempt=1), view("look", "exited"), sandboxes=(new, replace(BOX, ready=False)))

    assert not decide(pod(ephemeralContainers=[LOOK]), found, NOW).actions
    assert decide(pod(ephemeralContainers=[LOOK], status=BEGAN), found, NOW).actions == (RemoveSandbox("box"),)


def test_an_ephemeral_container_does_not_count_for_the_pod() -> None:
    one = pod(ephemeralContainers=[LOOK], restartPolicy="Never")
    over = seen(view(state="exited", exit_code=0), view("look"))
    status = pod_status(one, over, NOW, host_ip="")

    assert status["phase"] == "Succeeded"
    one.status.phase = "Succeeded"
    [stop] = decide(one, over, NOW).actions
    assert isinstance(stop, StopContainer)
    assert stop.view.name == "look"
