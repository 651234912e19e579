"""From declarations to RBAC: what a component may do on a real cluster is what it declared, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trimtab.api import JSON, ObjectMeta, Resource
from trimtab.api.cluster import ClusterRole, Lease, PolicyRule
from trimtab.api.core import Event
from trimtab.runtime.component import Component, Owned, Place, Reconciler, Service, Writes
from trimtab.runtime.effects import Effect

READ = ("get", "list", "watch")
OWN = ("get", "list", "watch", "create", "patch", "delete")


class _Grants:
    """(group, resource, names of objects) -> verbs; no names: of all."""

    def __init__(self) -> None:
        self._verbs: dict[tuple[str, str, tuple[str, ...]], set[str]] = {}

    def add(
        self, kind: type[Resource], verbs: Iterable[str], subresource: str = "", names: tuple[str, ...] = ()
    ) -> None:
        place = kind.resource_type
        resource = f"{place.plural}/{subresource}" if subresource else place.plural
        self._verbs.setdefault((place.group, resource, names), set()).update(verbs)

    def rules(self) -> list[PolicyRule]:
        merged: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
        for (group, resource, names), verbs in sorted(self._verbs.items()):
            merged.setdefault((group, tuple(sorted(verbs)), names), []).append(resource)
        return [
            PolicyRule(api_groups=[group], resources=resources, verbs=list(verbs), resource_names=list(names))
            for (group, verbs, names), resources in merged.items()
        ]


def rules(components: Iterable[Component], place: Place | None = None) -> list[PolicyRule]:
    """The rules that these components together need, and no more; with `place`, what runs there."""
    grants = _Grants()
    grants.add(Event, ("create", "patch"))
    grants.add(Lease, ("get", "create", "update"))
    for component in components:
        for reconciler in component.reconcilers:
            if place in (None, reconciler.place):
                _reconciler(grants, reconciler)
        for service in component.services:
            if place in (None, service.place):
                _common(grants, service.reads, service.owns, service.writes)
                for posts in service.posts:
                    grants.add(posts.kind, ("create",), posts.subresource)
    return grants.rules()


def reader_rules(components: Iterable[Component], hidden: Sequence[type[Resource]] = ()) -> list[PolicyRule]:
    """The rules of somebody who looks at all that these components work on, the `hidden` kinds aside."""
    grants = _Grants()
    for component in components:
        kinds = set(component.kinds)
        parts: list[Reconciler[Resource] | Service] = [*component.reconcilers, *component.services]
        for part in parts:
            kinds.update(part.reads, (owned.kind for owned in part.owns), (write.kind for write in part.writes))
        kinds.update(reconciler.subject for reconciler in component.reconcilers)
        for kind in kinds.difference(hidden):
            grants.add(kind, READ)
        for endpoint in component.endpoints:
            if endpoint.page or endpoint.data:
                grants.add(endpoint.kind, ("get",), endpoint.subresource)
    return grants.rules()


def cluster_role(name: str, components: Sequence[Component]) -> ClusterRole:
    """One ClusterRole with the rules of `components`."""
    return ClusterRole(metadata=ObjectMeta(name=name), rules=rules(components))


def _reconciler(grants: _Grants, reconciler: Reconciler[Resource]) -> None:
    subject = reconciler.subject
    # patch: our finalizer; delete: a subject that has served its time.
    grants.add(subject, (*READ, "patch", "delete"))
    if subject.resource_type.status:
        grants.add(subject, ("patch",), "status")
    grants.add(subject, ("update",), "finalizers")  # an owner reference that blocks deletion needs it on OpenShift
    _common(grants, reconciler.reads, reconciler.owns, reconciler.writes)
    for kind in reconciler.asks:
        grants.add(kind, ("get", "list"))
    if reconciler.effects:
        grants.add(Effect, OWN)


def _common(grants: _Grants, reads: Sequence[type[Resource]], owns: Sequence[Owned], writes: Sequence[Writes]) -> None:
    for kind in reads:
        grants.add(kind, READ)
    for owned in owns:
        grants.add(owned.kind, READ if owned.granted else OWN)
    for write in writes:
        grants.add(write.kind, READ)
        for field in write.fields:
            subresource = "status" if field.partition(".")[0] == "status" else ""
            grants.add(write.kind, ("patch",), subresource, write.names)


def as_json(found: Iterable[PolicyRule]) -> list[JSON]:
    """The rules as they stand in a manifest."""
    return [
        {"apiGroups": rule.api_groups, "resources": rule.resources, "verbs": rule.verbs}
        | ({"resourceNames": rule.resource_names} if rule.resource_names else {})
        for rule in found
    ]
