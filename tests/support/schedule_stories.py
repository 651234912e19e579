"""A story of a CronJob under the contract kit. How often it comes due depends on how long the faults last."""

from __future__ import annotations

from simulated_node import template
from trimtab.api import ObjectMeta
from trimtab.api.batch import CronJob, CronJobSpec, JobTemplateSpec
from trimtab.api.core import Pod
from trimtab.api.jobs import Job, JobSpec
from trimtab.components.workloads.job import over
from trimtab.runtime.contract import Scenario, Stage
from workload_stories import node, step

HELLO = CronJob(
    metadata=ObjectMeta(name="hello", namespace="default"),
    spec=CronJobSpec(
        schedule="*/2 * * * *",
        concurrency_policy="Forbid",
        successful_jobs_history_limit=1,
        job_template=JobTemplateSpec(
            spec=JobSpec(template=template("exit-0", "hello", restart_policy="Never"), completions=2)
        ),
    ),
)


async def has_run(stage: Stage) -> str | None:
    """It ran at least twice, and the history keeps one Job of those."""
    jobs = await stage.list(Job)
    found = await stage.get(CronJob, "hello")
    if found is None or found.status.last_successful_time is None or found.metadata.creation_timestamp is None:
        return "it has not succeeded yet"
    since = (found.status.last_successful_time - found.metadata.creation_timestamp).total_seconds()
    return None if since > 240 and jobs else "it ran only once"


async def suspend(stage: Stage) -> None:
    await stage.client.patch(HELLO, {"spec": {"suspend": True}}, manager="user")


async def rests(stage: Stage) -> str | None:
    found = await stage.get(CronJob, "hello")
    jobs = await stage.list(Job)
    if found is None or not found.spec.suspend or found.status.active:
        return f"it is not at rest: {found}"
    ends = [condition.type for job in jobs if (condition := over(job))]
    return None if ends == ["Complete"] else f"Jobs ended with {ends}"


SCHEDULES = [
    Scenario(
        "schedule",
        objects=[HELLO],
        steps=[step(suspend, has_run)],
        goal=rests,
        world=node,
        ignore=[CronJob, Job, Pod],
    )
]
