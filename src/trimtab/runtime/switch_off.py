"""A component that is switched off: its finalizers and the runtime's conditions about it go, so that nobody waits for it.

What it made stays, and so do the records of its effects: switching off is not deleting. Delete the subjects first to have
everything undone.
"""

from __future__ import annotations

from trimtab.api import Resource
from trimtab.client.client import Client
from trimtab.client.errors import Conflict, NotFound
from trimtab.client.wire import encode
from trimtab.runtime.component import Component
from trimtab.runtime.effects import Effect
from trimtab.runtime.ownership import RECONCILER_LABEL, Identity


async def switch_off(client: Client, component: Component) -> list[str]:
    """Lets go of every subject of `component`; returns one line for each effect on the outside that stays as it is."""
    for reconciler in component.reconcilers:
        identity = Identity(component.name, reconciler.name)
        for subject in (await client.list(reconciler.subject)).items:
            if identity.finalizer in subject.metadata.finalizers:
                await _let_go(client, subject, identity, "")
            if reconciler.subject.resource_type.status:
                await _let_go(client, subject, identity, "status")
    left: list[str] = []
    labels = {Identity(component.name, reconciler.name).label for reconciler in component.reconcilers}
    for effect in (await client.list(Effect)).items:
        if effect.metadata.labels.get(RECONCILER_LABEL) in labels:
            subject_name = effect.spec.subject.get("name", "")
            left.append(f"{effect.spec.reconciler}: effect '{effect.spec.key}' of {subject_name} was not undone")
    return left


async def _let_go(client: Client, subject: Resource, identity: Identity, subresource: str) -> None:
    """An apply of nothing: what only the runtime's own manager holds (a finalizer, a condition) goes."""
    ref = subject.ref
    meta = {"name": ref.name, "uid": subject.metadata.uid} | ({"namespace": ref.namespace} if ref.namespace else {})
    body = encode({"apiVersion": ref.api_version, "kind": ref.kind, "metadata": meta})
    place = type(subject).resource_type
    manager = identity.health_manager
    try:
        await client.wire.apply_bytes(
            place, ref.name, ref.namespace, body, manager=manager, subresource=subresource or None
        )
    except (NotFound, Conflict):
        return  # gone meanwhile
