"""What the pod network costs: a service address beside the endpoint itself, DNS, network policies, a thousand services.

    benchmarks/network.py          needs root, nft and iproute2; makes a network namespace of its own, and removes it

Client and server are network namespaces on one bridge, as pods are; the rules are the node agent's own.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from trimtab.api import JSON, from_wire
from trimtab.api.core import Pod
from trimtab.api.policies import NetworkPolicy
from trimtab.components.node.nft import Table, delta, replacement
from trimtab.components.node.policies import addresses, policy_table
from trimtab.components.node.rules import Backend, Frontend, Place, service_table

TABLE = "trimtab-bench"
BRIDGE = "ttbench"
SERVICE, SERVER, CLIENT = "10.251.0.10", "10.250.0.2", "10.250.0.3"
PLACE = Place("node-1", BRIDGE, "10.250.0.0/24", "10.250.0.0/24")
REQUESTS = 3000
BULK_BYTES = 2 << 30

ECHO = """
import socket, threading
listener = socket.create_server(("0.0.0.0", 8000))
def serve(link):
    while data := link.recv(1 << 16):
        if len(data) < 100:
            link.sendall(data)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def run(*command: str, text: str | None = None) -> None:
    subprocess.run(command, input=text, text=True, check=True, timeout=60)


def fronts(count: int, backends: int = 3) -> list[Frontend]:
    """The service under test and `count - 1` others."""
    own = Frontend(SERVICE, "tcp", 80, (Backend(SERVER, 8000),), "bench/own")
    others = [
        Frontend(
            f"10.251.{1 + n // 250}.{1 + n % 250}",
            "tcp",
            80,
            tuple(Backend(f"10.250.0.{10 + (n + k) % 200}", 8080) for k in range(backends)),
            f"bench/{n}",
        )
        for n in range(count - 1)
    ]
    return [own, *others]


def pods(count: int) -> list[Pod]:
    found = []
    for n in range(count):
        raw: JSON = {
            "metadata": {"name": f"p{n}", "namespace": "bench", "uid": f"u{n}", "labels": {"app": f"a{n % 10}"}},
            "spec": {"nodeName": "node-1", "containers": []},
            "status": {"podIP": f"10.250.0.{10 + n}", "phase": "Running"},
        }
        found.append(from_wire(Pod, raw))
    return found


def policies(count: int) -> list[NetworkPolicy]:
    found = []
    for n in range(count):
        app = {"matchLabels": {"app": f"a{n % 10}"}}
        peers = [{"podSelector": {"matchLabels": {"app": f"a{(n + 1) % 10}"}}}]
        spec: JSON = {"podSelector": app, "ingress": [{"from": peers, "ports": [{"port": 8000 + n}]}]}
        found.append(from_wire(NetworkPolicy, {"metadata": {"name": f"n{n}", "namespace": "bench"}, "spec": spec}))
    return found


def apply(text: str | None) -> float:
    assert text
    began = time.perf_counter()
    run("nft", "-f", "-", text=text)
    return time.perf_counter() - began


def latency_us(host: str, port: int) -> float:
    """The median of a small question and its answer on one connection."""
    with socket.create_connection((host, port)) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        took = []
        for _ in range(REQUESTS):
            began = time.perf_counter()
            link.sendall(b"x")
            link.recv(10)
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


def connect_us(host: str, port: int) -> float:
    """The median time until a new connection stands."""
    took = []
    for _ in range(REQUESTS // 10):
        began = time.perf_counter()
        socket.create_connection((host, port)).close()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


def gbit_s(host: str, port: int) -> float:
    block = bytes(1 << 20)
    with socket.create_connection((host, port)) as link:
        began = time.perf_counter()
        for _ in range(BULK_BYTES >> 20):
            link.sendall(block)
        return BULK_BYTES * 8 / (time.perf_counter() - began) / 1e9


def compare(what: str, unit: str, measure: Callable[[str, int], float]) -> None:
    direct, service = measure(SERVER, 8000), measure(SERVICE, 80)
    print(
        f"{what:34} direct {direct:8.1f} {unit}   service {service:8.1f} {unit}   ratio {service / direct:.2f}",
        flush=True,
    )


def client() -> None:
    """What runs in the client's namespace."""
    compare("question and answer", "us", latency_us)
    compare("new connection", "us", connect_us)
    compare("bulk", "Gbit/s", gbit_s)


def topology() -> list[str]:
    lines = [
        f"ip link add {BRIDGE} type bridge",
        f"ip address add 10.250.0.1/24 dev {BRIDGE}",
        f"ip link set {BRIDGE} up",
        f"ip route add 10.251.0.0/16 dev {BRIDGE}",
    ]
    for name, address in (("server", SERVER), ("client", CLIENT)):
        pod = f"{BRIDGE}-{name}"
        lines += [
            f"ip netns add {pod}",
            f"ip link add {name} type veth peer name eth0 netns {pod}",
            f"ip link set {name} master {BRIDGE} up",
            f"ip -n {pod} address add {address}/24 dev eth0",
            f"ip -n {pod} link set eth0 up",
            f"ip -n {pod} route add default via 10.250.0.1",
        ]
    return lines


def rules() -> None:
    """Times of nft, and then the comparison of addresses, with a thousand services beside."""
    thousand = service_table(PLACE, fronts(1000)) | policy_table([], [], [])
    print(
        f"{'1,000 services, 3 endpoints each':34} whole table {apply(replacement(TABLE, thousand)) * 1000:6.0f} ms",
        flush=True,
    )
    grown = service_table(
        PLACE, [*fronts(1000), Frontend("10.251.9.9", "tcp", 80, (Backend(SERVER, 8000),), "bench/new")]
    )
    grown |= policy_table([], [], [])
    print(f"{'one service more':34} delta       {apply(delta(TABLE, thousand, grown)) * 1000:6.0f} ms", flush=True)
    where, services = addresses(pods(100), {}, "node-1"), service_table(PLACE, fronts(1000))
    hundred, one_more = policies(100), [*policies(100), *deny()]
    before: Table = grown
    for what, wanted in (("100 policies, 100 pods", hundred), ("one policy more, on 100 pods", one_more)):
        began = time.perf_counter()
        after = services | policy_table(wanted, where, [])
        text = delta(TABLE, before, after)
        computed = time.perf_counter() - began
        print(f"{what:34} delta       {(computed + apply(text)) * 1000:6.0f} ms", flush=True)
        before = after
    server = subprocess.Popen(["nsenter", f"--net=/run/netns/{BRIDGE}-server", sys.executable, "-c", ECHO])
    try:
        wait_for_server()
        run("nsenter", f"--net=/run/netns/{BRIDGE}-client", sys.executable, __file__, "client")
    finally:
        server.kill()
        server.wait()


def deny() -> list[NetworkPolicy]:
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    return [from_wire(NetworkPolicy, {"metadata": {"name": "deny", "namespace": "bench"}, "spec": spec})]


def wait_for_server() -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((SERVER, 8000)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


async def dns_rate() -> None:
    """Questions a second of cluster DNS with the real server, asked over UDP from the same machine."""
    import multiprocessing
    import tempfile

    import dns.message

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
    from node_world import node_world

    with tempfile.TemporaryDirectory() as scratch:
        async with node_world(Path(scratch) / "node") as world:
            for name in ("web", "db"):
                body = {"kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}}
                await world.create(body)
            context = multiprocessing.get_context("spawn")
            for what, names in (
                ("DNS, names that were just asked for", ["web.default.svc.cluster.local."]),
                ("DNS, names asked for once", [f"n{n}.default.svc.cluster.local." for n in range(4000)]),
            ):
                questions = [dns.message.make_query(name, "A").to_wire() for name in names]
                with context.Pool(1) as pool:
                    rate = await asyncio.to_thread(pool.apply, ask_many, (world.settings.gateway, questions))
                print(f"{what:34} {rate:8.0f} answers/s", flush=True)


def ask_many(server: str, questions: list[bytes]) -> float:
    """Answers a second to up to 20,000 questions, 32 under way at once."""
    count = 20_000 if len(questions) == 1 else len(questions)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.settimeout(2)
        link.connect((server, 53))
        deadline = time.monotonic() + 10
        while True:  # until the server listens
            try:
                link.send(questions[0])
                link.recv(4096)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
        began = time.perf_counter()
        sent = answered = 0
        while answered < count:
            while sent < count and sent - answered < 32:
                link.send(questions[sent % len(questions)])
                sent += 1
            link.recv(4096)
            answered += 1
        return count / (time.perf_counter() - began)


def main() -> None:
    match sys.argv[1:]:
        case ["client"]:
            client()
        case ["rules"]:
            rules()
        case _:
            load = os.getloadavg()[0]
            print(f"{os.cpu_count()} cores, load {load:.1f}")
            home = f"{BRIDGE}-home"
            run("ip", "netns", "add", home)
            inside = ["nsenter", f"--net=/run/netns/{home}"]
            try:
                run(*inside, "ip", "link", "set", "lo", "up")
                for line in topology():
                    run(*inside, *line.split())
                run(*inside, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
                run(*inside, sys.executable, __file__, "rules")
            finally:
                for name in (f"{BRIDGE}-server", f"{BRIDGE}-client", home):
                    subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
            asyncio.run(dns_rate())


if __name__ == "__main__":
    main()
