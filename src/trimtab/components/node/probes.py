"""Asking a container how it is: HTTP, TCP, a command in it, gRPC's health protocol. One attempt, one answer.

Meaning of the answers: the Kubernetes documentation on probes. An HTTP probe succeeds on 200-399; redirects are not
followed, for they already say that the server works.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.api.core import Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction
from trimtab.components.node.sandboxes import ContainerRuntime, RuntimeFailure
from trimtab.components.node.wire import Codec, WireError

HEADER_BYTES_MAX = 64 * 1024
OUTPUT_CHARACTERS_MAX = 200
GRPC_SERVING = 1

_HEALTH = Codec("HealthCheckRequest: service=1\nHealthCheckResponse: status=1:int")


@dataclass(frozen=True)
class Answer:
    """ok, and if not, why, in one line."""

    ok: bool
    why: str = ""


@dataclass(frozen=True)
class Target:
    """Where the probed container is."""

    container: Container
    container_id: str
    ip: str


Handler = Probe | LifecycleHandler


async def ask(handler: Handler, target: Target, runtime: ContainerRuntime, timeout_s: float) -> Answer:
    """One attempt of a probe (or a lifecycle hook). Never raises for what the container does."""
    try:
        async with asyncio.timeout(timeout_s):
            if handler.http_get is not None:
                return await http_get(handler.http_get, target)
            if handler.tcp_socket is not None:
                return await tcp_connect(handler.tcp_socket, target)
            if isinstance(handler, Probe) and handler.grpc is not None:
                return await grpc_health(handler.grpc, target, timeout_s)
            if isinstance(handler, LifecycleHandler) and handler.sleep is not None:
                await asyncio.sleep(handler.sleep.seconds)
            if handler.exec is not None:
                return await command(handler.exec, target, runtime, timeout_s)
    except TimeoutError:
        return Answer(False, f"no answer within {timeout_s:g} s")
    return Answer(True)


async def command(action: ExecAction, target: Target, runtime: ContainerRuntime, timeout_s: float) -> Answer:
    """Runs a command in the container; success is exit code 0."""
    try:
        code, output = await runtime.exec(target.container_id, action.command, timeout_s)
    except RuntimeFailure as err:
        return Answer(False, f"{_words(action.command)}: {err}")
    if code == 0:
        return Answer(True)
    said = output.decode(errors="replace").strip()[:OUTPUT_CHARACTERS_MAX]
    return Answer(False, f"{_words(action.command)}: exit code {code}" + (f": {said}" if said else ""))


def _words(command: Sequence[str]) -> str:
    text = " ".join(command)
    return text if len(text) <= 60 else text[:57] + "..."


def port_of(port: int | str, container: Container) -> int | None:
    """A port number from a number or the name of one of the container's ports."""
    if isinstance(port, int) or port.isdigit():
        return int(port)
    return next((p.container_port for p in container.ports if p.name == port), None)


async def tcp_connect(action: TCPSocketAction, target: Target) -> Answer:
    """Success is a connection."""
    port = port_of(action.port, target.container)
    if port is None:
        return Answer(False, f"the container has no port named {action.port}")
    host = action.host or target.ip
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError as err:
        return Answer(False, f"tcp {host}:{port}: {_plain(err)}")
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Answer(True)


async def http_get(action: HTTPGetAction, target: Target) -> Answer:
    """Success is a status from 200 to 399. Certificates are not verified, as the kubelet does not either."""
    port = port_of(action.port, target.container)
    if port is None:
        return Answer(False, f"the container has no port named {action.port}")
    host = action.host or target.ip
    scheme = action.scheme.lower()
    url = f"{scheme}://{host}:{port}{action.path}"
    try:
        reader, writer = await asyncio.open_connection(
            host, port, ssl=_unverified() if scheme == "https" else None, limit=HEADER_BYTES_MAX
        )
    except (OSError, ssl.SSLError) as err:
        return Answer(False, f"GET {url}: {_plain(err)}")
    try:
        headers = {"Host": f"{host}:{port}", "User-Agent": "kube-probe/1.0 trimtab", "Accept": "*/*"}
        headers |= {h.name: h.value for h in action.http_headers} | {"Connection": "close"}
        path = action.path if action.path.startswith("/") else f"/{action.path}"
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        await writer.drain()
        first = (await reader.readline()).decode("latin-1").split(" ", 2)
        if len(first) < 2 or not first[1].isdigit():
            return Answer(False, f"GET {url}: the answer is not HTTP")
        status = int(first[1])
        if 200 <= status < 400:
            return Answer(True)
        return Answer(False, f"GET {url}: HTTP status {status}")
    except (OSError, ValueError) as err:
        return Answer(False, f"GET {url}: {_plain(err)}")
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def grpc_health(action: GRPCAction, target: Target, timeout_s: float) -> Answer:
    """Success is SERVING from `grpc.health.v1.Health/Check`."""
    import grpc.aio

    where = f"grpc {target.ip}:{action.port}"
    async with grpc.aio.insecure_channel(f"{target.ip}:{action.port}") as channel:
        check: Any = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=lambda request: _HEALTH.encode("HealthCheckRequest", request),
            response_deserializer=lambda data: _HEALTH.decode("HealthCheckResponse", data),
        )
        try:
            response = await check({"service": action.service or ""}, timeout=timeout_s)
        except grpc.aio.AioRpcError as err:
            return Answer(False, f"{where}: {err.details() or err.code().name}")
        except WireError as err:
            return Answer(False, f"{where}: {err}")
    status = response.get("status", 0)
    return Answer(status == GRPC_SERVING, "" if status == GRPC_SERVING else f"{where}: not serving (status {status})")


def _plain(err: Exception) -> str:
    if isinstance(err, ConnectionRefusedError):
        return "connection refused"
    if isinstance(err, OSError) and err.strerror:
        return err.strerror.lower()
    return str(err) or type(err).__name__
