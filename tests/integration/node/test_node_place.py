"""A pod's place in the network of a real node: host ports, resolver, hosts, shared namespaces."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node_world import NodeWorld, node_world
from trimtab.api import ObjectMeta
from trimtab.api.core import Container, PodSpec, PodTemplateSpec
from trimtab.api.labels import LabelSelector
from trimtab.api.workloads import DaemonSet, DaemonSetSpec
from trimtab.components.node.network import host_address

pytestmark = pytest.mark.engine


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    async with node_world(tmp_path / "node") as world:
        yield world


ECHO = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 9000))
print("ready", flush=True)
server.sendto(*server.recvfrom(10))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def fetched(host: str, port: int) -> str:
    try:
        with socket.create_connection((host, port), 1) as connection:
            connection.sendall(b"GET /etc/hostname HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: connection.recv(4096), b"")).decode().strip().rpartition("\n")[2]
    except OSError as err:
        return str(err)


def echoed(pid: int, port: int) -> bytes:
    """What a server on UDP in the network of a process answers to a datagram that is sent to a port of the node."""
    nsenter = ["nsenter", "-t", str(pid), "-n", sys.executable, "-c", ECHO]
    with (
        subprocess.Popen(nsenter, stdout=subprocess.PIPE) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        assert server.stdout is not None
        server.stdout.readline()
        client.settimeout(5)
        client.sendto(b"echo", ("127.0.0.1", port))
        return client.recv(10)


async def test_a_host_port_leads_to_the_pod_until_it_is_gone(world: NodeWorld) -> None:
    port, one = free_port(), free_port()
    ports = [
        {"containerPort": 8000, "hostPort": port},
        {"containerPort": 8001, "hostPort": one, "hostIP": "127.0.0.1"},
        {"containerPort": 9000, "hostPort": port, "protocol": "UDP"},
    ]
    command = "httpd -p 8001 -h /; exec httpd -f -p 8000 -h /"
    await world.run_pod("web", command, main={"ports": ports})
    pod = await world.until_ready("web")
    outside = host_address()

    await world.until(lambda: fetched("127.0.0.1", port) == "web", 5, "loopback leads to the pod")
    assert fetched(outside, port) == "web"
    assert fetched("127.0.0.1", one) == "web"
    assert fetched(outside, one) != "web", "this one is for loopback alone"
    assert await asyncio.to_thread(echoed, await world.main_pid("web"), port) == b"echo"
    await world.run_pod("self", f"while ! wget -q -O /tmp/out {outside}:{port}/etc/hostname; do :; done; sleep 1000")
    inside = Path(f"/proc/{await world.main_pid_when_ready('self')}/root/tmp/out")
    await world.until(lambda: inside.exists() and inside.read_text().strip() == "web", 10, "a pod reaches it, too")

    taken = f"port {port}/TCP of this node is taken by pod default/web"
    body = world.pod_body("second", "sleep 1000", main={"ports": [{"containerPort": 1, "hostPort": port}]})
    await world.create(body)
    refused = await world.until_pod("second", lambda p: p.status.reason, 60, "is refused")
    assert (refused.status.phase, refused.status.reason, refused.status.message) == (
        "Failed",
        "NodePorts",
        f"Pod was rejected: Predicate NodePorts failed: {taken}",
    )
    template = PodTemplateSpec(
        metadata=ObjectMeta(labels={"app": "d"}), spec=PodSpec(containers=[Container(name="c", image="i")])
    )
    spec = DaemonSetSpec(selector=LabelSelector(match_labels={"app": "d"}), template=template)
    daemons = DaemonSet(metadata=ObjectMeta(name="d", namespace="default"), spec=spec)
    uid = (await world.client.create(daemons, manager="tester")).metadata.uid
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": uid, "controller": True}
    meta = {**body["metadata"], "name": "daemon", "ownerReferences": [owner]}
    await world.create({**body, "metadata": meta})
    waits = await world.until_pod("daemon", lambda p: p.status.reason, 60, "says why it waits")
    assert (waits.status.phase, waits.status.reason, waits.status.message) == ("Pending", "HostPortConflict", taken)
    await world.client.delete(pod.ref)
    await world.until_gone("web")
    await world.until(lambda: "refused" in fetched("127.0.0.1", one), 5, "nobody answers any more")
    await world.until_ready("daemon", 60)


async def test_a_port_of_a_program_is_not_taken_from_it(world: NodeWorld) -> None:
    with socket.socket() as program:
        program.bind(("127.0.0.1", 0))
        program.listen()
        port = program.getsockname()[1]
        await world.run_pod("web", "sleep 1000", main={"ports": [{"containerPort": 1, "hostPort": port}]})

        waits = await world.until_pod("web", lambda p: p.status.reason, 10, "says why it waits")

    assert waits.status.message == (
        f"a program of this machine listens on port {port}/TCP: choose another hostPort, or use a Service"
    )
    assert waits.status.phase == "Pending"


async def test_what_a_pod_says_of_names_and_neighbours_holds(world: NodeWorld) -> None:
    await world.run_pod(
        "named",
        "sleep 1000",
        hostname="db-0",
        subdomain="db",
        setHostnameAsFQDN=True,
        dnsPolicy="None",
        dnsConfig={
            "nameservers": ["192.0.2.7"],
            "searches": ["example.org"],
            "options": [{"name": "ndots", "value": "1"}],
        },
        hostAliases=[{"ip": "192.0.2.9", "hostnames": ["legacy"]}],
        shareProcessNamespace=True,
        volumes=[{"name": "v", "emptyDir": {}}],
        main={
            "env": [{"name": "WHO", "value": "me"}],
            "volumeMounts": [{"name": "v", "mountPath": "/v", "subPathExpr": "of-$(WHO)"}],
        },
    )
    await world.run_pod("host", "sleep 1000", hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet")
    pod = await world.until_ready("named")
    pid = await world.main_pid("named")
    root = Path(f"/proc/{pid}/root")

    resolver = (root / "etc/resolv.conf").read_text().split("\n")[:3]
    assert resolver == ["search example.org", "nameserver 192.0.2.7", "options ndots:1"]
    hosts = (root / "etc/hosts").read_text()
    assert f"{pod.status.pod_ip}\tdb-0.db.default.svc.cluster.local db-0\n" in hosts
    assert hosts.endswith("192.0.2.9\tlegacy\n")
    assert (await world.output("named", "hostname")).strip() == "db-0.db.default.svc.cluster.local"
    assert "/pause" in await world.output("named", "cat", "/proc/1/cmdline"), "the pod's first process is seen"
    of_volume = world.settings.data_path("node", "pods", pod.metadata.uid, "volumes", "v", "of-me")
    assert of_volume.is_dir()
    assert of_volume.stat().st_ino == (root / "v").stat().st_ino

    await world.until_ready("host")
    shared = Path(f"/proc/{await world.main_pid('host')}/root/etc")
    assert f"nameserver {world.settings.gateway}" in (shared / "resolv.conf").read_text()
    machines = await asyncio.to_thread(Path("/etc/hosts").read_text)
    assert (shared / "hosts").read_text() == f"# Kubernetes-managed hosts file (host network).\n{machines}"
