"""Service addresses, cluster DNS and the streams, between real pods."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from node_world import NodeWorld, node_world
from trimtab.api.core import Pod
from trimtab.components.node.spdy import DICTIONARY, Data, Spdy

pytestmark = pytest.mark.engine


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    async with node_world(tmp_path / "node") as world:
        yield world


async def serve(world: NodeWorld, name: str, text: str) -> Pod:
    await world.run_pod(name, f"echo {text} > /tmp/index.html; exec httpd -f -p 8000 -h /tmp")
    return await world.until_ready(name)


async def expose(world: NodeWorld, name: str, pods: list[Pod], *, headless: bool = False) -> str:
    """A service on port 80 with these endpoints; returns its address."""
    spec: dict[str, Any] = {"ports": [{"port": 80, "targetPort": 8000}]}
    if headless:
        spec["clusterIP"] = "None"
    await world.create({"kind": "Service", "metadata": {"name": name}, "spec": spec})
    slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    endpoints = [{"addresses": [p.status.pod_ip], "conditions": {"ready": True}, "hostname": p.name} for p in pods]
    await world.post(
        slices,
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"port": 8000, "protocol": "TCP"}],
            "endpoints": endpoints,
        },
    )
    response = await world.client.raw("GET", f"/api/v1/namespaces/default/services/{name}")
    return str(json.loads(response.body)["spec"]["clusterIP"])


async def ask(world: NodeWorld, pod: str, command: str) -> tuple[int, str]:
    found = await world.pod(pod)
    assert found is not None
    ident = found.status.container_statuses[0].container_id.removeprefix("containerd://")
    code, output = await world.cri.exec(ident, ["/bin/sh", "-c", command], 10)
    return code, output.decode()


async def test_a_service_is_reached_from_pods_itself_and_the_host_by_name_and_address(world: NodeWorld) -> None:
    one, two = await serve(world, "one", "first"), await serve(world, "two", "second")
    address = await expose(world, "web", [one, two])
    alone = await expose(world, "alone", [one])
    await expose(world, "each", [one, two], headless=True)

    async def reached() -> bool:
        return (await ask(world, "two", f"fetch {alone}"))[0] == 0

    await world.until(reached, 10, "the service's rules stand")

    seen = {(await ask(world, "two", f"fetch {address}"))[1].strip() for _ in range(20)}
    assert seen == {"first", "second"}
    assert (await ask(world, "one", f"fetch {alone}"))[1] == "first\n", "a pod through itself"
    async with aiohttp.ClientSession() as session, session.get(f"http://{alone}") as answer:
        assert await answer.text() == "first\n", "from the host"
    for name in ("alone", "alone.default", "alone.default.svc.cluster.local"):
        assert (await ask(world, "two", f"fetch {name}"))[1] == "first\n", name
    assert one.status.pod_ip in (await ask(world, "two", "nslookup one.each.default.svc.cluster.local"))[1]
    both = (await ask(world, "two", "nslookup each.default.svc.cluster.local"))[1]
    assert one.status.pod_ip in both
    assert two.status.pod_ip in both
    code, said = await ask(world, "two", "nslookup nobody.default.svc.cluster.local")
    assert code != 0
    assert "NXDOMAIN" in said


async def test_a_service_without_endpoints_refuses_at_once(world: NodeWorld) -> None:
    await serve(world, "one", "first")
    address = await expose(world, "empty", [])

    async def refused() -> bool:
        return "Connection refused" in (await ask(world, "one", f"fetch {address} 2>&1"))[1]

    await world.until(refused, 10, "the connection is refused")


# Streams


def session_of(world: NodeWorld) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(world.settings.node_socket)))


async def talk(socket: aiohttp.ClientWebSocketResponse) -> tuple[dict[int, bytes], dict[str, Any]]:
    """Everything said until the end: bytes by channel, and the final status."""
    out: dict[int, bytes] = {}
    async for message in socket:
        if message.type == aiohttp.WSMsgType.BINARY:
            out[message.data[0]] = out.get(message.data[0], b"") + message.data[1:]
    return out, json.loads(out.pop(3, b"{}"))


async def test_exec_carries_input_output_errors_and_the_exit_code(world: NodeWorld) -> None:
    await world.run_pod("web", "sleep 1000")
    await world.until_ready("web")
    async with session_of(world) as session:
        url = "http://node/exec/default/web?stdout=1&stderr=1&command=/bin/sh&command=-c"
        async with session.ws_connect(
            f"{url}&command=echo+out;echo+err>%262;exit+3", protocols=["v5.channel.k8s.io"]
        ) as ws:
            out, status = await asyncio.wait_for(talk(ws), 60)
        assert (out, status["status"]) == ({1: b"out\n", 2: b"err\n"}, "Failure")
        assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]

        async with session.ws_connect(f"{url}&stdin=1&command=wc+-c", protocols=["v5.channel.k8s.io"]) as ws:
            for _ in range(64):
                await ws.send_bytes(b"\0" + b"x" * 16384)
            await ws.send_bytes(bytes([255, 0]))
            out, status = await asyncio.wait_for(talk(ws), 60)
        assert out == {1: b"1048576\n"}
        assert status["status"] == "Success"

        async with session.ws_connect(f"{url}&command=nonsense-command", protocols=["v4.channel.k8s.io"]) as ws:
            out, status = await asyncio.wait_for(talk(ws), 60)
        assert status["details"]["causes"][0]["message"] == "127"


async def test_older_subprotocols_say_nothing_of_success_and_carry_text_if_asked(world: NodeWorld) -> None:
    await world.run_pod("web", "echo first; sleep 1000")
    await world.until_ready("web")
    async with session_of(world) as session:
        url = "http://node/exec/default/web?stdin=1&stdout=1&stderr=1&command=/bin/sh&command=-c"
        async with session.ws_connect(f"{url}&command=echo+out", protocols=["channel.k8s.io"]) as ws:
            assert [m.data async for m in ws] == [b"\1out\n"]
        async with session.ws_connect(f"{url}&command=exit+3") as ws:
            said = [m.data async for m in ws]
        assert said == [b"\3command terminated with non-zero exit code: error executing command, exit code 3"]
        async with session.ws_connect(f"{url}&command=read+a;echo+$a", protocols=["base64.channel.k8s.io"]) as ws:
            await ws.send_str("not base64")
            await ws.send_str("0" + base64.b64encode(b"in\n").decode())
            assert [m.data async for m in ws] == ["1" + base64.b64encode(b"in\n").decode()]

        logs = "http://node/logs/default/web"
        async with session.ws_connect(logs, protocols=["binary.k8s.io"]) as ws:
            assert b"".join([m.data async for m in ws]) == b"first\n"
        async with session.ws_connect(f"{logs}?follow=1", protocols=["base64.binary.k8s.io"]) as ws:
            assert base64.b64decode(await asyncio.wait_for(ws.receive_str(), 60)) == b"first\n"
        async with session.ws_connect(f"{logs}?container=main", protocols=["binary.k8s.io"]) as ws:
            assert (await asyncio.wait_for(ws.receive_bytes(), 60)) == b"first\n"


async def test_exec_with_a_terminal_resizes_and_ends_with_its_client(world: NodeWorld) -> None:
    await world.run_pod("web", "sleep 1000")
    await world.until_ready("web")
    async with session_of(world) as session:
        url = "http://node/exec/default/web?stdin=1&stdout=1&tty=1&command=/bin/sh"
        async with session.ws_connect(url, protocols=["v5.channel.k8s.io"]) as ws:
            await ws.send_bytes(b"\4" + json.dumps({"Width": 93, "Height": 31}).encode())
            await ws.send_bytes(b"\0stty size; sleep 4321\n")
            said = b""
            while b"31 93" not in said:
                said += (await asyncio.wait_for(ws.receive_bytes(), 60))[1:]

        async def ended() -> bool:
            return "4321" not in (await ask(world, "web", "ps"))[1]

        await world.until(ended, 5, "the shell of a client that left is gone")
    assert not list(world.settings.run_path("exec").iterdir())


async def test_attach_carries_input_to_its_end_and_output_beyond(world: NodeWorld) -> None:
    waits = "until [ -p /tmp/go ]; do :; done; read go < /tmp/go"
    fed = {"stdin": True, "stdinOnce": True}
    await world.run_pod("once", f"mkfifo /tmp/go; wc -c; {waits}; echo end; exit 4", main=fed, restartPolicy="Never")
    await world.until_ready("once")
    async with session_of(world) as session:
        url = "http://node/attach/default/once?stdout=1&stderr=1"
        async with (
            session.ws_connect(url, protocols=["v5.channel.k8s.io"]) as watching,
            session.ws_connect(f"{url}&stdin=1", protocols=["v5.channel.k8s.io"]) as feeding,
        ):
            for _ in range(64):
                await feeding.send_bytes(b"\0" + b"x" * 16384)
            await feeding.send_bytes(bytes([255, 0]))
            said = b""
            while b"1048576" not in said:
                said += (await asyncio.wait_for(feeding.receive_bytes(), 60))[1:]
            await ask(world, "once", "echo > /tmp/go")
            for socket in (feeding, watching):
                out, _ = await asyncio.wait_for(talk(socket), 60)
                assert out[1].endswith(b"end\n")
        async with session.get(url) as answer:
            assert (answer.status, await answer.text()) == (400, 'container "main" in pod "once" is not running')


async def test_logs_are_read_tailed_followed_and_kept_of_the_container_before(world: NodeWorld) -> None:
    script = "for i in 0 1 2 3 4; do echo line $i; done; mkfifo /tmp/go; read x < /tmp/go; echo end $x"
    await world.run_pod("web", script)
    await world.until_ready("web")
    async with session_of(world) as session:

        async def log(query: str = "") -> str:
            async with session.get(f"http://node/logs/default/web?{query}") as answer:
                assert answer.status == 200, await answer.text()
                return await answer.text()

        async def written() -> bool:
            return await log() == "line 0\nline 1\nline 2\nline 3\nline 4\n"

        await world.until(written, 10, "five lines are logged")
        assert await log("tailLines=2") == "line 3\nline 4\n"
        assert await log("limitBytes=9") == "line 0\nli"
        stamped = await log("timestamps=true&tailLines=1")
        assert stamped.endswith("Z line 4\n")
        following = asyncio.create_task(log("follow=true&tailLines=1"))
        await ask(world, "web", "until [ -p /tmp/go ]; do :; done; echo now > /tmp/go")
        assert await asyncio.wait_for(following, 60) == "line 4\nend now\n", "follows to the container's end"

        async def again() -> bool:
            async with session.get("http://node/logs/default/web?previous=true") as answer:
                return (await answer.text()).endswith("end now\n")

        await world.until(again, 10, "the log of the container before can be read")
        await world.run_pod(
            "crash", "read again < /tmp/mark && sleep 1000; echo crashed; exit 1", restartPolicy="Always"
        )
        await world.until_pod("crash", lambda p: "CrashLoopBackOff" in str(p.status), 20, "waits to be started again")
        async with session.get("http://node/logs/default/crash?previous=true&timestamps=true") as answer:
            before = await answer.text()
        async with session.get("http://node/logs/default/crash?timestamps=true") as answer:
            assert await answer.text() == before, "while it waits, the newest is the one before"
        async with session.get("http://node/logs/default/nobody") as answer:
            assert (answer.status, await answer.text()) == (404, 'pods "nobody" not found on this node')
        async with session.get("http://node/logs/default/web?tailLines=-1") as answer:
            assert answer.status == 400
            assert "tailLines: must be a whole number" in await answer.text()


async def test_port_forward_reaches_what_listens_on_the_pods_loopback(world: NodeWorld) -> None:
    await world.run_pod("web", "echo inside > /tmp/index.html; exec httpd -f -p 127.0.0.1:8000 -h /tmp")
    await world.until_ready("web")

    async def listens() -> bool:
        return (await ask(world, "web", "fetch 127.0.0.1 8000"))[0] == 0

    await world.until(listens, 10, "the server listens")
    async with session_of(world) as session:
        url = "http://node/portforward/default/web?ports=8000&ports=9"
        async with session.ws_connect(url, protocols=["v4.channel.k8s.io"]) as ws:
            begins = [await ws.receive_bytes() for _ in range(4)]
            assert begins[0] == b"\0" + (8000).to_bytes(2, "little")
            assert begins[3] == b"\3" + (9).to_bytes(2, "little")
            assert await asyncio.wait_for(ws.receive_bytes(), 60) == b"\3port 9 in the pod: connection refused"
            await ws.send_bytes(b"\0GET / HTTP/1.0\r\n\r\n")
            answer = b""
            async for message in ws:
                answer += message.data[1:]
            assert answer.endswith(b"inside\n")


async def test_port_forward_of_kubectl_carries_many_connections(world: NodeWorld) -> None:
    await world.run_pod("web", "echo inside > /tmp/index.html; exec httpd -f -p 127.0.0.1:8000 -h /tmp")
    await world.until_ready("web")

    async def listens() -> bool:
        return (await ask(world, "web", "fetch 127.0.0.1 8000"))[0] == 0

    await world.until(listens, 10, "the server listens")
    url = "http://node/portforward/default/web"
    client = SpdyClient()
    async with session_of(world) as session, session.ws_connect(url, protocols=["SPDY/3.1+portforward.k8s.io"]) as ws:
        for number, port in enumerate((8000, 9, 8000)):
            headers = {"port": str(port), "requestid": str(number)}
            await ws.send_bytes(client.open(4 * number + 1, headers | {"streamtype": "error"}))
            await ws.send_bytes(client.open(4 * number + 3, headers | {"streamtype": "data"}))
            if port == 8000:
                await ws.send_bytes(Spdy.data(4 * number + 3, b"GET / HTTP/1.0\r\n\r\n"))
        await asyncio.wait_for(client.read(ws, streams=6), 60)
    assert client.said[3].endswith(b"inside\n")
    assert client.said[11].endswith(b"inside\n")
    assert client.said[5] == b"port 9 in the pod: connection refused"
    assert client.said.get(1, b"") == b""


class SpdyClient:
    """kubectl's half of the conversation."""

    def __init__(self) -> None:
        self.said: dict[int, bytes] = {}
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._reader = Spdy()

    def open(self, stream: int, headers: dict[str, str]) -> bytes:
        block = struct.pack("!I", len(headers))
        for pair in headers.items():
            for text in pair:
                block += struct.pack("!I", len(text)) + text.encode()
        packed = self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        body = struct.pack("!IIH", stream, 0, 0) + packed
        return struct.pack("!II", 1 << 31 | 3 << 16 | 1, len(body)) + body

    async def read(self, socket: aiohttp.ClientWebSocketResponse, streams: int) -> None:
        """Reads until so many streams have ended."""
        ended = 0
        async for message in socket:
            for event in self._reader.feed(message.data):
                if isinstance(event, Data):
                    self.said[event.stream] = self.said.get(event.stream, b"") + event.data
                    ended += event.ended
            if ended == streams:
                return
