"""What other pods mean for a pod's place: affinity and anti-affinity, even spread, and the score of a node.

A *domain* is the value of a topology label; nodes that share it are one place. Sources: the scheduler's plugins
InterPodAffinity, PodTopologySpread, NodeResourcesFit (LeastAllocated), TaintToleration, with their weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from trimtab.api.core import Pod
from trimtab.api.labels import LabelSelector, LabelSelectorRequirement
from trimtab.api.placement import PodAffinityTerm, TopologySpreadConstraint
from trimtab.api.selector import selector_text, selects
from trimtab.components.workloads import fit
from trimtab.components.workloads import pods as facts
from trimtab.components.workloads.fit import Picture, Room


def domain(room: Room, key: str) -> str | None:
    return fit.labels_of(room.node).get(key)


def obstacles(pod: Pod, room: Room, picture: Picture) -> list[str]:
    """Why the pods elsewhere and here keep the pod from this node."""
    return [*_affinity(pod, room, picture), *_anti_affinity(pod, room, picture), *_spread(pod, room, picture)]


def selector_of(pod: Pod, base: LabelSelector | None, same: list[str], other: list[str]) -> LabelSelector | None:
    """A term's selector with its `matchLabelKeys` and `mismatchLabelKeys` filled in from the pod."""
    if base is None or not (same or other):
        return base
    labels = pod.metadata.labels
    more = [LabelSelectorRequirement(key, "In", [labels[key]]) for key in same if key in labels]
    more += [LabelSelectorRequirement(key, "NotIn", [labels[key]]) for key in other if key in labels]
    return msgspec.structs.replace(base, match_expressions=[*base.match_expressions, *more])


def matches(term: PodAffinityTerm, owner: Pod, other: Pod, namespaces: Mapping[str, Mapping[str, str]]) -> bool:
    """True when `other` is one of the pods that a term of `owner` speaks of."""
    if not term.namespaces and term.namespace_selector is None:
        if other.namespace != owner.namespace:
            return False
    elif other.namespace not in term.namespaces and not selects(
        term.namespace_selector, namespaces.get(other.namespace or "", {})
    ):
        return False
    selector = selector_of(owner, term.label_selector, term.match_label_keys, term.mismatch_label_keys)
    return selects(selector, other.metadata.labels)


def _affinity(pod: Pod, room: Room, picture: Picture) -> list[str]:
    affinity = pod.spec.affinity.pod_affinity if pod.spec.affinity else None
    if affinity is None or not affinity.required:
        return []
    out = []
    first_of_its_kind = all(matches(term, pod, pod, picture.namespaces) for term in affinity.required) and not any(
        matches(term, pod, other, picture.namespaces)
        for term in affinity.required
        for each in picture.rooms.values()
        for other in each.pods
    )
    for term in affinity.required:
        here = domain(room, term.topology_key)
        if here is None:
            out.append(f"lacks the label {term.topology_key} of the pod affinity")
        elif not first_of_its_kind and not _present(term, pod, here, picture):
            out.append(f"pod affinity: no pod with {selector_text(term.label_selector)} in {term.topology_key}={here}")
    return out


def _present(term: PodAffinityTerm, pod: Pod, here: str, picture: Picture) -> Pod | None:
    for room in picture.rooms.values():
        if domain(room, term.topology_key) == here:
            for other in room.pods:
                if matches(term, pod, other, picture.namespaces):
                    return other
    return None


def _anti_affinity(pod: Pod, room: Room, picture: Picture) -> list[str]:
    out = []
    affinity = pod.spec.affinity.pod_anti_affinity if pod.spec.affinity else None
    for term in affinity.required if affinity else ():
        here = domain(room, term.topology_key)
        if here is not None and (other := _present(term, pod, here, picture)):
            out.append(f"pod anti-affinity: pod {other.namespace}/{other.name} is in {term.topology_key}={here}")
    for each in picture.rooms.values():
        for other in each.pods:
            theirs = other.spec.affinity.pod_anti_affinity if other.spec.affinity else None
            for term in theirs.required if theirs else ():
                here = domain(room, term.topology_key)
                same = here is not None and here == domain(each, term.topology_key)
                if same and matches(term, other, pod, picture.namespaces):
                    out.append(f"pod {other.namespace}/{other.name} there has anti-affinity against it")
                    return out
    return out


def _counts(pod: Pod, constraint: TopologySpreadConstraint, picture: Picture) -> Counter[str]:
    """The matching pods of each domain of the nodes that count, empty domains with 0."""
    selector = selector_of(pod, constraint.label_selector, constraint.match_label_keys, [])
    keys = [c.topology_key for c in pod.spec.topology_spread_constraints]
    counts: Counter[str] = Counter()
    for room in picture.rooms.values():
        labels = fit.labels_of(room.node)
        if not all(key in labels for key in keys):
            continue
        if constraint.node_affinity_policy != "Ignore" and not fit.chosen(pod, room.node):
            continue
        taints = [taint for taint in room.node.spec.taints if taint.effect in ("NoSchedule", "NoExecute")]
        if constraint.node_taints_policy == "Honor" and not all(fit.tolerated(pod, taint) for taint in taints):
            continue
        counts[labels[constraint.topology_key]] += sum(
            other.namespace == pod.namespace and not facts.deleting(other) and selects(selector, other.metadata.labels)
            for other in room.pods
        )
    return counts


def _spread(pod: Pod, room: Room, picture: Picture) -> list[str]:
    out = []
    for constraint in pod.spec.topology_spread_constraints:
        if constraint.when_unsatisfiable != "DoNotSchedule":
            continue
        here = domain(room, constraint.topology_key)
        if here is None:
            out.append(f"lacks the label {constraint.topology_key} of the topology spread")
            continue
        counts = _counts(pod, constraint, picture)
        fewest = min(counts.values(), default=0)
        if constraint.min_domains is not None and len(counts) < constraint.min_domains:
            fewest = 0
        selector = selector_of(pod, constraint.label_selector, constraint.match_label_keys, [])
        then = counts[here] + int(selects(selector, pod.metadata.labels))
        if then - fewest > constraint.max_skew:
            out.append(
                f"topology spread: {constraint.topology_key}={here} would have {then} pods, the emptiest has {fewest}, "
                f"maxSkew {constraint.max_skew}"
            )
    return out


# Scores: which of the nodes that fit is best


def score(pod: Pod, room: Room, picture: Picture) -> float:
    """How good a node is for a pod, higher is better: 0 to 100 for each view, times its weight."""
    return (
        _least_allocated(pod, room)
        + 2 * _node_preference(pod, room)
        + 2 * _company(pod, room, picture)
        - 2 * _crowding(pod, room, picture)
        - 3 * _soft_taints(pod, room)
        + _images(pod, room)
    )


def _least_allocated(pod: Pod, room: Room) -> float:
    asked = fit.requests(pod)
    shares = [
        max(0.0, (room.free(name) - asked.get(name, 0)) / room.has[name])
        for name in ("cpu", "memory", "pods")
        if room.has.get(name)
    ]
    return 100 * sum(shares) / len(shares) if shares else 0.0


def _node_preference(pod: Pod, room: Room) -> float:
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity else None
    terms = affinity.preferred if affinity else []
    total = sum(term.weight for term in terms)
    return 100 * sum(t.weight for t in terms if fit.term_holds(t.preference, room.node)) / total if total else 0.0


def _company(pod: Pod, room: Room, picture: Picture) -> float:
    """Preferred company, minus company that is rather avoided, each pod of it with its term's weight."""
    affinity = pod.spec.affinity
    if affinity is None:
        return 0.0
    out = 0.0
    for kind, sign in ((affinity.pod_affinity, 1), (affinity.pod_anti_affinity, -1)):
        terms = kind.preferred if kind else []
        for weighted in terms:
            term = weighted.pod_affinity_term
            here = domain(room, term.topology_key)
            if here is not None and _present(term, pod, here, picture):
                out += sign * weighted.weight
    return out


def _crowding(pod: Pod, room: Room, picture: Picture) -> float:
    """How much fuller this place is than the emptiest: by the pod's soft constraints, or its siblings of one owner."""
    soft = [c for c in pod.spec.topology_spread_constraints if c.when_unsatisfiable == "ScheduleAnyway"]
    if soft:
        out = 0.0
        for constraint in soft:
            counts = _counts(pod, constraint, picture)
            here = domain(room, constraint.topology_key)
            most = max(counts.values(), default=0)
            out += 100.0 if here is None else 100 * counts[here] / most if most else 0.0
        return out / len(soft)
    owners = {owner.uid for owner in pod.metadata.owner_references}
    if not owners:
        return 0.0
    siblings = {name: _siblings(owners, each) for name, each in picture.rooms.items()}
    most = max(siblings.values(), default=0)
    return 100 * siblings[room.node.name] / most if most else 0.0


def _siblings(owners: set[str], room: Room) -> int:
    return sum(any(owner.uid in owners for owner in other.metadata.owner_references) for other in room.pods)


def _soft_taints(pod: Pod, room: Room) -> float:
    taints = [taint for taint in room.node.spec.taints if taint.effect == "PreferNoSchedule"]
    return 100.0 * sum(not fit.tolerated(pod, taint) for taint in taints) / len(taints) if taints else 0.0


def _images(pod: Pod, room: Room) -> float:
    """Some credit where a pod with the same images runs already."""
    wanted = {container.image for container in pod.spec.containers}
    here = {container.image for other in room.pods for container in other.spec.containers}
    return 10.0 if wanted <= here else 0.0
