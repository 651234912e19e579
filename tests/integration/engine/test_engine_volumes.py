"""Volumes of class `block` on a whole engine: they keep their data over a stop, grow, are copied, and leave nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from engine_under_test import EngineUnderTest, engine, wait_for
from node_world import busybox_image
from trimtab.content import ContentStore

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with engine(tmp_path_factory.mktemp("volumes") / "data") as made:
        yield made


def claim(name: str, size: str, **spec: Any) -> dict[str, Any]:
    wanted = {"accessModes": ["ReadWriteOnce"], "storageClassName": "block", **spec}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"resources": {"requests": {"storage": size}}, **wanted},
    }


def pod(running: EngineUnderTest, name: str, *claims: str) -> dict[str, Any]:
    """A pod with those claims, each at /CLAIM."""
    container = {
        "name": "main",
        "image": busybox_image(ContentStore(running.data / "content")),
        "command": ["/bin/sh", "-c", "trap exit TERM; while :; do sleep 0.1; done"],
        "volumeMounts": [{"name": each, "mountPath": f"/{each}"} for each in claims],
    }
    volumes = [{"name": each, "persistentVolumeClaim": {"claimName": each}} for each in claims]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"terminationGracePeriodSeconds": 2, "containers": [container], "volumes": volumes},
    }


def apply(running: EngineUnderTest, *bodies: dict[str, Any]) -> None:
    running.run("apply", "-f", "-", input="\n---\n".join(json.dumps(body) for body in bodies))


def get(running: EngineUnderTest, *what: str) -> Any:
    done = running.run("get", *what, "-n", "default", "-o", "json", check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def ready(running: EngineUnderTest, name: str) -> bool:
    found = get(running, "pod", name) or {}
    return any(c["type"] == "Ready" and c["status"] == "True" for c in found.get("status", {}).get("conditions", ()))


def container(running: EngineUnderTest, name: str) -> str:
    """The id of the container that the pod's status shows."""
    statuses = (get(running, "pod", name) or {}).get("status", {}).get("containerStatuses") or [{}]
    return str(statuses[0].get("containerID", ""))


def shell(running: EngineUnderTest, name: str, command: str) -> str:
    return running.run("exec", "-n", "default", name, "--", "sh", "-c", command).stdout.strip()


def loops(running: EngineUnderTest) -> str:
    said = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout
    return "\n".join(line for line in said.splitlines() if str(running.data) in line)


def megabytes(running: EngineUnderTest, name: str, path: str) -> int:
    return int(shell(running, name, f"df -m {path} | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2"))


def test_data_survives_a_stop_and_no_device_does(running: EngineUnderTest) -> None:
    apply(running, claim("data", "64Mi"), pod(running, "db", "data"))
    wait_for(lambda: ready(running, "db"), 30, "the pod is ready")
    shell(running, "db", "echo kept > /data/note")
    before = container(running, "db")

    running.run("stop")
    assert loops(running) == ""
    running.start()

    wait_for(lambda: container(running, "db") != before and ready(running, "db"), 30, "the pod is ready again")
    assert shell(running, "db", "cat /data/note") == "kept"
    assert 50 <= megabytes(running, "db", "/data") <= 64


def test_a_snapshot_is_restored_into_a_larger_volume(running: EngineUnderTest) -> None:
    snapshot = {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {"name": "then", "namespace": "default"},
        "spec": {"source": {"persistentVolumeClaimName": "data"}},
    }
    apply(running, snapshot)
    wait_for(lambda: (get(running, "volumesnapshot", "then")["status"] or {}).get("readyToUse"), 20, "it is ready")
    shell(running, "db", "echo later > /data/note")
    source = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "then"}
    clone = {"kind": "PersistentVolumeClaim", "name": "data"}

    apply(running, claim("restored", "128Mi", dataSource=source), claim("cloned", "64Mi", dataSource=clone))
    apply(running, pod(running, "reader", "restored", "cloned"))

    wait_for(lambda: ready(running, "reader"), 30, "the reader is ready")
    assert shell(running, "reader", "cat /restored/note /cloned/note") == "kept\nlater"
    assert megabytes(running, "reader", "/restored") > 100


@pytest.mark.skipif(shutil.which("mkfs.xfs") is None, reason="needs xfsprogs")
def test_xfs_grows_under_a_running_pod_and_shrinks_never(running: EngineUnderTest) -> None:
    fast = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "xfs"},
        "provisioner": "block.trimtab.dev",
        "parameters": {"csi.storage.k8s.io/fstype": "xfs"},
        "allowVolumeExpansion": True,
    }
    apply(running, fast, claim("grows", "300Mi", storageClassName="xfs"), pod(running, "big", "grows"))
    wait_for(lambda: ready(running, "big"), 30, "the pod is ready")
    started = get(running, "pod", "big")["status"]["containerStatuses"][0]["state"]

    apply(running, claim("grows", "500Mi", storageClassName="xfs"))

    wait_for(lambda: megabytes(running, "big", "/grows") > 400, 20, "the file system is larger")
    wait_for(lambda: get(running, "pvc", "grows")["status"]["capacity"]["storage"] == "500Mi", 10, "the claim says so")
    assert get(running, "pod", "big")["status"]["containerStatuses"][0]["state"] == started
    body = json.dumps(claim("grows", "400Mi", storageClassName="xfs"))
    refused = running.run("apply", "-f", "-", input=body, check=False)
    assert "field can not be less than previous value: 500Mi is allocated, 400Mi was asked for" in refused.stderr


def test_a_pod_that_has_ended_lets_go_of_its_volume(running: EngineUnderTest) -> None:
    once = pod(running, "once", "task")
    once["spec"] |= {"restartPolicy": "Never"}
    once["spec"]["containers"][0]["command"] = ["/bin/sh", "-c", "echo done > /task/note"]

    apply(running, claim("task", "16Mi"), once)

    wait_for(lambda: (get(running, "pod", "once") or {}).get("status", {}).get("phase") == "Succeeded", 30, "it ended")
    volume = get(running, "pvc", "task")["spec"]["volumeName"]
    wait_for(lambda: volume not in loops(running), 10, "its volume is not mounted any more")
    wait_for(lambda: volume not in json.dumps(get(running, "volumeattachments")["items"]), 10, "nor attached")


def test_what_is_deleted_leaves_no_image(running: EngineUnderTest) -> None:
    names = [pod["metadata"]["name"] for pod in get(running, "pods")["items"]]
    for kind, some in (("pod", names), ("volumesnapshot", ["then"])):
        for name in some:
            running.run("delete", kind, name, "-n", "default")
    for one in get(running, "pvc")["items"]:
        running.run("delete", "pvc", one["metadata"]["name"], "-n", "default")

    wait_for(lambda: not list((running.data / "volumes").rglob("*.*")), 30, "images and leave are gone")
    assert loops(running) == ""
    assert get(running, "volumeattachments")["items"] == []
