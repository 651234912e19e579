"""A load balancer before the ingress names the client with a PROXY header; real Envoy."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from ingress_under_test import Backends, IngressUnderTest
from ingress_world import ingress, service

HOST = "shop.example.com"
CLIENT = "203.0.113.9"


@pytest_asyncio.fixture
async def behind(tmp_path: Path) -> AsyncIterator[IngressUnderTest]:
    async with IngressUnderTest(tmp_path, proxy_protocol=True) as started:
        yield started


def version_1() -> bytes:
    return f"PROXY TCP4 {CLIENT} 192.0.2.1 40000 443\r\n".encode()


def version_2() -> bytes:
    addresses = socket.inet_aton(CLIENT) + socket.inet_aton("192.0.2.1") + struct.pack("!HH", 40000, 443)
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x11, len(addresses)) + addresses


async def ask(under_test: IngressUnderTest, header: bytes, *, tls: bool) -> str:
    """What the app saw of one request; "" when the connection was ended."""
    port = under_test.settings.https_port if tls else under_test.settings.http_port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(60):
            writer.write(header)
            if tls:
                await writer.start_tls(under_test.tls(), server_hostname=HOST)
            writer.write(f"GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n".encode())
            return (await reader.read()).decode()
    except ConnectionError:
        return ""
    finally:
        writer.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_the_client_of_the_header_is_forwarded(behind: IngressUnderTest, tls: bool) -> None:
    web = Backends(behind)
    try:
        await behind.apply(service(target=web.port))
        await behind.apply(ingress(tls=tls))
        await web.attached(await web.start_pod())

        async def reached(header: bytes) -> str:
            deadline = asyncio.get_running_loop().time() + 15
            while True:
                try:
                    said = await ask(behind, header, tls=tls)
                except OSError:
                    said = ""
                if "200 OK" in said or asyncio.get_running_loop().time() > deadline:
                    return said
                await asyncio.sleep(0.05)

        for header in (version_1(), version_2()):
            assert f"('x-forwarded-for', '{CLIENT}')" in await reached(header)
        if not tls:
            assert await ask(behind, b"", tls=False) == "", "without a header nobody is served"
    finally:
        web.kill_all()
