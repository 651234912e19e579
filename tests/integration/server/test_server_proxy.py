"""The proxy subresources: what a pod serves, through the API server."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from api_process import ApiProcess

PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiProcess]:
    server = ApiProcess(tmp_path, tls=True)
    server.start()
    yield server
    server.close()


@pytest.fixture
async def session(api: ApiProcess) -> AsyncIterator[aiohttp.ClientSession]:
    tls = ssl.create_default_context(cafile=str(api.folder / "ca.crt"))
    headers = {"Authorization": f"Bearer {api.token}"}
    async with aiohttp.ClientSession(
        f"https://127.0.0.1:{api.port}", headers=headers, connector=aiohttp.TCPConnector(ssl=tls)
    ) as made:
        yield made


@pytest.fixture
def address() -> str:
    """One that this machine has, and that is none of loopback: those are refused."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback's")
        return str(probe.getsockname()[0])


async def told(request: web.Request) -> web.StreamResponse:
    """What the pod serves: what it was asked, a page, a redirection, an answer that never ends."""
    match request.path:
        case "/page":
            return web.Response(
                text='<!-- <a href="/no"> --><A class=x HREF="/in?a=1&amp;b">t</A> &b', content_type="text/html"
            )
        case "/moved":
            return web.Response(status=302, headers={"Location": "/there"})
        case "/endless":
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"on")
                await asyncio.sleep(0.01)
        case _:
            body = (await request.read()).decode()
            said = {"method": request.method, "path": request.raw_path, "body": body, "headers": dict(request.headers)}
            return web.Response(text=json.dumps(said), status=207)


@pytest.fixture
async def port(address: str) -> AsyncIterator[int]:
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", told)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, address, 0)
    await site.start()
    yield int(runner.addresses[0][1])
    await runner.cleanup()


async def sent(session: aiohttp.ClientSession, method: str, path: str, body: Any = None, **options: Any) -> Any:
    async with session.request(method, path, json=body, **options) as answer:
        assert answer.status < 300, await answer.text()
        return await answer.json(content_type=None)


async def serving_pod(session: aiohttp.ClientSession, address: str, port: int) -> None:
    container = {"name": "main", "image": "x", "ports": [{"containerPort": port}]}
    await sent(session, "POST", PODS, {"metadata": {"name": "proxy-web"}, "spec": {"containers": [container]}})
    status = {"status": {"podIP": address, "podIPs": [{"ip": address}]}}
    merge = {"Content-Type": "application/merge-patch+json"}
    await sent(session, "PATCH", f"{PODS}/proxy-web/status", status, headers=merge)


async def test_a_pod_is_asked_as_the_client_asks(session: aiohttp.ClientSession, address: str, port: int) -> None:
    await serving_pod(session, address, port)
    for method in ("DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT"):
        async with session.request(
            method, f"{PODS}/proxy-web/proxy/a%2Fb/?x=1&x=2", data=io.BytesIO(b"m" * 5_000_000)
        ) as answer:
            said = json.loads(await answer.read())
        assert (answer.status, said["method"], said["path"]) == (207, method, "/a%2Fb/?x=1&x=2")
        assert len(said["body"]) == 5_000_000
        assert "Authorization" not in said["headers"]
        assert said["headers"]["x-forwarded-uri"] == f"{PODS}/proxy-web/proxy/a%2Fb/"
    async with session.head(f"{PODS}/http:proxy-web:{port}/proxy/a") as answer:
        assert (answer.status, await answer.read()) == (207, b"")


async def test_links_and_redirections_stay_within_the_proxy(
    session: aiohttp.ClientSession, address: str, port: int
) -> None:
    await serving_pod(session, address, port)
    within = f"{PODS}/proxy-web/proxy"
    async with session.get(f"{within}/page") as answer:
        page = await answer.text()
    assert page == f'<!-- <a href="/no"> --><A class=x HREF="{within}/in?a=1&amp;b">t</A> &b'
    async with session.get(f"{within}/") as answer:
        assert json.loads(await answer.read())["path"] == "/"
    async with session.get(f"{within}/moved", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, f"{within}/there")
    async with session.get(f"{within}?a=b", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (301, f"{within}/?a=b")


async def test_a_service_leads_to_its_pods_and_to_nothing_else(
    session: aiohttp.ClientSession, address: str, port: int
) -> None:
    await serving_pod(session, address, port)
    await sent(
        session,
        "POST",
        SERVICES,
        {"metadata": {"name": "proxy-web"}, "spec": {"ports": [{"name": "http", "port": 80}]}},
    )
    async with session.get(f"{SERVICES}/proxy-web:http/proxy/") as answer:
        assert (answer.status, (await answer.json())["message"]) == (
            503,
            'no endpoints available for service "proxy-web:http"',
        )
    endpoints = [{"addresses": [address], "targetRef": {"kind": "Pod", "name": "none", "namespace": "default"}}]
    made = {
        "metadata": {"name": "proxy-web", "labels": {"kubernetes.io/service-name": "proxy-web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port}],
        "endpoints": endpoints,
    }
    await sent(session, "POST", SLICES, made)
    async with session.get(f"{SERVICES}/proxy-web:http/proxy/") as answer:
        assert answer.status == 503
    endpoints[0]["targetRef"]["name"] = "proxy-web"  # type: ignore[index]
    await sent(session, "PUT", f"{SLICES}/proxy-web", made)
    for name in ("proxy-web:http", "proxy-web:80", "http:proxy-web:80"):
        async with session.get(f"{SERVICES}/{name}/proxy/in") as answer:
            assert (answer.status, json.loads(await answer.read())["path"]) == (207, "/in")
    async with session.get(f"{SERVICES}/proxy-web:81/proxy/") as answer:
        assert (await answer.json())["message"] == 'no service port 81 found for service "proxy-web"'


async def test_an_answer_without_end_ends_with_its_client_and_nobody_is_asked_on_loopback(
    session: aiohttp.ClientSession, address: str, port: int
) -> None:
    await serving_pod(session, address, port)
    async with session.get(f"{PODS}/proxy-web/proxy/endless") as answer:
        assert (await answer.content.readexactly(4)) == b"onon"
    merge = {"Content-Type": "application/merge-patch+json"}
    for bad in ("127.0.0.1", "169.254.169.254"):
        status = {"status": {"podIP": bad, "podIPs": [{"ip": bad}]}}
        await sent(session, "PATCH", f"{PODS}/proxy-web/status", status, headers=merge)
        async with session.get(f"{PODS}/proxy-web/proxy/") as answer:
            assert (answer.status, (await answer.json())["message"]) == (400, "address not allowed")
    async with session.get(f"{PODS}/a:b:c:d/proxy/") as answer:
        assert (answer.status, (await answer.json())["message"]) == (400, 'invalid pod request "a:b:c:d"')


async def test_a_pod_that_does_not_answer_is_unavailable(
    session: aiohttp.ClientSession, address: str, port: int
) -> None:
    with socket.socket() as closed:
        closed.bind((address, 0))
        nobody = closed.getsockname()[1]
        await serving_pod(session, address, port)
        async with session.get(f"{PODS}/proxy-web:{nobody}/proxy/") as answer:
            said = (await answer.json())["message"]
    assert answer.status == 503
    assert said == f"error trying to reach service: dial tcp {address}:{nobody}: connection refused"
