"""Throw-away clusters side by side, and whoever is killed, nothing of them is left."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from engine_at_rest import engine_at_rest, write
from engine_under_test import TRIMTAB, wait_for
from machine_picture import difference, picture
from node_world import busybox_image
from trimtab.content import ContentStore
from trimtab.engine import datadir
from trimtab.engine.pki import new_authority

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

DEADLINE_S = 150


class Home:
    """A directory of clusters, used through the command only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def argv(self, *arguments: str) -> list[str]:
        return [str(TRIMTAB), "cluster", "--clusters", str(self.path), *arguments]

    def run(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.argv(*arguments), capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def list(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("list", "-o", "json").stdout)
        return found

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.path.glob("[!.]*/cluster.json"))]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path / "clusters")
    yield made
    made.run("delete", "--all")


def kubectl(kubeconfig: str, *arguments: str) -> str:
    done = subprocess.run(
        ["kubectl", "--kubeconfig", kubeconfig, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_clusters_live_side_by_side_and_go_with_the_run_that_is_killed(home: Home, tmp_path: Path) -> None:
    variant = tmp_path / "corp.yaml"
    (tmp_path / "install.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: installed}\n")
    variant.write_text("clusterDomain: corp.example\nnode: false\nmanifests: [install.yaml]\n")
    plain = tmp_path / "plain.yaml"
    plain.write_text("")
    before = picture()
    with open(tmp_path / "log", "wb") as log:
        run = subprocess.Popen(
            home.argv("create", "--variant", str(variant), "--variant", str(plain), "--", "sleep", "600"),
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(
            lambda: [one["state"] for one in home.records()] == ["ready", "ready"] or run.poll() is not None,
            DEADLINE_S,
            "both clusters",
        )
        assert run.poll() is None, (tmp_path / "log").read_text()
        corp, other = home.list()
        assert (corp["name"], other["name"]) == ("corp-1", "plain-1")
        assert (corp["state"], other["state"]) == ("ready", "ready")
        assert corp["owner_pid"] == run.pid
        assert "installed" in kubectl(corp["kubeconfig"], "get", "namespaces", "-o", "name")
        assert "installed" not in kubectl(other["kubeconfig"], "get", "namespaces", "-o", "name")
        assert kubectl(other["kubeconfig"], "get", "nodes", "-o", "name").split() == ["node/node-1"]
        assert kubectl(corp["kubeconfig"], "config", "current-context").strip() == "corp-1"
        ids = tuple(one["id"] for one in (corp, other))
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    wait_for(lambda: home.records() == [], DEADLINE_S, "the warden to remove what the killed run had")
    wait_for(lambda: difference(before, picture(), (*ids, str(home.path))) == ([], []), 60, "nothing to be left")


@pytest.mark.long
def test_a_create_that_is_killed_with_its_warden_is_reaped(home: Home, tmp_path: Path) -> None:
    variant = tmp_path / "api.yaml"
    variant.write_text("node: false\n")
    before = picture()
    with open(tmp_path / "log", "wb") as log:
        run = subprocess.Popen(home.argv("create", "--name", "e2e", "--variant", str(variant)), stdout=log, stderr=log)
    engine = home.path / "e2e" / "data"
    try:
        wait_for(
            lambda: (engine / "log" / "api.log").exists() or run.poll() is not None, DEADLINE_S, "a start under way"
        )
        [record] = home.records()
        os.kill(record["warden"][0], signal.SIGKILL)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    identifier = json.loads((engine / "engine.json").read_text())["id"]
    [over] = home.list()
    assert (over["name"], over["state"]) == ("e2e", "over")
    assert "e2e: nobody wants it any more, so it goes" in home.run("reap").stdout
    assert home.list() == []
    assert home.run("reap").stdout == "nothing to reap\n"
    wait_for(lambda: difference(before, picture(), (identifier, str(home.path))) == ([], []), 60, "nothing to be left")


@pytest.mark.long
def test_a_variant_takes_over_older_data_or_has_another_authority(home: Home, tmp_path: Path) -> None:
    older = engine_at_rest(tmp_path / "older")
    meta = {"name": "first", "namespace": "default", "uid": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    kept = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"kept": "yes"}}
    write(older, {"/core/configmaps/default/first": json.dumps(kept).encode()})
    shutil.rmtree(older.run)  # as after a reboot
    certificate, key = new_authority(older)
    (tmp_path / "ca.crt").write_bytes(certificate)
    (tmp_path / "ca.key").write_bytes(key)
    (tmp_path / "upgrade.yaml").write_text("upgradeFrom: older\nnode: false\n")
    (tmp_path / "issuer.yaml").write_text(
        "issuer: {certificate: ca.crt, key: ca.key}\nclusterDomain: corp.example\nnode: false\n"
    )

    made = home.run(
        "create", "--variant", str(tmp_path / "upgrade.yaml"), "--variant", str(tmp_path / "issuer.yaml"), "-o", "json"
    )

    upgraded, other = json.loads(made.stdout)
    assert kubectl(upgraded["kubeconfig"], "get", "configmap", "first", "-o", "jsonpath={.data.kept}") == "yes"
    settings = datadir.load(Path(upgraded["data"]))
    assert (settings.cluster_cidr, settings.service_cidr) == (older.cluster_cidr, older.service_cidr)
    assert settings.id != older.id
    assert "corp.example" in _names_of(other["server"], certificate.decode())
    again = home.run("create", "--variant", str(tmp_path / "upgrade.yaml"), status=1)
    assert f"{older.data}: cluster upgrade-1 has the networks that its objects name: one at a time" in again.stderr
    assert [one["name"] for one in home.list()] == ["issuer-1", "upgrade-1"]


VOLUME = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: IMAGE
        command: [sh, -c, "echo started >> /data/log; cp /data/log /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
        volumeMounts: [{name: data, mountPath: /data}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""


@pytest.mark.long
def test_copies_of_a_frozen_cluster_have_its_objects_and_data_on_networks_of_their_own(
    home: Home, tmp_path: Path
) -> None:
    (home.path / ".images").mkdir(parents=True)
    image = busybox_image(ContentStore(home.path / ".images"))
    (tmp_path / "app.yaml").write_text(VOLUME.replace("IMAGE", image))
    [frozen] = json.loads(home.run("create", "--name", "first", "-o", "json").stdout)
    kubectl(frozen["kubeconfig"], "apply", "-f", str(tmp_path / "app.yaml"))
    kubectl(frozen["kubeconfig"], "rollout", "status", "deploy/web", "--timeout=60s")
    home.run("freeze", "first")
    said = home.run("create", "--like", "first", "--variant", str(tmp_path / "app.yaml"), status=2).stderr
    assert "--like makes whole copies, of which no --variant can be had: leave one of the two out" in said

    copies = json.loads(home.run("create", "--like", "first", "--count", "2", "-o", "json").stdout)

    addresses = []
    for one in copies:
        address = kubectl(one["kubeconfig"], "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
        # Once in the first cluster, once here: the volume is a copy of its own.
        assert wait_for(lambda address=address: _fetched(address), 120, "the copy's pod") == "started\nstarted\n"
        service_network = ipaddress.ip_network(datadir.load(Path(one["data"])).service_cidr)
        assert ipaddress.ip_address(address) in service_network
        addresses.append(address)
    assert len(set(addresses)) == 2


def _fetched(address: str) -> str:
    """What a service's page says; nothing while it does not answer."""
    try:
        with urlopen(f"http://{address}/", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def _names_of(server: str, authority: str) -> str:
    """The names in the certificate of a server, which must be signed by this authority."""
    host, _, port = server.removeprefix("https://").partition(":")
    context = ssl.create_default_context(cadata=authority)
    with (
        socket.create_connection((host, int(port)), 30) as plain,
        context.wrap_socket(plain, server_hostname="kubernetes.default.svc.corp.example") as secured,
    ):
        return str(secured.getpeercert())
