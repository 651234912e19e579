"""Two control planes: one with the reconciler of ClusterManifests, and behind a kubeconfig Secret the API of another cluster."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import yaml

from api_process import ApiProcess
from eventually import eventually
from trimtab.api import JSON, ObjectMeta, ResourceType
from trimtab.api.core import Namespace, Secret
from trimtab.client import Client, SocketTransport
from trimtab.components.infrastructure.kinds import SecretKey
from trimtab.components.infrastructure.remote import ClusterManifests, Clusters, OverHttp, manifests
from trimtab.components.infrastructure.remote.kinds import ClusterManifestsSpec
from trimtab.runtime.crd import ensure_crds
from trimtab.runtime.journal import Journal
from trimtab.runtime.ownership import SYSTEM_NAMESPACE
from trimtab.runtime.process import RUNTIME_KINDS, Process
from trimtab.runtime.settings import Settings

NAMESPACE, SECRET, NAME = "default", "prod", "shop"
EVENT = ResourceType("events.k8s.io/v1", "Event", "events")


class Elsewhere:
    """A cluster: its API over TLS, and what it is told of its own. `lost` ends it for good."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.api = ApiProcess(folder, tls=True)
        self.api.start()
        self.client = Client(SocketTransport(self.api.socket))

    def kubeconfig(self, token: str = "") -> str:
        """With all in itself, as clouds hand them out."""
        config = yaml.safe_load(self.api.kubeconfig().read_text())
        cluster = config["clusters"][0]["cluster"]
        authority = Path(cluster.pop("certificate-authority")).read_bytes()
        cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
        if token:
            config["users"][0]["user"] = {"token": token}
        return str(yaml.safe_dump(config))

    async def get(self, kind: ResourceType, name: str, namespace: str | None = None) -> JSON | None:
        return await self.client.wire.get(kind, name, namespace)

    async def says(self, kind: ResourceType, name: str, namespace: str, status: JSON) -> None:
        """Sets an object's status, as what runs in there would."""
        await self.client.wire.patch(
            kind, name, namespace, {"status": status}, manager="in-there", subresource="status"
        )

    async def lost(self) -> None:
        await self.client.close()
        self.api.close()


class ManifestsWorld:
    """What tests talk to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.api = ApiProcess(folder)
        self._running: asyncio.Task[None] | None = None
        self._elsewhere: list[Elsewhere] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self.api.start()
        self.client = Client(SocketTransport(self.api.socket))
        await ensure_crds(self.client, (*RUNTIME_KINDS, ClusterManifests))
        await self.client.apply(Namespace(metadata=ObjectMeta(name=SYSTEM_NAMESPACE)), manager="test")
        self.process = Process(
            client=Client(SocketTransport(self.api.socket)),
            journal=Journal(None),
            settings=Settings(id="te57ed", data=str(self.folder), run=str(self.folder)),
            adapters={Clusters: OverHttp()},
            components=[],
        )
        self._running = asyncio.create_task(self.process.run())
        await asyncio.sleep(0)  # its task group stands
        self.process.join("infrastructure", manifests)

    async def stop(self) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.wait([self._running])
        await self.process.client.close()
        for one in self._elsewhere:
            await one.lost()
        await self.client.close()
        self.api.stop()

    def cluster(self) -> Elsewhere:
        """A new one."""
        made = Elsewhere(self.folder / f"cluster-{len(self._elsewhere)}")
        self._elsewhere.append(made)
        return made

    async def behind(self, kubeconfig: str) -> None:
        """Puts it into the Secret."""
        secret = Secret(
            metadata=ObjectMeta(name=SECRET, namespace=NAMESPACE),
            data={"kubeconfig": base64.b64encode(kubeconfig.encode()).decode()},
        )
        await self.client.apply(secret, manager="test", force=True)

    async def declare(self, objects: list[JSON], **spec: Any) -> None:
        meta = ObjectMeta(name=NAME, namespace=NAMESPACE)
        given = {"kubeconfig": SecretKey(name=SECRET, key="kubeconfig"), "interval": "1s", "manifests": objects} | spec
        await self.client.apply(
            ClusterManifests(metadata=meta, spec=ClusterManifestsSpec(**given)), manager="test", force=True
        )

    async def get(self) -> ClusterManifests | None:
        return await self.client.get(ClusterManifests, NAME, NAMESPACE)

    async def condition(self, type_: str) -> tuple[str, str, str]:
        """(status, reason, message), of its newest form; empty ones before that is looked at."""
        found = await self.get()
        if found is None or found.status.observed_generation != found.metadata.generation:
            return "", "", ""
        of = {c.type: (c.status, c.reason, c.message) for c in found.status.conditions}
        return of.get(type_, ("", "", ""))

    async def says(self, type_: str, reason: str) -> str:
        """Waits until a condition has a reason; returns its message."""

        async def holds() -> bool:
            return (await self.condition(type_))[1] == reason

        await self.until(holds, f"{type_} says {reason}")
        return (await self.condition(type_))[2]

    async def events(self, reason: str) -> list[str]:
        """What was said under this reason."""
        found = (await self.client.wire.list(EVENT, NAMESPACE))["items"]
        return [one.get("note", "") for one in found if one.get("reason") == reason]

    async def until(self, holds: Callable[[], Any], what: str) -> Any:
        """Waits until `holds` gives something true, and returns it."""
        return await eventually(holds, what, self.state)

    async def state(self) -> str:
        """What it says of itself, for a failing test."""
        one = await self.get()
        said = [f"{c.type}={c.status} {c.reason} {c.message}" for c in one.status.conditions] if one else []
        return f"{said}; {list(self.process.failing.items())}"
