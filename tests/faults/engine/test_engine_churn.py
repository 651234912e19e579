"""A real engine under churn: apps come, change and go, and what the engine holds on this machine stays the same.

One round is what a team does in ten minutes: an app with its volumes, Service and Ingress is applied, asked, entered, rolled out,
scaled, broken by a bad image, and deleted. 144 rounds are a day.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine_under_test import EngineUnderTest, engine, wait_for
from node_world import busybox_image
from trimtab.content import ContentStore
from trimtab.engine import datadir
from trimtab.runtime.settings import Settings

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

WARM_UP = 3
"""Rounds before the first look: caches fill, modules are imported."""
MEMORY_GROWTH_MAX_BYTES = 60_000
"""A process may grow by so much each round of the second half, when caches are full: allocators are uneven, and a real leak is
of at least some objects with their fields."""
EVENT_BYTES = 4096
"""Of the API's memory for an Event. They live for an hour, and a day's rounds are done in less."""
SETTLED_S = 60.0
FORGOTTEN_S = 240.0
"""What is looked at now and then has been looked at after this time, on a slow machine, too."""
LABELS = {"app": "churn"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with engine(tmp_path_factory.mktemp("churn") / "data") as made:
        yield made


def manifest(image: str, version: int, replicas: int) -> list[dict[str, Any]]:
    container = {
        "name": "main",
        "image": image,
        "command": ["sh", "-c", f"echo version {version} > /memory/index.html; exec httpd -f -p 8080 -h /memory"],
        "envFrom": [{"configMapRef": {"name": "churn"}}],
        "readinessProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1},
        "volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in ("memory", "scratch", "words", "data")],
    }
    volumes = [
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "words", "secret": {"secretName": "churn"}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "churn"}},
    ]
    template = {
        "metadata": {"labels": LABELS},
        "spec": {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 1},
    }
    backend = {"service": {"name": "churn", "port": {"number": 80}}}
    rule = {"host": "churn.localhost", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": template}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    return [
        named("v1", "ConfigMap", data={"VERSION": str(version)}),
        named("v1", "Secret", stringData={"word": "swordfish"}),
        named("v1", "PersistentVolumeClaim", spec=claim),
        named("v1", "Service", spec={"selector": LABELS, "ports": [{"port": 80, "targetPort": 8080}]}),
        named("apps/v1", "Deployment", spec=spec),
        named("networking.k8s.io/v1", "Ingress", spec={"tls": [{"hosts": ["churn.localhost"]}], "rules": [rule]}),
    ]


def named(api_version: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "churn"}, **fields}


def apply(running: EngineUnderTest, objects: list[dict[str, Any]]) -> None:
    running.run("apply", "-f", "-", input="\n---\n".join(json.dumps(obj) for obj in objects))


def one_round(running: EngineUnderTest, image: str) -> None:
    apply(running, manifest(image, 1, replicas=1))
    served(running, "version 1")
    pod = pods(running)[0]["metadata"]["name"]
    assert "swordfish" in running.run("exec", pod, "--", "cat", "/words/word").stdout
    running.run("logs", pod)
    apply(running, manifest(image, 2, replicas=2))
    served(running, "version 2")
    apply(running, manifest("registry.invalid/nothing:1", 3, replicas=2))
    served(running, "version 2")
    running.run("token", "create", "churn", "-o", "token")
    running.run("token", "revoke", "churn")
    for kind in ("ingress", "service", "deployment", "persistentvolumeclaim", "configmap", "secret"):
        running.run("delete", kind, "churn")
    wait_for(lambda: not pods(running), SETTLED_S, "the pods are gone")


def pods(running: EngineUnderTest) -> list[dict[str, Any]]:
    found = json.loads(running.run("get", "pods", "-l", "app=churn", "-o", "json").stdout)
    return list(found.get("items", []))


def served(running: EngineUnderTest, text: str) -> None:
    def answer() -> bool:
        found = running.serves("churn.localhost")
        return found is not None and text in found.text

    wait_for(answer, SETTLED_S, f"{text!r} is served")


def held(running: EngineUnderTest) -> dict[str, int]:
    """What the engine has of each thing that could leak."""
    settings = datadir.load(running.data)
    processes = {line["name"]: line["pid"] for line in running.json("status")["processes"]}
    found = {f"{name}: files": len(os.listdir(f"/proc/{pid}/fd")) for name, pid in processes.items()}
    found |= {
        f"{name}: threads": len(os.listdir(f"/proc/{pid}/task"))
        for name, pid in processes.items()
        if name != "containerd"
    }
    marks = (settings.id, str(running.data), settings.run)
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found["mounts"] = sum(any(mark in line for mark in marks) for line in mounts)
    sockets = Path("/proc/net/unix").read_text().splitlines()
    found["named sockets"] = sum(any(mark in line for mark in marks) for line in sockets)
    found["cgroups"] = sum(settings.id in base for base, _, _ in os.walk("/sys/fs/cgroup"))
    found["rules"] = len(ruleset(settings))
    found["links"] = sum(
        settings.id in line
        for line in subprocess.run(["ip", "-d", "link"], capture_output=True, text=True, check=True).stdout.splitlines()
    )
    for folder in ("node", "proxy", "content"):
        found[f"entries of {folder}"] = len(entries(running.data / folder))
    found["entries of run"] = len(entries(settings.run))
    return found


def entries(folder: str | Path) -> set[str]:
    return {os.path.join(base, name) for base, folders, files in os.walk(folder) for name in (*folders, *files)}


def ruleset(settings: Settings) -> list[str]:
    text = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    tables = re.split(r"(?m)^(?=table )", text)
    return [line for table in tables if settings.id in table.partition("\n")[0] for line in table.splitlines()]


def memory_bytes(running: EngineUnderTest) -> dict[str, int]:
    """The processes' own memory, by name; without that of Events."""
    sizes = {}
    for line in running.json("status")["processes"]:
        text = Path(f"/proc/{line['pid']}/smaps_rollup").read_text()
        sizes[line["name"]] = sum(int(kb) for kb in re.findall(r"(?m)^Private_Dirty: +(\d+)", text)) * 1024
    sizes["api"] -= EVENT_BYTES * len(running.json("get", "events", "-A")["items"])
    return sizes


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("rounds", [pytest.param(5, id="5"), pytest.param(144, id="a day", marks=pytest.mark.long)])
def test_churn_leaves_the_engine_as_it_was(running: EngineUnderTest, rounds: int) -> None:
    image = busybox_image(ContentStore(running.data / "content"))
    for _ in range(WARM_UP):
        one_round(running, image)
    before, kept_before, memory_before = held(running), entries(running.data / "node"), memory_bytes(running)

    half = memory_before
    for done in range(1, rounds + 1):
        one_round(running, image)
        if done == rounds // 2:
            half = memory_bytes(running)

    def grown() -> dict[str, tuple[int, int]]:
        slack = max(2, rounds // 10)  # a connection that is kept for a while; what leaks, leaks in every round
        return {what: (before.get(what, 0), n) for what, n in held(running).items() if n > before.get(what, 0) + slack}

    wait_for(
        lambda: not grown(),
        FORGOTTEN_S,
        lambda: f"no more than before: {grown()}; new: {sorted(entries(running.data / 'node') - kept_before)}",
    )
    memory = memory_bytes(running)
    first, second = (
        {name: (after[name] - start[name]) // (rounds // 2) for name in memory}
        for start, after in ((memory_before, half), (half, memory))
    )
    print("bytes a round, first half:", first, "second half:", second, sep="\n")
    if rounds > 100:
        assert all(grew <= MEMORY_GROWTH_MAX_BYTES for grew in second.values()), second
