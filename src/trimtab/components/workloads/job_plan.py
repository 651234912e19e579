"""The next step of a Job: which pods to start, which to stop, whether it is decided. Pure.

    tally (job_tally.py) --> decided? complete, failed, or enough by the success policy
                             else: which indexes, or how many pods, lack a running one, after which pause

What is decided stays, however the pods that are still being stopped end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from trimtab.api.core import Pod
from trimtab.api.jobs import Job
from trimtab.components.workloads import conditions
from trimtab.components.workloads import pods as facts
from trimtab.components.workloads.job_policy import FAIL_JOB, success_rule, verdict
from trimtab.components.workloads.job_tally import Tally, index_of, indexed, terminating, tracked
from trimtab.components.workloads.replicaset import earliest

BACK_OFF_FIRST_S = 10.0
BACK_OFF_MAX_S = 600.0
BACK_OFF_LIMIT_DEFAULT = 6

BACK_OFF_LIMIT = "BackoffLimitExceeded"
DEADLINE = "DeadlineExceeded"
REACHED = "CompletionsReached"
POLICY_FAILED = "PodFailurePolicy"
POLICY_MET = "SuccessPolicy"
INDEXES_FAILED = "FailedIndexes"
TOO_MANY_INDEXES = "MaxFailedIndexesExceeded"
REACHED_TEXT = "Reached expected number of succeeded pods"


@dataclass
class Plan:
    """What happens next. A Job that is not Indexed creates `create` pods, an Indexed one a pod for each of `indexes`."""

    create: int = 0
    indexes: list[int] = field(default_factory=list)
    stop: list[Pod] = field(default_factory=list)
    """Pods that are one too many: no failure."""
    fail: list[Pod] = field(default_factory=list)
    """Pods that are stopped since the Job has failed: they have, too."""
    failure: tuple[str, str] | None = None
    """Reason and message, once the Job has failed."""
    success: tuple[str, str] | None = None
    retry_s: float | None = None


def plan(job: Job, pods: Sequence[Pod], tally: Tally, now: datetime) -> Plan:
    """Decides the next step of a Job that is not over and not suspended."""
    living = [pod for pod in pods if facts.active(pod)]
    out = Plan()
    met = conditions.find(job.status.conditions, "SuccessCriteriaMet")
    if met is not None and met.status == "True":
        out.success, out.stop = (met.reason or REACHED, met.message or REACHED_TEXT), living
        return out
    out.failure = _failure(job, pods, living, tally, now)
    if out.failure:
        out.fail = living
        return out
    known = {pod.metadata.uid for pod in tally.adopt}
    untracked = [pod for pod in living if not tracked(pod) and pod.metadata.uid not in known]
    out.stop = untracked  # its stopping was begun
    running = [pod for pod in living if pod not in untracked]
    out.success = _success(job, running, tally)
    if out.success:
        out.stop = living
        return out
    leaving = [pod for pod in pods if terminating(pod)] if job.spec.pod_replacement_policy == "Failed" else []
    if indexed(job):
        _indexed(job, pods, running, leaving, tally, out, now)
    else:
        _counted(job, pods, running, leaving, tally, out, now)
    out.retry_s = earliest(out.retry_s, deadline_s(job, now))
    return out


def parallelism(job: Job) -> int:
    return 1 if job.spec.parallelism is None else job.spec.parallelism


def completions(job: Job) -> int | None:
    """How many have to succeed; None for a work queue, whose pods agree among themselves."""
    if job.spec.completions is not None:
        return job.spec.completions
    return None if job.spec.parallelism is not None else 1


def _counted(
    job: Job, pods: Sequence[Pod], running: list[Pod], leaving: list[Pod], tally: Tally, out: Plan, now: datetime
) -> None:
    wanted = completions(job)
    if wanted is None:
        want = len(running) if tally.successes else parallelism(job)
    else:
        want = max(0, min(parallelism(job), wanted - tally.successes))
    out.stop += facts.deletion_order(running)[: max(0, len(running) - want)]
    missing = max(0, want - len(running) - len(leaving))
    failures = [pod for pod in pods if pod.status.phase == "Failed"]
    successes = [pod for pod in pods if pod.status.phase == "Succeeded"]
    out.retry_s = (back_off_s(failures, successes, now) or None) if missing else None
    out.create = 0 if out.retry_s else missing


def _indexed(
    job: Job, pods: Sequence[Pod], running: list[Pod], leaving: list[Pod], tally: Tally, out: Plan, now: datetime
) -> None:
    size = job.spec.completions or 0
    done = tally.completed | tally.failed_indexes
    taken: set[int] = set()
    kept: list[Pod] = []
    for pod in reversed(facts.deletion_order(running)):
        index = index_of(pod)
        if index is None or index >= size or index in done or index in taken:
            out.stop.append(pod)
        else:
            taken.add(index)
            kept.append(pod)
    want = max(0, min(parallelism(job), size - len([index for index in done if index < size])))
    surplus = facts.deletion_order(kept)[: max(0, len(kept) - want)]
    out.stop += surplus
    taken |= {index for pod in leaving if (index := index_of(pod)) is not None}
    room = want - len(kept) - len(leaving)
    of_index = job.spec.backoff_limit_per_index is not None
    failures = [pod for pod in pods if pod.status.phase == "Failed"]
    successes = [pod for pod in pods if pod.status.phase == "Succeeded"]
    pause = 0.0 if of_index else back_off_s(failures, successes, now)
    for index in range(size):
        if room <= 0:
            break
        if index in done or index in taken:
            continue
        if of_index:
            pause = back_off_s([pod for pod in failures if index_of(pod) == index], (), now)
        if pause:
            out.retry_s = earliest(out.retry_s, pause)
            if not of_index:
                break
            continue
        out.indexes.append(index)
        room -= 1


def _success(job: Job, running: Sequence[Pod], tally: Tally) -> tuple[str, str] | None:
    if indexed(job):
        rule = success_rule(job, tally.completed)
        if rule is not None:
            return POLICY_MET, f"Matched rules at index {rule}"
        return (REACHED, REACHED_TEXT) if len(tally.completed) >= (job.spec.completions or 0) else None
    wanted = completions(job)
    enough = tally.successes > 0 and not running if wanted is None else tally.successes >= wanted
    return (REACHED, REACHED_TEXT) if enough else None


def _failure(
    job: Job, pods: Sequence[Pod], living: Sequence[Pod], tally: Tally, now: datetime
) -> tuple[str, str] | None:
    decided = conditions.find(job.status.conditions, "FailureTarget")
    if decided is not None and decided.status == "True":
        return decided.reason, decided.message
    failures = [pod for pod in pods if pod.status.phase == "Failed"]
    for pod in failures:
        said = verdict(job, pod) if tracked(pod) else None
        if said is not None and said.action == FAIL_JOB:
            return POLICY_FAILED, said.message
    limit = BACK_OFF_LIMIT_DEFAULT if job.spec.backoff_limit is None else job.spec.backoff_limit
    exhausted, blamed = tally.failures > limit, failures
    if job.spec.template.spec.restart_policy == "OnFailure":
        restarts = sum(facts.restarts(pod) for pod in living)
        if restarts and restarts >= limit:
            exhausted, blamed = True, [*failures, *(pod for pod in living if facts.restarts(pod))]
    if exhausted:
        return BACK_OFF_LIMIT, _quoting("Job has reached the specified backoff limit", blamed)
    left = deadline_s(job, now)
    if left is not None and left <= 0:
        return DEADLINE, _quoting("Job was active longer than specified deadline", [*living, *failures])
    return _indexes_failed(job, failures, tally)


def _indexes_failed(job: Job, failures: Sequence[Pod], tally: Tally) -> tuple[str, str] | None:
    if not indexed(job) or not tally.failed_indexes:
        return None
    most = job.spec.max_failed_indexes
    if most is not None and len(tally.failed_indexes) > most:
        return TOO_MANY_INDEXES, _quoting("Job has exceeded the specified maximal number of failed indexes", failures)
    size = job.spec.completions or 0
    if len(tally.failed_indexes | tally.completed) >= size and success_rule(job, tally.completed) is None:
        return INDEXES_FAILED, _quoting("Job has failed indexes", failures)
    return None


def back_off_s(failures: Sequence[Pod], successes: Sequence[Pod], now: datetime) -> float:
    """Seconds until the next try: 10 s after the first failure in a row, doubling with each, at most 10 min."""
    last_success = max((facts.ended_at(pod) for pod in successes), default=None)
    ends = [facts.ended_at(pod) for pod in failures]
    in_a_row = [at for at in ends if last_success is None or at > last_success]
    if not in_a_row:
        return 0.0
    pause = min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2.0 ** (len(in_a_row) - 1))
    return max(0.0, pause - (now - max(in_a_row)).total_seconds())


def _quoting(sentence: str, pods: Sequence[Pod]) -> str:
    for pod in sorted(pods, key=facts.ended_at, reverse=True):
        said = facts.trouble(pod) or facts.last_failure(pod)
        if said:
            return f"{sentence}: pod {pod.name}: {said}"
    return sentence


def deadline_s(job: Job, now: datetime) -> float | None:
    """Seconds until `activeDeadlineSeconds` is up; None without one."""
    if job.spec.active_deadline_seconds is None or job.status.start_time is None:
        return None
    ends = job.status.start_time + timedelta(seconds=job.spec.active_deadline_seconds)
    return max(0.0, (ends - now).total_seconds())
