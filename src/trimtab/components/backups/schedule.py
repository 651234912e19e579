"""BackupSchedule -> backups: the latest time that is due is run, until it succeeds or the next one comes.

    due --> status.active: the run's name --> the command, which makes that run's backup once, however often it is asked
                                                     |--> status.lastBackup, condition BackedUp
                                                     '--> Event BackupFailed, again after 1, 2, 4 ... 60 minutes

The intent is in the status before the command starts. Whoever finds it there after a crash asks for the same run again: the
command looks in the target whether that run was committed. Of several missed times only the latest is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Protocol

import msgspec

from trimtab.api import JSON, cron
from trimtab.api.core import Secret
from trimtab.components.backups.kinds import BackupSchedule, LastBackup
from trimtab.runtime import Context, Desired, reconciler

BACKED_UP = "BackedUp"
REASONS = {
    "BackupMade": "The last backup that was due is in the target, complete.",
    "BackupFailed": "The last backup that was due could not be made; the message says why. It is tried again with growing "
    "pauses of at most an hour. Earlier backups are untouched.",
    "NotDueYet": "No backup has come due since the schedule was made.",
    "UnparseableSchedule": "The schedule or the time zone cannot be read; the message says what is wrong with it.",
    "CredentialsMissing": "The Secret that the schedule names for its target does not exist.",
}
RETRY_FIRST_S = 60.0
RETRY_MAX_S = 3600.0
MISSED_MAX = 1000
"""So many missed times are walked through; of more, one of the later ones is run, which is as good."""


@dataclass(frozen=True)
class Request:
    """One backup to be made. `run` names it in the target."""

    run: str
    target: str
    recipients: Sequence[str]
    keep: int | None
    environment: Mapping[str, str]


class BackupFailed(RuntimeError):
    """A backup could not be made; the text is one line for a person."""


class BackupCommand(Protocol):
    """Makes backups of this engine."""

    @property
    def is_here(self) -> bool:
        """Whether this process is the one that does it: the first node's agent."""

    async def make(self, request: Request) -> LastBackup:
        """Makes the backup of a run, or finds it made. Raises `BackupFailed`."""


@reconciler(BackupSchedule, reads=[Secret], place="node", workers=1, name="schedule")
async def schedule(subject: BackupSchedule, ctx: Context) -> Desired:
    """Makes a backup whenever the schedule comes due."""
    command = ctx.adapter(BackupCommand)  # type: ignore[type-abstract]
    if not command.is_here:
        return Desired()
    spec, status = subject.spec, subject.status
    if status.active:
        return await _run(subject, ctx, command)
    if spec.suspend:
        return Desired(status=_status(subject))
    try:
        times, zone = cron.parse(spec.schedule), cron.zone_of(spec.time_zone)
    except ValueError as err:
        ctx.event("UnparseableSchedule", f"cannot follow the schedule: {err}", warning=True)
        return Desired(status=_status(subject, condition=("False", "UnparseableSchedule", str(err))))
    since = status.last_schedule_time or subject.metadata.creation_timestamp or ctx.now
    due = _retry(subject, ctx.now)
    for number, at in enumerate(takewhile(lambda at: at <= ctx.now, times.due(since, zone))):
        due = at
        if number >= MISSED_MAX:
            break
    if due is not None:
        run = f"{subject.name}/{due:%Y-%m-%dT%H:%M:%SZ}"
        return Desired(status=_status(subject, active=run, due=due), requeue_after_s=0.0)
    upcoming = [at for at in (next(times.due(ctx.now, zone), None), _retry_at(subject)) if at is not None]
    wait_s = max(0.0, (min(upcoming) - ctx.now).total_seconds()) if upcoming else None
    return Desired(status=_status(subject), requeue_after_s=wait_s)


def _retry_at(subject: BackupSchedule) -> datetime | None:
    status = subject.status
    if not status.failures or status.last_attempt_time is None:
        return None
    pause_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(20, status.failures - 1))
    return status.last_attempt_time + timedelta(seconds=pause_s)


def _retry(subject: BackupSchedule, now: datetime) -> datetime | None:
    """The time that failed and is to be tried again now."""
    at = _retry_at(subject)
    return subject.status.last_schedule_time if at is not None and at <= now else None


async def _run(subject: BackupSchedule, ctx: Context, command: BackupCommand) -> Desired:
    spec, run = subject.spec, subject.status.active
    environment: dict[str, str] = {}
    if spec.credentials is not None:
        secret = await ctx.get(Secret, spec.credentials.name, spec.credentials.namespace)
        if secret is None:
            where = f"{spec.credentials.namespace}/{spec.credentials.name}"
            return _failed(
                subject, ctx, "CredentialsMissing", f"there is no Secret {where} with the target's credentials"
            )
        environment = {name: _text(value) for name, value in secret.data.items() if name.startswith("AWS_")}
    began = ctx.now
    try:
        made = await command.make(Request(run, spec.target, spec.recipients, spec.keep, environment))
    except BackupFailed as err:
        return _failed(subject, ctx, "BackupFailed", str(err))
    message = f"backup {made.id} is in {spec.target}"
    ctx.event("BackupMade", message, duration_ms=(ctx.now - began).total_seconds() * 1000)
    return Desired(
        status=_status(subject, condition=("True", "BackupMade", message), made=made, now=ctx.now, failures=0)
    )


def _failed(subject: BackupSchedule, ctx: Context, reason: str, message: str) -> Desired:
    ctx.event(reason, f"the backup {subject.status.active} could not be made: {message}", warning=True)
    return Desired(
        status=_status(subject, condition=("False", reason, message), now=ctx.now, failures=subject.status.failures + 1)
    )


def _text(value: str) -> str:
    import base64

    return base64.b64decode(value).decode(errors="replace").strip()


def _status(
    subject: BackupSchedule,
    *,
    active: str = "",
    due: datetime | None = None,
    condition: tuple[str, str, str] | None = None,
    made: LastBackup | None = None,
    now: datetime | None = None,
    failures: int | None = None,
) -> JSON:
    """The whole status: what is not given stays as it was."""
    was = subject.status
    if condition is None:
        old = next((c for c in was.conditions if c.type == BACKED_UP), None)
        condition = ("Unknown", "NotDueYet", "") if old is None else (old.status, old.reason, old.message)
    status: JSON = {
        "observedGeneration": subject.metadata.generation or 0,
        "active": active,
        "failures": was.failures if failures is None else failures,
        "conditions": [dict(zip(("type", "status", "reason", "message"), (BACKED_UP, *condition), strict=True))],
    }
    times = {
        "lastScheduleTime": due or was.last_schedule_time,
        "lastAttemptTime": now or was.last_attempt_time,
        "lastSuccessfulTime": now if made is not None else was.last_successful_time,
    }
    for name, at in times.items():
        if at is not None:
            status[name] = f"{at:%Y-%m-%dT%H:%M:%SZ}"
    if (backup := made or was.last_backup) is not None:
        status["lastBackup"] = msgspec.to_builtins(backup)
    return status
