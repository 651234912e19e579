"""Other resources for containers that run, as `pods/NAME/resize` asks: what each was given, and whether there is room. Pure.

    spec, and what was granted -> changed? -> room on the node? no:  the pod's condition PodResizePending says why
                                                                yes: granted where the container stands (runc changes its
                                                                     cgroup), or by a restart where its resizePolicy says so

What was granted stands in the agent's memory, else in the pod's status, else in an annotation of the container.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from trimtab.api import JSON, demand
from trimtab.api.core import Container, Pod, ResourceRequirements
from trimtab.components.node.sandboxes import ContainerView

RESOURCES = "trimtab.dev/resources"
"""What a container was created with, as JSON."""
DEFERRED, INFEASIBLE = "Deferred", "Infeasible"
RETRY_S = 10.0
"""After so long it is looked again whether there is room now."""
_WATCHED = ("cpu", "memory")


@dataclass(frozen=True)
class Waits:
    """Why a resize is not begun. reason: Kubernetes' word."""

    reason: str
    message: str


def wanted(container: Container) -> ResourceRequirements:
    return container.resources or ResourceRequirements()


def text_of(container: Container) -> str:
    """What a container is created with, for its annotation."""
    return msgspec.json.encode(wanted(container)).decode()


def granted(pod: Pod, view: ContainerView) -> ResourceRequirements | None:
    """What a container has, as the pod's status says, else as it was created; None when neither is known."""
    for status in (*pod.status.container_statuses, *pod.status.init_container_statuses):
        if status.container_id.endswith(view.id) and status.resources is not None:
            return status.resources
    text = view.annotations.get(RESOURCES)
    return msgspec.json.decode(text, type=ResourceRequirements) if text else None


def changed(container: Container, before: ResourceRequirements | None) -> frozenset[str]:
    """Which of cpu and memory the container asks for in another amount than it has. before: None where that is not known."""
    if before is None:
        return frozenset()
    now = wanted(container)
    return frozenset(
        name
        for name in _WATCHED
        if _amount(now.limits, name) != _amount(before.limits, name)
        or _amount(now.requests, name) != _amount(before.requests, name)
    )


def _amount(listed: Mapping[str, str | int], name: str) -> int | None:
    return demand.amounts({name: listed[name]})[name] if name in listed else None


def restarts_for(container: Container, names: frozenset[str]) -> bool:
    """Whether a change of these resources is to be answered with a restart of the container."""
    return any(
        rule.resource_name in names and rule.restart_policy == "RestartContainer" for rule in container.resize_policy
    )


def waits(
    pod: Pod, has: Mapping[str, ResourceRequirements], others: Iterable[Pod], room: demand.Amounts
) -> Waits | None:
    """Why the node cannot give a pod what it asks for now. has: what its containers were given, by name; others: the pods that
    share the node; room: what the node has for pods. What shrinks always fits."""
    before = demand.requests(_as_given(pod, has))
    asked = demand.requests(pod)
    used: demand.Amounts = {}
    for other in others:
        if other.metadata.uid != pod.metadata.uid and other.status.phase not in ("Succeeded", "Failed"):
            demand.add(used, demand.requests(other))
    grown = [name for name in _WATCHED if asked.get(name, 0) > before.get(name, 0) and name in room]
    for name in grown:
        if asked[name] > room[name]:
            text = f"Node didn't have enough capacity: {name}, requested: {asked[name]}, capacity: {room[name]}"
            return Waits(INFEASIBLE, text)
    for name in grown:
        if asked[name] + used.get(name, 0) > room[name]:
            numbers = f"requested: {asked[name]}, used: {used.get(name, 0)}, capacity: {room[name]}"
            return Waits(DEFERRED, f"Node didn't have enough resource: {name}, {numbers}")
    return None


def _as_given(pod: Pod, has: Mapping[str, ResourceRequirements]) -> Pod:
    """The pod with what its containers were given in place of what they ask for."""

    def given(containers: list[Container]) -> list[Container]:
        return [msgspec.structs.replace(c, resources=has.get(c.name, c.resources)) for c in containers]

    spec = msgspec.structs.replace(
        pod.spec, containers=given(pod.spec.containers), init_containers=given(pod.spec.init_containers)
    )
    return msgspec.structs.replace(pod, spec=spec)


def shown(resources: ResourceRequirements) -> JSON:
    """`resources` and `allocatedResources` of a container's status."""
    parts = {"limits": resources.limits, "requests": resources.requests}
    out: JSON = {"resources": {name: dict(listed) for name, listed in parts.items() if listed}}
    if resources.requests:
        out["allocatedResources"] = dict(resources.requests)
    return out
