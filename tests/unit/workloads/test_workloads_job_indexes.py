"""Indexed Jobs: sets of indexes, which index gets a pod, failures by index, the policies, and the exact counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.api import JSON, ObjectMeta
from trimtab.api.core import (
    Container,
    ContainerState,
    ContainerStateTerminated,
    ContainerStatus,
    Pod,
    PodSpec,
    PodTemplateSpec,
)
from trimtab.api.jobs import (
    Job,
    JobSpec,
    JobStatus,
    OnExitCodes,
    OnPodCondition,
    PodFailurePolicy,
    PodFailurePolicyRule,
    SuccessPolicy,
    SuccessPolicyRule,
    UncountedTerminatedPods,
)
from trimtab.components.workloads import indexes
from trimtab.components.workloads.admission import check_cronjob, check_job
from trimtab.components.workloads.job import ours, render
from trimtab.components.workloads.job_plan import Plan, plan
from trimtab.components.workloads.job_policy import success_rule, verdict
from trimtab.components.workloads.job_tally import FAILURES, INDEX, TRACKING, tally
from trimtab.runtime import Denied
from workload_pods import NOW, ago, make_pod


def make_job(**spec: Any) -> Job:
    status = spec.pop("status", {})
    spec.setdefault("completion_mode", "Indexed")
    template = PodTemplateSpec(
        spec=PodSpec(
            containers=[Container(name="main", image="a")],
            init_containers=[Container(name="first", image="a")],
            restart_policy="Never",
        )
    )
    return Job(
        metadata=ObjectMeta(name="render", namespace="default", uid="j"),
        spec=JobSpec(template=template, **spec),
        status=JobStatus(start_time=ago(900), **{"uncounted_terminated_pods": UncountedTerminatedPods(), **status}),
    )


def part(
    index: int, code: int | None = None, *, before: int = 0, name: str = "", held: bool = True, **more: Any
) -> Pod:
    """A pod of an index: running, or ended with `code`."""
    phase = "Running" if code is None else "Failed" if code else "Succeeded"
    statuses = []
    if code is not None:
        ended = ContainerStateTerminated(exit_code=code, finished_at=ago(800))
        statuses = [ContainerStatus(name="main", state=ContainerState(terminated=ended))]
    pod = make_pod(name or f"render-{index}", phase=phase, status={"container_statuses": statuses}, **more)
    pod.metadata.annotations = {INDEX: str(index), FAILURES: str(before)}
    pod.metadata.finalizers = [TRACKING] if held else []
    return pod


def step(job: Job, pods: list[Pod]) -> Plan:
    return plan(job, pods, tally(job, pods), NOW)


@pytest.mark.parametrize(
    ("text", "found"),
    [("", set()), ("3", {3}), ("0,2-4", {0, 2, 3, 4}), ("0,1,5", {0, 1, 5})],
)
def test_indexes_as_text(text: str, found: set[int]) -> None:
    assert indexes.parse(text) == found
    assert indexes.text_of(found) == text


@given(st.frozensets(st.integers(0, 300)))
def test_the_text_says_just_the_indexes(found: frozenset[int]) -> None:
    assert indexes.parse(indexes.text_of(found)) == found


@pytest.mark.parametrize("text", ["a", "1,", "2-1", "3,1", "1--2", "-1"])
def test_what_is_no_text_of_indexes(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither an index nor a range|out of order"):
        indexes.parse(text)


def test_each_missing_index_gets_a_pod_lowest_first() -> None:
    job = make_job(completions=5, parallelism=2, status={"completed_indexes": "0,2"})
    assert step(job, []).indexes == [1, 3]
    assert step(job, [part(3)]).indexes == [1]
    assert step(job, [part(1), part(3)]).indexes == []


def test_two_pods_of_one_index_and_those_beyond_are_one_too_many() -> None:
    job = make_job(completions=2, parallelism=2)
    out = step(job, [part(0, name="old", ready_for_s=9), part(0, name="young"), part(7, name="beyond")])
    assert sorted(pod.name for pod in out.stop) == ["beyond", "young"]
    assert out.indexes == [1]
    assert out.failure is None


def test_a_pod_knows_its_index_in_five_ways() -> None:
    job = make_job(completions=3, parallelism=3, backoff_limit_per_index=3)
    failed = part(1, 1, before=1)
    (pod,) = render(job, [failed], Plan(indexes=[1]))
    assert pod.name.startswith("render-1-")
    assert pod.spec.hostname == "render-1"
    assert pod.metadata.annotations[INDEX] == pod.metadata.labels[INDEX] == "1"
    assert pod.metadata.annotations[FAILURES] == "2"
    assert pod.metadata.finalizers == [TRACKING]
    for container in (*pod.spec.containers, *pod.spec.init_containers):
        (variable,) = container.env
        assert variable.name == "JOB_COMPLETION_INDEX"
        assert variable.value_from is not None
        assert variable.value_from.field_ref is not None
        assert variable.value_from.field_ref.field_path == f"metadata.annotations['{INDEX}']"
    assert render(job, [failed], Plan(indexes=[1]))[0].name == pod.name


def test_an_index_fails_by_itself() -> None:
    job = make_job(completions=3, parallelism=3, backoff_limit_per_index=1)
    once, twice = part(0, 1), part(1, 1, before=1)
    counted = tally(job, [once, twice])
    assert counted.failed_indexes == {1}
    assert counted.lift == []  # the first failure of index 0 is known by this pod alone
    assert step(job, [once, twice]).indexes == [0, 2]
    again = part(0, before=1, name="again")
    noted = {"uncounted_terminated_pods": UncountedTerminatedPods(failed=["uid-render-0", "uid-render-1"])}
    later = make_job(completions=3, parallelism=3, backoff_limit_per_index=1, status=noted | {"failed_indexes": "1"})
    counted = tally(later, [once, twice, again])
    assert ([pod.name for pod in counted.lift], counted.failed) == (["render-0", "render-1"], 2)


def test_the_job_fails_once_all_indexes_are_done_and_one_failed() -> None:
    limits = {"completions": 2, "parallelism": 2, "backoff_limit_per_index": 0}
    job = make_job(**limits, status={"completed_indexes": "0"})
    assert step(job, [part(1)]).failure is None
    failure = step(job, [part(1, 3)]).failure
    assert failure == ("FailedIndexes", "Job has failed indexes: pod render-1: container main: exited with code 3")
    failure = step(make_job(**limits | {"completions": 9}, max_failed_indexes=0), [part(1, 3)]).failure
    assert failure is not None
    assert failure[0] == "MaxFailedIndexesExceeded"


def rules(*found: PodFailurePolicyRule) -> dict[str, Any]:
    return {"pod_failure_policy": PodFailurePolicy(rules=list(found)), "pod_replacement_policy": "Failed"}


def test_the_first_rule_that_matches_says_what_a_failure_means() -> None:
    job = make_job(
        completions=2,
        **rules(
            PodFailurePolicyRule("Ignore", on_pod_conditions=[OnPodCondition("DisruptionTarget")]),
            PodFailurePolicyRule("FailJob", on_exit_codes=OnExitCodes("In", [42], "main")),
            PodFailurePolicyRule("Count", on_exit_codes=OnExitCodes("NotIn", [1])),
        ),
    )
    said = verdict(job, part(0, 42))
    assert said is not None
    assert said.message == (
        "Container main for pod default/render-0 failed with exit code 42 matching FailJob rule at index 1"
    )
    assert step(job, [part(0, 42)]).failure == ("PodFailurePolicy", said.message)
    found = [verdict(job, part(0, code)) for code in (7, 1)]
    assert [each and each.action for each in found] == ["Count", None]


def test_an_ignored_failure_counts_for_nothing() -> None:
    job = make_job(completions=1, backoff_limit=0, **rules(PodFailurePolicyRule("Ignore", OnExitCodes("In", [9]))))
    counted = tally(job, [part(0, 9)])
    assert (counted.failures, [pod.name for pod in counted.lift]) == (0, ["render-0"])
    assert step(job, [part(0, 9)]).indexes == [0]


def test_the_success_policy() -> None:
    policy = SuccessPolicy(
        rules=[SuccessPolicyRule("0,2-3", 2), SuccessPolicyRule("1"), SuccessPolicyRule(succeeded_count=3)]
    )
    job = make_job(completions=5, parallelism=5, success_policy=policy)
    assert [success_rule(job, found) for found in ({0}, {0, 3}, {1}, {0, 4, 5}, {4})] == [None, 0, 1, 2, None]
    out = step(job, [part(1, 0), part(2), part(4)])
    assert out.success == ("SuccessPolicy", "Matched rules at index 1")
    assert [pod.name for pod in out.stop] == ["render-2", "render-4"]


# Exactly once


def test_an_ended_pod_is_counted_once_step_by_step() -> None:
    job = make_job(completion_mode="NonIndexed", completions=3)
    done = part(0, 0)
    first = tally(job, [done])
    assert (first.succeeded, first.uncounted_succeeded, first.lift) == (0, ["uid-render-0"], [])
    noted = UncountedTerminatedPods(succeeded=["uid-render-0"])
    job = make_job(completion_mode="NonIndexed", completions=3, status={"uncounted_terminated_pods": noted})
    second = tally(job, [done])
    assert (second.succeeded, second.uncounted_succeeded, second.lift) == (1, [], [done])
    # It died between the two halves: the finalizer is off, or the pod gone, and the status has not changed.
    for pods in ([part(0, 0, held=False)], []):
        repeated = tally(job, pods)
        assert (repeated.succeeded, repeated.uncounted_succeeded, repeated.lift) == (1, [], [])
    job = make_job(completion_mode="NonIndexed", completions=3, status={"succeeded": 1})
    assert tally(job, [part(0, 0, held=False)]).successes == 1


def test_a_pod_that_somebody_deletes_has_failed_unless_its_replacement_waits_for_its_end() -> None:
    deleted = part(0, deleting=True)
    assert tally(make_job(completions=1), [deleted]).failures == 1
    waits = make_job(completions=1, pod_replacement_policy="Failed")
    assert tally(waits, [deleted]).failures == 0
    assert step(waits, [deleted]).indexes == []
    deleted.metadata.deletion_grace_period_seconds = 0
    assert tally(waits, [deleted]).failures == 1


def test_what_an_earlier_release_counted_is_taken_over() -> None:
    running, done = part(1, held=False), part(0, 0, held=False)
    job = make_job(completion_mode="NonIndexed", completions=2, status={"uncounted_terminated_pods": None})
    counted = tally(job, [running, done])
    assert (counted.successes, counted.adopt) == (1, [running])
    assert plan(job, [running, done], counted, NOW).stop == []
    assert plan(make_job(completions=2), [running], tally(make_job(completions=2), [running]), NOW).stop == [running]


def test_another_controller_is_honoured() -> None:
    assert ours(make_job())
    assert ours(make_job(managed_by="kubernetes.io/job-controller"))
    assert not ours(make_job(managed_by="kueue.x-k8s.io/multikueue"))


POD: JSON = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main"}]}}


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"successPolicy": {}}, "spec.successPolicy: Invalid value: requires indexed completion mode"),
        ({"completionMode": "Indexed"}, "spec.completions: Required value: when completion mode is Indexed"),
        (
            {"completionMode": "Indexed", "completions": 2, "maxFailedIndexes": 1},
            "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
        ),
        (
            {"podFailurePolicy": {"rules": []}, "template": {"spec": {"restartPolicy": "OnFailure"}}},
            'spec.template.spec.restartPolicy: Invalid value: "OnFailure": only "Never" is supported when podFailurePolicy '
            "is specified",
        ),
        (
            {"template": POD, "podFailurePolicy": {"rules": [{"action": "FailIndex", "onPodConditions": [{}]}]}},
            'spec.podFailurePolicy.rules[0].action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set',
        ),
        (
            {
                "template": POD,
                "podFailurePolicy": {"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [0]}}]},
            },
            "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: 0: must not be 0 for the In operator: that "
            "is no failure",
        ),
        (
            {
                "template": POD,
                "podFailurePolicy": {
                    "rules": [
                        {"action": "Ignore", "onExitCodes": {"containerName": "x", "operator": "In", "values": [1]}}
                    ]
                },
            },
            'spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: "x": must be one of the container or '
            "initContainer names in the pod template",
        ),
        (
            {"completionMode": "Indexed", "completions": 2, "successPolicy": {"rules": [{"succeededIndexes": "1-2"}]}},
            'spec.successPolicy.rules[0].succeededIndexes: Invalid value: "1-2": must be less than completions',
        ),
        (
            {"completionMode": "Indexed", "completions": 2, "successPolicy": {"rules": [{"succeededCount": 3}]}},
            "spec.successPolicy.rules[0].succeededCount: Invalid value: 3: must be between 1 and 2",
        ),
        (
            {"podReplacementPolicy": "Soon"},
            'spec.podReplacementPolicy: Unsupported value: "Soon": supported values: "Failed", "TerminatingOrFailed"',
        ),
    ],
)
def test_contradictions_are_refused(spec: JSON, line: str) -> None:
    with pytest.raises(Denied) as refused:
        check_job({"spec": spec}, None)
    assert str(refused.value) == line
    with pytest.raises(Denied, match=r"^spec\.jobTemplate\.spec\."):
        check_cronjob({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": spec}}}, None)
