"""A control plane that keeps a cloud: the real API server as a process, the cloud's provider, and the reconcilers of its kinds."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import cloud_provider
from api_process import ApiProcess
from cloud import Cloud
from eventually import eventually
from trimtab.api import ObjectMeta, Resource
from trimtab.api.cluster import CustomResourceDefinition
from trimtab.api.core import Namespace, Secret
from trimtab.client import Client, SocketTransport, Transport
from trimtab.components.infrastructure.kinds import (
    Managed,
    ManagedSpec,
    Provider,
    ProviderConfig,
    ProviderConfigSpec,
    ProviderRef,
    ProviderSpec,
    SecretKey,
    managed_kind,
)
from trimtab.components.infrastructure.loop.installed import configured
from trimtab.components.infrastructure.loop.users import credentials
from trimtab.components.infrastructure.programs.paces import Paces
from trimtab.components.infrastructure.programs.pool import Pool
from trimtab.components.infrastructure.programs.suspects import Suspects
from trimtab.components.infrastructure.programs.terms import Providers
from trimtab.components.infrastructure.protocol.provider import Provider as Peer
from trimtab.components.infrastructure.reconcile import managed
from trimtab.components.infrastructure.remote import ClusterManifests
from trimtab.components.infrastructure.schemas.definition import definition
from trimtab.runtime.component import Component
from trimtab.runtime.crd import ensure_crds, kind_schema
from trimtab.runtime.journal import Journal
from trimtab.runtime.ownership import SYSTEM_NAMESPACE
from trimtab.runtime.process import RUNTIME_KINDS, Process
from trimtab.runtime.settings import Settings

RESOURCES = ("cloud_server", "cloud_network", "cloud_cluster")
NAMESPACE = "default"
K = TypeVar("K", bound=Resource)


class World:
    """What tests talk to. kinds: by the provider's name of the resource."""

    resources = RESOURCES

    def __init__(self, folder: Path, cloud: Cloud, *faults: str) -> None:
        self.folder = folder
        self.cloud = cloud
        self.faults = faults
        self.api = ApiProcess(folder)
        self.kinds: dict[str, type[Managed]] = {}
        self.components: list[Component] = []
        """What runs beside the reconcilers of these kinds, with their `adapters`."""
        self.adapters: dict[type, Any] = {}
        self.process: Process | None = None
        self._running: asyncio.Task[None] | None = None

    def command(self, provider: Provider) -> tuple[Sequence[str], Path, Mapping[str, str]]:
        sockets = Path(tempfile.mkdtemp(prefix="sockets-", dir=self.folder))
        environment = {"PYTHONPATH": ":".join(filter(None, sys.path))}
        return [sys.executable, cloud_provider.__file__, "6", *self.faults], sockets, environment

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self.api.start()
        self.client = Client(SocketTransport(self.api.socket))
        await ensure_crds(self.client, (*RUNTIME_KINDS, Provider, ProviderConfig, ClusterManifests))
        await self.client.apply(Namespace(metadata=ObjectMeta(name=SYSTEM_NAMESPACE)), manager="test")
        self.kinds = {name: managed_kind("cloud", name) for name in self.resources}
        await self._enable()
        await self.make(
            Provider(
                metadata=ObjectMeta(name="cloud"), spec=ProviderSpec(source="trimtab/cloud", kinds=list(self.resources))
            )
        )
        token = Secret(metadata=ObjectMeta(name="cloud", namespace=NAMESPACE), string_data={"token": "secret"})
        await self.make(token)
        spec = ProviderConfigSpec(
            provider="cloud",
            config={"url": self.cloud.url},
            secrets={"token": SecretKey(name="cloud", key="token")},
            requests_per_second=500,
        )
        await self.make(ProviderConfig(metadata=ObjectMeta(name="default", namespace=NAMESPACE), spec=spec))
        await self.work()

    async def _enable(self) -> None:
        command, sockets, environment = self.command(Provider())
        peer = await Peer.start(command, sockets, environment=environment, name="cloud")
        try:
            schema = await peer.schema()
        finally:
            await peer.close()
        properties = kind_schema(Managed)["properties"]
        for name, kind in self.kinds.items():
            common = {k: v for k, v in properties["spec"]["properties"].items() if not k.endswith("Provider")}
            status = {k: v for k, v in properties["status"]["properties"].items() if k != "atProvider"}
            made = definition("cloud", name, schema.resources[name], common, status)
            path = CustomResourceDefinition.resource_type.path()
            await self.client.wire.send("POST", path, {}, json.dumps(made).encode())
            await self.until(lambda k=kind: self._served(k), f"{name} is served")

    async def _served(self, kind: type[Managed]) -> bool:
        from trimtab.client.errors import NotFound

        try:
            await self.client.list(kind)
        except NotFound:
            return False
        return True

    def transport(self) -> Transport:
        """How the controllers reach the API: as somebody who may do everything."""
        return SocketTransport(self.api.socket)

    async def work(self) -> None:
        """Starts the controllers; `rest` ends them."""
        self.pool = Pool(self.command)
        self.process = Process(
            client=Client(self.transport()),
            journal=Journal(None),
            settings=Settings(id="te57ed", data=str(self.folder), run=str(self.folder)),
            adapters={Providers: self.pool, Suspects: Suspects(), Paces: Paces(), **self.adapters},
            components=self.components,
        )
        self._running = asyncio.create_task(self.process.run())
        await asyncio.sleep(0)  # its task group stands
        for one in (configured, credentials):
            self.process.join("infrastructure", one)
        for name, kind in self.kinds.items():
            self.process.join("infrastructure", managed(kind, name))

    async def rest(self) -> None:
        assert self._running is not None
        assert self.process is not None
        self._running.cancel()
        await asyncio.wait([self._running])
        await self.pool.close()
        await self.process.client.close()

    async def stop(self) -> None:
        await self.rest()
        await self.client.close()
        self.api.stop()

    # Objects

    async def make(self, obj: Resource) -> None:
        await self.client.apply(obj, manager="test", force=True)

    async def declare(self, resource: str, name: str, given: dict[str, Any], **spec: Any) -> None:
        """Applies an object of an enabled kind."""
        meta = ObjectMeta(name=name, namespace=NAMESPACE)
        fast = {"interval": "1s", "provider_ref": ProviderRef(name="default")} | spec
        await self.make(self.kinds[resource](metadata=meta, spec=ManagedSpec(for_provider=given, **fast)))

    async def get(self, resource: str, name: str) -> Managed | None:
        return await self.client.get(self.kinds[resource], name, NAMESPACE)

    async def secret(self, name: str) -> Secret | None:
        return await self.client.get(Secret, name, NAMESPACE)

    async def condition(self, resource: str, name: str, type_: str) -> tuple[str, str, str]:
        """(status, reason, message); empty ones before it is set."""
        found = await self.get(resource, name)
        for one in found.status.conditions if found is not None else ():
            if one.type == type_:
                return one.status, one.reason, one.message
        return "", "", ""

    async def until(self, holds: Callable[[], Any], what: str) -> Any:
        """Waits until `holds` gives something true, and returns it."""
        return await eventually(holds, what, self.state)

    async def state(self) -> str:
        """What the objects say of themselves, for a failing test."""
        out = []
        for kind in self.kinds.values():
            for one in (await self.client.list(kind)).items:
                said = [f"{c.type}={c.status} {c.reason} {c.message}" for c in one.status.conditions]
                out.append(f"{one.ref}: {one.status.plan.action} {said}")
        failing = list(self.process.failing.items()) if self.process is not None else []
        return "; ".join(map(str, [*out, *failing]))

    async def ready(self, resource: str, name: str) -> Managed:
        async def holds() -> bool:
            found = await self.get(resource, name)
            synced = (await self.condition(resource, name, "Synced"))[0] == "True"
            return synced and found is not None and found.status.observed_generation == found.metadata.generation

        await self.until(holds, f"{resource} {name} is synced")
        # What it wrote itself makes it look once more.
        await self.until(lambda: self.process is not None and self.process.idle, f"{resource} {name} is at rest")
        found = await self.get(resource, name)
        assert found is not None
        return found

    async def says(self, resource: str, name: str, reason: str) -> str:
        """Waits for a reason of its condition Synced; returns the message."""

        async def holds() -> bool:
            return (await self.condition(resource, name, "Synced"))[1] == reason

        await self.until(holds, f"{resource} {name} says {reason}")
        return (await self.condition(resource, name, "Synced"))[2]

    async def tells(self, resource: str, text: str, name: str = "web") -> bool:
        """Whether its condition Synced has the text in its message now."""
        return text in (await self.condition(resource, name, "Synced"))[2]


@asynccontextmanager
async def a_world(folder: Path) -> AsyncIterator[World]:
    """One that keeps a cloud of its own."""
    with Cloud() as cloud:
        async with World(folder, cloud) as one:
            yield one
