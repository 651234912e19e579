"""Other resources for containers that run: what is to be done about them, what the status says, and whether there is room."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trimtab.api import from_wire
from trimtab.api.core import Pod, ResourceRequirements
from trimtab.components.node.decide import Block, Plan, ResizeContainer, Seen, StopContainer, decide, resize_block
from trimtab.components.node.resize import RESOURCES, Waits, changed, granted, text_of, waits
from trimtab.components.node.sandboxes import ContainerView, Sandbox
from trimtab.components.node.status import pod_status

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
BOX = Sandbox("box", "u", "web", "shop", 0, True, NOW, "10.0.0.2")
SMALL = ResourceRequirements(requests={"cpu": "20m", "memory": "32Mi"}, limits={"memory": "64Mi"})
BIG = {"requests": {"cpu": "40m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}
VIEW = ContainerView("c1", "box", "u", "web", 0, "running", NOW, NOW)


def pod(resources: dict[str, Any] | None = None, *, name: str = "web", **container: Any) -> Pod:
    one = {"name": "web", "image": "i", "resources": BIG if resources is None else resources, **container}
    meta = {"name": name, "namespace": "shop", "uid": "u" if name == "web" else name}
    return from_wire(Pod, {"metadata": meta, "spec": {"containers": [one], "nodeName": "n"}})


def seen(has: ResourceRequirements | None = SMALL, **changes: Any) -> Seen:
    values: dict[str, Any] = {
        "sandboxes": (BOX,),
        "containers": {"web": (VIEW,)},
        "images": frozenset({"i"}),
        "granted": {} if has is None else {"c1": has},
    }
    return Seen(**(values | changes))


def test_what_the_pod_asks_for_now_is_given_to_its_container() -> None:
    asking = pod()
    assert decide(asking, seen(), NOW).actions == (ResizeContainer(VIEW, asking.spec.containers[0]),)
    assert decide(asking, seen(asking.spec.containers[0].resources), NOW) == Plan()
    assert decide(asking, seen(None), NOW) == Plan(), "of a container of an earlier release nothing is known"


def test_equal_amounts_are_no_change() -> None:
    [container] = pod(
        {"requests": {"cpu": "0.02", "memory": "33554432"}, "limits": {"memory": "65536Ki"}}
    ).spec.containers
    assert changed(container, SMALL) == frozenset()
    assert changed(pod().spec.containers[0], SMALL) == {"cpu", "memory"}
    assert changed(container, None) == frozenset()


@pytest.mark.parametrize(("resource", "restarted"), [("cpu", True), ("memory", True)])
def test_a_resize_policy_may_ask_for_a_restart(resource: str, restarted: bool) -> None:
    asking = pod(resizePolicy=[{"resourceName": resource, "restartPolicy": "RestartContainer"}])
    [action] = decide(asking, seen(), NOW).actions
    assert isinstance(action, StopContainer) is restarted
    other = {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}} | (
        {"requests": {"cpu": "30m", "memory": "32Mi"}} if resource == "memory" else {"limits": {"memory": "65Mi"}}
    )
    asking = pod(other, resizePolicy=[{"resourceName": resource, "restartPolicy": "RestartContainer"}])
    [action] = decide(asking, seen(), NOW).actions
    assert isinstance(action, ResizeContainer)


def test_what_the_runtime_could_not_do_is_tried_again_later() -> None:
    block = Block("ResizeFailed", "container web: busy", NOW + timedelta(seconds=5))
    failing = seen(blocks={resize_block("web"): block})
    assert decide(pod(), failing, NOW) == Plan(wake_at=NOW + timedelta(seconds=5))
    assert condition(pod(), failing) == ("PodResizeInProgress", "Error", "container web: busy")


def condition(pod: Pod, what: Seen) -> tuple[str, str, str] | None:
    status = pod_status(pod, what, NOW, host_ip="192.0.2.1")
    found = [c for c in status["conditions"] if c["type"].startswith("PodResize")]
    assert len(found) <= 1
    return (found[0]["type"], found[0].get("reason", ""), found[0].get("message", "")) if found else None


def test_the_status_has_what_was_given_and_says_that_more_is_asked_for() -> None:
    status = pod_status(pod(), seen(), NOW, host_ip="192.0.2.1")["containerStatuses"][0]
    assert status["resources"] == {"requests": SMALL.requests, "limits": SMALL.limits}
    assert status["allocatedResources"] == SMALL.requests
    assert condition(pod(), seen()) == ("PodResizeInProgress", "", "")
    assert condition(pod(), seen(pod().spec.containers[0].resources)) is None


def test_what_waits_is_not_given_and_the_condition_says_why() -> None:
    deferred = seen(resize_waits=Waits("Deferred", "too little"))
    assert decide(pod(), deferred, NOW) == Plan(wake_at=NOW + timedelta(seconds=10))
    assert condition(pod(), deferred) == ("PodResizePending", "Deferred", "too little")
    assert decide(pod(), seen(resize_waits=Waits("Infeasible", "never")), NOW) == Plan()


def test_there_is_room_or_there_is_not() -> None:
    def asked(milli: int) -> Pod:
        return pod({"requests": {"cpu": f"{milli}m"}})

    has = {"web": ResourceRequirements(requests={"cpu": "400m"})}
    other = pod({"requests": {"cpu": "500m"}}, name="other")
    room = {"cpu": 1000, "memory": 1 << 30}
    assert waits(asked(500), has, [asked(500), other], room) is None
    text = "Node didn't have enough resource: cpu, requested: 501, used: 500, capacity: 1000"
    assert waits(asked(501), has, [asked(501), other], room) == Waits("Deferred", text)
    text = "Node didn't have enough capacity: cpu, requested: 1001, capacity: 1000"
    assert waits(asked(1001), has, [other], room) == Waits("Infeasible", text)
    assert waits(asked(300), has, [other], {"cpu": 100}) is None, "what shrinks always fits"


def test_what_a_container_was_given_is_known_after_a_restart_of_the_agent() -> None:
    made = pod({"requests": {"cpu": "20m"}})
    view = ContainerView(
        "c1", "box", "u", "web", 0, "running", NOW, annotations={RESOURCES: text_of(made.spec.containers[0])}
    )
    assert granted(pod(), view) == ResourceRequirements(requests={"cpu": "20m"})
    status = {"name": "web", "containerID": "containerd://c1", "resources": {"requests": {"cpu": "30m"}}}
    told = from_wire(Pod, {"metadata": {"name": "web"}, "status": {"containerStatuses": [status]}})
    assert granted(told, view) == ResourceRequirements(requests={"cpu": "30m"})
    assert granted(pod(), VIEW) is None
