"""Clients that nobody here wrote, each in a process of its own, in the environment `build/clients`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from client_programs import OWN_SERVER, PROGRAMS, SCRIPTS, own_server, until, watched_over

sys.path.append(str(SCRIPTS))
from crd import DEFINITION, boat

pytestmark = pytest.mark.skipif(not PROGRAMS.exists(), reason="no build/clients: make setup-test")

BOATS = ("clients.example", "v1")
PEERING = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "clusterkopfpeerings.kopf.dev"},
    "spec": {
        "group": "kopf.dev",
        "scope": "Cluster",
        "names": {"plural": "clusterkopfpeerings", "kind": "ClusterKopfPeering"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {"status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                    }
                },
            }
        ],
    },
}


def define(client: Any, definition: dict[str, Any]) -> None:
    """Makes a custom kind, unless it is there, and waits until it is served."""
    definitions = kubernetes.client.ApiextensionsV1Api(client)
    name = definition["metadata"]["name"]
    try:
        definitions.create_custom_resource_definition(definition)
    except kubernetes.client.ApiException as err:
        if err.status != 409:
            raise

    def served() -> bool:
        found = definitions.read_custom_resource_definition(name).status
        conditions = (found.conditions if found else None) or []
        return any(condition.type == "Established" and condition.status == "True" for condition in conditions)

    until(served, f"{name} is established")


@pytest.mark.parametrize("script", ["use_kr8s", "use_kubernetes_asyncio", "use_lightkube"])
def test_a_python_client(script: str, client: Any, kubeconfig: Path, namespace: str) -> None:
    define(client, DEFINITION)
    command = [PROGRAMS / "python", "-W", "ignore", SCRIPTS / f"{script}.py", kubeconfig, namespace]

    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout + done.stderr


class Fleet:
    """The operator's objects, and the operator."""

    def __init__(self, client: Any, folder: Path, kubeconfig: Path) -> None:
        self._custom = kubernetes.client.CustomObjectsApi(client)
        self._core = kubernetes.client.CoreV1Api(client)
        self.log = folder / "kopf.log"
        self._command = [
            *(str(PROGRAMS / "kopf"), "run", "--all-namespaces", "--peering=boats", "--verbose"),
            str(SCRIPTS / "operator_of_boats.py"),
        ]
        self._environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "PYTHONWARNINGS": "ignore"}

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)

    def create(self, name: str, length: int, **labels: str) -> None:
        body = boat(name, length=length)
        body["metadata"]["labels"] = labels
        self._custom.create_namespaced_custom_object(*BOATS, "default", "boats", body)

    def lengthen(self, name: str, length: int) -> None:
        self._custom.patch_namespaced_custom_object(*BOATS, "default", "boats", name, {"spec": {"length": length}})

    def delete(self, name: str) -> None:
        self._custom.delete_namespaced_custom_object(*BOATS, "default", "boats", name)

    def object(self, name: str) -> dict[str, Any]:
        """The object; empty when it is gone."""
        try:
            found: dict[str, Any] = self._custom.get_namespaced_custom_object(*BOATS, "default", "boats", name)
        except kubernetes.client.ApiException as err:
            if err.status != 404:
                raise
            return {}
        return found

    def status(self, name: str) -> dict[str, Any]:
        return self.object(name).get("status") or {}

    def tells(self, name: str, **wanted: object) -> None:
        """Waits until the status says so."""
        until(
            lambda: wanted.items() <= self.status(name).items(),
            lambda: f"{wanted}, not {self.status(name)}; {self._tail()}",
        )

    def event(self, reason: str) -> None:
        """Waits until such an event was posted."""
        until(
            lambda: reason in {event.reason for event in self._core.list_namespaced_event("default").items},
            lambda: f"an event {reason}; {self._tail()}",
        )

    def _tail(self) -> str:
        return self.log.read_text()[-3000:]


@OWN_SERVER
def test_an_operator_lives_through_restarts_of_the_server_and_of_itself(tmp_path: Path) -> None:
    with own_server(tmp_path) as server:
        kubeconfig = server.kubeconfig()
        client = kubernetes.config.new_client_from_config(str(kubeconfig))
        try:
            define(client, DEFINITION)
            define(client, PEERING)
            custom = kubernetes.client.CustomObjectsApi(client)
            peering = {"apiVersion": "kopf.dev/v1", "kind": "ClusterKopfPeering", "metadata": {"name": "boats"}}
            custom.create_cluster_custom_object("kopf.dev", "v1", "clusterkopfpeerings", peering)
            core = kubernetes.client.CoreV1Api(client)
            fleet = Fleet(client, tmp_path, kubeconfig)

            with watched_over(fleet.start()) as operator:
                fleet.create("sloop", 9, fail="once")
                fleet.tells("sloop", launched=9, twins=1, retried=1)
                assert fleet.object("sloop")["metadata"]["finalizers"] == ["clients.example/anchored"]
                fleet.event("Launched")
                fleet.event("Sailing")
                core.create_namespaced_config_map("default", {"metadata": {"name": "load", "labels": {"cargo": "tea"}}})
                until(
                    lambda: (core.read_namespaced_config_map("load", "default").metadata.annotations or {}).get(
                        "clients.example/loaded"
                    ),
                    "the operator saw the ConfigMap",
                )
                peers = custom.get_cluster_custom_object("kopf.dev", "v1", "clusterkopfpeerings", "boats")["status"]
                assert len(peers) == 1
                fleet.lengthen("sloop", 12)
                fleet.tells("sloop", lengthened=[9, 12])

                server.kill()
                server.start()
                ticks = fleet.status("sloop")["ticks"]
                fleet.lengthen("sloop", 13)
                fleet.tells("sloop", lengthened=[12, 13])
                until(lambda: fleet.status("sloop")["ticks"] > ticks, "the timer goes on")

                operator.send_signal(signal.SIGTERM)
                assert operator.wait(60) == 0, fleet.log.read_text()[-3000:]

            fleet.delete("sloop")
            fleet.create("ketch", 13)
            assert fleet.object("sloop")["metadata"]["deletionTimestamp"]
            with watched_over(fleet.start()):
                fleet.tells("ketch", launched=13)
                until(lambda: not fleet.object("sloop"), "the deleted object is let go")
                fleet.delete("ketch")
                until(lambda: not fleet.object("ketch"), "the operator lets it go")
                fleet.event("Anchored")
        finally:
            client.rest_client.pool_manager.clear()
            client.close()
