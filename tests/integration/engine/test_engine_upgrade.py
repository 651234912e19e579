"""A real engine under load is upgraded, upgraded to something broken, and taken back: no request fails, no container ends."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine_under_test import EngineUnderTest, engine, wait_for
from node_world import busybox_image
from release_wheel import release_wheel
from trimtab.content import ContentStore

pytestmark = [
    pytest.mark.engine,
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

HOST = "steady.localhost"
LAST_MIGRATION = '''    """,
)
"""Scripts that lead'''
MIGRATED = '''    """,
    "CREATE TABLE later (id INTEGER PRIMARY KEY);",
)
"""Scripts that lead'''
CRASHING = (
    "def controllers(settings: Settings) -> None:",
    "def controllers(settings: Settings) -> None:\n    sys.exit('it crashes')\n\n\ndef never(settings: Settings) -> None:",
)


def serve(under_test: EngineUnderTest, nodes: tuple[str, ...]) -> None:
    """A web server on each node, behind the ingress."""
    image = busybox_image(ContentStore(under_test.data / "content"))
    command = ["/bin/sh", "-c", "mkdir -p /tmp/w; echo steady > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"]
    objects: list[dict[str, Any]] = []
    for node in nodes:
        container = {
            "name": "main",
            "image": image,
            "command": command,
            "ports": [{"containerPort": 8080}],
            "readinessProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1},
        }
        spec = {"containers": [container], "nodeSelector": {"kubernetes.io/hostname": node}}
        meta = {"name": f"on-{node}", "labels": {"app": "steady"}}
        objects.append({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    ports = [{"port": 80, "targetPort": 8080}]
    objects.append(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "steady"},
            "spec": {"selector": {"app": "steady"}, "ports": ports},
        }
    )
    backend = {"service": {"name": "steady", "port": {"number": 80}}}
    rule = {"host": HOST, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    objects.append(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": "steady"},
            "spec": {"rules": [rule], "tls": [{"hosts": [HOST]}]},
        }
    )
    under_test.run("apply", "-f", "-", input="\n---\n".join(json.dumps(item) for item in objects))


def containers(under_test: EngineUnderTest) -> dict[str, tuple[str, int]]:
    """Container id and restarts of every pod that is ready."""
    found = {}
    for pod in under_test.json("get", "pods")["items"]:
        for status in pod.get("status", {}).get("containerStatuses", []):
            if status["ready"]:
                found[pod["metadata"]["name"]] = (status["containerID"], status["restartCount"])
    return found


@contextmanager
def load(under_test: EngineUnderTest) -> Iterator[list[str]]:
    """Requests one after the other, each on a connection of its own; what goes wrong comes into the list."""
    failures: list[str] = []
    served = [0]
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                answer = under_test.get(HOST)
                if answer.status != 200 or answer.text != "steady\n":
                    failures.append(f"{time.time():.1f}: {answer.status} {answer.text[:80]}")
            except OSError as err:
                failures.append(f"{time.time():.1f}: {err}")
            served[0] += 1

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert served[0] > 100


def test_an_engine_is_upgraded_and_taken_back_while_it_serves(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    migrated = {"store/sqlite_log.py": (LAST_MIGRATION, MIGRATED)}
    good = release_wheel(wheels, "0.2.0")
    broken = release_wheel(wheels, "0.3.0", migrated | {"engine/processes.py": CRASHING})
    newest = release_wheel(wheels, "0.4.0", migrated)
    with engine(tmp_path / "data", "--nodes", "2") as running:
        serve(running, ("node-1", "node-2"))
        wait_for(lambda: len(containers(running)) == 2, 60, "both pods to be ready")
        running.wait_serving(HOST)
        before = containers(running)
        envoy = running.pid("envoy")

        with load(running) as failures:
            running.run("upgrade", str(good), timeout_s=400)
            assert running.run("--version").stdout == "trimtab 0.2.0\n"
            agents = [
                line
                for line in commands()
                if line.endswith("trimtab.engine.processes\0node\0") and str(running.data) in line
            ]
            assert len(agents) == 2
            assert all("/programs/0.2.0-" in line for line in agents)
            running.run("apply", "-f", "-", input="apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept}\n")

            failed = running.run("upgrade", str(broken), "--deadline", "15", check=False, timeout_s=400)
            assert failed.returncode == 1
            assert failed.stderr == (
                "trimtab: 0.3.0 did not become healthy (controllers is waiting: it crashes): 0.2.0 serves again\n"
            )
            assert "the store is that of before the upgrade again" in failed.stdout
            assert running.run("--version").stdout == "trimtab 0.2.0\n"
            assert running.json("get", "configmap", "kept")["metadata"]["name"] == "kept"

            running.run("upgrade", str(newest), timeout_s=400)
            older = running.run("upgrade", str(good), check=False, timeout_s=400)
            assert older.stderr.startswith(
                "trimtab: 0.2.0 knows data format 1 and store format 1, the data here has 1 and 2: "
            )
            unsure = running.run("upgrade", "--back", check=False)
            assert unsure.stderr.startswith("trimtab: 0.2.0 cannot read the store that a newer version has migrated: ")
            running.run("upgrade", "--back", "--yes", timeout_s=200)
            assert running.run("--version").stdout == "trimtab 0.2.0\n"

        assert failures == []
        assert containers(running) == before
        assert running.pid("envoy") == envoy
        running.wait_timeline("returned to 0.2.0")
        running.wait_timeline("upgraded from 0.1.0 to 0.2.0 in")
        running.wait_timeline("upgrade to 0.3.0 failed (controllers is waiting: it crashes); 0.2.0 serves again")


def commands() -> list[str]:
    """The command lines of all processes."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((entry / "cmdline").read_bytes().decode(errors="replace"))
            except OSError:
                continue
    return found
