"""When a Job starts pods, waits, ends, and what it says."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from trimtab.api import Condition, ObjectMeta
from trimtab.api.core import (
    Container,
    ContainerState,
    ContainerStateTerminated,
    ContainerStatus,
    Pod,
    PodSpec,
    PodTemplateSpec,
)
from trimtab.api.jobs import Job, JobSpec, JobStatus, UncountedTerminatedPods
from trimtab.components.workloads.job import expires_in_s
from trimtab.components.workloads.job_plan import Plan, back_off_s
from trimtab.components.workloads.job_plan import plan as plan_of
from trimtab.components.workloads.job_tally import TRACKING, tally
from workload_pods import NOW, ago
from workload_pods import make_pod as make_any_pod


def make_pod(name: str = "web-1", **spec: Any) -> Pod:
    """A pod that the Job has still to count."""
    pod = make_any_pod(name, **spec)
    pod.metadata.finalizers = [TRACKING]
    return pod


def plan(job: Job, pods: list[Pod], now: datetime) -> Plan:
    return plan_of(job, pods, tally(job, pods), now)


def make_job(restart: str = "Never", status: JobStatus | None = None, **spec: Any) -> Job:
    template = PodTemplateSpec(spec=PodSpec(containers=[Container(name="main", image="a")], restart_policy=restart))
    return Job(
        metadata=ObjectMeta(name="migrate", namespace="default", uid="j"),
        spec=JobSpec(template=template, **spec),
        status=status or JobStatus(start_time=ago(10), uncounted_terminated_pods=UncountedTerminatedPods()),
    )


def ended(name: str, code: int, ago_s: float = 1, message: str = "") -> Pod:
    state = ContainerState(terminated=ContainerStateTerminated(exit_code=code, message=message, finished_at=ago(ago_s)))
    return make_pod(
        name,
        phase="Failed" if code else "Succeeded",
        status={"container_statuses": [ContainerStatus(name="main", state=state)]},
    )


def test_one_pod_unless_told_otherwise() -> None:
    assert plan(make_job(), [], NOW).create == 1
    assert plan(make_job(), [make_pod()], NOW).create == 0
    assert plan(make_job(completions=5, parallelism=3), [make_pod()], NOW).create == 2
    assert plan(make_job(completions=2, parallelism=3), [ended("a", 0)], NOW).create == 1
    assert plan(make_job(parallelism=0), [], NOW).create == 0


def test_too_many_are_taken_back() -> None:
    out = plan(make_job(completions=5, parallelism=1), [make_pod("a", ready_for_s=1), make_pod("b")], NOW)
    assert [pod.name for pod in out.stop] == ["b"]


def test_complete_when_enough_succeeded() -> None:
    out = plan(make_job(completions=2, parallelism=2), [ended("a", 0), ended("b", 0), make_pod("c")], NOW)
    assert out.success == ("CompletionsReached", "Reached expected number of succeeded pods")
    assert [pod.name for pod in out.stop] == ["c"]


def test_a_work_queue_ends_with_its_last_pod() -> None:
    queue = make_job(parallelism=3)
    assert plan(queue, [], NOW).create == 3
    running = plan(queue, [ended("a", 0), make_pod("b")], NOW)
    assert (running.success, running.create, running.stop) == (None, 0, [])
    assert plan(queue, [ended("a", 0), ended("b", 0)], NOW).success


def test_a_counted_success_counts_when_its_pod_is_gone() -> None:
    assert plan(make_job(status=JobStatus(start_time=ago(5), succeeded=1)), [], NOW).success


@pytest.mark.parametrize(("failures", "pause_s"), [(1, 10), (2, 20), (3, 40), (9, 600)])
def test_the_pause_doubles_with_each_failure_in_a_row(failures: int, pause_s: float) -> None:
    assert back_off_s([ended(f"{n}", 1, 0) for n in range(failures)], [], NOW) == pause_s


def test_a_success_ends_the_row() -> None:
    assert back_off_s([ended("a", 1, 50)], [ended("b", 0, 20)], NOW) == 0
    out = plan(make_job(), [ended("a", 1, 4)], NOW)
    assert (out.create, out.retry_s) == (0, 6)
    assert plan(make_job(), [ended("a", 1, 10)], NOW).create == 1


def test_too_many_failures_end_it_with_the_last_words() -> None:
    pods = [ended("migrate-a", 1, 90, "old news"), ended("migrate-b", 1, 2, "no such table: notes")]
    out = plan(make_job(backoff_limit=1), [*pods, make_pod("c")], NOW)
    assert out.failure == (
        "BackoffLimitExceeded",
        "Job has reached the specified backoff limit: pod migrate-b: container main: exited with code 1: "
        "no such table: notes",
    )
    assert [pod.name for pod in out.fail] == ["c"]
    assert plan(make_job(backoff_limit=2), pods, NOW).failure is None


def test_restarts_in_place_count_with_restart_policy_on_failure() -> None:
    last = ContainerState(terminated=ContainerStateTerminated(exit_code=3, message="bad input"))
    pod = make_pod("a", status={"container_statuses": [ContainerStatus(name="main", restart_count=2, last_state=last)]})
    assert plan(make_job("OnFailure", backoff_limit=3), [pod], NOW).failure is None
    assert plan(make_job("OnFailure", backoff_limit=2), [pod], NOW).failure == (
        "BackoffLimitExceeded",
        "Job has reached the specified backoff limit: pod a: container main: exited with code 3: bad input",
    )


def test_a_verdict_stands_although_the_pods_it_came_from_are_gone() -> None:
    verdict = Condition(type="FailureTarget", status="True", reason="BackoffLimitExceeded", message="as said")
    out = plan(make_job("OnFailure", status=JobStatus(start_time=ago(9), conditions=[verdict])), [], NOW)
    assert out.failure == ("BackoffLimitExceeded", "as said")
    assert out.create == 0


def test_the_deadline() -> None:
    waiting = plan(make_job(active_deadline_seconds=60), [make_pod()], NOW)
    assert (waiting.failure, waiting.retry_s) == (None, 50)
    out = plan(make_job(active_deadline_seconds=10), [make_pod()], NOW)
    assert out.failure == ("DeadlineExceeded", "Job was active longer than specified deadline")


def test_a_success_stays_one_while_the_last_pods_are_stopped() -> None:
    reached = Condition(type="SuccessCriteriaMet", status="True")
    status = JobStatus(start_time=ago(100), succeeded=1, conditions=[reached])
    job = make_job(status=status, active_deadline_seconds=60, backoff_limit=0)
    out = plan(job, [ended("a", 0), ended("stopped", 137), make_pod("late")], NOW)
    assert (bool(out.success), out.failure, [pod.name for pod in out.stop]) == (True, None, ["late"])


def test_time_to_live_counts_from_the_end() -> None:
    done = Condition(type="Complete", status="True", last_transition_time=NOW)
    finished = make_job(status=JobStatus(conditions=[done]), ttl_seconds_after_finished=60)
    assert expires_in_s(finished, NOW + timedelta(seconds=20)) == 40
    assert expires_in_s(finished, NOW + timedelta(seconds=70)) == 0
    assert expires_in_s(make_job(ttl_seconds_after_finished=60), NOW) is None
