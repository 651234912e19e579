"""The ingress component with a real Envoy and a real API server in this process; pods are small servers on loopback.

    async with IngressUnderTest(tmp_path) as under_test: ...

`Backends` plays node, Deployment and endpoint controller: a pod is a server on an address of its own in 127.0.0.0/8, and it
is stopped hard, connections and all, at the moment in which its gate says False.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import hashlib
import os
import random
import ssl
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine_under_test import free_port
from ingress_world import ca_secret, endpoint_slice, engine_ca, pod, running_status
from rollout import Target
from simulated_api import make_api
from trimtab.api import ObjectMeta, Resource, from_wire
from trimtab.api.core import PROXIED, Namespace, Pod
from trimtab.client import Client, SystemClock
from trimtab.components.ingress import COMPONENT, EnvoyProxy, Proxy, envoy_command, write_bootstrap
from trimtab.runtime.journal import Journal
from trimtab.runtime.process import Process
from trimtab.runtime.settings import Settings

DEADLINE_S = 60.0
POLL_S = 0.02
SLOW_SHARE = 0.02


async def until(condition: Callable[[], Awaitable[Any]], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Waits until `condition` gives something true and returns it; fails with `what`."""
    async with asyncio.timeout(deadline_s):
        try:
            while not (found := await condition()):  # noqa: ASYNC110 - what is waited for is outside of this process
                await asyncio.sleep(POLL_S)
        except asyncio.CancelledError:
            raise AssertionError(f"waited {deadline_s:.0f} s in vain for {what}") from None
        return found


class IngressUnderTest:
    """Envoy, the API and the component's reconcilers, on free ports under `directory`."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        run = directory / "run"
        (run / "proxy").mkdir(parents=True)
        self.settings = Settings(
            id=hashlib.sha256(str(directory).encode()).hexdigest()[:6],
            data=str(directory / "data"),
            run=str(run),
            http_port=free_port(),
            https_port=free_port(),
            user=getpass.getuser(),
            **settings,
        )
        self.ca = engine_ca(SystemClock().now())
        self.envoy: asyncio.subprocess.Process | None = None
        self.process_task: asyncio.Task[None] | None = None
        self.client: Client
        self.api: Any

    async def __aenter__(self) -> IngressUnderTest:
        self.api = await make_api(SystemClock())
        self.client = Client(self.api.transport())
        for namespace in ("shop", "trimtab-system"):
            await self.apply(Namespace(metadata=ObjectMeta(name=namespace)))
        await self.apply(ca_secret(self.ca))
        write_bootstrap(self.settings)
        await self.start_envoy()
        self.start_controllers()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop_controllers()
        await self.stop_envoy()
        await self.client.close()
        await self.api.close()

    async def apply(self, obj: Resource) -> None:
        await self.client.apply(obj, manager="user")

    # Processes

    async def start_envoy(self) -> None:
        log = self.settings.data_path("log", "envoy.log").open("ab")
        with log:
            self.envoy = await asyncio.create_subprocess_exec(*envoy_command(self.settings), stdout=log, stderr=log)
        proxy = EnvoyProxy(self.settings)
        await until(proxy.observe, "Envoy's admin interface")

    async def stop_envoy(self) -> None:
        if self.envoy is not None and self.envoy.returncode is None:
            self.envoy.kill()
            await self.envoy.wait()

    def start_controllers(self) -> None:
        self.proxy = EnvoyProxy(self.settings)
        self.process = Process(
            client=Client(self.api.transport()),
            journal=Journal(None),
            settings=self.settings,
            adapters={Proxy: self.proxy},
            components=[COMPONENT],
        )
        self.process_task = asyncio.create_task(self.process.run())

    async def stop_controllers(self) -> None:
        if self.process_task is not None:
            self.process_task.cancel()
            await asyncio.wait([self.process_task])
            self.process.journal.close()
            self.process_task = None

    @property
    def controller_runs(self) -> int:
        return sum(controller.runs for controller in self.process.controllers)

    def envoy_memory_mb(self) -> float:
        """Resident memory of Envoy that is its own (not its program file)."""
        assert self.envoy is not None
        with open(f"/proc/{self.envoy.pid}/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        return int(fields["RssAnon"].split()[0]) / 1024

    # Clients

    def tls(self, *alpn: str) -> ssl.SSLContext:
        """Trusts the engine's CA alone."""
        context = ssl.create_default_context(cadata=self.ca.chain)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def target(self, host: str = "shop.example.com", path: str = "/", *, tls: bool = True) -> Target:
        port = self.settings.https_port if tls else self.settings.http_port
        return Target(("127.0.0.1", port), host, path, self.tls() if tls else None)

    async def fetch(self, host: str, path: str = "/", *, tls: bool = True, head: str = "", body: str = "") -> Fetched:
        """One request on a connection of its own; `head` are further header lines."""
        target = self.target(host, path, tls=tls)
        reader, writer = await asyncio.open_connection(
            *target.address, ssl=target.tls, server_hostname=host if tls else None
        )
        try:
            method = "POST" if body else "GET"
            text = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{head}\r\n"
            writer.write((text + body).encode())
            raw = await asyncio.wait_for(reader.read(), DEADLINE_S)
            certificate = writer.get_extra_info("peercert") or {}
        finally:
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()
        top, _, rest = raw.decode().partition("\r\n\r\n")
        status, *lines = top.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Fetched(int(status.split()[1]), headers, rest, certificate)

    async def answers(self, host: str, status: int = 200, *, path: str = "/", tls: bool = True) -> Fetched:
        """Waits until `host` answers with `status`."""

        async def ask() -> Fetched | None:
            try:
                got = await self.fetch(host, path, tls=tls)
            except OSError:
                return None
            return got if got.status == status else None

        found: Fetched = await until(ask, f"{host}{path} to answer {status}")
        return found


@dataclass(frozen=True)
class Fetched:
    status: int
    headers: dict[str, str]
    text: str
    certificate: dict[str, Any]


# Pods


@dataclass(eq=False)
class Backend:
    """One pod's server: HTTP/1.1 with keep-alive, WebSocket echo, 2-30 ms of work, 2 % of it 400 ms."""

    name: str
    ip: str
    port: int
    executed: Counter[str]
    slow: bool = True
    requests: list[str] = field(default_factory=list)
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    server: asyncio.Server | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, self.ip, self.port)

    def kill(self) -> None:
        """As SIGKILL: whatever is in flight is cut."""
        if self.server is not None:
            self.server.close()
        for writer in list(self.writers):
            writer.transport.abort()
        for task in list(self.tasks):
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.writers.add(writer)
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self.writers.discard(writer)
            self.tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first = (await reader.readuntil(b"\r\n")).decode()
        headers: dict[str, str] = {}
        while (line := (await reader.readuntil(b"\r\n")).decode().strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("upgrade", "").lower() == "websocket":
            await self._echo(reader, writer, headers)
            return False
        body = await _read_body(reader, headers)
        if first.startswith("POST") and body:
            self.executed[body.decode()] += 1
        self.requests.append(first.strip())
        if self.slow:
            await asyncio.sleep(0.4 if random.random() < SLOW_SHARE else random.uniform(0.002, 0.03))
        told = {name: value for name, value in headers.items() if name.startswith("x-") or name == "host"}
        text = f"{self.name} {first.split()[1]} {sorted(told.items())}\n".encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nServer: test\r\n\r\n%s" % (len(text), text))
        await writer.drain()
        return True

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: dict[str, str]) -> None:
        """Accepts the upgrade, then sends back each masked text frame shorter than 126 bytes."""
        magic = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = b64encode(hashlib.sha1(magic.encode()).digest()).decode()
        writer.write(
            f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        while True:
            head = await reader.readexactly(2)
            mask = await reader.readexactly(4)
            data = await reader.readexactly(head[1] & 0x7F)
            plain = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
            writer.write(bytes([0x81, len(plain)]) + plain)
            await writer.drain()


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    out = b""
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        out += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return out


class Backends:
    """The pods of one app behind Service shop/APP."""

    def __init__(self, under_test: IngressUnderTest, app: str = "web", *, slow: bool = True) -> None:
        self.under_test = under_test
        self.app = app
        self.port = free_port()
        self.executed: Counter[str] = Counter()
        self.running: dict[str, Backend] = {}
        self.slow = slow
        self._count = 0
        self._base = int(hashlib.sha256(app.encode()).hexdigest()[:2], 16)

    async def start_pod(self, *, ready: bool = True) -> str:
        """A new pod with a running container; not yet attached."""
        self._count += 1
        name = f"{self.app}-{self._count}"
        ip = f"127.{self._base % 100 + 1}.{os.getpid() % 250}.{self._count % 250 + 1}"
        backend = Backend(name, ip, self.port, self.executed, self.slow)
        await backend.start()
        self.running[name] = backend
        await self.under_test.client.apply(pod(name, app=self.app), manager="deployment")
        await self.say_ready(name, ready=ready)
        await self.publish()
        return name

    async def say_ready(self, name: str, *, ready: bool) -> None:
        """What the node says of the pod's containers."""
        status = running_status(self.running[name].ip, ready=ready)
        body = from_wire(Pod, {"metadata": {"name": name, "namespace": "shop"}, "status": status})
        await self.under_test.client.apply(body, manager="node", subresource="status")

    async def publish(self) -> None:
        pods = {p.name: p for p in (await self.under_test.client.list(Pod, "shop")).items}
        rows = [(n, pods[n].metadata.uid, b.ip) for n, b in sorted(self.running.items()) if n in pods]
        await self.under_test.client.apply(endpoint_slice(rows, app=self.app, port=self.port), manager="endpoints")

    async def gate(self, name: str) -> str:
        one = await self.under_test.client.get(Pod, name, "shop")
        return next((c.status for c in one.status.conditions if c.type == PROXIED), "") if one else "gone"

    async def attached(self, name: str) -> None:
        async def is_true() -> bool:
            return await self.gate(name) == "True"

        await until(is_true, f"pod {name} to be attached")

    async def remove_pod(self, name: str, *, deadline_s: float = 60.0) -> None:
        """Deletes a pod and stops its server hard at the moment in which the proxy has let it go."""
        one = await self.under_test.client.get(Pod, name, "shop")
        assert one is not None
        await self.under_test.client.delete(one)

        async def is_false() -> bool:
            return await self.gate(name) == "False"

        await until(is_false, f"pod {name} to be let go", deadline_s)
        self.running.pop(name).kill()
        await self.under_test.client.delete(one, grace_period_s=0)
        await self.publish()

    def kill_all(self) -> None:
        for backend in self.running.values():
            backend.kill()
