"""Cluster DNS: answers names of the cluster's domain, and passes everything else to the host's resolvers as it is.

It listens, UDP and TCP, on the bridge's address, which only pods and this machine reach. dnspython reads questions and
writes our own answers; what is passed on is not changed. Both are kept ready for a few seconds (answers.py), ours until
something changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import random
import struct
from typing import TYPE_CHECKING, Any

from trimtab.api.core import Service
from trimtab.api.networking import EndpointSlice
from trimtab.client.cache import Change
from trimtab.components.node.answers import Answers
from trimtab.components.node.hostdns import host_resolver
from trimtab.components.node.names import Found, Zone, resolve
from trimtab.components.node.network import PodNetwork
from trimtab.runtime.process import Process

if TYPE_CHECKING:
    import dns.message
    import dns.rcode
    import dns.rrset

PORT = 53
TTL_S = 5
"""As short as Kubernetes' own DNS: a moved service is found again soon."""
FORWARD_TIMEOUT_S = 2.0
IN_FLIGHT_MAX = 512
TCP_IDLE_S = 10.0
EDNS_BYTES = 1232
"""The largest answer over UDP: what passes every path in one piece (DNS Flag Day 2020)."""

log = logging.getLogger(__name__)


class ClusterDns:
    """The DNS server of one node."""

    def __init__(self, process: Process) -> None:
        settings = process.settings
        self._address = PodNetwork.of(settings).gateway
        self._services = process.informer(Service)
        self._slices = process.informer(EndpointSlice)
        self._zone = Zone(
            domain=settings.cluster_domain.lower(),
            service_of=self._services.get,
            slices_of=self._slices.list,
            services=self._services.list,
            networks=(ipaddress.IPv4Network(settings.service_cidr), ipaddress.IPv4Network(settings.cluster)),
        )
        self._answers = Answers()
        self._serial = 1
        self._now = asyncio.get_running_loop().time
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
        ends = [self._services.subscribe(self._changed), self._slices.subscribe(self._changed)]
        try:
            await asyncio.Event().wait()
        finally:
            for end in ends:
                end()

    def _changed(self, change: Change[Any]) -> None:
        """Some name means something else now."""
        self._serial += 1
        self._answers.clear()

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
        """A UDP question; answered at once when the answer is ready, else in the background, or dropped when too many are
        under way."""
        ready = self._answers.get(data, self._now())
        if ready is not None and self._udp is not None:
            self._udp.sendto(ready, client)
            return
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
        if question.opcode() != 0:
            return _failure(question, dns.rcode.NOTIMP)
        asked = question.question[0]
        found = resolve(asked.name.to_text(omit_final_dot=True).lower(), self._zone)
        if found is not None:
            answer = _wire(await self._ours(question, found), question, tcp=tcp)
            if not tcp and not found.cname and len(found.addresses) <= 1:
                # Several addresses are shuffled each time; what is behind a CNAME has its own life.
                self._answers.keep(data, answer, self._now(), ours_s=TTL_S)
            return answer
        forwarded = await self.forward(data, tcp=tcp)
        if forwarded is not None:
            if not tcp:
                self._answers.keep(data, forwarded, self._now())
            return forwarded
        return _failure(question, dns.rcode.SERVFAIL)

    async def _ours(self, question: dns.message.Message, found: Found) -> dns.message.Message:
        import dns.flags
        import dns.message
        import dns.name
        import dns.rcode
        import dns.rdatatype
        import dns.rrset

        asked = question.question[0]
        response = dns.message.make_response(question, recursion_available=True, our_payload=EDNS_BYTES)
        response.flags |= dns.flags.AA
        if found.cname:
            target = f"{found.cname.rstrip('.')}."
            response.answer.append(dns.rrset.from_text(asked.name, TTL_S, "IN", "CNAME", target))
            if asked.rdtype != dns.rdatatype.CNAME:
                await self._follow(response, target, asked.rdtype)
            return response
        wanted = dns.rdatatype.to_text(asked.rdtype)
        if wanted == "SOA" and asked.name.to_text(omit_final_dot=True).lower() == self._zone.domain:
            response.answer.append(self._soa())
            return response
        data = [record.data for record in found.records if record.type == wanted]
        if not data:
            if not found.exists:
                response.set_rcode(dns.rcode.NXDOMAIN)
            response.authority.append(self._soa())
            return response
        random.shuffle(data)
        response.answer.append(dns.rrset.from_text(asked.name, TTL_S, "IN", wanted, *data))
        if wanted == "SRV":
            for record in found.extra:
                name = dns.name.from_text(record.name)
                response.additional.append(dns.rrset.from_text(name, TTL_S, "IN", record.type, record.data))
        return response

    def _soa(self) -> dns.rrset.RRset:
        """What says how long "there is no such name" holds."""
        import dns.rrset

        domain = self._zone.domain
        numbers = f"{self._serial} 7200 1800 86400 {TTL_S}"
        return dns.rrset.from_text(f"{domain}.", TTL_S, "IN", "SOA", f"ns.dns.{domain}. hostmaster.{domain}. {numbers}")

    async def _follow(self, response: dns.message.Message, target: str, rdtype: Any) -> None:
        """Adds what the name behind a CNAME resolves to."""
        import dns.exception
        import dns.flags
        import dns.message

        inside = resolve(target.rstrip(".").lower(), self._zone)
        if inside is not None:
            if not inside.cname:
                query = dns.message.make_query(target, rdtype)
                response.answer.extend((await self._ours(query, inside)).answer)
            return
        wire = dns.message.make_query(target, rdtype).to_wire()
        data = await self.forward(wire, tcp=False)
        if data is not None and data[2] << 8 & dns.flags.TC:
            data = await self.forward(wire, tcp=True)
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


def _failure(question: dns.message.Message, rcode: dns.rcode.Rcode) -> bytes:
    import dns.message

    response = dns.message.make_response(question, recursion_available=True)
    response.set_rcode(rcode)
    return response.to_wire()


def _wire(response: dns.message.Message, question: dns.message.Message, *, tcp: bool) -> bytes:
    import dns.exception
    import dns.flags
    import dns.message

    size = 65535 if tcp else max(512, min(EDNS_BYTES, question.payload) if question.edns >= 0 else 512)
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
