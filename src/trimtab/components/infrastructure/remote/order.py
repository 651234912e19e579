"""Which objects come first into a cluster, and go last from it.

Namespaces, definitions of kinds, what others stand on (accounts, Secrets, volumes), what runs, objects of kinds that are defined in there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from trimtab.api import JSON

BASE = frozenset(
    {"ServiceAccount", "Secret", "ConfigMap", "PersistentVolume", "PersistentVolumeClaim", "StorageClass", "Service", "ResourceQuota"}
    | {"LimitRange", "PriorityClass", "NetworkPolicy", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding", "IngressClass"}
)  # fmt: skip
NAMESPACES, DEFINITIONS, FOUNDATIONS, WORKLOADS, CUSTOM = range(5)


class ManifestFault(ValueError):
    """A manifest that is no object: one line that names its place in the list."""


@dataclass(frozen=True, order=True)
class Item:
    """An object's name in a cluster. namespace: empty for what has none."""

    api_version: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]


def wave(item: Item) -> int:
    """When it is applied, least first."""
    if item.group == "" and item.kind == "Namespace":
        return NAMESPACES
    if item.kind == "CustomResourceDefinition":
        return DEFINITIONS
    if "." in item.group and not item.group.endswith(".k8s.io"):
        return CUSTOM
    return FOUNDATIONS if item.kind in BASE else WORKLOADS


def named(manifests: Iterable[Any]) -> list[tuple[Item, JSON]]:
    """Each manifest with its name, as the list has them. Raises `ManifestFault`."""
    out: dict[Item, JSON] = {}
    for number, manifest in enumerate(manifests):
        item = _item(f"spec.manifests[{number}]", manifest)
        if item in out:
            raise ManifestFault(f"spec.manifests[{number}]: {item} is in the list twice")
        out[item] = manifest
    return list(out.items())


def _item(where: str, manifest: Any) -> Item:
    if not isinstance(manifest, dict):
        raise ManifestFault(f"{where}: not an object")
    meta = manifest.get("metadata")
    fields = {"apiVersion": manifest.get("apiVersion"), "kind": manifest.get("kind")}
    fields["metadata.name"] = meta.get("name") if isinstance(meta, dict) else None
    for field, value in fields.items():
        if not isinstance(value, str) or not value:
            raise ManifestFault(f"{where}: it has no {field}")
    assert isinstance(meta, dict)
    return Item(str(fields["apiVersion"]), str(fields["kind"]), str(meta.get("namespace") or ""), str(meta["name"]))
