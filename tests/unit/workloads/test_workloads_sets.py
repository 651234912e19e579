"""StatefulSets that start elsewhere, update several pods at once and take their claims along; DaemonSets that surge."""

from __future__ import annotations

import pytest

from trimtab.api import JSON, ObjectMeta
from trimtab.api.core import Pod
from trimtab.api.workloads import ClaimRetentionPolicy, StatefulSet, StatefulSetOrdinals, StatefulSetSpec
from trimtab.components.workloads import ordinals
from trimtab.components.workloads.admission import check_daemonset, check_statefulset
from trimtab.components.workloads.daemonset import Wanted as Daemons
from trimtab.components.workloads.daemonset import plan as plan_daemons
from trimtab.components.workloads.revisions import REVISION_LABEL
from trimtab.components.workloads.statefulset import references
from trimtab.components.workloads.statefulset import wanted as wanted_of
from trimtab.runtime import Denied
from workload_pods import NOW, make_pod


def serving(name: str, revision: str, node: str = "node-1", ready_for_s: float | None = 60) -> Pod:
    return make_pod(name, labels={REVISION_LABEL: revision}, ready_for_s=ready_for_s, node=node)


def db(numbers: range, revision: str) -> dict[int, Pod]:
    return {number: serving(f"db-{number}", revision) for number in numbers}


def test_ordinals_start_where_they_are_told_to() -> None:
    want = ordinals.Wanted(3, "new", "new", parallel=True, start=5)
    assert ordinals.step(want, {}, NOW).create == {5: "new", 6: "new", 7: "new"}
    out = ordinals.step(want, db(range(3, 9), "new"), NOW)
    assert [pod.name for pod in out.delete] == ["db-8", "db-4", "db-3"]


def test_the_partition_counts_from_the_start() -> None:
    want = ordinals.Wanted(4, "old", "new", start=10, partition=3)
    out = ordinals.step(want, db(range(10, 14), "old"), NOW)
    assert [pod.name for pod in out.delete] == ["db-13"]
    assert ordinals.step(want, db(range(10, 13), "old") | {13: serving("db-13", "new")}, NOW).delete == []
    assert ordinals.step(ordinals.Wanted(2, "old", "new", partition=9), db(range(2), "old"), NOW).delete == []


def test_several_pods_are_updated_at_once_from_the_top() -> None:
    want = ordinals.Wanted(5, "old", "new", unavailable=2)
    out = ordinals.step(want, db(range(5), "old"), NOW)
    assert [pod.name for pod in out.delete] == ["db-4", "db-3"]
    waiting = db(range(5), "old") | {4: serving("db-4", "new", ready_for_s=None)}
    assert ordinals.step(want, waiting, NOW).delete == []


@pytest.mark.parametrize(
    ("deleted", "scaled", "inside", "outside"),
    [
        ("Retain", "Retain", [], []),
        ("Delete", "Retain", ["StatefulSet"], ["StatefulSet"]),
        ("Retain", "Delete", [], ["Pod"]),
        ("Delete", "Delete", ["StatefulSet"], ["Pod"]),
    ],
)
def test_whom_a_claim_goes_with(deleted: str, scaled: str, inside: list[str], outside: list[str]) -> None:
    spec = StatefulSetSpec(
        replicas=2,
        ordinals=StatefulSetOrdinals(start=1),
        persistent_volume_claim_retention_policy=ClaimRetentionPolicy(deleted, scaled),
    )
    subject = StatefulSet(metadata=ObjectMeta(name="db", namespace="default", uid="s"), spec=spec)
    want = wanted_of(subject, "r", ["r"])
    pod = serving("db-3", "r")
    assert [r["kind"] for r in references(subject, 2, serving("db-2", "r"), want)] == inside
    assert [r["kind"] for r in references(subject, 3, pod, want)] == outside


# DaemonSets


def plan(surge: int, *pods: Pod) -> tuple[list[str], list[str]]:
    want = Daemons(("a", "b", "c"), "new", surge=surge)
    out = plan_daemons(want, pods, NOW)
    return out.create, sorted(pod.name for pod in out.delete)


def test_with_a_surge_the_new_pod_comes_before_the_old_one_goes() -> None:
    old = [serving(f"old-{node}", "old", node) for node in "abc"]
    assert plan(1, *old) == (["a"], [])
    assert plan(2, *old) == (["a", "b"], [])
    assert plan(1, *old, serving("new-a", "new", "a", ready_for_s=None)) == ([], [])
    assert plan(1, *old, serving("new-a", "new", "a")) == (["b"], ["old-a"])
    assert plan(1, *old[1:], serving("new-a", "new", "a")) == (["b"], [])


def test_a_node_whose_old_pod_serves_nobody_gets_its_successor_at_once() -> None:
    broken = serving("old-c", "old", "c", ready_for_s=None)
    assert plan(1, serving("old-a", "old", "a"), serving("old-b", "old", "b"), broken) == (["c", "a"], [])


@pytest.mark.parametrize(
    ("update", "line"),
    [
        (
            {"maxSurge": 1, "maxUnavailable": 1},
            "maxSurge: Invalid value: may not be set when maxUnavailable is non-zero",
        ),
        ({"maxSurge": 0, "maxUnavailable": 0}, "maxUnavailable: Required value: cannot be 0 when maxSurge is 0"),
    ],
)
def test_an_update_that_could_never_go_on_is_refused(update: JSON, line: str) -> None:
    with pytest.raises(Denied) as refused:
        check_daemonset({"spec": {"updateStrategy": {"rollingUpdate": update}}}, None)
    assert str(refused.value) == f"spec.updateStrategy.rollingUpdate.{line}"


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"ordinals": {"start": -1}}, "spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0"),
        (
            {"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Sell"}},
            'spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: "Sell": supported values: "Delete", '
            '"Retain"',
        ),
        (
            {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}},
            "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: must be at least 1",
        ),
    ],
)
def test_a_set_that_contradicts_itself_is_refused(spec: JSON, line: str) -> None:
    with pytest.raises(Denied) as refused:
        check_statefulset({"spec": spec}, None)
    assert str(refused.value) == line
