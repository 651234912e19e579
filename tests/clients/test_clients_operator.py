"""An operator on controller-runtime, in Go: two of them elect one, reconcile, hand over when the leader is killed, and let go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from client_place import Place
from client_programs import SCRIPTS, until, watched_over

sys.path.append(str(SCRIPTS))
from crd import DEFINITION, boat

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(900)]
BOATS = ("clients.example", "v1", "default", "boats")


@contextmanager
def operator(program: str, name: str, place: Place, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        environment = {**os.environ, "KUBECONFIG": str(place.kubeconfig)}
        process = subprocess.Popen([program, name], stdout=out, stderr=out, env=environment)
    with watched_over(process):
        yield process, log


@pytest.fixture
def boats(place: Place) -> Iterator[Any]:
    client = kubernetes.config.new_client_from_config(str(place.kubeconfig))
    definitions = kubernetes.client.ApiextensionsV1Api(client)
    definitions.create_custom_resource_definition(DEFINITION)
    place.run("kubectl", "wait", "crd/boats.clients.example", "--for=condition=Established", "--timeout=60s")
    try:
        yield kubernetes.client.CustomObjectsApi(client)
    finally:
        definitions.delete_custom_resource_definition("boats.clients.example")
        client.rest_client.pool_manager.clear()
        client.close()


def test_an_operator_in_go_reconciles_hands_over_and_lets_go(
    place: Place, boats: Any, program: Callable[[str], str], tmp_path: Path
) -> None:
    def status(name: str) -> dict[str, Any]:
        found: dict[str, Any] = boats.get_namespaced_custom_object(*BOATS, name).get("status") or {}
        return found

    binary = program("operator")
    with operator(binary, "first", place, tmp_path) as (first, first_log):
        until(lambda: "leads first" in first_log.read_text(), lambda: f"the first leads: {first_log.read_text()}")
        with operator(binary, "second", place, tmp_path) as (second, second_log):
            boats.create_namespaced_custom_object(*BOATS, boat("sloop", length=9))
            boats.create_namespaced_custom_object(*BOATS, boat("ketch", length=9))
            wanted = {"launched": 9, "twins": 2, "by": "first"}
            until(
                lambda: any(wanted.items() <= status(n).items() for n in ("sloop", "ketch")),
                lambda: str(status("sloop")),
            )
            papers = place.run("kubectl", "get", "configmap", "sloop-papers", "-o", "jsonpath={.data.length}")
            assert papers == "9"
            condition = status("sloop")["conditions"][0]
            assert (condition["type"], condition["status"], condition["message"]) == (
                "Launched",
                "True",
                "9 metres long",
            )

            first.send_signal(signal.SIGTERM)  # it gives the lease back
            assert first.wait(60) == 0, first_log.read_text()
            until(lambda: "leads second" in second_log.read_text(), "the second leads")
            boats.patch_namespaced_custom_object(*BOATS, "sloop", {"spec": {"length": 12}})
            until(
                lambda: {"launched": 12, "by": "second"}.items() <= status("sloop").items(),
                lambda: str(status("sloop")),
            )
            place.run("kubectl", "delete", "configmap", "sloop-papers")
            until(lambda: "12" in _papers(place), "the papers are written anew")

            for name in ("sloop", "ketch"):
                boats.delete_namespaced_custom_object(*BOATS, name)
            until(lambda: not boats.list_namespaced_custom_object(*BOATS)["items"], "the operator lets them go")
            until(lambda: not _papers(place), "the papers go with the boat")
            events = place.run("kubectl", "get", "events.events.k8s.io", "-o", "jsonpath={.items[*].reason}")
            assert "Launched" in events.split()
            second.send_signal(signal.SIGTERM)
            assert second.wait(60) == 0, second_log.read_text()
            logs = first_log.read_text() + second_log.read_text()
    errors = [
        line for line in logs.splitlines() if '"level":"error"' in line and "object has been modified" not in line
    ]
    assert errors == []


def _papers(place: Place) -> str:
    return place.run(
        "kubectl", "get", "configmap", "sloop-papers", "--ignore-not-found", "-o", "jsonpath={.data.length}"
    )
