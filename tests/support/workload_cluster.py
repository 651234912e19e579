"""A whole control plane without a machine: the real API server on disk as a process, the workloads' controllers on its
socket, kubectl over TLS, and a node that plays pods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from api_process import ApiProcess
from simulated_node import NODE, Promise, SimulatedNode
from trimtab.api import ObjectMeta
from trimtab.api.core import Namespace
from trimtab.client import Client, SocketTransport
from trimtab.client.clock import SystemClock
from trimtab.components.workloads import COMPONENT, LocalDirectories, Renewals, VolumeDirectories
from trimtab.runtime.contract import Stage
from trimtab.runtime.crd import ensure_crds
from trimtab.runtime.journal import Journal
from trimtab.runtime.ownership import SYSTEM_NAMESPACE
from trimtab.runtime.process import RUNTIME_KINDS, Process
from trimtab.runtime.settings import Settings

KUBECTL_S = 60.0


@dataclass
class Done:
    """What kubectl did. `text` is everything it printed."""

    code: int
    text: str


class Cluster:
    """What tests talk to."""

    def __init__(self, api: ApiProcess, folder: Path) -> None:
        self.api = api
        self.folder = folder
        self.client = Client(SocketTransport(api.socket))
        self.volumes = folder / "node" / "volumes"
        self.promise: Promise | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._clients: list[Client] = []
        self._kubeconfig = api.kubeconfig()

    async def start(self) -> None:
        await ensure_crds(self.client, RUNTIME_KINDS)
        await self.client.apply(Namespace(metadata=ObjectMeta(name=SYSTEM_NAMESPACE)), manager="test")
        settings = Settings(id="te57ed", data=str(self.folder), run=str(self.folder))
        for place in ("controllers", "node"):
            client = Client(SocketTransport(self.api.socket))
            self._clients.append(client)
            process = Process(
                client=client,
                journal=Journal(None),
                settings=settings,
                adapters={VolumeDirectories: LocalDirectories(self.volumes, NODE), Renewals: Renewals()},
                place=place,  # type: ignore[arg-type]
                components=[COMPONENT],
            )
            self._tasks.append(asyncio.create_task(process.run(), name=place))
        stage = Stage(self.client, SystemClock(), {})
        node = SimulatedNode(
            stage, lambda pods: self.promise(pods) if self.promise else None, start_s_max=0.1, stop_s_max=0.1
        )
        self._tasks.append(asyncio.create_task(node.run(), name="node"))

    def check(self) -> None:
        """Fails when the node saw a promise broken, or a process ended."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        for client in (self.client, *self._clients):
            await client.close()

    async def kubectl(self, *args: str, stdin: str = "") -> Done:
        """Runs kubectl."""
        process = await asyncio.create_subprocess_exec(
            "kubectl",
            f"--kubeconfig={self._kubeconfig}",
            f"--cache-dir={self.folder / 'kubectl'}",
            *args,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(KUBECTL_S):
                out, _ = await process.communicate(stdin.encode())
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(f"kubectl {' '.join(args)} did not end in {KUBECTL_S} s") from None
        assert process.returncode is not None
        self.check()
        return Done(process.returncode, out.decode())

    async def run(self, *args: str, stdin: str = "") -> str:
        """Runs kubectl, which must succeed; returns what it printed."""
        done = await self.kubectl(*args, stdin=stdin)
        assert done.code == 0, f"kubectl {' '.join(args)}: {done.text}"
        return done.text

    async def apply(self, manifest: str) -> None:
        await self.run("apply", "-f", "-", stdin=manifest)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiProcess]:
    server = ApiProcess(tmp_path, tls=True)
    server.start()
    yield server
    server.close()


@pytest_asyncio.fixture
async def cluster(api: ApiProcess, tmp_path: Path) -> AsyncIterator[Cluster]:
    made = Cluster(api, tmp_path)
    await made.start()
    yield made
    await made.stop()
