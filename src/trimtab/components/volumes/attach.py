"""Volume -> VolumeAttachments: on which nodes a volume should be usable, never on two that could write to it.

    pods with a node that use its claim --> nodes in need --> attachments; nobody in need: the attachment is deleted
    a writable volume: no attachment to another node before the former one is gone, and it goes by proof alone (grants.py)

What stands in the API is a wish. That two nodes never write is decided on the machine, by a lock that the kernel keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trimtab.api import ObjectMeta
from trimtab.api.core import Pod
from trimtab.api.storage import VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec, attachment_name
from trimtab.api.volumes import PersistentVolume, PersistentVolumeClaim
from trimtab.components.volumes.terms import DRIVER, belongs_to, exclusive, is_ours
from trimtab.runtime import Context, Desired, reconciler


def in_need(pod: Pod, claim_name: str) -> bool:
    """True for a pod on a node that uses the claim and has not ended. One that is being deleted uses it until it is gone."""
    return (
        bool(pod.spec.node_name)
        and pod.status.phase not in ("Succeeded", "Failed")
        and any(
            v.persistent_volume_claim is not None and v.persistent_volume_claim.claim_name == claim_name
            for v in pod.spec.volumes
        )
    )


def choose(volume: PersistentVolume, needed: Sequence[str], present: Mapping[str, VolumeAttachment]) -> list[str]:
    """The nodes that should have an attachment. `needed`: nodes of the pods that use it, those that came first first."""
    if not exclusive(volume):
        return sorted(set(needed))
    for node in present:
        return [node] if node in needed else []
    return list(needed[:1])


async def users(volume: PersistentVolume, ctx: Context) -> list[Pod]:
    """The pods that need the volume, the oldest first."""
    ref = volume.spec.claim_ref
    claim = await ctx.get(PersistentVolumeClaim, ref.name, ref.namespace) if ref is not None else None
    if claim is None or not belongs_to(volume, claim):
        return []
    name = claim.name
    pods = await ctx.list(Pod, claim.namespace, where=lambda pod: in_need(pod, name))
    return sorted(pods, key=lambda pod: (str(pod.metadata.creation_timestamp or ""), pod.name))


@reconciler(
    PersistentVolume,
    reads=[PersistentVolumeClaim, Pod],
    owns=[VolumeAttachment],
    selects=is_ours,
    while_deleting=True,
)
async def attach(subject: PersistentVolume, ctx: Context) -> Desired:
    """Has a volume attached where pods need it."""
    pods = await users(subject, ctx)
    present = {a.spec.node_name: a for a in await ctx.owned(VolumeAttachment)}
    chosen = choose(subject, [pod.spec.node_name or "" for pod in pods], present)
    for pod in pods:
        if exclusive(subject) and pod.spec.node_name not in chosen and present:
            holder = next(iter(present))
            others = [other.name for other in pods if other.spec.node_name == holder]
            why = (
                f"it is used on {holder} by pod {', '.join(others)}"
                if others
                else f"it is not yet certain that nothing on {holder} can write to it"
            )
            ctx.event(
                "FailedAttachVolume",
                f'Multi-Attach error for volume "{subject.name}": {why}',
                warning=True,
                regarding=pod.ref,
            )
    return Desired(objects=[attachment(subject, node) for node in chosen])


def attachment(volume: PersistentVolume, node: str) -> VolumeAttachment:
    return VolumeAttachment(
        metadata=ObjectMeta(name=attachment_name(volume.name, DRIVER, node)),
        spec=VolumeAttachmentSpec(
            attacher=DRIVER, node_name=node, source=VolumeAttachmentSource(persistent_volume_name=volume.name)
        ),
    )
