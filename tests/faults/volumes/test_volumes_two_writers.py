"""Never two writers: real pods on real nodes write into one volume while nodes are cut off, killed and crash, and agents and controllers
die; an observer that shares no code with the engine watches the kernel, and the volume itself keeps a log of who wrote.

The log tells of what the observer did not see: each container writes under a name of its own, and once another node has written, it may
never write again. (Two pods of one node may both write to a ReadWriteOnce volume, here as everywhere.)
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine_under_test import EngineUnderTest, engine, wait_for
from node_world import busybox_image
from trimtab.content import ContentStore
from trimtab.engine import datadir, fencing, nodes

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

OBSERVER = Path(__file__).parents[2] / "support" / "volume_observer.py"
RUNS_LONG = 200
LEASE_S = 3
BACK_S_MAX = 60.0
WRITE = 'id=$(cat /proc/sys/kernel/random/uuid); while true; do echo "$NODE $id" >> /data/log; sync; sleep 0.05; done'


def manifest(image: str) -> str:
    labels = {"app": "db"}
    homes = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["node-1"]}
    container = {
        "name": "main",
        "image": image,
        "command": ["/bin/sh", "-c", WRITE],
        "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    pod = {
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [homes]}]}
            }
        },
    }
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "block",
            "resources": {"requests": {"storage": "64Mi"}},
        },
    }
    database = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": "default"},
        "spec": {
            "serviceName": "db",
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
            "volumeClaimTemplates": [claim],
        },
    }
    return json.dumps(database)


class Story:
    """One engine whose database moves about."""

    def __init__(self, running: EngineUnderTest, seed: int) -> None:
        self.running = running
        self.random = random.Random(seed)
        self.actions: list[Callable[[str], None]] = [
            self.partition_and_force,
            self.kill_node,
            self.freeze_agent,
            self.kill_controllers,
            self.partition_and_delete,
            self.crash_node,
            self.kill_agent,
            self.kill_attacher,
        ]

    # Looking

    def get(self, *what: str) -> Any:
        done = self.running.run("get", *what, "-n", "default", "-o", "json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def ready(self, other_than: str = "") -> str | None:
        """The node of the database's pod, once it is ready."""
        pod = self.get("pod", "db-0")
        if pod is None or pod["metadata"]["uid"] == other_than or "deletionTimestamp" in pod["metadata"]:
            return None
        conditions = pod.get("status", {}).get("conditions", ())
        good = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        return str(pod["spec"]["nodeName"]) if good else None

    def handle(self) -> str:
        return str(self.get("pvc", "data-db-0")["spec"]["volumeName"])

    def programs(self, node: str) -> list[int]:
        process = fencing.first_process(datadir.load(self.running.data), node)
        return nodes.programs(process) if process is not None else []

    # Breaking

    def run_once(self, action: Callable[[str], None]) -> None:
        node = wait_for(self.ready, BACK_S_MAX, "the database is ready")
        uid = self.get("pod", "db-0")["metadata"]["uid"]
        action(node)
        replaced = action not in (self.crash_node,)
        wait_for(lambda: self.ready(uid if replaced else ""), BACK_S_MAX, f"it is ready after {action.__name__}")

    def kubectl_delete(self, *more: str) -> None:
        config = self.running.data / "kubeconfig.test"
        config.write_text(self.running.run("kubeconfig").stdout)
        command = ["kubectl", f"--kubeconfig={config}", "delete", "pod", "db-0", "-n", "default", "--wait=false", *more]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def partition_and_delete(self, node: str) -> None:
        """Silence, then a deletion that nobody confirms: the node is fenced."""
        self.running.run("node", "partition", node)
        self.kubectl_delete()
        wait_for(lambda: self.ready() not in (None, node) or not self.held(node), BACK_S_MAX, "the node is fenced")

    def partition_and_force(self, node: str) -> None:
        """The pod is taken out of the API while its node believes in it; the node comes back before or after it is fenced."""
        self.running.run("node", "partition", node)
        self.kubectl_delete("--force", "--grace-period=0")
        self.pause(self.random.uniform(0, 2 * LEASE_S))
        self.running.run("node", "mend", node)

    def freeze_agent(self, node: str) -> None:
        pids = [pid for pid in self.programs(node) if self.is_agent(pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        self.kubectl_delete("--force", "--grace-period=0")
        self.pause(self.random.uniform(0, LEASE_S))
        for pid in pids:
            self.send(pid, signal.SIGCONT)

    def kill_node(self, node: str) -> None:
        self.running.run("node", "kill", node)
        self.running.run("node", "add")

    def crash_node(self, node: str) -> None:
        process = fencing.first_process(datadir.load(self.running.data), node)
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        wait_for(
            lambda: fencing.first_process(datadir.load(self.running.data), node) not in (None, process),
            30,
            "a new life",
        )

    def kill_agent(self, node: str) -> None:
        for pid in self.programs(node):
            if self.is_agent(pid):
                self.send(pid, signal.SIGKILL)
        self.kubectl_delete()

    def kill_attacher(self, node: str) -> None:
        self.kubectl_delete("--force", "--grace-period=0")
        self.pause(self.random.uniform(0, 0.3))
        os.kill(self.running.pid("node"), signal.SIGKILL)

    def kill_controllers(self, node: str) -> None:
        self.kubectl_delete("--force", "--grace-period=0")
        self.pause(self.random.uniform(0, 0.3))
        os.kill(self.running.pid("controllers"), signal.SIGKILL)

    def held(self, node: str) -> bool:
        """Whether the node's programs are still the ones that a partition holds."""
        return any(self.read(pid, "stat").rpartition(b")")[2].split()[:1] == [b"T"] for pid in self.programs(node))

    def is_agent(self, pid: int) -> bool:
        words = self.read(pid, "cmdline").split(b"\0")
        return b"trimtab.engine.processes" in words and b"node" in words

    def read(self, pid: int, name: str) -> bytes:
        """A file of a process, which may just have ended."""
        try:
            return Path(f"/proc/{pid}/{name}").read_bytes()
        except OSError:
            return b""

    def send(self, pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return

    def pause(self, seconds: float) -> None:
        """Chance, not waiting: where in the course of things the next blow falls."""
        time.sleep(seconds)


@contextmanager
def observed(image: Path) -> Iterator[dict[str, Any]]:
    """The observer's verdict, once the block has ended."""
    process = subprocess.Popen(
        ["/usr/bin/python3", "-I", str(OBSERVER), str(image)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    said: dict[str, Any] = {}
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield said
    finally:
        process.stdin.close()
        said |= json.loads(process.stdout.readline() or "{}")
        process.stdout.close()
        process.wait(60)


def log_of(image: Path, point: Path) -> list[str]:
    """Who wrote each line of the volume's own log: `NODE ID`."""
    point.mkdir()
    subprocess.run(["mount", "-o", "loop,ro", str(image), str(point)], check=True)
    try:
        lines = (point / "log").read_text(errors="replace").splitlines()
    finally:
        subprocess.run(["umount", "--lazy", str(point)], check=True)
    return [line for line in lines if line.count(" ") == 1]


def devices() -> str:
    """All loop devices of the machine and their files."""
    return subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout


def came_back(lines: list[str]) -> list[str]:
    """The writers that wrote again after another node had written."""
    last = {line: number for number, line in enumerate(lines)}
    open_on: dict[str, int] = {}
    found = set()
    for number, line in enumerate(lines):
        node = line.partition(" ")[0]
        for other, first in open_on.items():
            if other.partition(" ")[0] != node and first < number < last[other]:
                found.add(other)
        open_on.setdefault(line, number)
        open_on = {other: first for other, first in open_on.items() if last[other] > number}
    return sorted(found)


def play(data: Path, runs: int, seed: int) -> None:
    with engine(data, "--nodes", "3", "--node-lease", str(LEASE_S)) as running:
        story = Story(running, seed)
        running.run("apply", "-f", "-", input=manifest(busybox_image(ContentStore(data / "content"))))
        wait_for(story.ready, 60, "the database is ready")
        image = data / "volumes" / f"{story.handle()}.img"
        with observed(image) as said:
            for number in range(runs):
                action = (
                    story.actions[number % len(story.actions)]
                    if runs < RUNS_LONG
                    else story.random.choice(story.actions)
                )
                print(f"run {number}: {action.__name__}", file=sys.stderr, flush=True)
                story.run_once(action)
        running.run("delete", "statefulset", "db", "-n", "default")
        wait_for(lambda: not running.json("get", "volumeattachments")["items"], 60, "the volume is detached")
        lines = log_of(image, data.parent / "mounted")
        writers = len(set(lines))
        print(f"{said['looks']} looks, {said['tables']} mount tables, {writers} writers", file=sys.stderr)

    assert said["violations"] == []
    assert said["looks"] > runs * 20, "the observer hardly looked"
    assert len(said["nodes"]) > 1, "the volume never moved"
    assert came_back(lines) == []
    assert writers > runs * 0.8
    # A device goes with its last mount, and with whoever just looks at all of them.
    wait_for(lambda: str(data) not in devices(), 60, lambda: f"no loop device is left: {devices()}")


def test_the_judge_of_the_log_sees_a_writer_that_came_back() -> None:
    good = ["a 1", "a 1", "a 2", "a 1", "b 3", "b 3", "a 4"]

    assert came_back(good) == []
    assert came_back([*good, "b 3"]) == ["b 3"]
    assert came_back(["a 1", "b 2", "a 1", "b 2"]) == ["a 1", "b 2"]


def test_the_observer_sees_two_devices_and_two_nodes(tmp_path: Path) -> None:
    image, point = tmp_path / "v.img", tmp_path / "mounted"
    point.mkdir()
    image.write_bytes(bytes(8 << 20))
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True)
    nodes_ = [subprocess.Popen([sys.executable, "-c", LIKE_A_NODE]) for _ in range(2)]
    try:
        wait_for(lambda: all(children(node.pid) for node in nodes_), 10, "both are in namespaces of their own")
        with observed(image) as mounted:
            time.sleep(0.5)
        second = subprocess.run(["losetup", "-f", "--show", str(image)], capture_output=True, text=True, check=True)
        with observed(image) as doubled:
            time.sleep(0.2)
        subprocess.run(["losetup", "-d", second.stdout.strip()], check=True)
    finally:
        for node in nodes_:
            for child in children(node.pid):
                os.kill(child, signal.SIGKILL)
            node.wait(60)
        subprocess.run(["umount", "--lazy", str(point)], check=True)

    assert any("is mounted in" in violation for violation in mounted["violations"])
    assert any("are all over" in violation for violation in doubled["violations"])


LIKE_A_NODE = """
import ctypes, os, time
assert ctypes.CDLL(None).unshare(0x20000000 | 0x00020000) == 0  # processes, mounts
child = os.fork()
os.waitpid(child, 0) if child else time.sleep(60)
"""


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    play(tmp_path / "data", 4, seed=1)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_one_writer_at_a_time_200_times(tmp_path: Path) -> None:
    play(tmp_path / "data", RUNS_LONG, seed=int(os.environ.get("TRIMTAB_SEED", "2")))
