"""Enabled kinds: what the API is given for each, and the reconcilers that keep their objects.

    Provider.spec.kinds --manifests--> CustomResourceDefinitions, one ClusterRole        (by who enables: an administrator)
                        --kinds service--> a class and a reconciler for each, joined and parted while the process runs

A kind that is not enabled costs no definition, no watch and no memory.
"""

from __future__ import annotations

import asyncio
from typing import Any

from trimtab.api import JSON
from trimtab.components.infrastructure import naming
from trimtab.components.infrastructure.definition import definition
from trimtab.components.infrastructure.kinds import Managed, Provider, managed_kind
from trimtab.components.infrastructure.protocol.schema import ProviderSchema
from trimtab.components.infrastructure.reconcile import managed
from trimtab.runtime.crd import kind_schema

CONTROLLERS = "system:trimtab:controllers"
_RBAC = "rbac.authorization.k8s.io"
_READ = ["get", "list", "watch"]
_WRITE = ["create", "update", "patch", "delete", "deletecollection"]


def definitions(provider: Provider, schema: ProviderSchema) -> list[JSON]:
    """The definitions of a provider's enabled kinds, in order. Raises `KeyError` of a kind that it has not."""
    properties = kind_schema(Managed)["properties"]
    common = {k: v for k, v in properties["spec"]["properties"].items() if k not in ("forProvider", "initProvider")}
    status = {k: v for k, v in properties["status"]["properties"].items() if k != "atProvider"}
    return [
        definition(provider.name, name, schema.resources[name], common, status) for name in sorted(provider.spec.kinds)
    ]


def roles(provider: Provider) -> list[JSON]:
    """What the controllers, and those who view and edit, may do with a provider's kinds: manifests."""
    group = naming.group(provider.name)
    name = f"trimtab:provider:{provider.name}"

    def role(suffix: str, verbs: list[str], resources: list[str], labels: list[str]) -> JSON:
        return {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": {
                "name": name + suffix,
                "labels": {f"{_RBAC}/aggregate-to-{label}": "true" for label in labels},
            },
            "rules": [{"apiGroups": [group], "resources": resources, "verbs": verbs}],
        }

    binding = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": _RBAC, "kind": "User", "name": CONTROLLERS}],
    }
    return [
        role("", ["get", "list", "watch", "patch", "update", "delete"], ["*"], []),
        role(":view", _READ, ["*"], ["view"]),
        role(":edit", _WRITE, ["*"], ["edit", "admin"]),
        binding,
    ]


async def kinds(process: Any) -> None:
    """The service: keeps a reconciler running for every enabled kind. Until cancelled."""
    changed = asyncio.Event()
    informer = process.informer(Provider)
    end = informer.subscribe(lambda _: changed.set())
    joined: dict[tuple[str, str], Any] = {}
    try:
        await informer.wait_synced()
        changed.set()
        while True:
            await changed.wait()
            changed.clear()
            wanted = {(p.name, name) for p in informer.list() for name in p.spec.kinds}
            if wanted != set(joined):
                await _part(process, joined)
                await _join(process, joined, sorted(wanted))
    finally:
        end()
        await _part(process, joined)


async def _join(process: Any, joined: dict[tuple[str, str], Any], wanted: list[tuple[str, str]]) -> None:
    made = {key: managed_kind(*key) for key in wanted}
    for key, kind in made.items():
        joined[key] = process.join("infrastructure", managed(kind, key[1], tuple(made.values())))


async def _part(process: Any, joined: dict[tuple[str, str], Any]) -> None:
    while joined:
        _, controller = joined.popitem()
        await process.part(controller)
