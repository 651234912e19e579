"""CronJob -> Jobs: one for each time that the schedule comes due.

    schedule, last time, now --cron.py--> the latest time that is due and not too late
        its Job is named after the time, so that it is made once, whatever is lost on the way

The rules are those of Kubernetes' CronJob controller: of several missed times only the latest is run; a time later than
`startingDeadlineSeconds` ago is skipped; `Forbid` waits for the running Job, `Replace` deletes it. More than 100 missed times
are told as a warning, and the latest is run all the same, as Kubernetes does since its second controller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from itertools import takewhile

import msgspec

from trimtab.api import JSON, ObjectMeta, cron
from trimtab.api.batch import CronJob
from trimtab.api.jobs import Job
from trimtab.components.workloads import conditions
from trimtab.components.workloads.job import over
from trimtab.runtime import Context, Desired, reconciler

SCHEDULED_AT = "batch.kubernetes.io/cronjob-scheduled-timestamp"
MISSED_MAX = 100
SUCCESSES_KEPT = 3
FAILURES_KEPT = 1
NAME_LENGTH_MAX = 52
"""With `-` and the minutes since 1970 a Job's name stays within 63 characters."""


@dataclass(frozen=True)
class Due:
    """What the schedule says now."""

    at: datetime | None
    """The latest time that has come and is to be run."""
    missed: int
    """How many times came since the last one that was run, this one included; at most one more than MISSED_MAX."""
    next_s: float | None


def due(subject: CronJob, now: datetime) -> Due:
    """The latest time due since the last one, and how long until the next.

    Raises:
        ValueError: the schedule or the time zone is none.
    """
    schedule, zone = cron.parse(subject.spec.schedule), cron.zone_of(subject.spec.time_zone)
    since = subject.status.last_schedule_time or subject.metadata.creation_timestamp or now
    deadline = subject.spec.starting_deadline_seconds
    if deadline is not None:
        since = max(since, now - timedelta(seconds=deadline, microseconds=1))
    upcoming = next(schedule.due(now, zone), None)
    next_s = (upcoming - now).total_seconds() if upcoming else None
    missed = 0
    latest = None
    for at in takewhile(lambda at: at <= now, schedule.due(since, zone)):
        latest, missed = at, missed + 1
        if missed > MISSED_MAX:
            latest = _latest(schedule, zone, since, now) or latest
            break
    return Due(latest, missed, next_s)


def _latest(schedule: cron.Schedule, zone: tzinfo, since: datetime, now: datetime) -> datetime | None:
    """The last time due before `now`, found by looking back over growing spans instead of walking through all."""
    span = timedelta(hours=1)
    while now - span > since:
        times = list(takewhile(lambda at: at <= now, schedule.due(now - span, zone)))
        if times:
            return times[-1]
        span *= 4
    return None


def job_name(subject: CronJob, at: datetime) -> str:
    return f"{subject.name[:NAME_LENGTH_MAX]}-{int(at.timestamp()) // 60}"


def job_for(subject: CronJob, at: datetime) -> Job:
    """The Job of one time."""
    template = subject.spec.job_template
    zone = cron.zone_of(subject.spec.time_zone)
    meta = ObjectMeta(
        name=job_name(subject, at),
        namespace=subject.namespace,
        labels=dict(template.metadata.labels),
        annotations={**template.metadata.annotations, SCHEDULED_AT: at.astimezone(zone).isoformat()},
    )
    return Job(metadata=meta, spec=template.spec)


def forgotten(subject: CronJob, jobs: Sequence[Job]) -> set[str]:
    """The names of finished Jobs beyond what the history keeps: the oldest."""
    out: set[str] = set()
    spec = subject.spec
    for type_, limit, default in (
        ("Complete", spec.successful_jobs_history_limit, SUCCESSES_KEPT),
        ("Failed", spec.failed_jobs_history_limit, FAILURES_KEPT),
    ):
        ended = [job for job in jobs if (condition := over(job)) and condition.type == type_]
        ended.sort(key=lambda job: (_started(job), job.name))
        out |= {job.name for job in ended[: len(ended) - min(len(ended), default if limit is None else limit)]}
    return out


def _started(job: Job) -> float:
    at = job.status.start_time or job.metadata.creation_timestamp
    return at.timestamp() if at else 0.0


@reconciler(CronJob, owns=[Job])
async def cronjob(subject: CronJob, ctx: Context) -> Desired:
    """Makes a Job whenever the schedule comes due."""
    jobs = list(await ctx.owned(Job))
    running = [job for job in jobs if over(job) is None and job.metadata.deletion_timestamp is None]
    gone = forgotten(subject, jobs)
    created: list[Job] = []
    last = subject.status.last_schedule_time
    wait_s: float | None = None
    if not subject.spec.suspend:
        try:
            now = due(subject, ctx.now)
        except ValueError as err:
            ctx.event("UnparseableSchedule", f"cannot follow the schedule: {err}", warning=True)
        else:
            wait_s = now.next_s
            if now.missed > MISSED_MAX:
                text = f"too many missed start times: more than {MISSED_MAX}; only the latest is run. Set or decrease "
                ctx.event(
                    "TooManyMissedTimes", text + "spec.startingDeadlineSeconds, or look at the clock", warning=True
                )
            if now.at is not None:
                policy = subject.spec.concurrency_policy
                known = job_name(subject, now.at) in {job.name for job in jobs}
                if policy == "Forbid" and running and not known:
                    ctx.event("JobAlreadyActive", f"Not starting job: {running[0].name} is still running")
                else:
                    if policy == "Replace":
                        gone |= {job.name for job in running if job.name != job_name(subject, now.at)}
                    if not known:
                        created = [job_for(subject, now.at)]
                        ctx.event("SuccessfulCreate", f"Created job {created[0].name}")
                    last = now.at
    for name in sorted(gone):
        ctx.event("SuccessfulDelete", f"Deleted job {name}")
    keep = [job for job in jobs if job.name not in gone]
    return Desired(
        objects=created,
        keep=[job.ref for job in keep],
        status=_status(subject, [*(job for job in running if job.name not in gone), *created], jobs, last),
        requeue_after_s=wait_s,
    )


def _status(subject: CronJob, active: Sequence[Job], jobs: Sequence[Job], last: datetime | None) -> JSON:
    refs = [
        {"apiVersion": "batch/v1", "kind": "Job", "namespace": job.namespace, "name": job.name}
        | ({"uid": job.metadata.uid} if job.metadata.uid else {})
        for job in active
    ]
    status: JSON = {"active": refs}
    ends = [job.status.completion_time for job in jobs if job.status.completion_time]
    success = max([*ends, *filter(None, [subject.status.last_successful_time])], default=None)
    if last:
        status["lastScheduleTime"] = msgspec.to_builtins(conditions.whole_seconds(last))
    if success:
        status["lastSuccessfulTime"] = msgspec.to_builtins(success)
    return status
