"""restoreFrom against a real API server and a cloud: once for each time that the resource was made anew, before it is Ready."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from managed_world import NAMESPACE, World, a_world
from trimtab.api import JSON, ResourceType
from trimtab.api.jobs import Job
from trimtab.components.infrastructure.kinds import Connection, RestoreFrom

CLUSTER = "cloud_cluster"
POD = ResourceType("v1", "Pod", "pods")
HOOK: JSON = {
    "backoffLimit": 0,
    "ttlSecondsAfterFinished": 0,
    "template": {"spec": {"containers": [{"name": "restore", "image": "example.test/restore:1"}]}},
}
CONNECTION = Connection(secret_name="prod-kubeconfig", data={"kubeconfig": "{{ kubeconfig | b64decode }}"})
STARTED = {"startTime": "2026-01-01T00:00:00Z"}
COMPLETE: JSON = STARTED | {
    "succeeded": 1,
    "completionTime": "2026-01-01T00:00:07Z",
    "conditions": [{"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "True"}],
}
FAILED: JSON = STARTED | {
    "failed": 1,
    "conditions": [
        {"type": "FailureTarget", "status": "True", "reason": "BackoffLimitExceeded"},
        {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "too often"},
    ],
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as one:
        yield one


async def declare(world: World, hook: JSON = HOOK) -> None:
    await world.declare(
        CLUSTER, "prod", {"name": "prod"}, connection=CONNECTION, restore_from=RestoreFrom(job=hook), interval="2s"
    )


async def lose(world: World) -> None:
    (cluster,) = world.cloud.all("clusters")
    world.cloud.remove("clusters", cluster["id"])


async def jobs(world: World) -> list[Job]:
    return (await world.client.list(Job, NAMESPACE)).items


async def one_job(world: World, life: int, but: str = "") -> Job:
    async def there() -> list[Job]:
        found = [one for one in await jobs(world) if f"-restore-{life}-" in one.name and one.metadata.uid != but]
        return found if len(found) == 1 else []

    (found,) = await world.until(there, f"the Job for life {life}")
    assert isinstance(found, Job)
    return found


async def ends(world: World, job: Job, status: JSON) -> None:
    """As the Job's own controller would say."""
    kind = Job.resource_type
    for step in (STARTED, status):
        await world.client.wire.patch(kind, job.name, NAMESPACE, {"status": step}, manager="test", subresource="status")


async def ready_says(world: World, reason: str) -> str:
    async def holds() -> bool:
        return (await world.condition(CLUSTER, "prod", "Ready"))[1] == reason

    await world.until(holds, f"Ready says {reason}")
    return (await world.condition(CLUSTER, "prod", "Ready"))[2]


async def test_once_for_each_life_but_the_first(world: World) -> None:
    await declare(world)
    await ready_says(world, "Available")
    assert await jobs(world) == []

    await lose(world)
    job = await one_job(world, 2)
    assert await ready_says(world, "Restoring") in (
        f"Job {job.name} is begun",
        f"Job {job.name} is made; it waits for a controller of Jobs to begin it",
        f"Job {job.name} runs",
    )
    assert (await world.condition(CLUSTER, "prod", "Synced"))[0] == "True"
    assert world.cloud.all("clusters")[0]["name"] == "prod"
    container = job.spec.template.spec.containers[0]
    assert [one.secret_ref.name for one in container.env_from if one.secret_ref] == ["prod-kubeconfig"]
    assert [(one.mount_path, one.read_only) for one in container.volume_mounts] == [("/run/trimtab/connection", True)]
    assert [(one.name, one.value) for one in container.env] == [("TRIMTAB_RESTORE", "2")]
    assert job.spec.ttl_seconds_after_finished is None
    assert job.spec.template.spec.restart_policy == "Never"

    # Whoever begins again while it runs waits for the same one.
    await world.rest()
    await world.work()
    await ends(world, job, COMPLETE)
    await ready_says(world, "Available")
    await world.rest()
    await world.work()
    await world.ready(CLUSTER, "prod")
    assert [one.metadata.uid for one in await jobs(world)] == [job.metadata.uid]

    # That a hook is there later on is no reason to run it into what lives.
    await declare(world, {**HOOK, "backoffLimit": 1})
    await world.ready(CLUSTER, "prod")
    assert [one.metadata.uid for one in await jobs(world)] == [job.metadata.uid]

    await lose(world)
    await ends(world, await one_job(world, 3), COMPLETE)
    await ready_says(world, "Available")
    assert len(await jobs(world)) == 1  # that of the life before went


async def test_a_hook_that_comes_later_waits_for_the_next_time_and_has_to_be_a_job(world: World) -> None:
    await world.declare(CLUSTER, "prod", {"name": "prod"}, interval="1s")
    before = (await world.ready(CLUSTER, "prod")).status.id
    await lose(world)

    async def anew() -> bool:
        found = await world.get(CLUSTER, "prod")
        return found is not None and found.status.id not in ("", before)

    await world.until(anew, "it is made anew")
    await declare(world, {"template": {}})
    await world.ready(CLUSTER, "prod")
    assert await jobs(world) == []

    await lose(world)
    message = await world.says(CLUSTER, "prod", "InvalidField")
    assert message == "spec.restoreFrom.job: it is the spec of a Job, and has template.spec.containers"


async def test_a_failure_is_told_in_its_own_words_and_can_be_mended(world: World) -> None:
    await declare(world)
    await ready_says(world, "Available")
    await lose(world)
    job = await one_job(world, 2)
    await _pod_that_failed(world, job, "connecting\npg_restore: error: could not open the dump\n")
    await ends(world, job, FAILED)
    assert await ready_says(world, "RestoreFailed") == (
        f"Job {job.name}: pg_restore: error: could not open the dump (exit 1); kubectl delete job {job.name} runs it again"
    )
    await world.client.delete(job)
    again = await one_job(world, 2, but=job.metadata.uid)
    await ends(world, again, FAILED)
    await ready_says(world, "RestoreFailed")

    await declare(world, {**HOOK, "backoffLimit": 1})
    mended = await one_job(world, 2, but=again.metadata.uid)
    assert mended.name != again.name
    await ends(world, mended, COMPLETE)
    await ready_says(world, "Available")


async def _pod_that_failed(world: World, job: Job, log: str) -> None:
    labels = {"batch.kubernetes.io/job-name": job.name}
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{job.name}-x", "namespace": NAMESPACE, "labels": labels},
        "spec": {"containers": [{"name": "restore", "image": "example.test/restore:1"}]},
    }
    await world.client.wire.create(POD, pod, manager="test")
    ended = {
        "exitCode": 1,
        "reason": "Error",
        "message": log,
        "startedAt": "2026-01-01T00:00:00Z",
        "finishedAt": "2026-01-01T00:00:01Z",
    }
    container = {
        "name": "restore",
        "ready": False,
        "restartCount": 0,
        "image": "x",
        "imageID": "",
        "state": {"terminated": ended},
    }
    await world.client.wire.patch(
        POD,
        f"{job.name}-x",
        NAMESPACE,
        {"status": {"phase": "Failed", "containerStatuses": [container]}},
        manager="test",
        subresource="status",
    )
