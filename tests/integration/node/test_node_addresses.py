"""All the ways to a service: node ports, external addresses, affinity, datagrams whose endpoint goes."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node_world import NodeWorld, node_world
from trimtab.components.node.guard import guard_table
from trimtab.components.node.network import host_address, run

pytestmark = pytest.mark.engine
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    async with node_world(tmp_path / "node") as world:
        yield world


async def serve(world: NodeWorld, *names: str) -> dict[str, str]:
    """Pods that say their name on port 8000; their addresses."""
    for name in names:
        await world.run_pod(name, f"echo {name} > /tmp/index.html; exec httpd -f -p 8000 -h /tmp")
    return {name: (await world.until_ready(name)).status.pod_ip for name in names}


async def expose(
    world: NodeWorld, name: str, ips: list[str], number: int = 80, protocol: str = "TCP", **spec: Any
) -> dict[str, Any]:
    """A service with these endpoints at 8000; its spec as the server completed it."""
    port = {"port": number, "targetPort": 8000, "protocol": protocol}
    await world.create({"kind": "Service", "metadata": {"name": name}, "spec": {"ports": [port], **spec}})
    await world.post(SLICES, piece(world, name, ips, protocol))
    response = await world.client.raw("GET", f"/api/v1/namespaces/default/services/{name}")
    found: dict[str, Any] = json.loads(response.body)["spec"]
    return found


def piece(world: NodeWorld, name: str, ips: list[str], protocol: str = "TCP") -> dict[str, Any]:
    ready = {"ready": True}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"port": 8000, "protocol": protocol}],
        "endpoints": [{"addresses": [ip], "conditions": ready, "nodeName": world.settings.node_name} for ip in ips],
    }


async def page(host: str, port: int) -> str:
    """The body of a page, "" when nobody answers."""
    try:
        async with asyncio.timeout(3):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            answer = await reader.read()
            writer.close()
    except (OSError, TimeoutError):
        return ""
    return answer.rpartition(b"\r\n\r\n")[2].decode().strip()


async def fetched(world: NodeWorld, pod: str, host: str, port: int = 80) -> str:
    found = await world.pod(pod)
    assert found is not None
    ident = found.status.container_statuses[0].container_id.removeprefix("containerd://")
    return (await world.cri.exec(ident, ["/bin/sh", "-c", f"fetch {host} {port}"], 10))[1].decode().strip()


async def test_a_node_port_answers_on_loopback_on_the_machines_address_and_to_pods(world: NodeWorld) -> None:
    ips = await serve(world, "one")
    for policy in ("Cluster", "Local"):
        name = f"open-{policy.lower()}"
        spec = await expose(world, name, [ips["one"]], type="NodePort", externalTrafficPolicy=policy)
        port = spec["ports"][0]["nodePort"]
        await world.until(lambda port=port: page("127.0.0.1", port), 10, "the node port answers on loopback")
        assert await page(host_address(), port) == "one"
        assert await fetched(world, "one", world.settings.gateway, port) == "one", "a pod through itself"
        assert await fetched(world, "one", host_address(), port) == "one"


async def test_external_addresses_and_those_of_a_load_balancer(world: NodeWorld) -> None:
    ips = await serve(world, "one")
    await expose(world, "ext", [ips["one"]], externalIPs=["198.51.100.7"])
    with socket.create_server((host_address(), 0)) as program:
        taken = program.getsockname()[1]
        await expose(world, "pending", [ips["one"]], taken, type="LoadBalancer")
        await expose(world, "lb", [ips["one"]], taken + 1, type="LoadBalancer")

        async def status(name: str) -> dict[str, Any]:
            found = await world.client.raw("GET", f"/api/v1/namespaces/default/services/{name}")
            answer: dict[str, Any] = json.loads(found.body)["status"]
            return answer

        async def given() -> bool:
            return (await status("lb"))["loadBalancer"] == {"ingress": [{"ip": host_address()}]}

        async def refused() -> str:
            conditions = (await status("pending")).get("conditions") or [{"message": ""}]
            return str(conditions[0]["message"])

        await world.until(given, 10, "the service has the machine's address")
        assert await world.until(refused, 10, "the other is told why not") == (
            f"a program of this machine listens on port {taken}: choose another port, or use an Ingress"
        )
        assert (await status("pending"))["loadBalancer"] == {}
    for address, port in (("198.51.100.7", 80), (host_address(), taken + 1)):

        async def answers(address: str = address, port: int = port) -> bool:
            return await fetched(world, "one", address, port) == "one"

        await world.until(answers, 10, f"{address} answers")
    assert await page(host_address(), taken + 1) == "one"


async def test_tables_that_somebody_removed_come_back(world: NodeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = (world.settings.nft_table, guard_table(world.settings))

    async def stand() -> bool:
        listed = (await run("nft", "list", "tables", "ip")).splitlines()
        return all(f"table ip {table}" in listed for table in tables)

    await world.until(stand, 10, "the tables stand")
    monkeypatch.setattr("trimtab.components.node.services.REFRESH_S", 0.1)
    # The time to the next look was set before; a change brings the shorter one.
    await world.create({"kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}})
    for table in tables:
        await run("nft", "delete", "table", "ip", table)
    await world.until(stand, 10, "the tables are back")


async def test_affinity_brings_a_client_to_the_same_endpoint_until_it_is_gone(world: NodeWorld) -> None:
    ips = await serve(world, "one", "two", "three")
    where = [ips["two"], ips["three"]]
    spec = await expose(world, "sticky", where, sessionAffinity="ClientIP")
    address = spec["clusterIP"]

    async def answers() -> str:
        return await fetched(world, "one", address)

    first = await world.until(answers, 10, "the service answers")
    assert {await answers() for _ in range(12)} == {first}
    left = "three" if first == "two" else "two"
    body = piece(world, "sticky", [ips[left]])
    await world.client.raw("PUT", f"{SLICES}/sticky-1", body=json.dumps(body).encode())

    async def moved() -> bool:
        return await answers() == left

    await world.until(moved, 5, "the client moved to the endpoint that is left")
    body = piece(world, "sticky", where)
    await world.client.raw("PUT", f"{SLICES}/sticky-1", body=json.dumps(body).encode())
    assert {await answers() for _ in range(8)} == {left}, "and stays there when the other is back"


ECHO = """
import socket, sys
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.bind(("0.0.0.0", 8000))
while True:
    link.sendto(sys.argv[1].encode(), link.recvfrom(100)[1])
"""


async def test_datagrams_of_one_socket_follow_the_endpoints(world: NodeWorld) -> None:
    ips = list((await serve(world, "one", "two")).values())
    programs = []
    for name in ("one", "two"):
        line = ["nsenter", "-t", str(await world.main_pid(name)), "-n", sys.executable, "-c", ECHO, name]
        programs.append(await asyncio.create_subprocess_exec(*line))
    try:
        await follow_endpoints(world, ips)
    finally:
        for program in programs:
            program.kill()
            await program.wait()


async def follow_endpoints(world: NodeWorld, ips: list[str]) -> None:
    spec = await expose(world, "udp", ips[:1], protocol="UDP")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect((spec["clusterIP"], 80))
        loop = asyncio.get_running_loop()

        async def heard() -> str:
            try:
                await loop.sock_sendall(client, b"hello\n")
                async with asyncio.timeout(0.3):
                    return (await loop.sock_recv(client, 100)).decode()
            except (OSError, TimeoutError):
                return ""

        async def hears(name: str) -> bool:
            return await heard() == name

        await world.until(lambda: hears("one"), 15, "the first pod answers")
        body = piece(world, "udp", ips[1:], "UDP")
        await world.client.raw("PUT", f"{SLICES}/udp-1", body=json.dumps(body).encode())
        await world.until(lambda: hears("two"), 15, "the same socket reaches the second pod")
