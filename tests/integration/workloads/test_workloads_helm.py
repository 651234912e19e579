"""Helm 4 ships a chart with a CRD, a hook and a Deployment that becomes ready: install --wait, upgrade, history, uninstall.

It is there as a Python library that needs Python 3.12; `make setup-test` makes its environment where there is one.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from workload_cluster import Cluster

FOLDER = Path(__file__).parent
PYTHON = Path(__file__).parents[3] / "build/helm/bin/python"
DEADLINE_S = 200.0

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="no build/helm: make setup-test makes it where there is Python 3.12 or later"
)


async def test_helm_ships_upgrades_and_removes_a_chart(cluster: Cluster) -> None:
    process = await asyncio.create_subprocess_exec(
        PYTHON,
        FOLDER / "helm_release.py",
        cluster.api.kubeconfig(),
        FOLDER / "helm_chart",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert process.returncode == 0, err.decode()
    told = json.loads(out)
    assert (told["history"], told["listed"], told["left"]) == ([1, 2, 3], ["web"], []), told
    # The library does not say how the rollback is to wait, and Helm refuses it before it asks any server.
    assert told["rollback"] == "done" or "wait strategy not set" in told["rollback"]
    assert (await cluster.run("get", "deployments,boats.helm.example,secrets", "-o", "name")).strip() == ""
    assert await cluster.run("get", "configmap", "hook", "-o", "jsonpath={.data.revision}") == "3"
