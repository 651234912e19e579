"""A server that somebody else named: it is not everywhere, sends nobody elsewhere, and answers no more than fits into memory."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from api_process import make_certificates
from trimtab.client import ClusterAccess, HttpTransport
from trimtab.client import http as over_http
from trimtab.client.http import foreign_address
from trimtab.client.transport import Request


@pytest.mark.parametrize(
    ("host", "proven", "said"),
    [
        ("10.0.0.1", False, ""),
        ("2001:db8::1", False, ""),
        ("127.0.0.1", True, ""),
        ("127.0.0.1", False, "a cluster may be at 127.0.0.1, this machine itself, only over https with a certificate that is checked"),
        ("::1", False, "a cluster may be at ::1, this machine itself, only over https with a certificate that is checked"),
        ("::ffff:127.0.0.1", False, "a cluster may be at ::ffff:127.0.0.1, this machine itself, only over https with a certificate"),
        ("169.254.169.254", True, "a cluster may not be at 169.254.169.254: it is a link-local, multicast or unspecified address"),
        ("::ffff:169.254.169.254", True, "a cluster may not be at ::ffff:169.254.169.254: it is a link-local"),
        ("fe80::1%eth0", True, "a cluster may not be at fe80::1%eth0: it is a link-local"),
        ("0.0.0.0", True, "a cluster may not be at 0.0.0.0: it is a link-local, multicast or unspecified address"),
        ("::", True, "a cluster may not be at ::: it is a link-local"),
        ("224.0.0.1", True, "a cluster may not be at 224.0.0.1: it is a link-local"),
    ],
)  # fmt: skip
def test_where_a_cluster_may_be(host: str, proven: bool, said: str) -> None:
    found = foreign_address(host, proven=proven)
    assert found.startswith(said) if said else not found


@pytest.fixture
async def access(tmp_path: Path) -> AsyncIterator[ClusterAccess]:
    """A server on loopback that has its certificate checked."""

    async def answer(request: web.Request) -> web.StreamResponse:
        match request.path:
            case "/elsewhere":
                raise web.HTTPFound("http://127.0.0.1:1/metadata")
            case "/long":
                return web.Response(body=b"a" * 100_000)
        return web.Response(text="whole")

    make_certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        port = runner.addresses[0][1]
        yield ClusterAccess(server=f"https://localhost:{port}", ca=(tmp_path / "ca.crt").read_bytes())
    finally:
        await runner.cleanup()


async def asked(access: ClusterAccess, path: str = "/", *, foreign: bool = True) -> tuple[int, bytes]:
    async with HttpTransport(access, foreign=foreign) as transport:
        answer = await transport.send(Request("GET", path))
        return answer.status, answer.body


async def test_this_machine_is_a_cluster_only_with_its_certificate(access: ClusterAccess) -> None:
    named = ClusterAccess(server=access.server, ca=access.ca, tls_server_name="127.0.0.1")
    assert await asked(named) == (200, b"whole")
    unproven = ClusterAccess(server=access.server, insecure=True)
    assert await asked(unproven, foreign=False) == (200, b"whole")
    with pytest.raises(
        ConnectionError, match="this machine itself, only over https with a certificate that is checked"
    ):
        await asked(unproven)
    plain = ClusterAccess(server=access.server.replace("https:", "http:"))
    with pytest.raises(
        ConnectionError, match="this machine itself, only over https with a certificate that is checked"
    ):
        await asked(plain)


async def test_nobody_is_sent_elsewhere_or_told_more_than_fits(
    access: ClusterAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = ClusterAccess(server=access.server, ca=access.ca, tls_server_name="127.0.0.1")
    assert (await asked(named, "/elsewhere"))[0] == 302
    assert len((await asked(named, "/long"))[1]) == 100_000
    monkeypatch.setattr(over_http, "FOREIGN_ANSWER_BYTES_MAX", 50_000)
    with pytest.raises(ConnectionError, match=r"it answers with more than 0 MiB"):
        await asked(named, "/long")
