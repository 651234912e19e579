"""kill -9 and broken connections at every step of bringing manifests into a cluster, and of bringing back what was in one that was lost."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path

import pytest

from manifests_world import NAMESPACE, Elsewhere
from mortal_world import MortalWorld
from suffering import STEPS_MAX, Stages, Victim
from trimtab.api import JSON, ObjectMeta
from trimtab.api.core import Secret
from trimtab.api.jobs import Job
from trimtab.client import ApiError, Client
from trimtab.components.infrastructure.kinds import Connection, PolicySpec, RestoreFrom, SecretKey
from trimtab.components.infrastructure.remote import ClusterManifests
from trimtab.components.infrastructure.remote.access import OWNER_LABEL, inventory_name
from trimtab.components.infrastructure.remote.kinds import CarriedSecret, ClusterManifestsSpec
from trimtab.runtime.effects import Effect

KUBECONFIG = "somewhere"
HOOK: JSON = {"template": {"spec": {"containers": [{"name": "restore", "image": "example.test/restore:1"}]}}}
ENDED: JSON = {
    "startTime": "2026-01-01T00:00:00Z",
    "succeeded": 1,
    "completionTime": "2026-01-01T00:00:07Z",
    "conditions": [{"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "True"}],
}


# Manifests


def config(space: str, name: str, value: str) -> JSON:
    meta = {"name": name, "namespace": space}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"v": value}}


async def brought(client: Client, owner: str) -> dict[str, JSON]:
    """What is in a cluster of an owner, by kind and name."""
    found: dict[str, JSON] = {}
    for path in ("namespaces", "configmaps", "secrets"):
        answer = await client.wire.read(f"/api/v1/{path}", {"labelSelector": f"{OWNER_LABEL}={owner}"})
        found |= {f"{path} {one['metadata']['name']}": one.get("data", {}) for one in answer["items"]}
    return found


async def manifests_are(world: MortalWorld, name: str, owner_gone: bool = False) -> bool:
    """Whether they say that all is in there and runs; or that nothing is left of them here."""
    found = await world.client.get(ClusterManifests, name, NAMESPACE)
    if owner_gone:
        left = (await world.client.list(Effect, NAMESPACE)).items
        return found is None and not any(one.spec.subject["name"] == name for one in left)
    if found is None or found.status.observed_generation != found.metadata.generation:
        return False
    return {c.type: c.status for c in found.status.conditions} == {"Applied": "True", "Ready": "True"}


@pytest.mark.parametrize("victim", ["controllers", "connection"])
async def test_at_every_step_of_what_is_in_a_cluster(world: MortalWorld, tmp_path: Path, victim: Victim) -> None:
    first, second = Elsewhere(tmp_path / "first"), Elsewhere(tmp_path / "second")
    token = Secret(metadata=ObjectMeta(name="token", namespace=NAMESPACE), data={"t": "c2VjcmV0"})
    await world.make(token)
    stages = Stages(world, victim)

    async def behind(cluster: Elsewhere) -> None:
        data = {"kubeconfig": base64.b64encode(cluster.kubeconfig().encode()).decode()}
        await world.make(Secret(metadata=ObjectMeta(name=KUBECONFIG, namespace=NAMESPACE), data=data))

    async def declare(name: str, *maps: JSON) -> None:
        space: JSON = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        spec = ClusterManifestsSpec(
            kubeconfig=SecretKey(name=KUBECONFIG, key="kubeconfig"),
            manifests=[space, *maps],
            secrets=[CarriedSecret(name="token", namespace=name)],
            interval="1h",
        )
        await world.make(ClusterManifests(metadata=ObjectMeta(name=name, namespace=NAMESPACE), spec=spec))

    async def seen(name: str, cluster: Elsewhere) -> bool:
        """Whether they are well in this cluster, which is another than before."""
        found = await world.client.get(ClusterManifests, name, NAMESPACE)
        there = await cluster.client.wire.read("/api/v1/namespaces/kube-system")
        right = found is not None and found.status.cluster_uid == there["metadata"]["uid"]
        return right and await manifests_are(world, name)

    try:
        for n in range(1, STEPS_MAX):
            if len(stages.done) == 4:
                break
            name = f"shop-{n}"
            await behind(first)
            maps = (config(name, "a", "1"), config(name, "b", "1"))
            await stages.suffer("make", n, lambda: declare(name, *maps), lambda: seen(name, first))  # noqa: B023
            found = await world.client.get(ClusterManifests, name, NAMESPACE)
            assert found is not None
            owner = found.metadata.uid
            always = {f"namespaces {name}": {}, "secrets token": {"t": "c2VjcmV0"}}

            async def inside(cluster: Elsewhere, owner: str = owner) -> dict[str, JSON]:
                there = await brought(cluster.client, owner)
                assert there.pop(f"configmaps {inventory_name(owner)}", None) is not None
                return there

            assert await inside(first) == always | {"configmaps a": {"v": "1"}, "configmaps b": {"v": "1"}}

            maps = (config(name, "a", "2"), config(name, "c", "1"))
            await stages.suffer("change", n, lambda: declare(name, *maps), lambda: seen(name, first))  # noqa: B023
            wanted = always | {"configmaps a": {"v": "2"}, "configmaps c": {"v": "1"}}
            assert await inside(first) == wanted

            await stages.suffer("another", n, lambda: behind(second), lambda: seen(name, second))  # noqa: B023
            assert await inside(second) == wanted

            found = await world.client.get(ClusterManifests, name, NAMESPACE)
            assert found is not None
            await stages.suffer(
                "delete", n, lambda: world.client.delete(found), lambda: manifests_are(world, name, owner_gone=True)  # noqa: B023
            )  # fmt: skip
            assert await brought(second.client, owner) == {}
    finally:
        await first.lost()
        await second.lost()
    done = {stage: set(steps) for stage, steps in stages.done.items()}
    assert {"POST effects", "in there: PATCH configmaps", "in there: PATCH namespaces"} <= done["make"]
    assert {"in there: PATCH secrets", "PATCH clustermanifests status"} <= done["make"]
    assert {"in there: PATCH configmaps", "in there: DELETE configmaps"} <= done["change"]
    assert {"in there: PATCH namespaces", "in there: PATCH secrets"} <= done["another"]
    assert {"in there: DELETE configmaps", "in there: DELETE namespaces"} <= done["delete"]


# What was in it


class Data:
    """What is in the cloud's things, by id, and the Jobs that bring it back, played: each fills the one that its Secret names."""

    def __init__(self, world: MortalWorld) -> None:
        self._world = world
        self.within: dict[str, str] = {}
        self.wrong: list[str] = []
        self.ran: Counter[str] = Counter()
        """Jobs, by name; each that was ever seen counts."""
        self._seen: set[str] = set()

    @asynccontextmanager
    async def brought_back(self) -> AsyncIterator[None]:
        """While it lasts, Jobs run."""

        async def play() -> None:
            for _ in count():
                with suppress(ApiError, ConnectionError):
                    for job in (await self._world.client.list(Job, NAMESPACE)).items:
                        await self._run(job)
                await asyncio.sleep(0.01)

        playing = asyncio.create_task(play())
        try:
            yield
        finally:
            playing.cancel()
            await asyncio.wait([playing])

    async def _run(self, job: Job) -> None:
        if job.metadata.uid in self._seen or job.metadata.deletion_timestamp is not None:
            return
        self._seen.add(job.metadata.uid)
        self.ran[job.name] += 1
        (source,) = [one.secret_ref.name for one in job.spec.template.spec.containers[0].env_from if one.secret_ref]
        secret = await self._world.secret(source)
        number = base64.b64decode(secret.data["id"]).decode() if secret is not None else "nothing"
        if number in self.within:
            self.wrong.append(f"{job.name} ran into {number}, which has {self.within[number]}")
        self.within[number] = job.name
        for status in ({"startTime": ENDED["startTime"]}, ENDED):
            await self._world.client.wire.patch(
                Job.resource_type, job.name, NAMESPACE, {"status": status}, manager="test", subresource="status"
            )


@pytest.mark.parametrize("victim", ["controllers", pytest.param("connection", marks=pytest.mark.long)])
async def test_at_every_step_of_what_comes_back(world: MortalWorld, victim: Victim) -> None:
    data = Data(world)
    stages = Stages(world, victim)
    stages.done["make"] = []  # each of its steps is test_infrastructure_kills.py's
    resource, kind = "cloud_server", "servers"

    async def declare(name: str, minutes: int) -> None:
        given = {"name": name, "region": "eu"}
        connection = Connection(secret_name=f"{name}-connection", data={"id": "{{ id }}"})
        hook, policy = RestoreFrom(job=HOOK), PolicySpec(replace="auto")
        await world.declare(
            resource, name, given, interval=f"{minutes}m", policy=policy, connection=connection, restore_from=hook
        )

    async def lost(name: str, number: str) -> None:
        """Somebody deletes it in the cloud; a change makes us look at once."""
        world.cloud.remove(kind, number)
        await declare(name, 61)

    async def anew(name: str, before: str) -> bool:
        return (
            world.cloud.all(kind) != []
            and world.cloud.all(kind)[0]["id"] != before
            and await world.good(resource, name)
        )

    async with data.brought_back():
        for n in range(1, STEPS_MAX):
            if len(stages.done) == 3:
                break
            name = f"prod-{n}"
            await stages.suffer("make", n, lambda: declare(name, 60), lambda: world.good(resource, name))  # noqa: B023
            assert len(data.ran) == n - 1, "the first life is brought back by nobody"
            (first,) = [one["id"] for one in world.cloud.all(kind)]
            data.within[first] = "what somebody wrote"

            await stages.suffer("lost", n, lambda: lost(name, first), lambda: anew(name, first))  # noqa: B023
            await world.check(resource)
            (second,) = [one["id"] for one in world.cloud.all(kind)]
            assert data.within[second].startswith(f"{name}-server-restore-2-")
            assert data.wrong == []

            found = await world.get(resource, name)
            assert found is not None
            await stages.suffer("delete", n, lambda: world.client.delete(found), lambda: world.over(resource, name))  # noqa: B023
            assert world.cloud.all(kind) == []
            assert await world.secret(f"{name}-connection") is None
            assert (await world.client.list(Job, NAMESPACE)).items == []
    assert data.ran == Counter(dict.fromkeys(data.ran, 1)), "each Job once"
    assert len(data.ran) == n - 1, "one Job for each that was lost"
    assert {"apply", "PATCH secrets", "PATCH jobs"} <= set(stages.done["lost"])
    assert {"apply", "DELETE jobs"} <= set(stages.done["delete"])
    if resource == "cloud_server":
        assert world.persons == []
