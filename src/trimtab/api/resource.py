"""What an object of the Kubernetes API is, as a typed Python value.

A kind is a `msgspec.Struct` subclass made with `@resource(...)`. A struct is a *view*: it names the fields that Trimtab
acts on, and decoding drops the others. So a struct is for reading, and for server-side apply of what we mean; never for
a PUT of an object that somebody else may have written. `from_wire` and `to_wire` are the two doors; between them
nothing is a bare dict.

Because a struct names exactly the fields that something acts on, it is also the source of the honest-subset warnings
(`unknown_fields`) and, for our own kinds, of the CRD (`trimtab.api.crd`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, NewType, TypeVar

import msgspec

Uid = NewType("Uid", str)
ResourceVersion = NewType("ResourceVersion", str)
"""Opaque: compare for equality only; a real cluster promises nothing else."""

JSON = dict[str, Any]
"""A decoded JSON object on its way to or from the wire."""


class Model(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True, gc=False):
    """Base of every typed piece of an object: camelCase on the wire, defaults left out, unknown fields ignored.

    An object is a tree, so its pieces need no garbage collector: an informer's 10,000 pods are 300,000 of them."""


class OwnerReference(Model):
    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Model):
    name: str = ""
    generate_name: str | None = None
    namespace: str | None = None
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: list[str] = []
    owner_references: list[OwnerReference] = []


class Condition(Model):
    """A `metav1.Condition`. `type` is CamelCase; `status` is True, False or Unknown; `message` is for a person."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None
    observed_generation: int | None = None


PUBLISHED_AS_CRDS = frozenset({"snapshot.storage.k8s.io"})
"""Groups of Kubernetes' own that no API server has built in."""


@dataclass(frozen=True, slots=True)
class ResourceType:
    """Where a kind lives: `apps/v1`, `Deployment`, `deployments`; whether namespaced; its subresources and short names."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    status: bool = True
    scale: Mapping[str, str] | None = None
    """CRD scale paths: `specReplicasPath`, `statusReplicasPath`, `labelSelectorPath`."""
    columns: tuple[tuple[str, str, str], ...] = ()
    """Printer columns of our own kinds: (name, type, JSONPath)."""

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        return self.api_version.rpartition("/")[2]

    @property
    def builtin(self) -> bool:
        """True for kinds that every Kubernetes API server has; False for those that come as a CRD."""
        group = self.group
        return ("." not in group or group.endswith(".k8s.io")) and group not in PUBLISHED_AS_CRDS

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of the collection, an object or its subresource."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        parts = [root]
        if namespace and self.namespaced:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


class Resource(Model):
    """Base of all kinds. Subclasses add `spec`, `status` or whatever the kind has beside `metadata`."""

    resource_type: ClassVar[ResourceType]
    watched: ClassVar[str] = ""
    """A label selector, of a view of a kind: only such objects are read."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str | None:
        return self.metadata.namespace

    @property
    def ref(self) -> Ref:
        return Ref(type(self).resource_type.api_version, type(self).resource_type.kind, self.namespace, self.name)


R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """Names one object, whether or not it exists. Prints as `Deployment shop/web` (kind, namespace, name)."""

    api_version: str
    kind: str
    namespace: str | None
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"

    def to_wire(self) -> JSON:
        out = {"apiVersion": self.api_version, "kind": self.kind, "name": self.name}
        if self.namespace:
            out["namespace"] = self.namespace
        return out

    @classmethod
    def of_wire(cls, obj: Mapping[str, Any]) -> Ref:
        """The reference of a whole object (has `metadata`) or of a flat reference."""
        meta = obj.get("metadata", obj)
        return cls(obj.get("apiVersion", ""), obj.get("kind", ""), meta.get("namespace") or None, meta.get("name", ""))


_KINDS: dict[tuple[str, str], type[Resource]] = {}


def resource(
    api_version: str,
    plural: str,
    *,
    kind: str | None = None,
    namespaced: bool = True,
    short_names: tuple[str, ...] = (),
    categories: tuple[str, ...] = (),
    status: bool = True,
    scale: Mapping[str, str] | None = None,
    columns: tuple[tuple[str, str, str], ...] = (),
) -> Callable[[type[R]], type[R]]:
    """Class decorator that gives a `Resource` subclass its place in the API and makes `kind_of` find it."""

    def decorate(cls: type[R]) -> type[R]:
        cls.resource_type = ResourceType(
            api_version, kind or cls.__name__, plural, namespaced, short_names, categories, status, scale, columns
        )
        _KINDS[api_version, cls.resource_type.kind] = cls
        return cls

    return decorate


def kind_of(api_version: str, kind: str) -> type[Resource] | None:
    """The struct of a kind, or None where Trimtab has no view of it."""
    return _KINDS.get((api_version, kind))


def all_kinds() -> tuple[type[Resource], ...]:
    """Every kind that has been imported, in the order of definition."""
    return tuple(_KINDS.values())


def to_wire(obj: Resource) -> JSON:
    """The object as JSON values with `apiVersion` and `kind`; times in RFC 3339; unset fields left out."""
    body: JSON = msgspec.to_builtins(obj, str_keys=True)
    meta = body["metadata"]
    for unset in ("creationTimestamp", "uid", "resourceVersion"):
        if not meta.get(unset):
            meta.pop(unset, None)
    if not body.get("status"):
        body.pop("status", None)
    kind = type(obj).resource_type
    return {"apiVersion": kind.api_version, "kind": kind.kind, **body}


def from_wire(cls: type[R], obj: Mapping[str, Any]) -> R:
    """The typed view of a decoded object. A null says nothing, as in Kubernetes: kube-apiserver writes `endpoints: null`
    for an empty list.

    Raises:
        InvalidObject: naming the field and what it should be.
    """
    with suppress(msgspec.ValidationError):
        return msgspec.convert(obj, cls, strict=True)
    try:
        return msgspec.convert(_without_nulls(obj), cls, strict=True)
    except msgspec.ValidationError as err:
        raise InvalidObject(Ref.of_wire(obj), str(err)) from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


class InvalidObject(ValueError):
    """An object does not have the shape of its kind; `problem` names the field and the type expected."""

    def __init__(self, ref: Ref, problem: str) -> None:
        super().__init__(f"{ref}: {problem}")
        self.ref = ref
        self.problem = problem
