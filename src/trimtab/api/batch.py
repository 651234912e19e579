"""CronJobs of `batch/v1`: Jobs made on a schedule."""

from __future__ import annotations

from datetime import datetime

from msgspec import field

from trimtab.api.core import ObjectReference
from trimtab.api.jobs import JobSpec
from trimtab.api.resource import Model, ObjectMeta, Resource, resource


class JobTemplateSpec(Model):
    metadata: ObjectMeta = field(default_factory=ObjectMeta)
    spec: JobSpec = field(default_factory=JobSpec)


class CronJobSpec(Model):
    schedule: str = ""
    time_zone: str | None = None
    job_template: JobTemplateSpec = field(default_factory=JobTemplateSpec)
    concurrency_policy: str | None = None
    starting_deadline_seconds: int | None = None
    suspend: bool | None = None
    successful_jobs_history_limit: int | None = None
    failed_jobs_history_limit: int | None = None


class CronJobStatus(Model):
    active: list[ObjectReference] = []
    last_schedule_time: datetime | None = None
    last_successful_time: datetime | None = None


@resource("batch/v1", "cronjobs", short_names=("cj",), categories=("all",))
class CronJob(Resource):
    spec: CronJobSpec = field(default_factory=CronJobSpec)
    status: CronJobStatus = field(default_factory=CronJobStatus)
