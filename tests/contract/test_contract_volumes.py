"""Movable volumes under the contract kit: nodes are destroyed and cut off while API and agents fail, and never do two nodes
have the lock of a volume that one of them may write to.

The workloads' controllers run beside it, unjudged: they place the pods and say which nodes are dead.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from simulated_api import make_api
from simulated_node import template
from store_release import EARLIER
from trimtab.api import ObjectMeta
from trimtab.api.cluster import StorageClass
from trimtab.api.core import ClaimVolume, Pod, ResourceRequirements, Volume, VolumeMount
from trimtab.api.labels import LabelSelector
from trimtab.api.nodes import Node
from trimtab.api.storage import (
    VolumeAttachment,
    VolumeSnapshot,
    VolumeSnapshotContent,
    VolumeSnapshotSource,
    VolumeSnapshotSpec,
)
from trimtab.api.volumes import PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, TypedReference
from trimtab.api.workloads import StatefulSet, StatefulSetSpec
from trimtab.client.clock import Clock
from trimtab.components.volumes import COMPONENT, Growth, Images
from trimtab.components.workloads import COMPONENT as WORKLOADS
from trimtab.components.workloads import Machines, Renewals, VolumeDirectories
from trimtab.components.workloads import pods as facts
from trimtab.runtime.contract import Case, Scenario, Stage, contract
from volume_world import Machine, SimulatedImages, SimulatedMachines
from workload_stories import WATCH_LATE_S, FakeDirectories, step

NAMES = ("node-1", "node-2", "node-3")
SILENCE_S = 20.0


def adapters(clock: Clock) -> Mapping[type, Any]:
    images = SimulatedImages()
    return {
        Images: images,
        Growth: images,
        Machines: SimulatedMachines(images),
        VolumeDirectories: FakeDirectories(),
        Renewals: Renewals(),
    }


def images_of(stage: Stage) -> SimulatedImages:
    return stage.adapter(Images)  # type: ignore[type-abstract, return-value]


async def world(stage: Stage) -> None:
    await Machine(stage, images_of(stage), NAMES).run()


async def small_world(stage: Stage) -> None:
    """Where nothing moves, one node is enough."""
    await Machine(stage, images_of(stage), NAMES[:1]).run()


def machine(stage: Stage) -> Machine:
    found = images_of(stage).nodes
    assert found is not None
    return found


def leaks(stage: Stage) -> list[str]:
    images = images_of(stage)
    return sorted([*images.images, *images.violations, *(h for h, held in images.mounted.items() if held)])


def carry(before: Mapping[type, Any], fresh: Mapping[type, Any]) -> None:
    """A backup brings the images back; nothing is mounted on the new machine, and leave is part of the data."""
    fresh[Images].images |= before[Images].images
    fresh[Images].leave |= {handle: dict(leave) for handle, leave in before[Images].leave.items()}


def claim(name: str, **spec: Any) -> PersistentVolumeClaim:
    wanted = {"access_modes": ["ReadWriteOnce"], "storage_class_name": "block", **spec}
    size = wanted.pop("resources", "1Gi")
    return PersistentVolumeClaim(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=PersistentVolumeClaimSpec(resources=ResourceRequirements(requests={"storage": size}), **wanted),
    )


def database(replicas: int = 1) -> StatefulSet:
    made = StatefulSet(
        metadata=ObjectMeta(name="db", namespace="default"),
        spec=StatefulSetSpec(
            selector=LabelSelector(match_labels={"app": "db"}),
            template=template("ok:1", "db"),
            service_name="db",
            replicas=replicas,
            volume_claim_templates=[claim("data")],
        ),
    )
    made.spec.volume_claim_templates[0].metadata.namespace = None
    made.spec.template.spec.containers[0].volume_mounts = [VolumeMount(name="data", mount_path="/data")]
    return made


def violation(stage: Stage) -> str | None:
    return next(iter(images_of(stage).violations), None)


async def up(stage: Stage) -> str | None:
    """Every pod of the database is ready, each alone with its volume."""
    if found := violation(stage):
        return found
    pods = {pod.name: pod for pod in await stage.list(Pod) if facts.ready(pod) and facts.active(pod)}
    found_set = await stage.get(StatefulSet, "db")
    if found_set is None or len(pods) != found_set.spec.replicas:
        return f"ready are {sorted(pods)}"
    held = {handle: sorted(nodes) for handle, nodes in images_of(stage).mounted.items() if nodes}
    for pod in pods.values():
        bound = await stage.get(PersistentVolumeClaim, f"data-{pod.name}")
        handle = bound.spec.volume_name if bound else ""
        if held.get(handle or "") != [pod.spec.node_name]:
            return f"{pod.name} is on {pod.spec.node_name}, its volume on {held.get(handle or '')}"
    wanted = {(a.spec.node_name, a.status.attached) for a in await stage.list(VolumeAttachment)}
    return None if all(attached for _, attached in wanted) else f"attachments are {wanted}"


async def home_of(stage: Stage, name: str) -> str:
    pod = await stage.get(Pod, name)
    assert pod is not None
    return pod.spec.node_name or ""


async def destroy(stage: Stage) -> None:
    await machine(stage).kill(await home_of(stage, "db-0"))


async def cut_off(stage: Stage) -> None:
    """The node of db-0 hears nothing for a while; an administrator removes the pod by force meanwhile, which proves
    nothing."""
    name = await home_of(stage, "db-0")
    machine(stage).partition(name)
    pod = await stage.get(Pod, "db-0")
    if pod is not None:
        await stage.client.delete(pod.ref, grace_period_s=0)
    await asyncio.sleep(SILENCE_S)
    machine(stage).mend(name)


async def fall_silent(stage: Stage) -> None:
    """The node of db-0 is cut off and the API notices; somebody deletes the pod and waits for its end, which nobody can
    promise before the node was fenced."""
    await machine(stage).silence(await home_of(stage, "db-0"))
    pod = await stage.get(Pod, "db-0")
    if pod is not None:
        await stage.delete(pod)


async def remove(stage: Stage) -> None:
    for kind in (StatefulSet, Pod, VolumeSnapshot):
        for obj in await stage.list(kind):
            await stage.delete(obj)
    await asyncio.sleep(WATCH_LATE_S)
    for obj in await stage.list(PersistentVolumeClaim):
        await stage.delete(obj)


def alias(obj: Any) -> str | None:
    """Which node a pod is on, and so its attachment's name, is chance."""
    if obj["kind"] == "VolumeAttachment":
        return f"the attachment of {obj['spec']['source']['persistentVolumeName']}"
    return None


async def refused(stage: Stage) -> str | None:
    found = {c.name: c for c in await stage.list(PersistentVolumeClaim)}
    phases = {name: c.status.phase for name, c in found.items()}
    if phases != {"plain": "Bound", "shared": "Pending", "late": "Pending", "raw": "Pending"}:
        return f"claims are {phases}"
    said = {
        name: next((c.message for c in one.status.conditions if c.type == "Provisioned"), "")
        for name, one in found.items()
    }
    if not said["shared"].startswith("ReadWriteMany is not possible") or "volumeMode Block" not in said["raw"]:
        return f"they say {said}"
    volumes = [v.spec.capacity["storage"] for v in await stage.list(PersistentVolume)]
    return None if volumes == ["1Gi"] and len(images_of(stage).images) == 1 else f"volumes are {volumes}"


def reader(claim_name: str) -> Pod:
    """A pod on the node whose agent is under test, with that claim."""
    made = template("ok", "reader", node_selector={"kubernetes.io/hostname": "node-1"})
    made.spec.volumes = [Volume(name="data", persistent_volume_claim=ClaimVolume(claim_name=claim_name))]
    return Pod(metadata=ObjectMeta(name="reader", namespace="default"), spec=made.spec)


async def reading(stage: Stage) -> str | None:
    pod = await stage.get(Pod, "reader")
    return None if pod is not None and facts.ready(pod) else "the reader is not ready"


async def ask_for_more(stage: Stage) -> None:
    await stage.client.patch(claim("grows"), {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}, manager="user")


async def has_grown(stage: Stage) -> str | None:
    found = await stage.get(PersistentVolumeClaim, "grows")
    if found is None or found.status.capacity != {"storage": "2Gi"}:
        return f"it has {found.status.capacity if found else None}"
    left = [c.type for c in found.status.conditions if c.type not in ("Bound",)]
    return f"conditions {left} are left" if left else violation(stage)


def snapshot_of(name: str) -> VolumeSnapshot:
    made = VolumeSnapshot(metadata=ObjectMeta(name="then", namespace="default"))
    made.spec = VolumeSnapshotSpec(source=VolumeSnapshotSource(persistent_volume_claim_name=name))
    return made


FROM_SNAPSHOT = TypedReference(api_group="snapshot.storage.k8s.io", kind="VolumeSnapshot", name="then")


async def restored(stage: Stage) -> str | None:
    snapshot = await stage.get(VolumeSnapshot, "then")
    if snapshot is None or not snapshot.status.ready_to_use or snapshot.status.restore_size != str(2 << 30):
        return f"the snapshot says {snapshot.status if snapshot else None}"
    found = await stage.get(PersistentVolumeClaim, "restored")
    small = await stage.get(PersistentVolumeClaim, "small")
    if found is None or small is None or (found.status.phase, small.status.phase) != ("Bound", "Pending"):
        return f"claims are {found} {small}"
    said = next((c.message for c in small.status.conditions if c.type == "Provisioned"), "")
    wanted = "the source has 2Gi, so the claim must ask for as much: spec.resources.requests.storage"
    return await has_grown(stage) if said == wanted else f"it says {said!r}"


LATER = StorageClass(
    metadata=ObjectMeta(name="later"), provisioner="block.trimtab.dev", volume_binding_mode="WaitForFirstConsumer"
)

STORIES = [
    Scenario("destroyed", objects=[database()], steps=[step(destroy, up)], goal=up, uninstall=remove),
    Scenario(
        "cut-off",
        objects=[database(2)],
        steps=[step(cut_off, up), step(destroy, up)],
        goal=up,
        uninstall=remove,
    ),
    Scenario("silent", objects=[database()], steps=[step(fall_silent, up)], goal=up, uninstall=remove),
    Scenario(
        "grows",
        objects=[
            claim("grows"),
            reader("grows"),
            claim("base", resources="2Gi"),
            snapshot_of("base"),
            claim("restored", data_source=FROM_SNAPSHOT, resources="2Gi"),
            claim("small", data_source=FROM_SNAPSHOT),
        ],
        steps=[step(ask_for_more, reading)],
        goal=restored,
        kinds=[VolumeSnapshot],
        uninstall=remove,
    ),
    Scenario(
        "claims",
        objects=[
            LATER,
            claim("plain"),
            claim("shared", access_modes=["ReadWriteMany"]),
            claim("raw", volume_mode="Block"),
            claim("late", storage_class_name="later"),
        ],
        goal=refused,
    ),
]

SCENARIOS = [
    dataclasses.replace(
        story,
        world=world if story.steps and story.name != "grows" else small_world,
        adapters=adapters,
        leaks=leaks,
        carry=carry,
        aliases=alias,
        ignore=[Pod, Node, VolumeAttachment, VolumeSnapshotContent],
    )
    for story in STORIES
]

JUDGED = COMPONENT


@pytest.mark.parametrize("case", contract(COMPONENT, SCENARIOS, make_api, others=[WORKLOADS], earlier=EARLIER), ids=str)
def test_volumes_contract(case: Case) -> None:
    case.run()
