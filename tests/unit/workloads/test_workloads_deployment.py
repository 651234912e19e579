"""Which ReplicaSet stands for a template, what it looks like, and which old ones are kept."""

from __future__ import annotations

from typing import Any

from trimtab.api import ObjectMeta
from trimtab.api.core import Container, PodSpec, PodTemplateSpec
from trimtab.api.labels import LabelSelector
from trimtab.api.workloads import Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec, ReplicaSetStatus
from trimtab.components.workloads.deployment import PEAK, REVISION, current, history, render, scale_of, sized
from trimtab.components.workloads.names import POD_TEMPLATE_HASH
from workload_pods import ago


def template(image: str, **labels: str) -> PodTemplateSpec:
    return PodTemplateSpec(
        metadata=ObjectMeta(labels={"app": "web", **labels}),
        spec=PodSpec(containers=[Container(name="main", image=image)]),
    )


def deployment(image: str = "a", **meta: Any) -> Deployment:
    return Deployment(
        metadata=ObjectMeta(name="web", namespace="default", uid="d", **meta),
        spec=DeploymentSpec(selector=LabelSelector(match_labels={"app": "web"}), template=template(image)),
    )


def replica_set(
    name: str,
    image: str = "a",
    *,
    replicas: int = 0,
    revision: int = 1,
    present: int | None = None,
    age_s: float = 9,
    **kept: Any,
) -> ReplicaSet:
    annotations = {REVISION: str(revision), **kept.pop("annotations", {})}
    return ReplicaSet(
        metadata=ObjectMeta(
            name=name,
            labels={POD_TEMPLATE_HASH: name[4:]},
            annotations=annotations,
            generation=kept.pop("generation", 1),
            creation_timestamp=ago(age_s),
        ),
        spec=ReplicaSetSpec(template=template(image, **{POD_TEMPLATE_HASH: name[4:]}), replicas=replicas),
        status=ReplicaSetStatus(
            replicas=replicas if present is None else present, observed_generation=kept.pop("observed", 1)
        ),
    )


def test_the_template_finds_its_replica_set_whatever_its_hash() -> None:
    other, same, later = replica_set("web-1", "b"), replica_set("web-2", "a"), replica_set("web-3", "a", age_s=1)
    assert current(deployment("a"), [other, later, same]) is same
    assert current(deployment("c"), [other, same]) is None


def test_a_new_one_carries_hash_selector_and_inherited_annotations() -> None:
    made = render(
        deployment(annotations={"note": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}", REVISION: "1"}),
        None,
        [],
        2,
    )
    digest = made.metadata.labels[POD_TEMPLATE_HASH]
    assert made.name == f"web-{digest}"
    assert made.metadata.annotations == {"note": "x", REVISION: "2"}
    assert made.spec.selector.match_labels == {"app": "web", POD_TEMPLATE_HASH: digest}
    assert made.spec.template.metadata.labels == {"app": "web", POD_TEMPLATE_HASH: digest}
    assert current(deployment(), [made]) is made


def test_a_colliding_hash_gets_another_name() -> None:
    first = render(deployment(), None, [], 1)
    second = render(deployment(), None, [first.name], 1)
    assert second.name != first.name
    assert second.name == f"web-{second.metadata.labels[POD_TEMPLATE_HASH]}"


def test_one_that_exists_keeps_name_and_size() -> None:
    found = replica_set("web-old", "a", replicas=4)
    made = render(deployment(), found, [found.name], 3)
    assert (made.name, made.spec.replicas) == ("web-old", 4)
    assert made.metadata.labels[POD_TEMPLATE_HASH] == "old"


def test_history_drops_the_oldest_empty_ones_only() -> None:
    old = [replica_set(f"web-{n}", revision=n) for n in range(1, 6)]
    old[0].spec.replicas = 2
    unsettled = replica_set("web-9", revision=0, generation=2)
    assert [rs.name for rs in history([*old, unsettled], 2)] == ["web-1", "web-4", "web-5", "web-9"]
    assert history(old[1:], 0) == []


def test_a_peak_is_remembered_until_the_replica_set_has_reported() -> None:
    found = replica_set("web-1", replicas=3)
    shrunk = sized(found, found, 1, resting=False)
    assert shrunk.metadata.annotations[PEAK] == "3"
    unsettled = replica_set("web-1", replicas=1, generation=2, annotations={PEAK: "3"})
    assert scale_of(unsettled).room == 3
    assert sized(unsettled, unsettled, 1, resting=True).metadata.annotations[PEAK] == "3"
    reported = replica_set("web-1", replicas=1, generation=2, observed=2, annotations={PEAK: "3"})
    assert scale_of(reported).room == 1
    assert PEAK not in sized(reported, reported, 1, resting=True).metadata.annotations
    assert PEAK not in sized(reported, reported, 2, resting=False).metadata.annotations
