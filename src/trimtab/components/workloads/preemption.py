"""Which pods have to go so that a more important one fits: the fewest that matter least, on one node.

After the scheduler's plugin DefaultPreemption: on each node all less important pods are thought away; when the pod fits
then, they are brought back one by one, those whose disruption budget would be broken and the most important first, as long
as it still fits. Of the nodes the one is taken whose victims break the fewest budgets, then matter least, then are fewest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimtab.api.core import Pod
from trimtab.api.scheduling import PodDisruptionBudget
from trimtab.api.selector import selects
from trimtab.components.workloads import pods as facts
from trimtab.components.workloads.fit import Picture

PREEMPTED = "PreemptionByScheduler"
TARGET = "DisruptionTarget"

Fits = Callable[[str, Picture], bool]
"""Whether the pod fits on the named node in a picture."""


@dataclass(frozen=True)
class Eviction:
    """A node on which the pod fits once the victims are gone."""

    node: str
    victims: tuple[Pod, ...]
    broken: int
    """How many of the victims break a disruption budget."""


def priority(pod: Pod) -> int:
    return pod.spec.priority or 0


def may_preempt(pod: Pod) -> bool:
    return pod.spec.preemption_policy != "Never"


def leaving(pod: Pod) -> bool:
    """True for a pod that is on its way out for another's sake."""
    return facts.deleting(pod) or facts.holds(pod, TARGET)


def find(pod: Pod, picture: Picture, budgets: Sequence[PodDisruptionBudget], fits: Fits) -> Eviction | None:
    """The node to make room on and its victims, or None where not even that helps."""
    found = [e for node in picture.rooms if (e := _on(node, pod, picture, budgets, fits))]

    def rank(eviction: Eviction) -> tuple[int, int, int, int, str]:
        matter = [priority(victim) for victim in eviction.victims]
        return (eviction.broken, max(matter, default=0), sum(matter), len(matter), eviction.node)

    return min(found, key=rank, default=None)


def _on(node: str, pod: Pod, picture: Picture, budgets: Sequence[PodDisruptionBudget], fits: Fits) -> Eviction | None:
    here = picture.rooms[node].pods
    lesser = [other for other in here if priority(other) < priority(pod)]
    staying = [other for other in here if priority(other) >= priority(pod)]
    if not lesser or not fits(node, picture.with_only(node, staying)):
        return None
    breaking = breaks_budget(lesser, budgets)
    victims = []
    for other in sorted(lesser, key=lambda p: (p.name not in breaking, -priority(p), _age(p), p.name)):
        if fits(node, picture.with_only(node, [*staying, other])):
            staying.append(other)
        else:
            victims.append(other)
    return Eviction(node, tuple(victims), sum(victim.name in breaking for victim in victims)) if victims else None


def _age(pod: Pod) -> float:
    since = pod.status.start_time or pod.metadata.creation_timestamp
    return since.timestamp() if since else 0.0


def breaks_budget(pods: Sequence[Pod], budgets: Sequence[PodDisruptionBudget]) -> set[str]:
    """The names of the pods that could not all go, one after the other, without breaking a budget."""
    left = {f"{b.namespace}/{b.name}": b.status.disruptions_allowed for b in budgets}
    out = set()
    for pod in sorted(pods, key=lambda p: (-priority(p), p.name)):
        for budget in budgets:
            if budget.namespace == pod.namespace and selects(budget.spec.selector, pod.metadata.labels):
                left[f"{budget.namespace}/{budget.name}"] -= 1
                if left[f"{budget.namespace}/{budget.name}"] < 0:
                    out.add(pod.name)
    return out
