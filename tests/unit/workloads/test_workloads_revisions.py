"""The history of a set's template: how its revisions are named and marked, and which one a pod is of."""

from __future__ import annotations

from trimtab.api import ObjectMeta
from trimtab.api.core import Container, PodSpec, PodTemplateSpec
from trimtab.api.labels import LabelSelector
from trimtab.api.workloads import ControllerRevision, DaemonSet, DaemonSetSpec, StatefulSet, StatefulSetSpec
from trimtab.components.workloads.revisions import HASH_LABEL, REVISION_LABEL, history, mark, of


def template(image: str) -> PodTemplateSpec:
    return PodTemplateSpec(
        metadata=ObjectMeta(labels={"app": "d"}), spec=PodSpec(containers=[Container(name="c", image=image)])
    )


def daemons(image: str = "i:1") -> DaemonSet:
    spec = DaemonSetSpec(selector=LabelSelector(match_labels={"app": "d"}), template=template(image))
    return DaemonSet(metadata=ObjectMeta(name="d", namespace="default", uid="u"), spec=spec)


def test_a_daemon_sets_revision_has_the_hash_that_its_pods_have() -> None:
    """`kubectl` and the tests of Kubernetes look for it there."""
    [made] = history(daemons(), [], set(), 10).apply
    assert made.metadata.labels == {"app": "d", REVISION_LABEL: mark(made)}
    assert made.name == f"d-{mark(made)}"
    assert of(daemons())(made)


def test_a_stateful_sets_revision_goes_by_its_name() -> None:
    spec = StatefulSetSpec(selector=LabelSelector(match_labels={"app": "d"}), template=template("i:1"))
    sts = StatefulSet(metadata=ObjectMeta(name="d", namespace="default", uid="u"), spec=spec)
    [made] = history(sts, [], set(), 10).apply
    assert made.metadata.labels == {"app": "d", HASH_LABEL: made.name.removeprefix("d-")}
    assert mark(made) == made.name


def test_a_revision_of_an_earlier_release_stays_what_its_pods_call_it() -> None:
    """Its pods have its name as their label: an upgrade must replace none of them."""
    [made] = history(daemons(), [], set(), 10).apply
    made.metadata.labels = {"app": "d", HASH_LABEL: "abc"}
    past = history(daemons(), [made], set(), 10)
    assert (past.update, past.apply) == (made, ())
    assert mark(past.update) == made.name
    newer = history(daemons("i:2"), [made], set(), 10).update
    back = history(daemons(), [made, newer], set(), 10)
    assert [(r.name, r.revision) for r in back.apply] == [(made.name, 3)]
    assert mark(back.update) == made.name


def test_a_revision_that_somebody_else_wrote_for_the_set_is_taken() -> None:
    [made] = history(daemons(), [], set(), 10).apply
    other = ControllerRevision(
        metadata=ObjectMeta(name="d-other", namespace="default", labels={"app": "d", REVISION_LABEL: "other"}),
        data=made.data,
        revision=2,
    )
    past = history(daemons(), [made, other], set(), 10)
    assert (past.update.name, past.apply) == ("d-other", ())
    assert history(daemons(), [other], set(), 10).update.name == "d-other"


def test_what_a_pod_still_names_is_kept_whichever_way_it_does() -> None:
    past = [history(daemons(f"i:{number}"), [], set(), 10).update for number in range(3)]
    for number, revision in enumerate(past):
        revision.revision = number + 1
    kept = history(daemons("i:9"), past, {mark(past[0]), past[1].name}, 0).kept
    assert [r.name for r in kept] == [past[0].name, past[1].name]
