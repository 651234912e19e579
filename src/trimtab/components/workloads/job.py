"""Job -> Pods that run to their end: so many successes wanted, so many at a time, so many failures borne.

Every finished pod stays until the Job goes, as its record; the counts in the status only ever grow. A failed pod is
replaced after a pause that doubles with each failure in a row. A Job that has failed says so in a line that quotes what
the last failed pod said, since whoever waits for a Job (a deploy waiting for its migration) shows that line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

import msgspec

from trimtab.api import JSON, Condition
from trimtab.api.core import Pod
from trimtab.api.workloads import Job
from trimtab.components.workloads import conditions
from trimtab.components.workloads import pods as facts
from trimtab.components.workloads.names import free_names
from trimtab.components.workloads.replicaset import earliest, pod_of
from trimtab.runtime import Context, Desired, reconciler

BACK_OFF_FIRST_S = 10.0
BACK_OFF_MAX_S = 600.0
BACK_OFF_LIMIT_DEFAULT = 6

BACK_OFF_LIMIT = "BackoffLimitExceeded"
DEADLINE = "DeadlineExceeded"
REACHED = "CompletionsReached"


@dataclass
class Plan:
    """What happens next: the pods to create and delete, the counts, and how the Job stands."""

    succeeded: int
    failed: int
    create: int = 0
    delete: list[Pod] = field(default_factory=list)
    failure: tuple[str, str] | None = None
    """Reason and message, once the Job has failed."""
    complete: bool = False
    retry_s: float | None = None


def plan(job: Job, pods: Sequence[Pod], now: datetime) -> Plan:
    """Decides the next step of a Job that is not over and not suspended."""
    spec = job.spec
    living = [pod for pod in pods if facts.active(pod)]
    successes = [pod for pod in pods if pod.status.phase == "Succeeded"]
    failures = [pod for pod in pods if pod.status.phase == "Failed"]
    out = Plan(max(job.status.succeeded, len(successes)), max(job.status.failed, len(failures)))
    reached = conditions.find(job.status.conditions, "SuccessCriteriaMet")
    if reached is not None and reached.status == "True":
        # What is decided stays, however the pods that are still being stopped end.
        out.complete, out.delete = True, living
        return out
    out.failure = _failure(job, living, failures, out.failed, now)
    if out.failure:
        out.delete = living
        return out
    parallelism = 1 if spec.parallelism is None else spec.parallelism
    completions = spec.completions if spec.completions is not None else (None if spec.parallelism is not None else 1)
    if completions is None:
        # A work queue: the pods agree among themselves; the first success means that no more are started.
        out.complete = out.succeeded > 0 and not living
        want = len(living) if out.succeeded else parallelism
    else:
        out.complete = out.succeeded >= completions
        want = max(0, min(parallelism, completions - out.succeeded))
    if out.complete:
        out.delete = living
        return out
    out.delete = facts.deletion_order(living)[: max(0, len(living) - want)]
    missing = max(0, want - len(living))
    out.retry_s = (back_off_s(failures, successes, now) or None) if missing else None
    out.create = 0 if out.retry_s else missing
    out.retry_s = earliest(out.retry_s, _deadline_s(job, now))
    return out


def back_off_s(failures: Sequence[Pod], successes: Sequence[Pod], now: datetime) -> float:
    """Seconds until the next try: 10 s after the first failure in a row, doubling with each, at most 10 min."""
    last_success = max((facts.ended_at(pod) for pod in successes), default=None)
    ends = [facts.ended_at(pod) for pod in failures]
    in_a_row = [at for at in ends if last_success is None or at > last_success]
    if not in_a_row:
        return 0.0
    pause = min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2.0 ** (len(in_a_row) - 1))
    return max(0.0, pause - (now - max(in_a_row)).total_seconds())


def _failure(
    job: Job, living: Sequence[Pod], failures: Sequence[Pod], failed: int, now: datetime
) -> tuple[str, str] | None:
    decided = conditions.find(job.status.conditions, "FailureTarget")
    if decided is not None and decided.status == "True":
        return decided.reason, decided.message
    limit = BACK_OFF_LIMIT_DEFAULT if job.spec.backoff_limit is None else job.spec.backoff_limit
    exhausted = failed > limit
    blamed = list(failures)
    if job.spec.template.spec.restart_policy == "OnFailure":
        restarts = sum(facts.restarts(pod) for pod in living)
        if restarts and restarts >= limit:
            exhausted, blamed = True, [*failures, *(pod for pod in living if facts.restarts(pod))]
    if exhausted:
        return BACK_OFF_LIMIT, _quoting("Job has reached the specified backoff limit", blamed)
    left = _deadline_s(job, now)
    if left is not None and left <= 0:
        return DEADLINE, _quoting("Job was active longer than specified deadline", [*living, *failures])
    return None


def _quoting(sentence: str, pods: Sequence[Pod]) -> str:
    for pod in sorted(pods, key=facts.ended_at, reverse=True):
        said = facts.trouble(pod) or facts.last_failure(pod)
        if said:
            return f"{sentence}: pod {pod.name}: {said}"
    return sentence


def _deadline_s(job: Job, now: datetime) -> float | None:
    if job.spec.active_deadline_seconds is None or job.status.start_time is None:
        return None
    ends = job.status.start_time + timedelta(seconds=job.spec.active_deadline_seconds)
    return max(0.0, (ends - now).total_seconds())


def over(job: Job) -> Condition | None:
    """The condition that says that the Job is over, `Complete` or `Failed`, or None."""
    return next((c for c in job.status.conditions if c.type in ("Complete", "Failed") and c.status == "True"), None)


def expires_in_s(job: Job, now: datetime) -> float | None:
    """Seconds until a Job that is over is to be removed; None when it stays."""
    ended = over(job)
    if ended is None or ended.last_transition_time is None or job.spec.ttl_seconds_after_finished is None:
        return None
    ends = ended.last_transition_time + timedelta(seconds=job.spec.ttl_seconds_after_finished)
    return max(0.0, (ends - now).total_seconds())


@reconciler(Job, owns=[Pod])
async def job(subject: Job, ctx: Context) -> Desired:
    """Runs a Job's pods until it is complete or has failed, and removes it when its time to live is up."""
    pods = list(await ctx.owned(Pod))
    now = ctx.now
    if over(subject):
        return _ended(subject, pods, now)
    if subject.spec.suspend:
        return _suspended(subject, pods)
    start = subject.status.start_time or conditions.whole_seconds(now)
    subject = msgspec.structs.replace(subject, status=msgspec.structs.replace(subject.status, start_time=start))
    decided = plan(subject, pods, now)
    gone = {pod.name for pod in decided.delete}
    names = free_names(subject.name, subject.metadata.uid, (pod.name for pod in pods))
    created = [pod_of(subject, subject.spec.template, name) for name in islice(names, decided.create)]
    staying = [pod for pod in pods if pod.name not in gone]
    ended = _end_conditions(decided, busy=any(not facts.finished(pod) for pod in pods))
    for condition in ended:
        if condition.type in ("Complete", "Failed"):
            ctx.event(condition.reason, condition.message, warning=condition.type == "Failed")
    for pod in created:
        ctx.event("SuccessfulCreate", f"Created pod: {pod.name}")
    status = _counts(staying, decided.succeeded, decided.failed)
    status["startTime"] = _text(start)
    if any(c.type == "Complete" for c in ended):
        status["completionTime"] = _text(conditions.whole_seconds(now))
    status["conditions"] = conditions.wire([*_resumed(subject), *ended])
    return Desired(
        objects=created,
        keep=[pod.ref for pod in staying],
        status=status,
        requeue_after_s=decided.retry_s,
    )


def _ended(subject: Job, pods: Sequence[Pod], now: datetime) -> Desired:
    """A Job that is over: its finished pods stay, its result is not touched again."""
    keep = [pod for pod in pods if not facts.active(pod)]
    left = expires_in_s(subject, now)
    status = _counts(keep, subject.status.succeeded, subject.status.failed)
    if subject.status.start_time:
        status["startTime"] = _text(subject.status.start_time)
    if subject.status.completion_time:
        status["completionTime"] = _text(subject.status.completion_time)
    status["conditions"] = conditions.wire(subject.status.conditions)
    return Desired(
        keep=[pod.ref for pod in keep],
        status=status,
        requeue_after_s=left or None,
        delete_subject=left == 0.0,
    )


def _suspended(subject: Job, pods: Sequence[Pod]) -> Desired:
    keep = [pod for pod in pods if not facts.active(pod)]
    succeeded = sum(pod.status.phase == "Succeeded" for pod in pods)
    failed = sum(pod.status.phase == "Failed" for pod in pods)
    status = _counts(keep, max(subject.status.succeeded, succeeded), max(subject.status.failed, failed))
    suspended = Condition(type="Suspended", status="True", reason="JobSuspended", message="Job suspended")
    status["conditions"] = conditions.wire([suspended])
    return Desired(keep=[pod.ref for pod in keep], status=status)


def _resumed(subject: Job) -> list[Condition]:
    if conditions.find(subject.status.conditions, "Suspended") is None:
        return []
    return [Condition(type="Suspended", status="False", reason="JobResumed", message="Job resumed")]


def _end_conditions(decided: Plan, busy: bool) -> list[Condition]:
    """What is certain is said at once; `Complete` and `Failed` only when no pod of the Job runs any more."""
    if decided.complete:
        message = "Reached expected number of succeeded pods"
        ended = [("SuccessCriteriaMet", REACHED, message), ("Complete", REACHED, message)]
    elif decided.failure:
        ended = [("FailureTarget", *decided.failure), ("Failed", *decided.failure)]
    else:
        return []
    said = ended[:1] if busy else ended
    return [Condition(type=type_, status="True", reason=reason, message=text) for type_, reason, text in said]


def _counts(pods: Sequence[Pod], succeeded: int, failed: int) -> JSON:
    living = [pod for pod in pods if facts.active(pod)]
    return {
        "active": len(living),
        "ready": sum(facts.ready(pod) for pod in living),
        "succeeded": succeeded,
        "failed": failed,
    }


def _text(moment: datetime) -> str:
    return str(msgspec.to_builtins(moment))
