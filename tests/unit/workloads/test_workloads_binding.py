"""Which volume a claim gets, and what one that is made for it looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trimtab.api import ObjectMeta
from trimtab.api.cluster import StorageClass
from trimtab.api.core import ObjectReference, ResourceRequirements
from trimtab.api.labels import LabelSelector
from trimtab.api.nodes import Node
from trimtab.api.volumes import PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec
from trimtab.components.workloads.binding import class_of, match, provision, refusal
from trimtab.components.workloads.fit import reaches
from trimtab.components.workloads.local_class import local_class
from trimtab.components.workloads.local_data import LocalDirectories


def make_claim(size: str = "1Gi", **spec: Any) -> PersistentVolumeClaim:
    spec.setdefault("access_modes", ["ReadWriteOnce"])
    return PersistentVolumeClaim(
        metadata=ObjectMeta(name="data", namespace="default", uid="c-1"),
        spec=PersistentVolumeClaimSpec(resources=ResourceRequirements(requests={"storage": size}), **spec),
    )


def make_volume(name: str, size: str = "1Gi", *, labels: dict[str, str] | None = None, **spec: Any) -> PersistentVolume:
    spec.setdefault("access_modes", ["ReadWriteOnce"])
    return PersistentVolume(
        metadata=ObjectMeta(name=name, labels=labels or {}),
        spec=PersistentVolumeSpec(capacity={"storage": size}, **spec),
    )


def chosen(claim: PersistentVolumeClaim, *volumes: PersistentVolume, class_name: str = "") -> str | None:
    found = match(claim, class_name, volumes, None)
    return found.name if found else None


def test_the_smallest_that_satisfies() -> None:
    volumes = [make_volume("big", "9Gi"), make_volume("small", "500Mi"), make_volume("right", "2Gi")]
    assert chosen(make_claim(), *volumes) == "right"


def test_what_does_not_satisfy_is_passed_over() -> None:
    taken = ObjectReference(namespace="default", name="other", uid="c-2")
    assert chosen(make_claim(), make_volume("v", claim_ref=taken)) is None
    assert chosen(make_claim(), make_volume("v", access_modes=["ReadOnlyMany"])) is None
    assert chosen(make_claim(), make_volume("v", storage_class_name="fast")) is None
    assert chosen(make_claim(), make_volume("v", storage_class_name="fast"), class_name="fast") == "v"
    assert chosen(make_claim(), make_volume("v", volume_mode="Block")) is None
    picky = make_claim(selector=LabelSelector(match_labels={"disk": "fast"}))
    assert chosen(picky, make_volume("v")) is None
    assert chosen(picky, make_volume("v", labels={"disk": "fast"})) == "v"


def test_a_reserved_volume_comes_first_and_an_old_namesakes_never() -> None:
    mine = ObjectReference(namespace="default", name="data")
    late = ObjectReference(namespace="default", name="data", uid="c-0")
    assert chosen(make_claim(), make_volume("a"), make_volume("z", "5Gi", claim_ref=mine)) == "z"
    assert chosen(make_claim(), make_volume("z", claim_ref=late)) is None


def test_the_default_class_serves_claims_that_name_none() -> None:
    default, other = local_class("/data", default=True), StorageClass(metadata=ObjectMeta(name="a"))
    assert class_of(make_claim(), [other, default]) is default
    assert class_of(make_claim(storage_class_name="a"), [other, default]) is other
    assert class_of(make_claim(storage_class_name=""), [default]) is None


def test_a_volume_is_made_on_its_node_and_for_its_claim_alone() -> None:
    node = Node(metadata=ObjectMeta(name="node-1"))
    made = provision(make_claim("2Gi"), local_class("/data/volumes/", default=True), node)
    assert made.name == "pvc-c-1"
    assert made.spec.local is not None
    assert made.spec.local.path == "/data/volumes/pvc-c-1"
    assert made.spec.capacity == {"storage": "2Gi"}
    assert made.spec.persistent_volume_reclaim_policy == "Delete"
    assert chosen(make_claim(), made) == "pvc-c-1"
    assert reaches(made, node)
    assert not reaches(made, Node(metadata=ObjectMeta(name="node-2")))


def test_what_cannot_be_made_is_told() -> None:
    storage = local_class("/data", default=True)
    assert refusal(make_claim(), storage) is None
    assert refusal(make_claim(volume_mode="Block"), storage) == (
        "volumeMode Block is not possible for local volumes; use Filesystem"
    )
    assert "drop the selector" in (refusal(make_claim(selector=LabelSelector()), storage) or "")
    pathless = StorageClass(metadata=ObjectMeta(name="x"))
    assert refusal(make_claim(), pathless) == 'storageclass "x" lacks parameters.path, a directory on the node'


async def test_directories_are_made_and_removed_inside_their_root_only(tmp_path: Path) -> None:
    root = tmp_path / "volumes"
    directories = LocalDirectories(root, "node-1")
    path = str(root / "pvc-1")
    await directories.make(path)
    await directories.make(path)
    (root / "pvc-1" / "data").write_text("x")
    assert await directories.exists(path)
    await directories.remove(path)
    await directories.remove(path)
    assert list(root.iterdir()) == []
    for outside in (str(tmp_path / "other"), str(root / "a" / "b"), str(root / ".."), "/"):
        with pytest.raises(ValueError, match="is not a volume of this node"):
            await directories.remove(outside)
