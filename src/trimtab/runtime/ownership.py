"""Who holds an object: the names under which a reconciler writes, and the labels by which what it made is known again.

Every object has one holder. It shows in two ways: the field manager (who wrote the fields) and two labels (which reconciler
made it, and for which subject's uid). Where the API allows, an owner reference says the same to Kubernetes' garbage
collector; when somebody takes it off (`kubectl delete --cascade=orphan`), the object is nobody's. An object that exists without our labels belongs to somebody else and is never taken, unless its owner hands it
over with the annotation `trimtab.dev/adopt: "true"`.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.api import JSON, OwnerReference, Ref, Resource, to_wire
from trimtab.client.wire import encode
from trimtab.runtime.component import Reconciler

OWNER_LABEL = "trimtab.dev/owner"
"""The uid of the subject for which an object exists."""
RECONCILER_LABEL = "trimtab.dev/reconciler"
"""`component.reconciler` that made an object."""
AFAR_LABEL = "trimtab.dev/owner-afar"
"""On an object that the API allows no owner reference, since its subject is in another namespace."""
ADOPT_ANNOTATION = "trimtab.dev/adopt"

MANAGER_PREFIX = "trimtab-"
SYSTEM_NAMESPACE = "trimtab-system"


@dataclass(frozen=True)
class Identity:
    """The names of one reconciler of one component."""

    component: str
    reconciler: str
    subject: type[Resource] | None = None
    by_reference: frozenset[type[Resource]] = frozenset()
    """What is known, without its labels, by the subject that its reference names as its controller."""

    @classmethod
    def of(cls, component: str, reconciler: Reconciler[Resource]) -> Identity:
        known = frozenset(owned.kind for owned in reconciler.owns if owned.by_reference)
        return cls(component, reconciler.name, reconciler.subject, known)

    @property
    def label(self) -> str:
        return f"{self.component}.{self.reconciler}"

    @property
    def manager(self) -> str:
        """Writes what the reconciler owns, and its subject's status."""
        return f"{MANAGER_PREFIX}{self.component}-{self.reconciler}"

    @property
    def fields_manager(self) -> str:
        """Writes declared fields of others' objects."""
        return f"{self.manager}-fields"

    @property
    def health_manager(self) -> str:
        """Writes the runtime's own conditions about the reconciler (Stalled, NonConvergent) and its finalizer."""
        return f"{self.manager}-runtime"

    @property
    def finalizer(self) -> str:
        return f"trimtab.dev/{self.component}-{self.reconciler}"

    def is_mine(self, manager: str) -> bool:
        return manager in (self.manager, self.fields_manager, self.health_manager)

    def made(self, obj: Resource, uid: str) -> bool:
        """Whether this reconciler made `obj` for the subject with `uid`."""
        return bool(uid) and self.maker_for(obj) == uid

    def maker_for(self, obj: Resource) -> str | None:
        """The uid of the subject for which this reconciler made `obj`; None when it did not."""
        labels = obj.metadata.labels
        if labels.get(RECONCILER_LABEL) == self.label:
            return labels.get(OWNER_LABEL, "")
        if type(obj) not in self.by_reference or OWNER_LABEL in labels or RECONCILER_LABEL in labels:
            return None
        controller = controller_of(obj)
        kind = self.subject.resource_type if self.subject is not None else None
        if (
            controller is None
            or kind is None
            or (controller.api_version, controller.kind) != (kind.api_version, kind.kind)
        ):
            return None
        return controller.uid

    def owns(self, obj: Resource, uid: str) -> bool:
        """Whether this reconciler made `obj` for the subject with `uid`, and nobody has set it free since."""
        return self.made(obj, uid) and not set_free(obj)


def controller_of(obj: Resource) -> OwnerReference | None:
    """The controller that an object's references name."""
    return next((reference for reference in obj.metadata.owner_references if reference.controller), None)


def controller_instead(obj: Resource, label: str) -> str:
    """What stands for the owner's label on an object that has lost it."""
    if label != OWNER_LABEL or RECONCILER_LABEL in obj.metadata.labels:
        return ""
    controller = controller_of(obj)
    return controller.uid if controller is not None else ""


def set_free(obj: Resource) -> bool:
    """Whether somebody took the reference to its owner off an object that was made with one."""
    meta = obj.metadata
    if not meta.namespace or AFAR_LABEL in meta.labels:
        return False  # it may never have had one
    owner = meta.labels.get(OWNER_LABEL)
    return owner is not None and all(reference.uid != owner for reference in meta.owner_references)


class ObjectHeld(Exception):
    """A reconciler wants an object that somebody else holds."""

    def __init__(self, ref: Ref, holder: str) -> None:
        super().__init__(
            f"{ref} exists already and belongs to {holder}; delete or rename it, or hand it over with the annotation "
            f'{ADOPT_ANNOTATION}: "true"'
        )
        self.ref = ref
        self.holder = holder


def holder_of(obj: Resource, identity: Identity, uid: str, *, retained: bool) -> str | None:
    """Who else holds `obj`, in words; None when it is ours (or left to us)."""
    meta = obj.metadata
    if identity.made(obj, uid):
        return None
    maker = meta.labels.get(RECONCILER_LABEL)
    if maker is None and meta.annotations.get(ADOPT_ANNOTATION) == "true":
        return None
    if retained and maker == identity.label:
        return None
    for reference in meta.owner_references:
        if reference.controller:
            return f"{reference.kind} {reference.name}"
    if maker:
        return f"another subject of {maker}" if maker == identity.label else maker
    return "somebody else (it has no owner label)"


def owned_body(obj: Resource, subject: Resource, identity: Identity, *, retained: bool) -> bytes:
    """The bytes to apply for an object of `Desired.objects`: what it says, plus who it is for. Status is left out, for it
    is not its maker's to write."""
    wire = to_wire(obj)
    wire.pop("status", None)
    meta: JSON = wire["metadata"]
    for name in ("uid", "resourceVersion", "creationTimestamp", "generation", "deletionTimestamp", "ownerReferences"):
        meta.pop(name, None)
    meta["labels"] = {
        **meta.get("labels", {}),
        OWNER_LABEL: subject.metadata.uid,
        RECONCILER_LABEL: identity.label,
    }
    if not retained and may_refer(obj, subject):
        meta["ownerReferences"] = [reference_to(subject)]
    elif obj.namespace and not retained:
        meta["labels"][AFAR_LABEL] = "true"
    return encode(wire)


def may_refer(obj: Resource, subject: Resource) -> bool:
    """Whether the API allows `obj` an owner reference to `subject`: the same namespace, or a subject without one."""
    return not subject.namespace or subject.namespace == obj.namespace


def reference_to(subject: Resource) -> JSON:
    kind = type(subject).resource_type
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "name": subject.name,
        "uid": subject.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
