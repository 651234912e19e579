"""Job -> Pods that run to their end: so many successes wanted, so many at a time, so many failures borne.

    pods --job_tally.py--> counts, each pod exactly once --job_plan.py--> pods to start and stop, or the end

Every finished pod stays until the Job goes, as its record. A failed pod is replaced after a pause that doubles with each failure
in a row. The pods of an Indexed Job each have an index, in their name, host name, label, annotation and environment; an index
is done when one pod of it has succeeded. A Job that has failed says so in a line that quotes what the last failed pod said,
since whoever waits for a Job (a deploy waiting for its migration) shows that line.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import islice

import msgspec

from trimtab.api import JSON, Condition
from trimtab.api.core import EnvVar, EnvVarSource, Pod
from trimtab.api.jobs import Job
from trimtab.api.projection import FieldSelector
from trimtab.components.workloads import conditions, indexes
from trimtab.components.workloads import pods as facts
from trimtab.components.workloads.custody import Custody, custody
from trimtab.components.workloads.job_plan import Plan, plan
from trimtab.components.workloads.job_tally import (
    FAILURES,
    IGNORED_FAILURES,
    INDEX,
    TRACKING,
    Tally,
    ignored_failures,
    index_failures,
    indexed,
    tally,
    terminating,
    tracked,
)
from trimtab.components.workloads.names import free_names
from trimtab.components.workloads.replicaset import pod_of
from trimtab.runtime import Adopt, Context, Desired, Lift, Owned, reconciler

CONTROLLER = "kubernetes.io/job-controller"
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
HOST_NAME_LENGTH_MAX = 63


def ours(job: Job) -> bool:
    """Whether this controller runs the Job, and not the one that `spec.managedBy` names."""
    return job.spec.managed_by in (None, CONTROLLER)


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


# Pods


def render(job: Job, pods: Sequence[Pod], decided: Plan) -> list[Pod]:
    """The pods to create."""
    taken = [pod.name for pod in pods]
    if not indexed(job):
        names = free_names(job.name, job.metadata.uid, taken)
        return [_tracked(pod_of(job, job.spec.template, name)) for name in islice(names, decided.create)]
    out = []
    for index in decided.indexes:
        name = next(free_names(f"{job.name}-{index}", job.metadata.uid, taken))
        out.append(_tracked(_of_index(job, pods, name, index)))
    return out


def _tracked(pod: Pod) -> Pod:
    pod.metadata.finalizers = [*pod.metadata.finalizers, TRACKING]
    return pod


def _of_index(job: Job, pods: Sequence[Pod], name: str, index: int) -> Pod:
    pod = pod_of(job, job.spec.template, name, {INDEX: str(index)})
    pod.metadata.annotations = {**pod.metadata.annotations, INDEX: str(index)}
    if job.spec.backoff_limit_per_index is not None:
        pod.metadata.annotations[FAILURES] = str(index_failures(job, pods, index))
        if ignored := ignored_failures(job, pods, index):
            pod.metadata.annotations[IGNORED_FAILURES] = str(ignored)
    variable = EnvVar(
        name=INDEX_VARIABLE,
        value_from=EnvVarSource(field_ref=FieldSelector(field_path=f"metadata.annotations['{INDEX}']")),
    )
    spec = job.spec.template.spec
    told = {
        part: [
            msgspec.structs.replace(c, env=[*(v for v in c.env if v.name != INDEX_VARIABLE), variable])
            for c in getattr(spec, part)
        ]
        for part in ("containers", "init_containers")
    }
    host = f"{job.name}-{index}"
    hostname = {"hostname": host} if len(host) <= HOST_NAME_LENGTH_MAX else {}
    pod.spec = msgspec.structs.replace(spec, **told, **hostname)
    return pod


# The Job


@reconciler(Job, owns=[Owned(Pod, by_reference=True)], selects=ours)
async def job(subject: Job, ctx: Context) -> Desired:
    """Runs a Job's pods until it is complete or has failed, and removes it when its time to live is up."""
    held = await custody(ctx, Pod, subject.namespace, subject.spec.selector, finalizers=(TRACKING,))
    pods = held.mine
    if over(subject):
        return _ended(subject, held, ctx.now)
    doomed = conditions.holds(subject.status.conditions, "FailureTarget")
    counted = tally(subject, pods, doomed=doomed)
    if subject.spec.suspend:
        return _suspended(subject, held, counted)
    start = subject.status.start_time or conditions.whole_seconds(ctx.now)
    subject = msgspec.structs.replace(subject, status=msgspec.structs.replace(subject.status, start_time=start))
    decided = plan(subject, pods, counted, ctx.now)
    created = render(subject, pods, decided)
    gone = {pod.name for pod in (*decided.stop, *decided.fail)}
    staying = [pod for pod in pods if pod.name not in gone]
    busy = counted.waiting or bool(gone) or any(not facts.finished(pod) and not facts.deleting(pod) for pod in staying)
    ended = _end_conditions(decided, busy=busy or any(terminating(pod) for pod in staying))
    for condition in ended:
        if condition.type in ("Complete", "Failed"):
            ctx.event(condition.reason, condition.message, warning=condition.type == "Failed")
    for pod in created:
        ctx.event("SuccessfulCreate", f"Created pod: {pod.name}")
    status = _counts(subject, staying, counted)
    status["startTime"] = _text(start)
    if any(c.type == "Complete" for c in ended):
        status["completionTime"] = _text(conditions.whole_seconds(ctx.now))
    status["conditions"] = conditions.wire([*_resumed(subject), *ended])
    return Desired(
        objects=created,
        keep=[pod.ref for pod in staying],
        adopt=_adopted(held, counted),
        release=held.release,
        lift=_lifted([*counted.lift, *decided.stop]),
        status=status,
        requeue_after_s=decided.retry_s,
    )


def _adopted(held: Custody[Pod], counted: Tally) -> list[Adopt]:
    known = {each.ref for each in held.adopt}
    return [*held.adopt, *(Adopt(pod.ref, (TRACKING,)) for pod in counted.adopt if pod.ref not in known)]


def _lifted(pods: Sequence[Pod]) -> list[Lift]:
    return [Lift(pod.ref, TRACKING) for pod in pods if tracked(pod)]


def _ended(subject: Job, held: Custody[Pod], now: datetime) -> Desired:
    """A Job that is over: its finished pods stay, its result is not touched again."""
    keep = [pod for pod in held.mine if not facts.active(pod)]
    left = expires_in_s(subject, now)
    status = _counts(subject, keep, _as_stored(subject))
    if subject.status.start_time:
        status["startTime"] = _text(subject.status.start_time)
    if subject.status.completion_time:
        status["completionTime"] = _text(subject.status.completion_time)
    status["conditions"] = conditions.wire(subject.status.conditions)
    return Desired(
        keep=[pod.ref for pod in keep],
        release=held.release,
        lift=_lifted(held.mine),
        status=status,
        requeue_after_s=left or None,
        delete_subject=left == 0.0,
    )


def _suspended(subject: Job, held: Custody[Pod], counted: Tally) -> Desired:
    stopped = [pod for pod in held.mine if facts.active(pod)]
    gone = {pod.name for pod in stopped}
    keep = [pod for pod in held.mine if pod.name not in gone]
    status = _counts(subject, keep, counted)
    suspended = Condition(type="Suspended", status="True", reason="JobSuspended", message="Job suspended")
    status["conditions"] = conditions.wire([suspended])
    return Desired(
        keep=[pod.ref for pod in keep],
        release=held.release,
        lift=_lifted([*counted.lift, *stopped]),
        status=status,
    )


def _resumed(subject: Job) -> list[Condition]:
    if conditions.find(subject.status.conditions, "Suspended") is None:
        return []
    return [Condition(type="Suspended", status="False", reason="JobResumed", message="Job resumed")]


def _end_conditions(decided: Plan, busy: bool) -> list[Condition]:
    """What is certain is said at once; `Complete` and `Failed` only when all pods have ended and are counted."""
    if decided.success:
        ended = [("SuccessCriteriaMet", *decided.success), ("Complete", *decided.success)]
    elif decided.failure:
        ended = [("FailureTarget", *decided.failure), ("Failed", *decided.failure)]
    else:
        return []
    said = ended[:1] if busy else ended
    return [Condition(type=type_, status="True", reason=reason, message=text) for type_, reason, text in said]


def _as_stored(subject: Job) -> Tally:
    status = subject.status
    return Tally(
        status.succeeded,
        status.failed,
        completed=indexes.parse(status.completed_indexes),
        failed_indexes=indexes.parse(status.failed_indexes),
    )


def _counts(subject: Job, pods: Sequence[Pod], counted: Tally) -> JSON:
    living = [pod for pod in pods if facts.active(pod)]
    status: JSON = {
        "active": len(living),
        "ready": sum(facts.ready(pod) for pod in living),
        "terminating": sum(terminating(pod) for pod in pods),
        "succeeded": counted.succeeded,
        "failed": counted.failed,
        "uncountedTerminatedPods": {
            name: uids
            for name, uids in (("succeeded", counted.uncounted_succeeded), ("failed", counted.uncounted_failed))
            if uids
        },
    }
    if indexed(subject):
        status["completedIndexes"] = indexes.text_of(counted.completed)
        if subject.spec.backoff_limit_per_index is not None:
            status["failedIndexes"] = indexes.text_of(counted.failed_indexes)
    return status


def _text(moment: datetime) -> str:
    return str(msgspec.to_builtins(moment))


# Pods whose Job is gone


@reconciler(Pod, reads=[Job], selects=tracked, while_deleting=True, name="job-leftovers")
async def job_leftovers(subject: Pod, ctx: Context) -> Desired:
    """Lets go of a pod whose Job nobody counts for any more: it was deleted, or is being deleted."""
    owner = next((o for o in subject.metadata.owner_references if o.controller and o.kind == "Job"), None)
    found = await ctx.get(Job, owner.name) if owner else None
    if found is not None and owner and found.metadata.uid == owner.uid and found.metadata.deletion_timestamp is None:
        return Desired()
    return Desired(lift=[Lift(subject.ref, TRACKING)])
