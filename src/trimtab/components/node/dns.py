"""Cluster DNS: answers names of the cluster's domain, and passes everything else to the host's resolvers as it is.

It listens, UDP and TCP, on the bridge's address, which only pods and this machine reach. dnspython reads questions and
writes our own answers; what is passed on is not looked into.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from typing import TYPE_CHECKING, Any

from trimtab.api.core import Service
from trimtab.api.networking import EndpointSlice
from trimtab.components.node.hostdns import host_resolver
from trimtab.components.node.names import resolve
from trimtab.components.node.network import PodNetwork
from trimtab.runtime.process import Process

if TYPE_CHECKING:
    import dns.message

PORT = 53
TTL_S = 5
"""As short as Kubernetes' own DNS: a moved service is found again soon."""
FORWARD_TIMEOUT_S = 2.0
IN_FLIGHT_MAX = 512
TCP_IDLE_S = 10.0

log = logging.getLogger(__name__)


class ClusterDns:
    """The DNS server of one node."""

    def __init__(self, process: Process) -> None:
        settings = process.settings
        self._address = PodNetwork.of(settings).gateway
        self._domain = settings.cluster_domain.lower()
        self._services = process.informer(Service)
        self._slices = process.informer(EndpointSlice)
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serves until cancelled.

        Raises:
            OSError: the address is taken.
        """
        await self._services.wait_synced()
        await self._slices.wait_synced()
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), local_addr=(self._address, PORT))
        self._tcp = await asyncio.start_server(self._serve_tcp, self._address, PORT)
        await asyncio.Event().wait()

    async def close(self) -> None:
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    # Transports

    def asked(self, data: bytes, client: tuple[str, int]) -> None:
        """A UDP question; answered in the background, or dropped when too many are under way."""
        if len(self._tasks) >= IN_FLIGHT_MAX:
            return
        task = asyncio.get_running_loop().create_task(self._answer_udp(data, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer_udp(self, data: bytes, client: tuple[str, int]) -> None:
        answer = await self.answer(data, tcp=False)
        if answer is not None and self._udp is not None:
            self._udp.sendto(answer, client)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE_S):
                    size = struct.unpack("!H", await reader.readexactly(2))[0]
                    data = await reader.readexactly(size)
                answer = await self.answer(data, tcp=True)
                if answer is None:
                    return
                writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, TimeoutError, ConnectionError):
            pass
        finally:
            writer.close()

    # Answers

    async def answer(self, data: bytes, *, tcp: bool) -> bytes | None:
        """The answer to one question; None for what is no question."""
        import dns.exception
        import dns.message
        import dns.rcode

        try:
            question = dns.message.from_wire(data, ignore_trailing=True)
        except (dns.exception.DNSException, ValueError):
            return None
        if question.flags & 0x8000 or len(question.question) != 1:
            return None
        ours = await self._ours(question)
        if ours is not None:
            return _wire(ours, question, tcp=tcp)
        forwarded = await self.forward(data, tcp=tcp)
        if forwarded is not None:
            return forwarded
        failed = dns.message.make_response(question, recursion_available=True)
        failed.set_rcode(dns.rcode.SERVFAIL)
        return failed.to_wire()

    async def _ours(self, question: dns.message.Message) -> dns.message.Message | None:
        import dns.flags
        import dns.message
        import dns.rcode
        import dns.rdatatype
        import dns.rrset

        asked = question.question[0]
        name = asked.name.to_text(omit_final_dot=True).lower()
        found = resolve(name, self._domain, self._services.get, self._slices.list)
        if found is None:
            return None
        response = dns.message.make_response(question, recursion_available=True)
        response.flags |= dns.flags.AA
        if not found.exists:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif found.cname:
            target = f"{found.cname.rstrip('.')}."
            response.answer.append(dns.rrset.from_text(asked.name, TTL_S, "IN", "CNAME", target))
            await self._follow(response, target, asked.rdtype)
        elif found.addresses and asked.rdtype in (dns.rdatatype.A, dns.rdatatype.ANY):
            response.answer.append(dns.rrset.from_text(asked.name, TTL_S, "IN", "A", *found.addresses))
        return response

    async def _follow(self, response: dns.message.Message, target: str, rdtype: Any) -> None:
        """Adds what the name behind a CNAME resolves to."""
        import dns.exception
        import dns.message

        data = await self.forward(dns.message.make_query(target, rdtype).to_wire(), tcp=False)
        if data is not None:
            with contextlib.suppress(dns.exception.DNSException):
                response.answer.extend(dns.message.from_wire(data).answer)

    # The host's resolvers

    async def forward(self, data: bytes, *, tcp: bool) -> bytes | None:
        """The first answer of one of the host's resolvers."""
        for server in host_resolver().servers:
            if server == self._address:
                continue
            try:
                async with asyncio.timeout(FORWARD_TIMEOUT_S):
                    return await (_ask_tcp(server, data) if tcp else _ask_udp(server, data))
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                continue
        return None


def _wire(response: dns.message.Message, question: dns.message.Message, *, tcp: bool) -> bytes:
    import dns.exception
    import dns.flags
    import dns.message

    size = 65535 if tcp else max(512, question.payload if question.edns >= 0 else 512)
    try:
        return response.to_wire(max_size=size)
    except dns.exception.TooBig:
        short = dns.message.make_response(question, recursion_available=True)
        short.flags |= dns.flags.TC  # the client asks again over TCP
        return short.to_wire()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: ClusterDns) -> None:
        self._server = server

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._server.asked(data, addr)


class _Answer(asyncio.DatagramProtocol):
    """One answer from one resolver: the first datagram that carries the question's id."""

    def __init__(self, ident: bytes) -> None:
        self._ident = ident
        self.data: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if data[:2] == self._ident and not self.data.done():
            self.data.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.data.done():
            self.data.set_exception(exc)


async def _ask_udp(server: str, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: _Answer(data[:2]), remote_addr=(server, PORT))
    try:
        transport.sendto(data)
        return await protocol.data
    finally:
        transport.close()


async def _ask_tcp(server: str, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(server, PORT)
    try:
        writer.write(struct.pack("!H", len(data)) + data)
        await writer.drain()
        size = struct.unpack("!H", await reader.readexactly(2))[0]
        return await reader.readexactly(size)
    finally:
        writer.close()
