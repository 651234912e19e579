"""The API server as a process: TLS, client certificates, tokens, the unix socket, streams to a node agent, start and stop."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Iterator
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from api_process import ApiProcess, issue

PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiProcess]:
    server = ApiProcess(tmp_path, tls=True, node_socket=tmp_path / "node.sock")
    server.start()
    yield server
    server.close()


def context(api: ApiProcess) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(api.folder / "ca.crt"))


def get(api: ApiProcess, path: str, tls: ssl.SSLContext, **headers: str) -> tuple[int, Any]:
    assert api.port is not None
    connection = HTTPSConnection("127.0.0.1", api.port, context=tls, timeout=60)
    try:
        connection.request("GET", path, headers=headers)
        with connection.getresponse() as answer:
            text = answer.read()
    finally:
        connection.close()
    is_json = answer.getheader("content-type", "").startswith("application/json")
    return answer.status, json.loads(text) if is_json else text.decode()


PLAIN = "GET /readyz HTTP/1.1\r\nhost: api\r\n\r\n"


def ask_plainly(api: ApiProcess, tls: ssl.SSLContext, request: str = PLAIN) -> bytes:
    """The first bytes of an answer. With TLS 1.3 a refused certificate shows when one reads."""
    assert api.port is not None
    with (
        socket.create_connection(("127.0.0.1", api.port), timeout=60) as plain,
        tls.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
    ):
        wrapped.sendall(request.encode())
        if not (answer := wrapped.recv(100)):
            raise ConnectionError("closed without an answer")
        return answer


def test_the_network_needs_tls_and_a_token(api: ApiProcess) -> None:
    tls = context(api)

    assert get(api, "/readyz", tls) == (200, "ok")
    assert get(api, PODS, tls)[0] == 403
    assert get(api, PODS, tls, Authorization=f"Bearer {api.token}")[0] == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        get(api, "/readyz", ssl.create_default_context())


def test_the_network_is_not_trusted_to_name_its_actor(api: ApiProcess) -> None:
    status, _ = get(
        api, PODS, context(api), **{"Impersonate-User": "system:admin", "Impersonate-Group": "system:masters"}
    )

    assert status == 403


def test_a_client_certificate_names_user_and_groups(api: ApiProcess, tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    authority = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    authority_key = serialization.load_pem_private_key((tmp_path / "ca.key").read_bytes(), None)
    key, _, certificate = issue("ann", authority, authority_key, organization="system:masters")
    (tmp_path / "ann.pem").write_bytes(key + certificate.public_bytes(serialization.Encoding.PEM))
    tls = context(api)
    tls.load_cert_chain(tmp_path / "ann.pem")

    status, listed = get(api, PODS, tls)

    assert (status, listed["kind"]) == (200, "PodList")


def test_a_foreign_client_certificate_is_refused(api: ApiProcess, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key, _, certificate = issue("eve", None, None, organization="system:masters")
    (tmp_path / "eve.pem").write_bytes(key + certificate.public_bytes(serialization.Encoding.PEM))
    tls = context(api)
    tls.load_cert_chain(tmp_path / "eve.pem")

    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask_plainly(api, tls)


def test_the_unix_socket_is_for_its_owner_alone(api: ApiProcess) -> None:
    assert stat.S_IMODE(os.stat(api.socket).st_mode) == 0o600


def test_a_stop_ends_watches_cleanly_and_quickly(api: ApiProcess) -> None:
    tls = context(api)
    assert api.port is not None
    connection = HTTPSConnection("127.0.0.1", api.port, context=tls, timeout=60)
    connection.request("GET", "/api/v1/namespaces?watch=1", headers={"Authorization": f"Bearer {api.token}"})
    with connection.getresponse() as answer:
        assert json.loads(answer.readline())["type"] == "ADDED"

        assert api.stop() == 0

        rest = answer.read().splitlines()
    assert all(json.loads(line)["type"] == "ADDED" for line in rest)
    connection.close()
    assert not api.socket.exists()


async def test_a_watch_ends_with_its_client(api: ApiProcess) -> None:
    async with aiohttp.ClientSession("http://api", connector=aiohttp.UnixConnector(str(api.socket))) as session:
        for _ in range(3):
            async with session.get("/api/v1/namespaces?watch=1") as answer:
                await answer.content.readline()
                answer.close()
        async with asyncio.timeout(60):
            while True:
                async with session.get("/metrics") as answer:
                    if "apiserver_longrunning_requests{" not in await answer.text():
                        break


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    server = ApiProcess(tmp_path, tls=True)
    assert server.port is not None
    with socket.socket() as other:
        other.bind(("127.0.0.1", server.port))
        other.listen()

        with pytest.raises(AssertionError) as caught:
            server.start()

    assert f"port {server.port} on 127.0.0.1 is in use: stop what listens there, or choose another with --port" in str(
        caught.value
    )


def test_a_second_server_on_the_same_data_is_refused(api: ApiProcess, tmp_path: Path) -> None:
    other = ApiProcess(tmp_path)

    with pytest.raises(AssertionError, match=r"in use by process \d+: one engine per data directory"):
        other.start()

    assert get(api, "/readyz", context(api)) == (200, "ok")


# Streams


class Node:
    """A node agent's streaming endpoint: a log that goes on, and an exec that answers in capitals."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str | None]] = []
        self.follow = asyncio.Event()

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/logs/{namespace}/{pod}", self.logs)
        app.router.add_get("/exec/{namespace}/{pod}", self.exec)
        return app

    async def logs(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path_qs, "", request.headers.get("authorization")))
        if request.query.get("container") == "side":
            return web.Response(status=400, text='container "side" in pod "p" is waiting to start: ContainerCreating')
        response = web.StreamResponse()
        response.content_type = "text/plain"
        await response.prepare(request)
        await response.write(b"first\n")
        await self.follow.wait()
        await response.write(b"second\n")
        return response

    async def exec(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("container") == "side":
            return web.Response(status=400, text='container "side" in pod "p" is not running')
        user = request.headers.get("x-remote-user", "")
        self.requests.append((request.path_qs, user, request.headers.get("authorization")))
        response = web.WebSocketResponse(protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"))
        if not response.can_prepare(request).ok:
            return web.Response(status=400, text="this stream needs a WebSocket upgrade")
        await response.prepare(request)
        async for message in response:
            await response.send_bytes(b"\x01" + bytes(message.data[1:]).upper())
        return response


@pytest.fixture
async def node(api: ApiProcess) -> AsyncIterator[Node]:
    agent = Node()
    runner = web.AppRunner(agent.application())
    await runner.setup()
    await web.UnixSite(runner, str(api.folder / "node.sock")).start()
    yield agent
    await runner.cleanup()


@pytest.fixture
async def session(api: ApiProcess) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(str(api.socket))
    headers = {"Authorization": f"Bearer {api.token}"}
    async with aiohttp.ClientSession("http://api", connector=connector, headers=headers) as opened:
        yield opened


async def make_pod(session: aiohttp.ClientSession, **spec: Any) -> None:
    containers = [{"name": "c", "image": "i"}, {"name": "side", "image": "i"}]
    body = {"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": containers, **spec}}
    async with session.post(PODS, json=body) as answer:
        assert answer.status == 201, await answer.text()


async def test_a_log_is_followed_as_it_grows(session: aiohttp.ClientSession, node: Node) -> None:
    await make_pod(session)
    async with session.get(f"{PODS}/p/log?container=c&follow=true&tailLines=10") as answer:
        assert answer.status == 200
        assert await answer.content.readline() == b"first\n"
        node.follow.set()
        assert await answer.content.readline() == b"second\n"
        assert await answer.content.read() == b""

    assert node.requests == [("/logs/default/p?container=c&follow=true&tailLines=10", "", None)]


async def test_what_the_node_refuses_is_told(session: aiohttp.ClientSession, node: Node) -> None:
    await make_pod(session)
    async with session.get(f"{PODS}/p/log?container=side") as answer:
        body = await answer.json()

    assert answer.status == 400
    assert body["message"] == 'container "side" in pod "p" is waiting to start: ContainerCreating'


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "a container name must be specified for pod p, choose one of: [c side]"),
        ("container=none", "container none is not valid for pod p"),
    ],
)
async def test_a_container_must_be_named(session: aiohttp.ClientSession, node: Node, query: str, message: str) -> None:
    await make_pod(session)
    async with session.get(f"{PODS}/p/log?{query}") as answer:
        assert (answer.status, (await answer.json())["message"]) == (400, message)


async def test_exec_is_a_tunnel_to_the_node(session: aiohttp.ClientSession, node: Node) -> None:
    await make_pod(session)
    url = f"{PODS}/p/exec?container=c&command=sh&stdin=true"
    async with session.ws_connect(url, protocols=("v5.channel.k8s.io",)) as stream:
        assert stream.protocol == "v5.channel.k8s.io"
        for size in (1, 100_000):
            await stream.send_bytes(b"\x00" + b"a" * size)
            assert (await stream.receive_bytes()) == b"\x01" + b"A" * size

    path, user, authorization = node.requests[0]
    assert path == "/exec/default/p?container=c&command=sh&stdin=true"
    assert user == "system:admin"
    assert authorization is None, "the client's credentials stay with the API server"


async def test_a_tunnel_goes_through_tls(api: ApiProcess, session: aiohttp.ClientSession, node: Node) -> None:
    await make_pod(session)
    request = (
        f"GET {PODS}/p/exec?container=c HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {api.token}\r\n"
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )

    answer = await asyncio.to_thread(ask_plainly, api, context(api), request)

    assert answer.startswith(b"HTTP/1.1 101 ")


async def test_a_tunnel_ends_when_its_token_is_revoked(
    api: ApiProcess, session: aiohttp.ClientSession, node: Node
) -> None:
    await make_pod(session)
    account = "/api/v1/namespaces/default/serviceaccounts"
    rules = [{"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]}]
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    named = {"metadata": {"name": "bot"}}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "bot"}
    subject = {"kind": "ServiceAccount", "name": "bot", "namespace": "default"}
    for url, body in (
        (account, named),
        (f"{rbac}/clusterroles", {**named, "rules": rules}),
        (f"{rbac}/clusterrolebindings", {**named, "roleRef": reference, "subjects": [subject]}),
    ):
        async with session.post(url, json=body) as answer:
            assert answer.status == 201, await answer.text()
    async with session.post(f"{account}/bot/token", json={}) as answer:
        token = (await answer.json())["status"]["token"]
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as bot,
        bot.ws_connect(
            f"https://127.0.0.1:{api.port}{PODS}/p/exec?container=c",
            ssl=context(api),
            protocols=("v5.channel.k8s.io",),
        ) as stream,
    ):
        await stream.send_bytes(b"\x00a")
        assert await stream.receive_bytes() == b"\x01A"

        async with session.delete(f"{account}/bot") as answer:
            assert answer.status == 200

        ended = await stream.receive(timeout=60)
        assert ended.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.ERROR)


async def test_a_refused_upgrade_says_why(session: aiohttp.ClientSession, node: Node) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await session.ws_connect(f"{PODS}/nobody/exec?container=c&command=sh")
    assert caught.value.status == 404

    async with session.post(f"{PODS}/p/exec") as answer:
        assert answer.status == 404
    await make_pod(session)
    for container, text in (
        ("c", "this stream needs a WebSocket upgrade"),
        ("side", 'container "side" in pod "p" is not running'),
    ):
        async with session.post(f"{PODS}/p/exec?container={container}&command=sh") as answer:
            assert (answer.status, (await answer.json())["message"]) == (400, text)


async def test_without_a_node_agent_streams_answer_503(session: aiohttp.ClientSession) -> None:
    await make_pod(session)
    async with session.get(f"{PODS}/p/log?container=c") as answer:
        assert answer.status == 503
        assert (await answer.json())["message"].startswith("the node agent cannot be reached: ")
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await session.ws_connect(f"{PODS}/p/exec?container=c&command=sh")
    assert caught.value.status == 503
