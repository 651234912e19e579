"""Helm's own command where pods run: install and upgrades that wait, one that fails and is taken back, rollback, test, uninstall."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from client_place import Place

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(900)]
CHART = str(Path(__file__).with_name("chart"))
WAIT = ("--wait", "--timeout", "150s")


def test_helm_installs_upgrades_rolls_back_and_tests_a_release(
    place: Place, program: Callable[[str], str], namespace: str, tmp_path: Path
) -> None:
    homes = {f"HELM_{name}_HOME": str(tmp_path / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}

    def helm(*arguments: str, fails: bool = False) -> str:
        return place.run(program("helm"), "-n", namespace, *arguments, fails=fails, timeout_s=300, **homes)

    def asked(*arguments: str) -> str:
        return place.run("kubectl", "-n", namespace, "get", *arguments)

    image = ("--set", f"image={place.image}")
    said = helm("install", "web", CHART, *image, *WAIT)
    assert "STATUS: deployed" in said
    assert asked("deployment", "web", "-o", "jsonpath={.status.readyReplicas}") == "1"
    assert asked("job", "web-before-1", "-o", "jsonpath={.status.succeeded}") == "1"

    helm("upgrade", "web", CHART, *image, "--set", "replicas=2", *WAIT)
    assert asked("deployment", "web", "-o", "jsonpath={.status.readyReplicas}") == "2"

    refused = helm(
        *("upgrade", "web", CHART, *image, "--set", "path=/absent"),
        *("--wait", "--timeout", "10s", "--rollback-on-failure"),
        fails=True,
    )
    assert "UPGRADE FAILED" in refused
    assert asked("deployment", "web", "-o", "jsonpath={.spec.replicas}") == "2"

    helm("rollback", "web", "1", *WAIT)
    assert asked("deployment", "web", "-o", "jsonpath={.spec.replicas} {.status.readyReplicas}") == "1 1"

    assert "Phase:          Succeeded" in helm("test", "web")
    history = json.loads(helm("history", "web", "-o", "json"))
    assert [entry["status"] for entry in history] == ["superseded", "superseded", "failed", "superseded", "deployed"]
    assert json.loads(helm("list", "-o", "json"))[0]["revision"] == "5"
    assert "kind: Service" in helm("get", "manifest", "web")
    helm("uninstall", "web", *WAIT)
    assert asked("deployments,services,secrets", "-o", "name").split() == []
