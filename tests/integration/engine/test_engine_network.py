"""Pods of a real engine reach its API under its service address, and nobody else does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine_under_test import EngineUnderTest, engine, wait_for
from node_world import busybox_image
from trimtab.content import ContentStore
from trimtab.engine import datadir

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

CLIENT = """
import sys, kubernetes
host, ca, token = sys.argv[1:]
made = kubernetes.client.Configuration(host=host)
made.ssl_ca_cert = ca
made.api_key["authorization"] = "Bearer " + token
core = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(made))
print([pod.metadata.name for pod in core.list_namespaced_pod("default").items])
try:
    core.list_namespaced_secret("default")
except kubernetes.client.ApiException as err:
    print(err.status)
"""
"""What a program in a pod does: reads what its account may read, and is refused the rest."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with engine(tmp_path_factory.mktemp("network") / "data") as made:
        yield made


@pytest.fixture(scope="module")
def pod(running: EngineUnderTest) -> int:
    """The process id of a pod's container."""
    image = busybox_image(ContentStore(running.data / "content"))
    main = {"name": "main", "image": image, "command": ["/bin/sh", "-c", "exec httpd -f -p 8000 -h /tmp"]}
    kubectl(
        running, {"kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {"containers": [main]}}
    )

    def ready() -> str:
        done = running.run("get", "pod", "web", "-o", "json", check=False)
        status = json.loads(done.stdout).get("status", {}) if done.returncode == 0 else {}
        return next((s["containerID"] for s in status.get("containerStatuses", ()) if s["ready"]), "")

    ident = wait_for(ready, 30, "the pod is ready").removeprefix("containerd://")
    return process_of(ident)


def process_of(container: str) -> int:
    """The first process in the container's cgroup."""
    [procs, *_] = Path("/sys/fs/cgroup").glob(f"**/{container}/cgroup.procs")
    return int(procs.read_text().split()[0])


def kubectl(under_test: EngineUnderTest, body: dict[str, Any], api_version: str = "v1") -> None:
    under_test.run("apply", "-f", "-", input=json.dumps({"apiVersion": api_version, **body}))


def inside(pid: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in the pod's network, with the machine's files."""
    line = ["nsenter", "-t", str(pid), "-n", *command]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)


def token_of(under_test: EngineUnderTest) -> str:
    made = subprocess.run(
        ["kubectl", "--kubeconfig", str(under_test.data / "admin.kubeconfig"), "create", "token", "default"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return made.stdout.strip()


def asked(under_test: EngineUnderTest, pid: int, host: str, token: str) -> list[str]:
    ca = str(under_test.data / "pki" / "ca.crt")
    done = inside(pid, sys.executable, "-c", CLIENT, host, ca, token)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split("\n")[:2]


def test_a_pod_asks_the_api_with_its_accounts_rights(running: EngineUnderTest, pod: int) -> None:
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    rbac = "rbac.authorization.k8s.io"
    kubectl(running, {"kind": "Role", "metadata": {"name": "reader"}, "rules": rules}, f"{rbac}/v1")
    binding = {
        "kind": "RoleBinding",
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
    }
    kubectl(running, binding, f"{rbac}/v1")
    service = running.json("get", "service", "kubernetes")["spec"]["clusterIP"]
    token = token_of(running)
    assert asked(running, pod, f"https://{service}:443", token) == ["['web']", "403"]
    refused = inside(
        pod, "curl", "-sk", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", f"https://{service}/api/v1/pods"
    )
    assert refused.stdout in ("401", "403"), "without a token nothing is told"


IN_CLUSTER = """
import os, sys, kubernetes
from kubernetes.config.incluster_config import InClusterConfigLoader
root = f"/proc/{sys.argv[1]}/root/var/run/secrets/kubernetes.io/serviceaccount/"
said = dict(entry.split("=", 1) for entry in open(f"/proc/{sys.argv[1]}/environ").read().split("\\0") if entry)
InClusterConfigLoader(root + "token", root + "ca.crt", environ=said).load_and_set()
core = kubernetes.client.CoreV1Api()
try:
    print(core.list_namespaced_pod(open(root + "namespace").read()).items[0].metadata.name)
    core.list_namespaced_secret("default")
except kubernetes.client.ApiException as err:
    print(err.status)
"""
"""As a program in the pod would: with what is mounted and in its environment."""


def test_a_pod_knows_who_it_is_and_its_token_dies_with_it(running: EngineUnderTest, pod: int) -> None:
    done = inside(pod, sys.executable, "-c", IN_CLUSTER, str(pod))
    assert done.stdout.split() == ["web", "403"], done.stderr[-2000:]

    main = {"name": "main", "image": busybox_image(ContentStore(running.data / "content")), "command": ["/bin/true"]}
    spec = {"restartPolicy": "Never", "containers": [main]}
    kubectl(running, {"kind": "Pod", "metadata": {"name": "short"}, "spec": spec})
    wait_for(lambda: running.json("get", "pod", "short")["status"]["phase"] == "Succeeded", 20, "the pod ends")
    uid = running.json("get", "pod", "short")["metadata"]["uid"]
    [file] = (datadir.load(running.data).run_path("pods") / uid).glob("kube-api-access-*/token")
    token = file.read_text()
    service = running.json("get", "service", "kubernetes")["spec"]["clusterIP"]

    def answer() -> str:
        header = f"Authorization: Bearer {token}"
        url = f"https://{service}/version"
        return inside(pod, "curl", "-sk", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "-H", header, url).stdout

    assert answer() == "200"
    running.run("delete", "pod", "short")
    wait_for(lambda: answer() == "401", 10, "the token is refused")


def test_the_api_is_back_for_pods_after_each_process_was_killed(running: EngineUnderTest, pod: int) -> None:
    service = running.json("get", "service", "kubernetes")["spec"]["clusterIP"]
    for name in ("api", "node"):
        os.kill(running.pid(name), 9)

        def answers() -> bool:
            return inside(pod, "curl", "-sk", "-m", "1", f"https://{service}/version").stdout.startswith("{")

        wait_for(answers, 15, f"the API answers pods after the end of {name}")


def test_nobody_outside_reaches_api_pods_or_services(running: EngineUnderTest, pod: int) -> None:
    settings = datadir.load(running.data)
    kubectl(
        running,
        {
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8000}]},
        },
    )
    spec = running.json("get", "service", "web")["spec"]
    node_port = spec["ports"][0]["nodePort"]
    name = f"out-{settings.id}"
    link, far = f"o{settings.id}", "198.18.77.2"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, timeout=60)

    ip("netns", "add", name)
    try:
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("address", "add", "198.18.77.1/24", "dev", link)
        ip("link", "set", link, "up")
        ip("-n", name, "address", "add", f"{far}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "route", "add", "default", "via", "198.18.77.1")

        def opens(host: str, port: int, where: list[str]) -> bool:
            script = f"timeout 1 bash -c 'exec 3<>/dev/tcp/{host}/{port}'"
            return subprocess.run([*where, "bash", "-c", script], capture_output=True, check=False).returncode == 0

        outside = ["nsenter", f"--net=/run/netns/{name}"]
        pod_ip = running.json("get", "pod", "web")["status"]["podIP"]
        ways = {
            (settings.gateway, settings.api_port): "the API on the gateway",
            (pod_ip, 8000): "the pod",
            (spec["clusterIP"], 80): "the service",
            ("198.18.77.1", node_port): "the node port",
        }
        for (host, port), what in ways.items():
            wait_for(lambda host=host, port=port: opens(host, port, []), 10, f"this machine reaches {what}")
            assert not opens(host, port, outside), f"the world outside reaches {what}"
    finally:
        ip("netns", "delete", name)
        subprocess.run(["ip", "link", "delete", link], capture_output=True, check=False, timeout=60)
