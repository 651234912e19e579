"""Cluster DNS over the wire: asked as resolvers ask, with a resolver of the host behind it."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from node_world import NodeWorld, node_world

pytestmark = pytest.mark.engine
UPSTREAM = "127.0.53.77"


class Upstream:
    """A resolver on loopback: `big` does not fit into a datagram, `gone` does not exist, everything else is 192.0.2.1."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def reply(self, data: bytes, *, tcp: bool) -> bytes:
        query = dns.message.from_wire(data)
        name = query.question[0].name
        self.asked.append(f"{name} {'tcp' if tcp else 'udp'}")
        response = dns.message.make_response(query, recursion_available=True)
        if str(name).startswith("gone."):
            response.set_rcode(dns.rcode.NXDOMAIN)
            response.authority.append(dns.rrset.from_text("example.", 60, "IN", "SOA", "a. b. 1 2 3 4 60"))
        elif str(name).startswith("big.") and not tcp:
            response.flags |= dns.flags.TC
        else:
            count = 200 if str(name).startswith("big.") else 1
            response.answer.append(
                dns.rrset.from_text(name, 60, "IN", "A", *(f"192.0.2.{n}" for n in range(1, count + 1)))
            )
        return response.to_wire()


@contextmanager
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
    udp.bind((UPSTREAM, 53))
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind((UPSTREAM, 53))
    tcp.listen()

    def datagrams() -> None:
        while True:
            data, client = udp.recvfrom(4096)
            if not data:
                return
            udp.sendto(made.reply(data, tcp=False), client)

    def streams() -> None:
        while True:
            link, _ = tcp.accept()
            with link:
                size = link.recv(2)
                if not size:
                    return
                answer = made.reply(link.recv(struct.unpack("!H", size)[0]), tcp=True)
                link.sendall(struct.pack("!H", len(answer)) + answer)

    threads = [threading.Thread(target=work) for work in (datagrams, streams)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (UPSTREAM, 53))
        socket.create_connection((UPSTREAM, 53)).close()
        for thread in threads:
            thread.join(5)
        udp.close()
        tcp.close()


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NodeWorld]:
    conf = tmp_path / "resolv.conf"
    conf.write_text(f"nameserver {UPSTREAM}\n")
    monkeypatch.setattr("trimtab.components.node.hostdns.RESOLV_CONF", (conf,))
    async with node_world(tmp_path / "node") as world:
        yield world


async def query(
    world: NodeWorld, name: str, kind: str = "A", *, tcp: bool = False, **options: Any
) -> dns.message.Message:
    asked = dns.message.make_query(name, kind, **options)
    ask = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    return await ask(asked, world.settings.gateway, timeout=5)


async def test_names_of_the_cluster(world: NodeWorld) -> None:
    ports = [{"name": "http", "port": 80}]
    await world.create({"kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": ports}})
    external = {"type": "ExternalName", "externalName": "www.example"}
    await world.create({"kind": "Service", "metadata": {"name": "out"}, "spec": external})
    own = "web.default.svc.cluster.local."

    async def known() -> bool:
        try:
            return bool((await query(world, own)).answer)
        except (OSError, TimeoutError):
            return False

    await world.until(known, 10, "DNS knows the service")
    [address] = (await query(world, own)).answer[0]
    assert (await query(world, f"_http._tcp.{own}", "SRV")).answer[0].to_text().endswith(f"SRV 0 100 80 {own}")
    reverse = ".".join(reversed(str(address).split("."))) + ".in-addr.arpa."
    assert (await query(world, reverse, "PTR")).answer[0].to_text().endswith(f"PTR {own}")

    nothing = await query(world, own, "AAAA")
    assert (nothing.rcode(), nothing.answer) == (dns.rcode.NOERROR, [])
    assert nothing.authority[0].to_text().startswith("cluster.local. 5 IN SOA ns.dns.cluster.local.")
    assert nothing.flags & dns.flags.AA
    nobody = await query(world, "nobody.default.svc.cluster.local.")
    assert nobody.rcode() == dns.rcode.NXDOMAIN
    assert nobody.authority[0].ttl == 5
    await world.create({"kind": "Service", "metadata": {"name": "nobody"}, "spec": {"ports": ports}})

    async def appears() -> bool:
        return bool((await query(world, "nobody.default.svc.cluster.local.")).answer)

    await world.until(appears, 2, "a new name is known although its absence was answered just before")

    with upstream():
        followed = await query(world, "out.default.svc.cluster.local.")
    assert [rrset.to_text() for rrset in followed.answer] == [
        "out.default.svc.cluster.local. 5 IN CNAME www.example.",
        "www.example. 60 IN A 192.0.2.1",
    ]


async def test_other_names_are_asked_for_once_over_udp_and_tcp(world: NodeWorld) -> None:
    with upstream() as host:
        for _ in range(3):
            assert (await query(world, "a.example.")).answer[0][0].to_text() == "192.0.2.1"
            assert (await query(world, "gone.example.")).rcode() == dns.rcode.NXDOMAIN
        assert host.asked == ["a.example. udp", "gone.example. udp"]
        cut = await query(world, "big.example.")
        assert cut.flags & dns.flags.TC
        whole = await query(world, "big.example.", tcp=True)
        assert len(whole.answer[0]) == 200
    failed = await query(world, "b.example.")
    assert failed.rcode() == dns.rcode.SERVFAIL, "no resolver answers"


async def test_large_answers_fit_what_the_client_can_take(world: NodeWorld) -> None:
    await world.create({"kind": "Service", "metadata": {"name": "many"}, "spec": {"clusterIP": "None"}})
    prefix = world.settings.pod_cidr.rpartition(".")[0]
    piece = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "many-1", "labels": {"kubernetes.io/service-name": "many"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [f"{prefix}.{n}"]} for n in range(10, 70)],
        "ports": [],
    }
    await world.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", piece)
    name = "many.default.svc.cluster.local."

    async def known() -> bool:
        try:
            return bool((await query(world, name, tcp=True)).answer)
        except (OSError, TimeoutError):
            return False

    await world.until(known, 10, "DNS knows the service")
    assert len((await query(world, name, tcp=True)).answer[0]) == 60
    assert (await query(world, name)).flags & dns.flags.TC, "512 bytes without EDNS"
    roomy = await query(world, name, use_edns=0, payload=4096)
    assert len(roomy.answer[0]) == 60
    assert roomy.payload == 1232
    orders = {
        tuple(a.address for a in (await query(world, name, use_edns=0, payload=4096)).answer[0]) for _ in range(5)
    }
    assert len(orders) > 1, "addresses are shuffled"


async def test_nonsense_is_not_answered_and_disturbs_nobody(world: NodeWorld) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)

        async def known() -> bool:
            try:
                return (await query(world, "cluster.local.", "SOA")).rcode() == dns.rcode.NOERROR
            except (OSError, TimeoutError):
                return False

        await world.until(known, 10, "DNS answers")
        for data in (b"", b"\0", b"\xff" * 600, dns.message.make_query("x.", "A").to_wire()[:-3]):
            await loop.sock_sendto(client, data, (world.settings.gateway, 53))
    strange = dns.message.make_query("cluster.local.", "A")
    strange.set_opcode(2)
    answer = await dns.asyncquery.udp(strange, world.settings.gateway, timeout=5)
    assert answer.rcode() == dns.rcode.NOTIMP
