"""BackupSchedule: when the engine is backed up, where to, for whom, and how it went."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, field

from trimtab.api import Condition, Model, Resource, resource


class Credentials(Model):
    """The Secret with what an S3-compatible store asks for: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and if need be
    AWS_ENDPOINT_URL, AWS_REGION, AWS_SESSION_TOKEN."""

    name: Annotated[str, Meta(min_length=1)]
    namespace: str = "trimtab-system"


class BackupScheduleSpec(Model):
    schedule: Annotated[str, Meta(min_length=1)]
    """Five fields as in a CronJob: minute, hour, day of month, month, day of week; or a macro such as @daily."""
    target: Annotated[str, Meta(min_length=1)]
    """An absolute directory, or s3://BUCKET/PREFIX."""
    time_zone: str | None = None
    """Such as Europe/Berlin; UTC when none is given."""
    recipients: list[str] = []
    """age recipients; none: the engine's own key in DATA/backup/identity.txt."""
    keep: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """How many backups are kept in the target; none: all."""
    credentials: Credentials | None = None
    suspend: bool = False


class LastBackup(Model):
    id: str
    bytes: int = 0
    sent_bytes: int = 0
    seconds: float = 0.0
    frozen_ms: float = 0.0


class BackupScheduleStatus(Model):
    observed_generation: int = 0
    active: str = ""
    """The run that is being made, `NAME/TIME`; empty when none is."""
    last_schedule_time: datetime | None = None
    """The time that the last run was due at."""
    last_attempt_time: datetime | None = None
    last_successful_time: datetime | None = None
    last_backup: LastBackup | None = None
    failures: int = 0
    """Attempts that failed since the last success."""
    conditions: list[Condition] = []


@resource(
    "trimtab.dev/v1alpha1",
    "backupschedules",
    namespaced=False,
    columns=(
        ("Schedule", "string", ".spec.schedule"),
        ("Target", "string", ".spec.target"),
        ("Last", "date", ".status.lastSuccessfulTime"),
        ("BackedUp", "string", '.status.conditions[?(@.type=="BackedUp")].reason'),
        ("Age", "date", ".metadata.creationTimestamp"),
    ),
)
class BackupSchedule(Resource):
    """Backs the engine up whenever a schedule comes due. Made by `trimtab backup schedule`."""

    spec: BackupScheduleSpec = field(default_factory=lambda: BackupScheduleSpec(schedule="@daily", target="/"))
    status: BackupScheduleStatus = field(default_factory=BackupScheduleStatus)
