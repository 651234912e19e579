"""Where a pod wants to run: affinity to nodes and to other pods, and even spread over a topology."""

from __future__ import annotations

from msgspec import field

from trimtab.api.labels import LabelSelector
from trimtab.api.resource import Model


class NodeSelectorRequirement(Model):
    key: str
    operator: str
    values: list[str] = []


class NodeSelectorTerm(Model):
    match_expressions: list[NodeSelectorRequirement] = []
    match_fields: list[NodeSelectorRequirement] = []


class NodeSelector(Model):
    node_selector_terms: list[NodeSelectorTerm] = []


class PreferredSchedulingTerm(Model):
    preference: NodeSelectorTerm = field(default_factory=NodeSelectorTerm)
    weight: int = 1


class NodeAffinity(Model):
    required: NodeSelector | None = field(default=None, name="requiredDuringSchedulingIgnoredDuringExecution")
    preferred: list[PreferredSchedulingTerm] = field(default=[], name="preferredDuringSchedulingIgnoredDuringExecution")


class PodAffinityTerm(Model):
    """Left out `namespaces` and `namespace_selector`: the pod's own namespace."""

    topology_key: str
    label_selector: LabelSelector | None = None
    namespaces: list[str] = []
    namespace_selector: LabelSelector | None = None
    match_label_keys: list[str] = []
    mismatch_label_keys: list[str] = []


class WeightedPodAffinityTerm(Model):
    pod_affinity_term: PodAffinityTerm
    weight: int = 1


class PodAffinity(Model):
    required: list[PodAffinityTerm] = field(default=[], name="requiredDuringSchedulingIgnoredDuringExecution")
    preferred: list[WeightedPodAffinityTerm] = field(default=[], name="preferredDuringSchedulingIgnoredDuringExecution")


class Affinity(Model):
    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None


class TopologySpreadConstraint(Model):
    max_skew: int
    topology_key: str
    when_unsatisfiable: str
    label_selector: LabelSelector | None = None
    min_domains: int | None = None
    node_affinity_policy: str | None = None
    node_taints_policy: str | None = None
    match_label_keys: list[str] = []
