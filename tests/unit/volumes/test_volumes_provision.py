"""What is made for a claim, what is refused, and where a volume is to be attached."""

from __future__ import annotations

from typing import Any

import pytest

from trimtab.api import ObjectMeta
from trimtab.api.cluster import StorageClass
from trimtab.api.core import ClaimVolume, Pod, PodSpec, PodStatus, ResourceRequirements, Volume
from trimtab.api.labels import LabelSelector
from trimtab.api.storage import VolumeAttachment
from trimtab.api.volumes import PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec
from trimtab.components.volumes.attach import attachment, choose, in_need
from trimtab.components.volumes.provision import make, refusal
from trimtab.components.volumes.terms import FS_TYPE, size_bytes, size_text

BLOCK = StorageClass(metadata=ObjectMeta(name="block"), provisioner="block.trimtab.dev", reclaim_policy="Retain")


def claim(size: str = "1Gi", **spec: Any) -> PersistentVolumeClaim:
    spec.setdefault("access_modes", ["ReadWriteOnce"])
    return PersistentVolumeClaim(
        metadata=ObjectMeta(name="data", namespace="shop", uid="c-1"),
        spec=PersistentVolumeClaimSpec(resources=ResourceRequirements(requests={"storage": size}), **spec),
    )


def test_a_volume_is_reserved_for_its_claim_and_belongs_to_no_node() -> None:
    volume = make(claim(), BLOCK, {})

    assert (volume.name, volume.spec.capacity, volume.spec.persistent_volume_reclaim_policy) == (
        "pvc-c-1",
        {"storage": "1Gi"},
        "Retain",
    )
    assert volume.spec.claim_ref is not None
    assert (volume.spec.claim_ref.namespace, volume.spec.claim_ref.uid) == ("shop", "c-1")
    assert volume.spec.csi is not None
    assert (volume.spec.csi.driver, volume.spec.csi.volume_handle) == ("block.trimtab.dev", "pvc-c-1")
    assert volume.spec.node_affinity == {}


@pytest.mark.parametrize(
    ("asked", "made"), [("1Gi", "1Gi"), ("1Mi", "8Mi"), ("10000000", "10Mi"), ("1500M", "1431Mi"), ("2048Mi", "2048Mi")]
)
def test_sizes_are_whole_mebibytes_and_never_smaller_than_asked(asked: str, made: str) -> None:
    assert make(claim(asked), BLOCK, {}).spec.capacity == {"storage": made}


def test_size_text() -> None:
    assert [size_text(size_bytes(n)) for n in (1, 1 << 30, (1 << 30) + 1)] == ["8Mi", "1Gi", "1025Mi"]


@pytest.mark.parametrize(
    ("wanted", "parameters", "text"),
    [
        (
            {"access_modes": ["ReadWriteOnce", "ReadWriteMany"]},
            {},
            "ReadWriteMany is not possible: a volume of this class",
        ),
        ({"volume_mode": "Block"}, {}, "volumeMode Block is not possible for volumes of this class; use Filesystem"),
        ({"selector": LabelSelector(match_labels={"a": "b"})}, {}, "a claim with a selector is only ever bound"),
        ({}, {FS_TYPE: "btrfs"}, 'storageclass "x": the file system btrfs is not possible; use ext4 or xfs'),
        ({}, {"type": "ssd"}, f'storageclass "x": parameters.type means nothing here; {FS_TYPE} does'),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(
    wanted: dict[str, Any], parameters: dict[str, str], text: str
) -> None:
    storage_class = StorageClass(metadata=ObjectMeta(name="x"), provisioner="block.trimtab.dev", parameters=parameters)

    assert (refusal(claim(**wanted), storage_class) or "").startswith(text)


def volume(*modes: str) -> PersistentVolume:
    return make(claim(access_modes=list(modes or ["ReadWriteOnce"])), BLOCK, {})


def present(*nodes: str) -> dict[str, VolumeAttachment]:
    return {node: attachment(volume(), node) for node in nodes}


def test_a_writable_volume_goes_to_the_node_of_the_oldest_pod_and_stays() -> None:
    assert choose(volume(), ["b", "a"], {}) == ["b"]
    assert choose(volume(), ["b", "a"], present("a")) == ["a"]


def test_a_writable_volume_waits_until_the_former_attachment_is_gone() -> None:
    assert choose(volume(), ["b"], present("a")) == []
    assert choose(volume("ReadWriteOncePod"), ["b"], present("a")) == []
    assert choose(volume("ReadWriteOnce", "ReadOnlyMany"), ["b"], present("a")) == []


def test_a_volume_that_is_only_read_goes_everywhere() -> None:
    assert choose(volume("ReadOnlyMany"), ["b", "a", "b"], present("a")) == ["a", "b"]


@pytest.mark.parametrize(
    ("node", "phase", "needs"),
    [("a", "Running", True), ("a", "Pending", True), ("a", "Failed", False), (None, "", False)],
)
def test_a_pod_needs_its_volume_from_placement_to_end(node: str | None, phase: str, needs: bool) -> None:
    source = ClaimVolume(claim_name="data")
    pod = Pod(
        spec=PodSpec(node_name=node, volumes=[Volume(name="v", persistent_volume_claim=source)]),
        status=PodStatus(phase=phase),
    )

    assert in_need(pod, "data") is needs
    assert not in_need(pod, "other")
