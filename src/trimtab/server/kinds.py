"""What the server knows of a served kind: where it lives, how it is stored, which subresources it has.

Built-in kinds stand in `builtin_kinds.py`, custom ones are made from their CRDs (`custom.py`); from here on nothing asks
which of the two it deals with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trimtab.api import JSON

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Scale:
    """Where a kind keeps the three values of its scale subresource, as dotted paths."""

    spec_replicas: str = "spec.replicas"
    status_replicas: str = "status.replicas"
    selector: str = "spec.selector"
    """A label selector object (built-in kinds) or its text form (custom ones)."""
    selector_is_map: bool = False
    """The selector is a plain map of labels (ReplicationController)."""


@dataclass(frozen=True, slots=True)
class Column:
    """A printer column: `path` is JSONPath; `priority` above 0 shows with `-o wide` only."""

    name: str
    type: str
    path: str
    format: str = ""
    description: str = ""
    priority: int = 0


_NEEDS_VERSION = frozenset(
    {
        "Lease",
        "PodDisruptionBudget",
        "VolumeAttachment",
        "CSIDriver",
        "CSINode",
        "CSIStorageCapacity",
        "RuntimeClass",
        "CustomResourceDefinition",
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
    }
)
_CREATED_BY_UPDATE = frozenset(
    {
        "Role",
        "ClusterRole",
        "RoleBinding",
        "ClusterRoleBinding",
        "Lease",
        "LimitRange",
        "Event",
        "Service",
        "Endpoints",
        "RuntimeClass",
    }
)
_SHOWN_DELETED = frozenset(
    {
        "Pod",
        "Service",
        "ServiceAccount",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "PodTemplate",
        "ResourceQuota",
        "CSIDriver",
        "CSINode",
        "StorageClass",
        "VolumeAttachment",
        "VolumeAttributesClass",
    }
)
"""What the strategies and stores of k8s.io/kubernetes `pkg/registry` say (`AllowUnconditionalUpdate`, `AllowCreateOnUpdate`,
`ReturnDeletedObject`)."""


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """One served kind in one version."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    singular: str = ""
    list_kind: str = ""
    verbs: tuple[str, ...] = ALL_VERBS
    status: bool = False
    """Has the status subresource: status is written there and nowhere else."""
    scale: Scale | None = None
    subresources: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    """Further ones: (name, kind of their body, verbs)."""
    generation: bool = True
    """Counts changes of what is desired in `metadata.generation`."""
    stored_group: str = ""
    """The group that holds the objects, when this kind is a view of another group's."""
    stored_version: str = ""
    crd: str = ""
    """Of a custom kind: the key of its CRD."""
    columns: tuple[Column, ...] = ()
    selectable: tuple[str, ...] = ()
    """Fields of a custom kind that field selectors may name."""
    terminating: bool = False
    """Its CRD is being deleted: no more objects are taken in."""
    defaults_since: int = 0
    """Of a custom kind whose schema has defaults: the revision since which objects are stored with them."""
    complete: Callable[[Kind, JSON], None] | None = None
    """Gives an object, in place, the defaults that came after it was stored."""
    warning: str = ""
    """Said with every answer: the version is deprecated."""

    @property
    def needs_version(self) -> bool:
        """A PUT has to say which version it replaces."""
        return bool(self.crd) or self.kind in _NEEDS_VERSION

    @property
    def shown_deleted(self) -> bool:
        """The answer to a deletion is what was deleted, not a Status."""
        return not self.crd and self.kind in _SHOWN_DELETED and self.group in ("", "storage.k8s.io")

    @property
    def created_by_update(self) -> bool:
        """A PUT of what does not exist creates it."""
        return not self.crd and self.kind in _CREATED_BY_UPDATE

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def stored_api_version(self) -> str:
        """What `apiVersion` says on disk."""
        group, version = self.stored_group or self.group, self.stored_version or self.version
        return f"{group}/{version}" if group and group != "core" else version

    @property
    def collection(self) -> str:
        """The prefix of the keys of all its objects."""
        return f"/{self.stored_group or self.group or 'core'}/{self.plural}/"

    def prefix(self, namespace: str | None) -> str:
        return f"{self.collection}{namespace}/" if self.namespaced and namespace else self.collection

    def key(self, namespace: str | None, name: str) -> str:
        return f"{self.collection}{namespace}/{name}" if self.namespaced else f"{self.collection}{name}"

    @property
    def singular_name(self) -> str:
        return self.singular or self.kind.lower()

    @property
    def list_name(self) -> str:
        return self.list_kind or self.kind + "List"
