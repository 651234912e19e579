"""Three nodes on one machine: pods on all of them reach each other, and one is destroyed with its disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine_under_test import EngineUnderTest, engine, wait_for
from node_world import busybox_image
from trimtab.content import ContentStore
from trimtab.engine import datadir, fencing, nodes

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

NAMES = ("node-1", "node-2", "node-3")
SERVE = "mkdir -p /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"
SERVES_AGAIN_S_MAX = 10.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with engine(tmp_path_factory.mktemp("nodes") / "data", "--nodes", "3", "--node-lease", "4") as made:
        image = busybox_image(ContentStore(made.data / "content"))
        for name in NAMES:
            apply(made, pod(f"on-{name}", image, name))
        wait_for(lambda: all(ready(made, f"on-{name}") for name in NAMES), 60, "a pod on each node is ready")
        yield made


def pod(name: str, image: str, node: str, **spec: Any) -> dict[str, Any]:
    main = {"name": "main", "image": image, "command": ["/bin/sh", "-c", SERVE]}
    selector = {"kubernetes.io/hostname": node}
    body = {"containers": [main], "nodeSelector": selector, "terminationGracePeriodSeconds": 1, **spec}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": body,
    }


def apply(running: EngineUnderTest, body: dict[str, Any]) -> None:
    running.run("apply", "-f", "-", input=json.dumps(body))


def get(running: EngineUnderTest, *what: str) -> Any:
    done = running.run("get", *what, "-n", "default", "-o", "json", check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def condition(obj: Any, kind: str) -> dict[str, Any]:
    found = (obj or {}).get("status", {}).get("conditions", [])
    return next((c for c in found if c["type"] == kind), {})


def ready(running: EngineUnderTest, name: str) -> bool:
    return condition(get(running, "pod", name), "Ready").get("status") == "True"


def listed(running: EngineUnderTest) -> dict[str, Any]:
    return {row["name"]: row for row in json.loads(running.run("node", "list", "-o", "json").stdout)}


def ask(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}:8080/", timeout=5) as answer:
        return str(answer.read().decode().strip())


def test_pods_of_every_node_are_reached_from_the_machine_and_from_each_other(running: EngineUnderTest) -> None:
    addresses = {name: get(running, "pod", f"on-{name}")["status"]["podIP"] for name in NAMES}

    assert {name: ask(address) for name, address in addresses.items()} == {name: f"on-{name}" for name in NAMES}
    for source, target in (("node-2", "node-3"), ("node-3", "node-1"), ("node-1", "node-2")):
        request = f"exec 3<>/dev/tcp/{addresses[target]}/8080; echo -e 'GET / HTTP/1.0\\n' >&3; cat <&3"
        said = running.run("exec", "-n", "default", f"on-{source}", "--", "bash", "-c", request).stdout
        assert f"on-{target}" in said


def test_each_node_has_a_network_a_disk_and_processes_of_its_own(running: EngineUnderTest) -> None:
    rows = listed(running)

    assert [rows[name]["ready"] for name in NAMES] == ["Ready"] * 3
    assert len({row["pods"] for row in rows.values()}) == 3
    further = [rows["node-2"], rows["node-3"]]
    assert len({os.readlink(f"/proc/{row['pid']}/ns/{ns}") for row in further for ns in ("pid", "mnt", "net")}) == 6
    assert all(row["disk_bytes"] for row in further)


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
}


def asked_from(running: EngineUnderTest, source: str, host: str, port: int) -> str:
    """What a pod is answered over TCP; "" when it is not."""
    request = f"exec 3<>/dev/tcp/{host}/{port} && echo -e 'GET / HTTP/1.0\\n' >&3 && tail -n 1 <&3"
    command = ["exec", "-n", "default", source, "--", "timeout", "3", "bash", "-c", request]
    return running.run(*command, check=False).stdout.strip()


def test_a_service_leads_to_pods_of_all_nodes_from_each_of_them(running: EngineUnderTest) -> None:
    apply(running, SERVICE)
    address = get(running, "service", "web")["spec"]["clusterIP"]

    for source in ("node-2", "node-1"):
        seen: set[str] = set()

        def all_answer(source: str = source, seen: set[str] = seen) -> bool:
            seen.add(asked_from(running, f"on-{source}", address, 80))
            return {f"on-{name}" for name in NAMES} <= seen

        wait_for(all_answer, 60, f"pods of all nodes answer {source}")


def test_a_policy_holds_between_nodes(running: EngineUnderTest) -> None:
    image = busybox_image(ContentStore(running.data / "content"))
    friend = pod("friend", image, "node-3")
    friend["metadata"]["labels"] = {"app": "friend"}
    guarded = pod("guarded", image, "node-2")
    guarded["metadata"]["labels"] = {"app": "guarded"}
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "friends-only", "namespace": "default"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "guarded"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}],
        },
    }
    for body in (friend, guarded, policy):
        apply(running, body)
    wait_for(lambda: ready(running, "friend") and ready(running, "guarded"), 30, "both are ready")
    address = get(running, "pod", "guarded")["status"]["podIP"]

    wait_for(
        lambda: asked_from(running, "on-node-3", address, 8080) == "", 10, "strangers of another node are shut out"
    )
    assert asked_from(running, "friend", address, 8080) == "guarded"
    assert asked_from(running, "on-node-2", address, 8080) == "", "strangers of its own node, too"


def test_a_node_is_removed_only_as_budgets_allow(running: EngineUnderTest) -> None:
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "friends", "namespace": "default"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "friend"}}},
    }
    apply(running, budget)

    done = running.run("node", "remove", "node-3", "--timeout", "2", check=False)

    assert done.returncode == 1
    assert "node-3 was not removed, since after 2 s pod default/friend may not be evicted: " in done.stderr
    assert done.stderr.rstrip().endswith("try again later, or give --force")
    assert not get(running, "node", "node-3")["spec"].get("unschedulable")
    running.run("delete", "poddisruptionbudget", "friends", "-n", "default")


def test_a_node_that_is_not_there_cannot_be_destroyed(running: EngineUnderTest) -> None:
    done = running.run("node", "kill", "node-9", check=False)
    own = running.run("node", "kill", "node-1", check=False)

    assert (done.returncode, own.returncode) == (1, 1)
    assert "there is no node node-9; further nodes: node-2, node-3" in done.stderr
    assert "node-1 is this machine itself and cannot be taken away: `trimtab stop` stops the engine" in own.stderr


def test_pods_and_volumes_of_a_destroyed_node(running: EngineUnderTest) -> None:
    image = busybox_image(ContentStore(running.data / "content"))
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    }
    apply(running, claim)
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    apply(running, pod("db", image, "node-3", volumes=volumes))
    wait_for(lambda: ready(running, "db"), 30, "the database is ready")
    settings = datadir.load(running.data)
    process = fencing.first_process(settings, "node-3")
    assert process is not None
    namespace = os.readlink(f"/proc/{process.pid}/ns/pid")

    said = running.run("node", "kill", "node-3").stdout

    assert "node-3 destroyed after" in said
    assert namespace not in namespaces()
    assert not nodes.disk_image(settings, "node-3").exists()
    assert (
        str(nodes.disk_image(settings, "node-3"))
        not in subprocess.run(["losetup", "-a"], capture_output=True, text=True).stdout
    )
    wait_for(lambda: get(running, "pod", "db") is None, SERVES_AGAIN_S_MAX, "its pods are gone")
    wait_for(lambda: "node-3" not in listed(running), 10, "the node is gone")
    apply(running, pod("db", image, "node-2", volumes=volumes))
    wait_for(lambda: condition(get(running, "pod", "db"), "PodScheduled").get("message"), 10, "it says why")
    name = get(running, "pvc", "data")["spec"]["volumeName"]
    assert condition(get(running, "pod", "db"), "PodScheduled")["message"] == (
        f'persistentvolumeclaim "data": volume {name} died with node node-3: its data is gone; restore a backup, or '
        "delete the claim and the pod to begin with an empty volume"
    )
    running.wait_timeline('persistentvolumeclaim "data"', f"volume {name} died with node node-3: its data is gone")
    assert (
        f"volume {name} died with node node-3: its data is gone" in running.run("why", "pod/db", "-n", "default").stdout
    )
    assert ready(running, "on-node-2")


def test_a_node_whose_disk_and_processes_went_by_other_means(running: EngineUnderTest) -> None:
    settings = datadir.load(running.data)
    process = fencing.first_process(settings, "node-2")
    assert process is not None

    nodes.disk_image(settings, "node-2").unlink()
    os.kill(process.pid, signal.SIGKILL)

    running.wait_timeline("nothing of node-2 runs and its disk is gone", timeout_s=60)
    wait_for(lambda: get(running, "pod", "on-node-2") is None, SERVES_AGAIN_S_MAX, "its pods are gone")
    wait_for(lambda: get(running, "node", "node-2") is None, 10, "the node is gone")
    running.run("node", "remove", "node-2")


def namespaces() -> set[str]:
    """The process namespaces of all processes of this machine."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found.add(os.readlink(entry / "ns/pid"))
        except OSError:
            continue
    return found
