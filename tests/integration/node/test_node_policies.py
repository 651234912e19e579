"""NetworkPolicies between real pods: each kind of source against each kind of target."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node_world import NodeWorld, node_world
from trimtab.api import JSON
from trimtab.components.node import machine

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not machine.bridge_filter(), reason="the kernel has no br_netfilter"),
]
SERVER = "echo hello > /tmp/index.html; httpd -p 8000 -h /tmp; exec httpd -f -p 9000 -h /tmp"
PORTS = {"ports": [{"name": "web", "containerPort": 8000}, {"name": "admin", "containerPort": 9000}]}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    async with node_world(tmp_path / "node") as world:
        yield world


async def policy(world: NodeWorld, name: str, **spec: Any) -> None:
    body = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec}
    await world.post("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", body)


async def unset(world: NodeWorld, name: str) -> None:
    await world.client.raw("DELETE", f"/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/{name}")


class Reach:
    """Who reaches whom, by pods' names."""

    def __init__(self, world: NodeWorld) -> None:
        self._world = world
        self.ips: dict[str, str] = {}
        self._idents: dict[str, str] = {}

    async def pod(self, name: str, **labels: str) -> None:
        await self._world.run_pod(name, SERVER, labels=labels, main=PORTS)

    async def ready(self, *names: str) -> None:
        for name in names:
            pod = await self._world.until_ready(name)
            self.ips[name] = pod.status.pod_ip
            self._idents[name] = pod.status.container_statuses[0].container_id.removeprefix("containerd://")

    async def __call__(self, source: str, target: str, port: int = 8000) -> bool:
        command = ["/bin/sh", "-c", f"timeout 0.4 fetch {self.ips.get(target, target)} {port}"]
        code, said = await self._world.cri.exec(self._idents[source], command, 10)
        return code == 0 and said == b"hello\n"

    async def becomes(self, expected: bool, source: str, target: str, port: int = 8000) -> None:
        async def holds() -> bool:
            return await self(source, target, port) is expected

        await self._world.until(holds, 10, f"{source} -> {target}:{port} is {expected}")


async def test_who_reaches_whom(world: NodeWorld) -> None:
    reach = Reach(world)
    for name in ("web", "api", "db"):
        await reach.pod(name, app=name)
    await reach.ready("web", "api", "db")
    pairs = [(a, b) for a in reach.ips for b in reach.ips if a != b]

    async def matrix(port: int = 8000) -> set[tuple[str, str]]:
        seen = await asyncio.gather(*(reach(a, b, port) for a, b in pairs))
        return {pair for pair, reached in zip(pairs, seen, strict=True) if reached}

    assert await matrix() == set(pairs), "without policies everybody reaches everybody"

    await policy(world, "deny", podSelector={}, policyTypes=["Ingress"])
    await reach.becomes(False, "web", "api")
    assert await matrix() == set()

    async def from_node(name: str) -> bytes:
        reader, writer = await asyncio.open_connection(reach.ips[name], 8000)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return answer

    assert (await from_node("db")).endswith(b"hello\n"), "the node always reaches its pods"

    def only(app: str) -> list[JSON]:
        return [{"podSelector": {"matchLabels": {"app": app}}}]

    db = {"matchLabels": {"app": "db"}}
    await policy(world, "db", podSelector=db, ingress=[{"from": only("api"), "ports": [{"port": "admin"}]}])
    await reach.becomes(True, "api", "db", 9000)
    assert await matrix(9000) == {("api", "db")}
    assert await matrix() == set(), "the named port and no other"

    api = {"cidr": f"{reach.ips['api']}/32"}
    everyone = {"cidr": world.settings.pod_cidr, "except": [f"{reach.ips['web']}/32"]}
    await policy(world, "api", podSelector={"matchLabels": {"app": "api"}}, ingress=[{"from": [{"ipBlock": everyone}]}])
    await reach.becomes(True, "db", "api")
    assert await matrix() == {("db", "api")}

    await unset(world, "deny")
    await reach.becomes(True, "api", "web")
    await policy(
        world,
        "web-out",
        podSelector={"matchLabels": {"app": "web"}},
        policyTypes=["Egress"],
        egress=[{"to": [{"ipBlock": api}], "ports": [{"port": 8000, "endPort": 8080}]}],
    )
    await unset(world, "api")
    await reach.becomes(False, "web", "db", 9000)
    await reach.becomes(True, "web", "api")
    assert not await reach("web", "api", 9000)
    assert await reach("api", "web"), "answers are not egress"


async def test_a_pod_is_protected_from_its_first_moment_and_known_as_a_peer(world: NodeWorld) -> None:
    reach = Reach(world)
    await policy(
        world,
        "only-friends",
        podSelector={"matchLabels": {"app": "web"}},
        ingress=[{"from": [{"podSelector": {"matchLabels": {"friend": "yes"}}}]}],
    )
    # Addresses are given out in order. The stranger asks without a pause from before the pod exists.
    network = world.settings.pod_cidr.rpartition(".")[0]
    target = f"{network}.3"
    asks = f"touch /tmp/seen; while :; do timeout 0.2 fetch {target} 8000 >> /tmp/seen; done"
    await world.run_pod("stranger", asks)
    await world.until_ready("stranger")
    await reach.pod("web", app="web")
    await reach.ready("web")
    assert reach.ips["web"] == target
    # A friend's first request is answered: its address is among the peers before it runs.
    await world.run_pod("friend", f"fetch {target} 8000 > /tmp/seen; sleep 1000", labels={"friend": "yes"})
    await world.until_ready("friend")

    async def seen_by(name: str) -> bytes:
        pod = await world.pod(name)
        assert pod is not None
        ident = pod.status.container_statuses[0].container_id.removeprefix("containerd://")
        return (await world.cri.exec(ident, ["/bin/cat", "/tmp/seen"], 10))[1]

    async def answered(name: str) -> bool:
        return (await seen_by(name)).startswith(b"hello\n")

    await world.until(lambda: answered("friend"), 5, "the friend's first request was answered")
    assert await seen_by("stranger") == b"", "the stranger never got an answer"
    await unset(world, "only-friends")
    await world.until(lambda: answered("stranger"), 10, "without the policy the stranger is answered")
