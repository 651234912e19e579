"""Uninstalling leaves the machine as it was before: two pictures of it, taken without the engine's own code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from engine_under_test import EngineUnderTest, wait_for
from machine_picture import difference, picture
from node_world import busybox_image
from trimtab.content import ContentStore

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def _app(image: str) -> list[object]:
    """Some of everything that leaves traces on a machine: pods with volumes, services of each type, policies, an ingress."""
    labels = {"app": "web"}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    container = {
        "name": "main",
        "image": image,
        "command": ["httpd", "-f", "-p", "8080"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "memory", "mountPath": "/memory"}],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    }
    stateful = {
        "replicas": 2,
        "serviceName": "web",
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {
                "containers": [container],
                "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}],
                "terminationGracePeriodSeconds": 1,
            },
        },
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
    }
    port = {"name": "http", "port": 80, "targetPort": 8080}
    backend = {"service": {"name": "web", "port": {"name": "http"}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    return [
        _object("apps/v1", "StatefulSet", "web", stateful),
        _object("v1", "Service", "web", {"selector": labels, "ports": [port]}),
        _object("v1", "Service", "open", {"selector": labels, "ports": [port], "type": "NodePort"}),
        _object(
            "networking.k8s.io/v1", "NetworkPolicy", "web", {"podSelector": {"matchLabels": labels}, "ingress": []}
        ),
        _object(
            "networking.k8s.io/v1",
            "Ingress",
            "web",
            {"tls": [{"hosts": ["web.localhost"]}], "rules": [{"host": "web.localhost", "http": {"paths": paths}}]},
        ),
    ]


def _object(api_version: str, kind: str, name: str, spec: object) -> dict[str, object]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize("flags", [[], ["--nodes", "2"]], ids=["one node", "two nodes"])
def test_after_uninstall_the_machine_is_as_it_was(tmp_path: Path, flags: list[str]) -> None:
    under_test = EngineUnderTest(tmp_path / "data")
    before = picture()
    try:
        under_test.start(*flags)
        own = (json.loads((under_test.data / "engine.json").read_text())["id"], str(under_test.data))
        image = busybox_image(ContentStore(under_test.data / "content"))
        for made in _app(image):
            under_test.run("apply", "-f", "-", input=json.dumps(made))
        wait_for(
            lambda: under_test.json("get", "statefulset", "web").get("status", {}).get("readyReplicas") == 2,
            60,
            "both pods are ready",
        )
        came, _ = difference(before, picture(), own)
        assert {line.split()[0] for line in came} >= {"mount", "ip", "nft", "unix", "cgroup", "file", "process"}
    finally:
        done = under_test.run("uninstall", "--yes")

    assert difference(before, picture(), own) == ([], []), done.stdout
    assert not under_test.data.exists()
    assert not shutil.which("systemctl") or "trimtab" not in _units()


def _units() -> str:
    return subprocess.run(["systemctl", "list-unit-files"], capture_output=True, text=True, check=False).stdout
