"""PersistentVolumeClaim <-> PersistentVolume: binding, making local volumes, and what becomes of them afterwards.

    claim --binding.py--> a free volume, or one made for it on the node that the scheduler chose
    volume: Available -> Bound -> Released -> deleted (reclaim policy Delete) or kept with its data (Retain)

One worker binds, and reads its own writes, so no volume is given away twice. A claim that a pod still uses, and a volume
that a claim still uses, outlast a request to delete them. The data on disk goes in `local_data.py`, on the node.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trimtab.api import JSON, Ref
from trimtab.api.cluster import StorageClass
from trimtab.api.core import Pod
from trimtab.api.nodes import Node
from trimtab.api.volumes import PersistentVolume, PersistentVolumeClaim
from trimtab.components.workloads import binding, conditions
from trimtab.components.workloads import pods as facts
from trimtab.runtime import Context, Desired, FieldWrite, Owned, Wait, Writes, reconciler

RECLAIM_DELETE = "Delete"


@dataclass
class Binding:
    """What to do about an unbound claim: bind it to `volume` (made for it if `make`), or say why it waits."""

    volume: PersistentVolume | None = None
    make: bool = False
    reason: str = ""
    message: str = ""
    writes: list[FieldWrite] = field(default_factory=list)


def uses(pod: Pod, claim_name: str) -> bool:
    """True when the pod mounts the claim and has not finished."""
    return not facts.finished(pod) and any(
        v.persistent_volume_claim is not None and v.persistent_volume_claim.claim_name == claim_name
        for v in pod.spec.volumes
    )


def holds(volume: PersistentVolume, claim: PersistentVolumeClaim | None) -> bool:
    """True when that claim exists and is the one that the volume belongs to."""
    return claim is not None and binding.is_claimed_by(volume, claim)


@reconciler(
    PersistentVolumeClaim,
    reads=[Node, Pod, StorageClass],
    owns=[Owned(PersistentVolume, retain=True)],
    writes=[
        Writes(PersistentVolumeClaim, ("spec.volumeName", "spec.storageClassName")),
        Writes(PersistentVolume, ("spec.claimRef", "spec.capacity")),
    ],
    effects=True,
    workers=1,
)
async def claim(subject: PersistentVolumeClaim, ctx: Context) -> Desired | Wait:
    """Binds a claim to a volume, and keeps it while a pod uses it."""
    if ctx.deleting:
        users = await ctx.list(Pod, subject.namespace, where=lambda pod: uses(pod, subject.name))
        return Wait(on=users[0].ref, reason=f"pod {users[0].name} uses it") if users else Desired()
    if subject.spec.volume_name:
        return await _bound(subject, subject.spec.volume_name, ctx)
    found = await _find(subject, ctx)
    if found.volume is None:
        ctx.event(found.reason, found.message, warning=found.reason == "ProvisioningFailed")
        return Desired(status=_pending(found.reason, found.message), writes=found.writes)
    volume = found.volume
    fields = {"volumeName": volume.name, "storageClassName": volume.spec.storage_class_name or ""}
    writes = [FieldWrite(subject.ref, {"spec": fields})]
    if found.make:
        ctx.event("ProvisioningSucceeded", f"Successfully provisioned volume {volume.name}")
    else:
        writes.insert(0, _claims(volume, subject))
    return Desired(objects=[volume] if found.make else [], writes=writes, status=_bound_status(volume))


async def _bound(subject: PersistentVolumeClaim, name: str, ctx: Context) -> Desired:
    """A claim that names its volume: check that the volume agrees."""
    volume = await ctx.get(PersistentVolume, name)
    if volume is None:
        if subject.status.phase in ("Bound", "Lost"):
            return Desired(
                status={
                    "phase": "Lost",
                    "conditions": [_condition("False", "VolumeLost", f"the bound volume {name} no longer exists")],
                }
            )
        return Desired(status=_pending("VolumeMissing", f"volume {name}, which the claim names, does not exist"))
    if died := binding.died_text(volume):
        ctx.event("VolumeDied", died, warning=True)
        return Desired(status={"phase": "Lost", "conditions": [_condition("False", "VolumeDied", died)]})
    ref = volume.spec.claim_ref
    if ref is not None and not binding.is_claimed_by(volume, subject):
        owner = f"{ref.namespace}/{ref.name}"
        return Desired(
            status=_pending("VolumeTaken", f"volume {name}, which the claim names, belongs to claim {owner}")
        )
    writes = []
    if ref is None or not ref.uid:
        writes.append(_claims(volume, subject))
    asked = binding.size_bytes(subject)
    if volume.metadata.annotations.get(
        binding.PROVISIONED_BY
    ) == binding.PROVISIONER and asked > binding.capacity_bytes(volume):
        # A directory has no size of its own: growing it is a matter of the books.
        storage = str(subject.spec.resources.requests["storage"]) if subject.spec.resources else "0"
        writes.append(FieldWrite(volume.ref, {"spec": {"capacity": {"storage": storage}}}))
    return Desired(status=_bound_status(volume), writes=writes)


async def _find(subject: PersistentVolumeClaim, ctx: Context) -> Binding:
    classes = await ctx.list(StorageClass)
    storage_class = binding.class_of(subject, classes)
    name = storage_class.name if storage_class else subject.spec.storage_class_name or ""
    selected = subject.metadata.annotations.get(binding.SELECTED_NODE)
    node = await ctx.get(Node, selected) if selected else None
    volumes = await ctx.list(PersistentVolume)
    reserved = next((v for v in volumes if binding.is_claimed_by(v, subject)), None)
    if reserved is None and binding.waits_for_consumer(storage_class) and node is None:
        text = "waiting for first consumer to be created before binding"
        return Binding(reason="WaitForFirstConsumer", message=text)
    matching = reserved or binding.match(subject, name, volumes, node)
    if matching is not None:
        return Binding(volume=matching)
    if storage_class is None:
        text = f'storageclass "{name}" not found' if name else "no volume fits and no storage class is set"
        return Binding(reason="ProvisioningFailed", message=text)
    if storage_class.provisioner != binding.PROVISIONER:
        text = f'waiting for a volume to be created by the external provisioner "{storage_class.provisioner}"'
        return Binding(reason="ExternalProvisioning", message=text)
    if problem := binding.refusal(subject, storage_class):
        return Binding(reason="ProvisioningFailed", message=problem)
    node = node or await _any_node(ctx)
    if node is None:
        return Binding(reason="ProvisioningFailed", message="no node is ready to hold the volume")
    return Binding(volume=binding.provision(subject, storage_class, node), make=True)


async def _any_node(ctx: Context) -> Node | None:
    nodes = await ctx.list(Node)
    return next((node for node in nodes if conditions.holds(node.status.conditions, "Ready")), None)


def _claims(volume: PersistentVolume, subject: PersistentVolumeClaim) -> FieldWrite:
    ref = binding.reference(subject)
    fields = {
        "apiVersion": ref.api_version,
        "kind": ref.kind,
        "namespace": ref.namespace,
        "name": ref.name,
        "uid": ref.uid,
    }
    return FieldWrite(volume.ref, {"spec": {"claimRef": fields}})


def _bound_status(volume: PersistentVolume) -> JSON:
    return {
        "phase": "Bound",
        "accessModes": list(volume.spec.access_modes),
        "capacity": dict(volume.spec.capacity),
        "conditions": [_condition("True", "Bound", f"bound to volume {volume.name}")],
    }


def _pending(reason: str, message: str) -> JSON:
    return {"phase": "Pending", "conditions": [_condition("False", reason, message)]}


def _condition(status: str, reason: str, message: str) -> JSON:
    return {"type": "Bound", "status": status, "reason": reason, "message": message}


@reconciler(PersistentVolume, reads=[PersistentVolumeClaim], effects=True)
async def volume(subject: PersistentVolume, ctx: Context) -> Desired | Wait:
    """Says how a volume stands, and ends one that was made for a claim that is gone."""
    ref = subject.spec.claim_ref
    user = await ctx.get(PersistentVolumeClaim, ref.name, ref.namespace) if ref else None
    if ctx.deleting:
        return Wait(on=_claim_ref(subject), reason="a claim uses it") if holds(subject, user) else Desired()
    if (died := binding.died_text(subject)) and holds(subject, user):
        return Desired(status={"phase": "Failed", "reason": "VolumeDied", "message": died})
    if ref is None or (user is None and not ref.uid):
        return Desired(status={"phase": "Available"})
    if holds(subject, user):
        return Desired(status={"phase": "Bound"})
    if subject.spec.persistent_volume_reclaim_policy != RECLAIM_DELETE:
        return Desired(status={"phase": "Released"})
    if (maker := subject.metadata.annotations.get(binding.PROVISIONED_BY)) not in (None, binding.PROVISIONER):
        return Desired(status={"phase": "Released", "message": f"{maker}, which made it, deletes it and its data"})
    if maker is not None:
        ctx.event("VolumeReleased", f"claim {ref.namespace}/{ref.name} is gone, so the volume and its data go too")
        return Desired(status={"phase": "Released"}, delete_subject=True)
    message = (
        "nothing here can delete the data of this volume: delete it by hand and then the PersistentVolume, or set "
        "persistentVolumeReclaimPolicy: Retain"
    )
    return Desired(status={"phase": "Failed", "reason": "VolumeFailedDelete", "message": message})


def _claim_ref(subject: PersistentVolume) -> Ref:
    ref = subject.spec.claim_ref
    assert ref is not None
    return Ref("v1", "PersistentVolumeClaim", ref.namespace, ref.name)
