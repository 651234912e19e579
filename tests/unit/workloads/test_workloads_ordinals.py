"""A StatefulSet's order: up from 0, down from the top, an update from the top and one pod at a time."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.api.core import Pod
from trimtab.components.workloads.ordinals import Wanted, ordinal, step
from trimtab.components.workloads.revisions import REVISION_LABEL
from workload_pods import NOW, make_pod


def member(
    number: int, revision: str = "a", *, ready: bool = True, phase: str = "Running", deleting: bool = False
) -> Pod:
    return make_pod(
        f"db-{number}",
        phase=phase,
        deleting=deleting,
        ready_for_s=5 if ready else None,
        labels={REVISION_LABEL: revision},
    )


def members(*pods: Pod) -> dict[int, Pod]:
    return {number: pod for pod in pods if (number := ordinal("db", pod.name)) is not None}


def plan(wanted: Wanted, *pods: Pod) -> tuple[dict[int, str], list[str]]:
    out = step(wanted, members(*pods), NOW)
    return out.create, [pod.name for pod in out.delete]


A = Wanted(3, "a", "a")
AB = Wanted(3, "a", "b")


def test_ordinals_are_read_from_names_exactly() -> None:
    assert ordinal("db", "db-12") == 12
    assert ordinal("db", "db-") is None
    assert ordinal("db", "db-01") is None
    assert ordinal("db", "db-x-1") is None
    assert ordinal("db", "web-1") is None


def test_each_waits_for_the_one_before() -> None:
    assert plan(A) == ({0: "a"}, [])
    assert plan(A, member(0, ready=False)) == ({}, [])
    assert plan(A, member(0)) == ({1: "a"}, [])
    assert plan(A, member(0), member(1), member(2)) == ({}, [])


def test_parallel_waits_for_nobody() -> None:
    assert plan(Wanted(3, "a", "a", parallel=True)) == ({0: "a", 1: "a", 2: "a"}, [])


def test_a_failed_pod_is_deleted_and_then_made_again() -> None:
    assert plan(A, member(0, phase="Failed", ready=False), member(1), member(2)) == ({}, ["db-0"])
    assert plan(A, member(0, deleting=True), member(1), member(2)) == ({}, [])
    assert plan(A, member(1), member(2)) == ({0: "a"}, [])


def test_a_pod_that_fails_at_once_is_not_made_again_and_again() -> None:
    young = make_pod("db-0", phase="Failed", age_s=2)
    out = step(A, members(young, member(1)), NOW)
    assert (out.create, out.delete, out.retry_s) == ({}, [], 3.0)
    assert plan(A, make_pod("db-0", phase="Failed", age_s=5), member(1)) == ({}, ["db-0"])


def test_shrinks_from_the_top_one_at_a_time() -> None:
    small = Wanted(1, "a", "a")
    assert plan(small, member(0), member(1), member(2)) == ({}, ["db-2"])
    assert plan(small, member(0), member(1), member(2, deleting=True)) == ({}, [])
    assert plan(small, member(0, ready=False), member(1), member(2)) == ({}, [])


def test_shrinks_no_further_while_one_below_is_in_trouble() -> None:
    none = Wanted(0, "a", "a")
    assert plan(none, member(0, ready=False), member(1, ready=False), member(2, ready=False)) == ({}, [])
    assert plan(none, member(0), member(1, ready=False), member(2, ready=False)) == ({}, [])
    assert plan(none, member(0), member(1), member(2, ready=False)) == ({}, ["db-2"])
    assert plan(none, member(0, ready=False)) == ({}, ["db-0"])
    at_once = Wanted(0, "a", "a", parallel=True)
    assert plan(at_once, member(0, ready=False), member(1, ready=False)) == ({}, ["db-1", "db-0"])
    assert plan(Wanted(1, "a", "a", parallel=True), member(0), member(1), member(2)) == ({}, ["db-2", "db-1"])


def test_an_update_goes_from_the_top_and_waits() -> None:
    assert plan(AB, member(0), member(1), member(2)) == ({}, ["db-2"])
    assert plan(AB, member(0), member(1)) == ({2: "b"}, [])
    assert plan(AB, member(0), member(1), member(2, "b", ready=False)) == ({}, [])
    assert plan(AB, member(0), member(1), member(2, "b")) == ({}, ["db-1"])


def test_a_partition_holds_the_update_back() -> None:
    half = Wanted(3, "a", "b", partition=2)
    assert plan(half, member(0), member(1), member(2, "b")) == ({}, [])
    assert plan(half, member(1), member(2, "b")) == ({0: "a"}, [])


def test_on_delete_leaves_the_moment_to_the_user() -> None:
    manual = Wanted(3, "a", "b", rolling=False)
    assert plan(manual, member(0), member(1), member(2)) == ({}, [])
    assert plan(manual, member(0), member(2)) == ({1: "b"}, [])


def test_while_the_new_revision_is_in_trouble_a_lost_pod_comes_back_in_the_old_one() -> None:
    assert plan(AB, member(1), member(2, "b", ready=False)) == ({0: "a"}, [])


def test_a_pod_of_an_abandoned_update_is_replaced_by_the_next() -> None:
    third = Wanted(3, "a", "c")
    assert plan(third, member(0), member(1), member(2, "b", ready=False)) == ({}, ["db-2"])
    back = Wanted(3, "a", "a")
    assert plan(back, member(0), member(1), member(2, "b", ready=False)) == ({}, ["db-2"])


def test_a_first_version_that_never_served_is_replaced() -> None:
    assert plan(AB, member(0, ready=False)) == ({}, ["db-0"])
    assert plan(AB) == ({0: "b"}, [])


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 5), st.booleans(), st.lists(st.sampled_from(["a", "b", "bad"]), max_size=4), st.integers(0, 2**32)
)
def test_any_schedule_converges_and_an_update_takes_one_pod_at_a_time(
    replicas: int, parallel: bool, versions: list[str], seed: int
) -> None:
    """Pods get ready in their own time; those of revision `bad` never do. Whatever happened before, `good` ends it."""
    rng = random.Random(seed)
    pods = {number: member(number, "start") for number in range(replicas)}
    current = "start"

    def tick(update: str) -> None:
        nonlocal current
        wanted = Wanted(replicas, current, update, parallel=parallel)
        serving = sum(1 for pod in pods.values() if pod.status.conditions[0].status == "True")
        out = step(wanted, pods, NOW)
        doomed = [pod for pod in out.delete if pod.status.conditions[0].status == "True"]
        assert len(doomed) <= 1
        if doomed:
            assert serving == replicas, "a serving pod is only taken while all serve"
        for pod in out.delete:
            del pods[int(pod.name[3:])]
        for number, name in out.create.items():
            assert number not in pods
            pods[number] = member(number, name, ready=False)
        unready = [n for n, pod in pods.items() if pod.status.conditions[0].status == "False"]
        for number in unready:
            name = pods[number].metadata.labels[REVISION_LABEL]
            if name != "bad" and rng.random() < 0.5:
                pods[number] = member(number, name)
        done = len(pods) == replicas and all(
            pod.metadata.labels[REVISION_LABEL] == update and pod.status.conditions[0].status == "True"
            for pod in pods.values()
        )
        current = update if done else current

    for version in versions:
        for _ in range(rng.randrange(15)):
            tick(version)
    for _ in range(60 * replicas):
        tick("good")
    assert current == "good"
    assert sorted(pods) == list(range(replicas))
