"""A node of a test's own: containerd, pod network, the real API server in memory, the agent as one process runs it.

Everything has names and addresses of its own and is gone afterwards.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from simulated_api import SimulatedApi
from trimtab.api import JSON, Ref, from_wire
from trimtab.api.core import PROXIED, Pod
from trimtab.api.nodes import Node
from trimtab.client.client import Client
from trimtab.client.clock import SystemClock
from trimtab.components.node import COMPONENT, adapters, cleanup, containerd_command
from trimtab.components.node.agent import NodeAgent
from trimtab.components.node.cleanup import answers
from trimtab.components.node.cri import Cri
from trimtab.content import ContentStore, oci, parse_digest
from trimtab.content.tarwriter import Layer, LayerWriter
from trimtab.runtime.component import Component
from trimtab.runtime.journal import Journal
from trimtab.runtime.process import Process
from trimtab.runtime.settings import Settings
from trimtab.server.server import ApiServer, ServerSettings
from trimtab.store import Store

PATIENCE_S = 60.0

BUSYBOX = "trimtab.local/busybox:1"
RANGES = 200
"""Of networks, for the worlds of all tests on this machine."""


FETCH = """#!/bin/bash
exec 3<>/dev/tcp/$1/${2:-80} || exit 1
printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3
sed '1,/^.$/d' <&3
"""
"""`fetch HOST [PORT]`: the body of a page."""


def _needed_by(program: str) -> list[str]:
    """The program and the files that its loader wants."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return [program, *(word for line in said.splitlines() for word in line.split() if word.startswith("/"))]


def busybox_image(store: ContentStore, name: str = BUSYBOX, user: str = "") -> str:
    """A small image with a shell, tagged in the store; returns its reference by digest."""
    with store.ingest() as ingest:
        writer = LayerWriter(ingest)
        writer.directory("tmp", mode=0o1777)
        writer.directory("etc")
        binary = Path("/bin/busybox").read_bytes()
        writer.file("bin/busybox", binary, mode=0o755)
        for applet in subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split():
            if applet != "busybox":
                writer.symlink(f"bin/{applet}", "busybox")
        # busybox is static and cannot resolve names in an image without glibc; bash can, and speaks TCP.
        for file in _needed_by("/bin/bash"):
            writer.file(file.lstrip("/"), Path(file).read_bytes(), mode=0o755)
        writer.file("bin/fetch", FETCH.encode(), mode=0o755)
        layer = writer.finish()
    return _image(store, name, layer, oci.Runtime(user=user, env=["PATH=/bin"], cmd=["/bin/sh"]))


def bare_image(store: ContentStore, name: str = "trimtab.local/bare:1") -> str:
    """An image with one program, `/sleep`, and no shell; returns its reference by digest."""
    with store.ingest() as ingest:
        writer = LayerWriter(ingest)
        for number, file in enumerate(_needed_by("/bin/sleep")):
            writer.file("sleep" if number == 0 else file.lstrip("/"), Path(file).read_bytes(), mode=0o755)
        layer = writer.finish()
    return _image(store, name, layer, oci.Runtime(cmd=["/sleep", "1000"]))


def program_image(store: ContentStore, program: Path) -> str:
    """An image with one static program, at the top; returns its reference by digest."""
    with store.ingest() as ingest:
        writer = LayerWriter(ingest)
        writer.file(program.name, program.read_bytes(), mode=0o755)
        layer = writer.finish()
    return _image(store, f"trimtab.local/{program.name}:1", layer, oci.Runtime(cmd=[f"/{program.name}"]))


def _image(store: ContentStore, name: str, layer: Layer, runtime: oci.Runtime) -> str:
    config = oci.Config(
        architecture="amd64" if os.uname().machine == "x86_64" else "arm64",
        os="linux",
        config=runtime,
        rootfs=oci.RootFs(type="layers", diff_ids=[layer.diff_id]),
    )
    manifest = oci.Manifest(
        schema_version=2,
        media_type=oci.MANIFEST,
        config=oci.put_document(store, config),
        layers=[oci.Descriptor(media_type=oci.LAYER, digest=layer.digest, size=layer.size)],
    )
    one = oci.put_document(store, manifest)
    store.tag(name, parse_digest(one.digest))
    return f"{name.rpartition(':')[0]}@{one.digest}"


def claimed_range() -> tuple[int, socket.socket]:
    """A number that no other world on this machine has, and what holds it: a name that the kernel forgets with the process."""
    first = os.getpid()
    for number in (at % RANGES for at in range(first, first + RANGES)):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0trimtab-test-range-{number}")
        except OSError:
            claim.close()
            continue
        return number, claim
    raise AssertionError(f"{RANGES} worlds are on this machine")


class NodeWorld:
    def __init__(self, directory: Path, node_config: JSON | None = None) -> None:
        ident = f"t{secrets.token_hex(3)[:5]}"
        number, self._claim = claimed_range()
        self.settings = Settings(
            id=ident,
            data=str(directory / "data"),
            run=f"/run/trimtab/{ident}",
            pod_cidr=f"10.188.{number}.0/24",
            service_cidr=f"10.187.{number}.0/24",
            node_config=node_config or {},
        )
        self.image = ""
        self.process: Process
        self.client: Client
        self.journal = Journal(None)
        self.server: ApiServer
        self._containerd: subprocess.Popen[bytes] | None = None
        self._task: asyncio.Task[None] | None = None
        self._adapters: dict[type, Any] = {}

    # Parts

    def release(self) -> None:
        self._claim.close()

    def start_containerd(self) -> None:
        log = (Path(self.settings.data).parent / "containerd.log").open("ab")
        self._containerd = subprocess.Popen(containerd_command(self.settings), stdout=log, stderr=log)
        log.close()

    def kill_containerd(self) -> None:
        assert self._containerd is not None
        self._containerd.kill()
        self._containerd.wait()

    async def start_agent(self, components: Sequence[Component] = (COMPONENT,)) -> None:
        self._adapters = adapters(self.settings)
        self.process = Process(
            client=self.client,
            journal=self.journal,
            settings=self.settings,
            adapters=self._adapters,
            place="node",
            components=components,
        )
        self._task = asyncio.create_task(self.process.run())
        await self.until(lambda: self.agent.connected, 20, "the agent follows containerd")

    async def stop_agent(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await self.cri.close()

    @property
    def agent(self) -> NodeAgent:
        found: NodeAgent = self._adapters[NodeAgent]
        return found

    @property
    def cri(self) -> Cri:
        found: Cri = self._adapters[Cri]
        return found

    # Looking

    async def until(self, condition: Callable[[], Any | Awaitable[Any]], timeout_s: float, what: str) -> Any:
        """Waits until `condition` gives something true, and returns it.

        `timeout_s` is of a quiet machine; a busy one has `PATIENCE_S` in any case.
        """
        timeout_s = max(timeout_s, PATIENCE_S)
        deadline = time.monotonic() + timeout_s
        while True:
            answer = condition()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return answer
            if self._task is not None and self._task.done():
                self._task.result()
            assert time.monotonic() < deadline, f"waited {timeout_s} s in vain until {what}; {await self.look()}"
            await asyncio.sleep(0.005)

    async def look(self) -> str:
        pods = (await self.client.list(Pod)).items
        return "\n".join(
            [*(f"{p.name}: {p.status}" for p in pods), *map(str, self.process.failures), *self.said()[-10:]]
        )

    def said(self) -> list[str]:
        return [row[0] for row in self.journal.database.execute("SELECT message FROM entries ORDER BY id")]

    async def pod(self, name: str, namespace: str = "default") -> Pod | None:
        return await self.client.get(Pod, name, namespace)

    async def until_pod(self, name: str, condition: Callable[[Pod], Any], timeout_s: float, what: str) -> Pod:
        async def holds() -> Pod | None:
            pod = await self.pod(name)
            return pod if pod is not None and condition(pod) else None

        found: Pod = await self.until(holds, timeout_s, f"pod {name} {what}")
        return found

    async def until_ready(self, name: str, timeout_s: float = 15) -> Pod:
        return await self.until_pod(name, is_ready, timeout_s, "is ready")

    async def until_gone(self, name: str, timeout_s: float = 15) -> None:
        async def gone() -> bool:
            return await self.pod(name) is None

        await self.until(gone, timeout_s, f"pod {name} is gone")

    def cri_answers(self) -> bool:
        return answers(self.settings)

    async def until_node_ready(self) -> None:
        async def ready() -> bool:
            node = await self.client.get(Node, self.settings.node_name)
            conditions = node.status.conditions if node is not None else []
            return self.agent.connected and any(c.type == "Ready" and c.status == "True" for c in conditions)

        await self.until(ready, 20, "the node is ready")

    async def set_gate(self, name: str, status: str) -> None:
        """Plays the proxy: writes the pod's readiness gate."""
        pod = from_wire(
            Pod,
            {
                "metadata": {"name": name, "namespace": "default"},
                "status": {"conditions": [{"type": PROXIED, "status": status}]},
            },
        )
        await self.client.apply(pod, manager="proxy", subresource="status")

    # Making

    async def create(self, body: JSON) -> None:
        kinds = {"Pod": "pods", "ConfigMap": "configmaps", "Secret": "secrets", "Service": "services"}
        path = f"/api/v1/namespaces/default/{kinds[body['kind']]}"
        await self.post(path, {"apiVersion": "v1", **body})

    async def post(self, path: str, body: JSON) -> None:
        from trimtab.client.wire import encode

        await self.client.raw("POST", path, body=encode(body))

    async def run_pod(self, name: str, command: str, **spec: Any) -> None:
        """A pod of one busybox container `main` that runs a shell command. `main` in `spec` adds to the container."""
        await self.create(self.pod_body(name, command, **spec))

    def pod_body(self, name: str, command: str, **spec: Any) -> JSON:
        main = {"name": "main", "image": self.image, "command": ["/bin/sh", "-c", command], **spec.pop("main", {})}
        labels = spec.pop("labels", {})
        body = {"nodeName": self.settings.node_name, "terminationGracePeriodSeconds": 2, "containers": [main], **spec}
        return {"kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": body}

    async def label(self, name: str, **labels: str) -> None:
        """Gives a pod labels."""
        await self.client.patch(Ref("v1", "Pod", "default", name), {"metadata": {"labels": labels}}, manager="tester")

    async def output(self, name: str, *command: str) -> str:
        """What a command says in the pod's first container."""
        pod = await self.pod(name)
        assert pod is not None
        ident = pod.status.container_statuses[0].container_id.removeprefix("containerd://")
        code, text = await self.cri.exec(ident, command, 10)
        assert code == 0, text
        return text.decode()

    async def main_pid_when_ready(self, name: str) -> int:
        await self.until_ready(name)
        return await self.main_pid(name)

    async def main_pid(self, name: str) -> int:
        """The process id of the pod's first container on this machine."""
        pod = await self.pod(name)
        assert pod is not None
        ident = pod.status.container_statuses[0].container_id.removeprefix("containerd://")
        return await self.cri.task_pid(ident)


def is_ready(pod: Pod) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)


def message_of(pod: Pod) -> tuple[str, str]:
    """Reason and message of the first container that waits."""
    for status in pod.status.container_statuses:
        if status.state.waiting is not None:
            return status.state.waiting.reason, status.state.waiting.message
    return "", ""


@asynccontextmanager
async def node_world(
    directory: Path, *, start: bool = True, identities: bool = False, node_config: JSON | None = None
) -> AsyncIterator[NodeWorld]:
    """identities: pods get tokens, as they do where the API has a CA. node_config: as of a KubeletConfiguration."""
    world = NodeWorld(directory, node_config)
    Path(world.settings.data).mkdir(parents=True, exist_ok=True)
    world.image = busybox_image(ContentStore(world.settings.data_path("content")))
    store = await Store.open(None, inline=True)
    clock = SystemClock()
    ca_file = directory / "ca.crt" if identities else None
    if ca_file is not None:
        ca_file.write_text("a certificate")
    settings = ServerSettings(service_cidr=world.settings.service_cidr, ca_file=ca_file)
    world.server = ApiServer(store, settings=settings, clock=clock)
    await world.server.start()
    api = SimulatedApi(store, world.server, clock)
    world.client = Client(api.transport())
    try:
        world.start_containerd()
        if start:
            await world.start_agent()
        yield world
    finally:
        await world.stop_agent()
        await asyncio.to_thread(cleanup, world.settings)
        if world._containerd is not None and world._containerd.poll() is None:
            world._containerd.terminate()
            world._containerd.wait(60)
        await asyncio.to_thread(cleanup, world.settings)
        await world.client.close()
        await api.close()
        world.release()
        shutil.rmtree(world.settings.run, ignore_errors=True)
        shutil.rmtree(directory, ignore_errors=True)


__all__ = ["BUSYBOX", "NodeWorld", "bare_image", "busybox_image", "is_ready", "message_of", "node_world"]
