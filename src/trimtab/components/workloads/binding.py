"""Which volume a claim gets: pure matching of PersistentVolumeClaims, StorageClasses and PersistentVolumes.

Rules: Kubernetes' `pv_controller` and `volume/persistentvolume/util`. A claim takes the smallest free volume that satisfies
it, else one is made for it when its class has a provisioner that we are.
"""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.api import ObjectMeta
from trimtab.api.cluster import StorageClass
from trimtab.api.core import ObjectReference
from trimtab.api.nodes import Node
from trimtab.api.quantity import whole
from trimtab.api.selector import selects
from trimtab.api.volumes import (
    DIED_WITH,
    LocalVolumeSource,
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeSpec,
)
from trimtab.components.workloads import fit

PROVISIONER = "trimtab.dev/local"
PATH_PARAMETER = "path"
"""The parameter of a StorageClass of ours: the directory on the node under which its volumes lie."""
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
WAIT_FOR_CONSUMER = "WaitForFirstConsumer"


def class_of(claim: PersistentVolumeClaim, classes: Sequence[StorageClass]) -> StorageClass | None:
    """The claim's class, or the default one when it names none. An empty name means no class at all."""
    name = claim.spec.storage_class_name
    if name is not None:
        return next((c for c in classes if c.name == name), None)
    defaults = [c for c in classes if c.metadata.annotations.get(DEFAULT_CLASS) == "true"]
    return min(defaults, key=lambda c: c.name, default=None)


def died_text(volume: PersistentVolume) -> str | None:
    """What became of a volume's data, and what to do, when its node was destroyed; else None."""
    node = volume.metadata.annotations.get(DIED_WITH)
    if node is None:
        return None
    return (
        f"volume {volume.name} died with node {node}: its data is gone; restore a backup, or delete the claim and the pod "
        "to begin with an empty volume"
    )


def waits_for_consumer(storage_class: StorageClass | None) -> bool:
    """True when the volume is chosen only once a pod that uses the claim has a node."""
    return storage_class is not None and storage_class.volume_binding_mode == WAIT_FOR_CONSUMER


def size_bytes(claim: PersistentVolumeClaim) -> int:
    resources = claim.spec.resources
    return whole(resources.requests.get("storage", 0)) if resources else 0


def is_claimed_by(volume: PersistentVolume, claim: PersistentVolumeClaim) -> bool:
    """True when the volume is meant for this very claim (one without uid, for any claim of that name)."""
    ref = volume.spec.claim_ref
    return (
        ref is not None
        and (ref.namespace, ref.name) == (claim.namespace, claim.name)
        and ref.uid in ("", claim.metadata.uid)
    )


def match(
    claim: PersistentVolumeClaim, class_name: str, volumes: Sequence[PersistentVolume], node: Node | None
) -> PersistentVolume | None:
    """The volume for a claim: one reserved for it, else the smallest free one that satisfies it (on `node`, if given)."""
    reserved = [volume for volume in volumes if is_claimed_by(volume, claim)]
    if reserved:
        return min(reserved, key=lambda volume: volume.name)
    free = [
        volume
        for volume in volumes
        if volume.spec.claim_ref is None
        and volume.metadata.deletion_timestamp is None
        and DIED_WITH not in volume.metadata.annotations
        and _satisfies(volume, claim, class_name)
        and (node is None or fit.reaches(volume, node))
    ]
    return min(free, key=lambda volume: (capacity_bytes(volume), volume.name), default=None)


def _satisfies(volume: PersistentVolume, claim: PersistentVolumeClaim, class_name: str) -> bool:
    spec = claim.spec
    return (
        (volume.spec.storage_class_name or "") == class_name
        and set(spec.access_modes) <= set(volume.spec.access_modes)
        and (volume.spec.volume_mode or "Filesystem") == (spec.volume_mode or "Filesystem")
        and capacity_bytes(volume) >= size_bytes(claim)
        and (spec.selector is None or selects(spec.selector, volume.metadata.labels))
    )


def capacity_bytes(volume: PersistentVolume) -> int:
    return whole(volume.spec.capacity.get("storage", 0))


def refusal(claim: PersistentVolumeClaim, storage_class: StorageClass) -> str | None:
    """Why a local volume cannot be made for the claim, or None."""
    if claim.spec.volume_mode not in (None, "Filesystem"):
        return f"volumeMode {claim.spec.volume_mode} is not possible for local volumes; use Filesystem"
    if claim.spec.selector is not None:
        return "a claim with a selector is only ever bound to an existing volume; drop the selector to have one made"
    if not storage_class.parameters.get(PATH_PARAMETER, "").startswith("/"):
        return f'storageclass "{storage_class.name}" lacks parameters.{PATH_PARAMETER}, a directory on the node'
    return None


def volume_name(claim: PersistentVolumeClaim) -> str:
    """The name of the volume that is made for a claim."""
    return f"pvc-{claim.metadata.uid}"


def provision(claim: PersistentVolumeClaim, storage_class: StorageClass, node: Node) -> PersistentVolume:
    """The local volume made for a claim: a directory on one node, reserved for the claim from the start."""
    name = volume_name(claim)
    storage = claim.spec.resources.requests.get("storage", "0") if claim.spec.resources else "0"
    hostname = fit.labels_of(node)[fit.HOSTNAME_LABEL]
    return PersistentVolume(
        metadata=ObjectMeta(name=name, annotations={PROVISIONED_BY: PROVISIONER}),
        spec=PersistentVolumeSpec(
            capacity={"storage": str(storage)},
            access_modes=list(claim.spec.access_modes),
            persistent_volume_reclaim_policy=storage_class.reclaim_policy or "Delete",
            storage_class_name=storage_class.name,
            volume_mode="Filesystem",
            claim_ref=reference(claim),
            local=LocalVolumeSource(path=f"{storage_class.parameters[PATH_PARAMETER].rstrip('/')}/{name}"),
            node_affinity={
                "required": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": fit.HOSTNAME_LABEL, "operator": "In", "values": [hostname]}]}
                    ]
                }
            },
        ),
    )


def node_of(volume: PersistentVolume) -> str:
    """The node whose disk a volume that was made here is on."""
    required = (volume.spec.node_affinity or {}).get("required") or {}
    for term in required.get("nodeSelectorTerms", ()):
        for expression in term.get("matchExpressions", ()):
            if expression["key"] == fit.HOSTNAME_LABEL:
                return str(expression["values"][0])
    return ""


def reference(claim: PersistentVolumeClaim) -> ObjectReference:
    """The `claimRef` by which a volume names its claim."""
    return ObjectReference(
        api_version="v1",
        kind="PersistentVolumeClaim",
        namespace=claim.namespace or "",
        name=claim.name,
        uid=claim.metadata.uid,
    )
