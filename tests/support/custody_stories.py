"""Stories of objects that change hands for the contract kit: owners deleted without their pods and made again, pods relabelled,
claims that go with whom they belong to; and of sets that start elsewhere or update the other way round."""

from __future__ import annotations

import asyncio
from typing import Any

from simulated_node import template
from trimtab.api import ObjectMeta
from trimtab.api.core import Pod
from trimtab.api.labels import LabelSelector
from trimtab.api.volumes import PersistentVolumeClaim
from trimtab.api.workloads import (
    ClaimRetentionPolicy,
    DaemonSet,
    DaemonSetUpdateStrategy,
    Deployment,
    DeploymentSpec,
    ReplicaSet,
    RollingUpdateDaemonSet,
    RollingUpdateStatefulSet,
    StatefulSet,
    StatefulSetOrdinals,
    StatefulSetUpdateStrategy,
)
from trimtab.components.workloads import pods as facts
from trimtab.runtime.contract import Scenario, Stage
from workload_stories import (
    WATCH_LATE_S,
    daemon,
    daemon_up,
    data_left,
    database,
    delete_database,
    directories,
    node,
    step,
)

SHOP = {"app": "shop"}


# Owners that are deleted without their pods


def shop(replicas: int = 2) -> Deployment:
    return Deployment(
        metadata=ObjectMeta(name="shop", namespace="default"),
        spec=DeploymentSpec(
            selector=LabelSelector(match_labels=SHOP), template=template("ok:1", "shop"), replicas=replicas
        ),
    )


async def shop_up(stage: Stage) -> str | None:
    found = await stage.get(Deployment, "shop")
    if found is None:
        return "there is no Deployment"
    wanted = found.spec.replicas or 0
    if found.status.observed_generation < found.metadata.generation or found.status.available_replicas != wanted:
        return f"{found.status.available_replicas} of {wanted} are available"
    sets = await stage.list(ReplicaSet)
    if [[o.uid for o in rs.metadata.owner_references] for rs in sets] != [[found.metadata.uid]]:
        return f"ReplicaSets are {[(rs.name, rs.metadata.owner_references) for rs in sets]}"
    living = [pod for pod in await stage.list(Pod) if facts.active(pod) and pod.metadata.labels.get("app") == "shop"]
    owners = {o.uid for pod in living for o in pod.metadata.owner_references}
    if len(living) != wanted or owners != {sets[0].metadata.uid}:
        return f"{len(living)} pods of {owners}"
    return None


async def orphan(stage: Stage) -> None:
    for kind in (Deployment, ReplicaSet):
        for obj in await stage.list(kind):
            await stage.client.delete(obj, propagation="Orphan")
        # A controller that has not heard yet that the Deployment is gone would make its ReplicaSet anew.
        await asyncio.sleep(WATCH_LATE_S)


async def owners_gone(stage: Stage) -> str | None:
    there = [*await stage.list(Deployment), *await stage.list(ReplicaSet)]
    return f"still there: {[str(obj.ref) for obj in there]}" if there else None


async def make_again(stage: Stage) -> None:
    before = sorted(pod.metadata.uid for pod in await stage.list(Pod))
    assert len(before) == 2, f"pods went with their owners: {before}"
    await stage.apply(shop())


async def relabel(stage: Stage) -> None:
    """All labels are replaced, those by which the runtime knows its objects among them."""
    pod = min(await stage.list(Pod), key=lambda pod: pod.name)
    labels = {**dict.fromkeys(pod.metadata.labels), "app": "looked-at"}
    await stage.client.patch(pod, {"metadata": {"labels": labels}}, manager="user")


async def one_released(stage: Stage) -> str | None:
    released = [pod for pod in await stage.list(Pod) if pod.metadata.labels.get("app") == "looked-at"]
    if [pod.metadata.owner_references for pod in released] != [[]]:
        return f"released: {[(pod.name, pod.metadata.owner_references) for pod in released]}"
    return await shop_up(stage)


async def remove_released(stage: Stage) -> None:
    for pod in await stage.list(Pod):
        if not pod.metadata.owner_references:
            await stage.delete(pod)


async def delete_shop(stage: Stage) -> None:
    for kind in (Deployment, ReplicaSet, Pod):
        for obj in await stage.list(kind):
            await stage.delete(obj)
    await asyncio.sleep(WATCH_LATE_S)
    for obj in await stage.list(Pod):
        await stage.delete(obj)


HANDS = Scenario(
    "owners-deleted-without-their-pods",
    objects=[shop()],
    steps=[
        step(orphan, shop_up),
        step(make_again, owners_gone),
        step(relabel, shop_up),
        step(remove_released, one_released),
    ],
    goal=shop_up,
    world=node,
    uninstall=delete_shop,
)


# A StatefulSet that starts at 3, updates two at a time, and takes its claims with it


def cache(image: str = "ok:1", replicas: int = 3) -> StatefulSet:
    made = database(image, replicas, "Parallel")
    made.spec.ordinals = StatefulSetOrdinals(start=3)
    made.spec.persistent_volume_claim_retention_policy = ClaimRetentionPolicy("Delete", "Delete")
    made.spec.update_strategy = StatefulSetUpdateStrategy(rolling_update=RollingUpdateStatefulSet(max_unavailable=2))
    return made


async def cache_up(stage: Stage) -> str | None:
    found = await stage.get(StatefulSet, "db")
    if found is None:
        return "there is no StatefulSet"
    status, replicas = found.status, found.spec.replicas or 0
    counts = (status.replicas, status.available_replicas, status.updated_replicas)
    if counts != (replicas,) * 3 or status.observed_generation < found.metadata.generation:
        return f"counts are {counts} instead of {replicas}"
    image = found.spec.template.spec.containers[0].image
    pods = [(pod.name, pod.spec.containers[0].image) for pod in await stage.list(Pod) if facts.active(pod)]
    if pods != [(f"db-{n}", image) for n in range(3, 3 + replicas)]:
        return f"pods are {pods}"
    claims = {c.name: [o.kind for o in c.metadata.owner_references] for c in await stage.list(PersistentVolumeClaim)}
    wanted = {f"data-db-{n}": ["StatefulSet"] for n in range(3, 3 + replicas)}
    return None if claims == wanted else f"claims are {claims}"


def apply_cache(*args: Any) -> Any:
    return lambda stage: stage.apply(cache(*args))


CACHE = Scenario(
    "a-set-with-its-claims",
    objects=[cache()],
    steps=[step(apply_cache("ok:2"), cache_up), step(apply_cache("ok:2", 1), cache_up)],
    goal=cache_up,
    world=node,
    adapters=directories,
    leaks=data_left,
    uninstall=delete_database,
)


# A DaemonSet whose new pods come before the old ones go


def surging(image: str = "ok:1") -> DaemonSet:
    made = daemon(image)
    made.spec.update_strategy = DaemonSetUpdateStrategy(
        rolling_update=RollingUpdateDaemonSet(max_unavailable=0, max_surge=1)
    )
    return made


async def update_surging(stage: Stage) -> None:
    await stage.apply(surging("ok:2"))


SURGE = Scenario(
    "daemon-with-surge",
    objects=[surging()],
    steps=[step(update_surging, daemon_up)],
    goal=daemon_up,
    world=node,
)

CUSTODY = [HANDS, CACHE, SURGE]
