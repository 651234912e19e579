"""The walkthrough of the Kubernetes documentation on horizontal pod autoscaling: a server that computes, load, more servers; and a
metric of the pods' own. Also `kubectl top`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from engine_under_test import EngineUnderTest, engine, wait_for
from node_world import busybox_image
from trimtab.content import ContentStore

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

COMPUTE = "#!/bin/sh\\nprintf 'Content-Type: text/plain\\\\n\\\\n'\\ni=0\\nwhile [ $i -lt 20000 ]; do i=$((i+1)); done\\necho OK!"
SERVE = (
    f'mkdir -p /tmp/w/cgi-bin; printf "{COMPUTE}" > /tmp/w/cgi-bin/index; chmod +x /tmp/w/cgi-bin/index; '
    "echo queue_length 30 > /tmp/w/metrics; exec httpd -f -p 8080 -h /tmp/w"
)
LOAD = (
    "while true; do exec 3<>/dev/tcp/php-apache/80; printf 'GET /cgi-bin/index HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3; done"
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with engine(tmp_path_factory.mktemp("autoscaling") / "data") as made:
        yield made


@pytest.fixture(scope="module")
def image(running: EngineUnderTest) -> str:
    return busybox_image(ContentStore(running.data / "content"))


def kubectl(running: EngineUnderTest, *args: str) -> str:
    config = running.data / "admin.kubeconfig"
    done = subprocess.run(
        ["kubectl", f"--kubeconfig={config}", f"--cache-dir={running.data / 'kubectl'}", *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def apply(running: EngineUnderTest, *objects: dict[str, Any]) -> None:
    for body in objects:
        running.run("apply", "-f", "-", input=json.dumps(body))


def deployment(name: str, image: str, command: str, **template: Any) -> dict[str, Any]:
    main = {
        "name": name,
        "image": image,
        "command": ["/bin/bash", "-c", command],
        "ports": [{"containerPort": 8080}],
        "resources": {"limits": {"cpu": "500m"}, "requests": {"cpu": "200m"}},
    }
    labels = {"run": name}
    spec = {"containers": [main], "terminationGracePeriodSeconds": 1}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels, **template}, "spec": spec},
        },
    }


def autoscaler(name: str, most: int, metric: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": 1,
            "maxReplicas": most,
            "metrics": [metric],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 15}},
        },
    }


def size(running: EngineUnderTest, name: str) -> int:
    found = json.loads(running.run("get", "deployment", name, "-n", "default", "-o", "json").stdout)
    return int(found["status"].get("readyReplicas", 0))


def test_load_brings_more_servers_and_its_end_fewer(running: EngineUnderTest, image: str) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "php-apache", "namespace": "default"},
        "spec": {"selector": {"run": "php-apache"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}
    apply(running, deployment("php-apache", image, SERVE), service)
    apply(running, autoscaler("php-apache", 3, {"type": "Resource", "resource": cpu}))
    load = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "load-generator", "namespace": "default"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": image, "command": ["/bin/bash", "-c", LOAD]}],
        },
    }
    wait_for(lambda: size(running, "php-apache") == 1, 30, "the server is ready")
    apply(running, load)

    wait_for(lambda: size(running, "php-apache") == 3, 240, "three servers share the load")
    assert "cpu: " in kubectl(running, "get", "hpa", "php-apache")
    described = kubectl(running, "describe", "hpa", "php-apache")
    assert "New size:" in described
    assert "reason: cpu resource utilization (percentage of request) above target" in described
    top = kubectl(running, "top", "pods", "--containers")
    assert "load-generator" in top
    assert "php-apache" in top
    assert "node-1" in kubectl(running, "top", "nodes")

    running.run("delete", "pod", "load-generator", "-n", "default")
    wait_for(lambda: size(running, "php-apache") == 1, 180, "one server is enough again")


def test_a_metric_of_the_pods_own(running: EngineUnderTest, image: str) -> None:
    notes = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}
    queue = {"metric": {"name": "queue_length"}, "target": {"type": "AverageValue", "averageValue": "10"}}
    apply(running, deployment("worker", image, SERVE, annotations=notes))
    wait_for(lambda: size(running, "worker") == 1, 30, "the worker is ready")

    apply(running, autoscaler("worker", 4, {"type": "Pods", "pods": queue}))

    wait_for(lambda: size(running, "worker") == 4, 150, "more workers, as long as their queues are too long")
    said = json.loads(running.run("get", "hpa", "worker", "-n", "default", "-o", "json").stdout)["status"]
    assert said["currentMetrics"][0]["pods"]["current"] == {"averageValue": "30"}
