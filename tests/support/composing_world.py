"""A control plane that composes: `managed_world`, with the reconciler of definitions and the service that keeps their claims.

Its controllers are `system:trimtab:controllers` to the API, with the roles that an engine gives them and no other.
"""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from cloud import Cloud
from managed_world import NAMESPACE, World
from trimtab.api import JSON, ObjectMeta
from trimtab.api.cluster import ClusterRole, ClusterRoleBinding
from trimtab.client import SocketTransport, Transport
from trimtab.client.errors import NotFound
from trimtab.client.transport import Request, Response
from trimtab.components.infrastructure import COMPONENT
from trimtab.components.infrastructure.commands.enabling import roles as provider_roles
from trimtab.components.infrastructure.composition.declaration import SERVICE, adapters, defined
from trimtab.components.infrastructure.composition.grants import roles
from trimtab.components.infrastructure.composition.kinds import (
    ComposedKind,
    ComposeSpec,
    CompositeDefinition,
    CompositeDefinitionSpec,
    Names,
)
from trimtab.components.infrastructure.composition.publishing import Claims
from trimtab.components.infrastructure.composition.sandbox import Functions
from trimtab.components.infrastructure.composition.terms import Compositions, LazyFunctions
from trimtab.components.infrastructure.kinds import Provider
from trimtab.components.infrastructure.remote import Clusters, OverHttp, manifests
from trimtab.components.infrastructure.schemas.naming import plural
from trimtab.engine.access_roles import CONTROLLERS
from trimtab.engine.access_roles import roles as engine_roles
from trimtab.runtime.component import Component
from trimtab.runtime.crd import ensure_crds
from trimtab.runtime.settings import Settings

GROUP = "acme.example"
PLURALS = {
    "ConfigMap": "/api/v1",
    "Deployment": "/apis/apps/v1",
    "Job": "/apis/batch/v1",
    "Lab": "/apis/acme.example/v1alpha1",
}

LAB = '''
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal
from trimtab.compose import Claim, Composed, Limit, Managed, Observed, Status, definition

@dataclass
class Lab:
    """A network with hosts."""
    region: str
    hosts: Annotated[int, Limit(ge=0, le=5), "How many."] = 1

@dataclass
class Out:
    addresses: list[str]

class Network(Managed[Any]):
    API_VERSION: ClassVar[str] = "cloud.tf.trimtab.dev/v1"
    KIND: ClassVar[str] = "Network"

class Server(Managed[Any]):
    API_VERSION: ClassVar[str] = "cloud.tf.trimtab.dev/v1"
    KIND: ClassVar[str] = "Server"

@definition(group="acme.example", status=Out, connection={"address": "{{ host-0.address }}", "network": "{{ net.status.id }}"})
def compose(xr: Claim[Lab], observed: Observed) -> Composed:
    net = Network("net", {"name": xr.name, "range": "10.0.0.0/16"}, interval="1s")
    hosts = [
        Server(
            f"host-{i}",
            {"name": f"{xr.name}-{i}", "region": xr.spec.region, "network": net.output("id")},
            interval="1s",
            connection={"address": "{{ address }}"},
        )
        for i in range(xr.spec.hosts)
    ]
    addresses = [observed[host.name].at("atProvider.address", "") for host in hosts]
    return [net, *hosts, Status(Out([a for a in addresses if a]))]
'''


COMPOSES = [
    ComposedKind("cloud.tf.trimtab.dev/v1", "Network"),
    ComposedKind("cloud.tf.trimtab.dev/v1", "Server"),
    ComposedKind("v1", "ConfigMap"),
    ComposedKind("batch/v1", "Job"),
    ComposedKind("apps/v1", "Deployment"),
]


WHO = {"impersonate-user": CONTROLLERS, "impersonate-group": CONTROLLERS}


class AsControllers(SocketTransport):
    """The API's socket, at which root says that it is the controllers. away: paths at which nobody answers them, with how often they asked."""

    def __init__(self, path: str, away: dict[str, int]) -> None:
        super().__init__(path)
        self._away = away

    async def send(self, request: Request) -> Response:
        if request.path in self._away:
            self._away[request.path] += 1
            raise ConnectionError(f"{request.path} is away")
        return await super().send(replace(request, headers={**request.headers, **WHO}))


class ComposingWorld(World):
    """`define`, `claim`, `lab`; the rest as in `World`."""

    def __init__(self, folder: Path, cloud: Cloud, *faults: str) -> None:
        super().__init__(folder, cloud, *faults)
        self.away: dict[str, int] = {}
        self.components = [
            Component(
                name="infrastructure",
                summary="",
                reconcilers=(defined, manifests),
                services=(SERVICE,),
            )
        ]

    def transport(self) -> Transport:
        return AsControllers(self.api.socket, self.away)

    async def work(self) -> None:
        for role in [*engine_roles((COMPONENT,)), *provider_roles(Provider(metadata=ObjectMeta(name="cloud")))]:
            kind = ClusterRole if role["kind"] == "ClusterRole" else ClusterRoleBinding
            await self.client.wire.apply(kind.resource_type, role, manager="test")
        await ensure_crds(self.client, (CompositeDefinition,))
        self.adapters = {
            Clusters: OverHttp(),
            **adapters(Settings(id="te57ed", data=str(self.folder), run=str(self.folder))),
        }
        await super().work()

    @property
    def functions(self) -> Functions:
        made: LazyFunctions = self.adapters[Compositions]
        return made.functions

    @property
    def claims(self) -> Claims:
        found: Claims = self.adapters[Claims]
        return found

    async def define(
        self, source: str = LAB, *, kind: str = "Lab", ready: bool = True, granted: bool = True, **spec: Any
    ) -> CompositeDefinition:
        """Applies a definition, with the fields of LAB unless others are given, and the roles that go with it."""
        compose = ComposeSpec(source=textwrap.dedent(source), **spec.pop("compose", {}))
        fields = {"region": {"type": "string"}, "hosts": {"type": "integer", "default": 1}}
        given = {
            "fields": fields,
            "status": {"addresses": {"type": "array", "items": {"type": "string"}}},
            "connection": {},
            "composes": COMPOSES,
        } | spec
        made = CompositeDefinition(
            metadata=ObjectMeta(name=f"{plural(kind)}.{GROUP}"),
            spec=CompositeDefinitionSpec(group=GROUP, names=Names(kind=kind), compose=compose, **given),
        )
        if granted:
            for role in roles(made):
                await self.make(role)
        await self.make(made)
        if ready:
            await self.until(lambda: self.defined(made.name, "Served", made), f"{kind} is served")
        return made

    async def defined(self, name: str, reason: str, like: CompositeDefinition | None = None) -> str | None:
        """The message of a definition's condition Ready, when it has this reason (and the spec is that one)."""
        found = await self.client.get(CompositeDefinition, name)
        if found is None or found.status.observed_generation != found.metadata.generation:
            return None
        if like is not None and found.spec.compose != like.spec.compose:
            return None
        return next((c.message or " " for c in found.status.conditions if c.reason == reason), None)

    def place(self, kind: str) -> str:
        """The path of a kind's objects, in a namespace."""
        return PLURALS.get(kind) or (
            "/apis/cloud.tf.trimtab.dev/v1" if kind in ("Network", "Server") else PLURALS["Lab"]
        )

    async def claim(self, name: str, kind: str = "Lab", namespace: str = NAMESPACE, **spec: Any) -> None:
        body = {"apiVersion": f"{GROUP}/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        path = f"{self.place(kind)}/namespaces/{namespace}/{plural(kind)}/{name}"
        query = {"fieldManager": "test", "force": "true"}
        await self.client.wire.send("PATCH", path, query, msgspec.json.encode(body), "application/apply-patch+yaml")

    async def raw(self, kind: str, name: str, namespace: str = NAMESPACE) -> JSON | None:
        """An object as it is."""
        try:
            answer = await self.client.wire.send(
                "GET", f"{self.place(kind)}/namespaces/{namespace}/{plural(kind)}/{name}"
            )
        except NotFound:
            return None
        found: JSON = msgspec.json.decode(answer.body)
        return found

    async def drop(self, kind: str, name: str) -> None:
        await self.client.wire.send("DELETE", f"{self.place(kind)}/namespaces/{NAMESPACE}/{plural(kind)}/{name}")

    async def claim_says(
        self, name: str, reason: str, type: str = "Synced", kind: str = "Lab", message: str = ""
    ) -> str:
        """Waits for a reason of a claim's condition (and a message), said of its newest form; returns the message."""

        async def holds() -> str | None:
            found = await self.raw(kind, name) or {}
            status = found.get("status", {})
            if status.get("observedGeneration", 0) != found.get("metadata", {}).get("generation"):
                return None
            said = (c for c in status["conditions"] if c["type"] == type and c["reason"] == reason)
            return next((c["message"] or " " for c in said if message in ("", c["message"])), None)

        said: str = await self.until(holds, f"{kind} {name} says {reason} of {type}: {message}")
        return said

    async def state(self) -> str:
        said = [await super().state()]
        for one in (await self.client.list(CompositeDefinition)).items:
            said.append(f"{one.ref}: {[(c.reason, c.message) for c in one.status.conditions]}")
        try:
            answer = await self.client.wire.send("GET", PLURALS["Lab"] + "/labs")
            said += [f"{i['metadata']['name']}: {i.get('status')}" for i in msgspec.json.decode(answer.body)["items"]]
        except NotFound:
            pass
        return "; ".join(said)


@asynccontextmanager
async def a_composing_world(folder: Path) -> AsyncIterator[ComposingWorld]:
    """One that keeps a cloud of its own."""
    folder.chmod(0o755)  # who runs functions is somebody else
    with Cloud() as cloud:
        async with ComposingWorld(folder, cloud) as one:
            yield one
