"""The node is a real one: pods run on it, reach each other by name through service addresses, and are kept alive."""

from __future__ import annotations

import json

import pytest

from cluster_process import ClusterProcess

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(600)]


def test_a_pod_runs_and_is_told_of(cluster: ClusterProcess) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "paused"},
        "spec": {"containers": [{"name": "pause", "image": f"{cluster.registry}/pause:1"}], "terminationGracePeriodSeconds": 1},
    }  # fmt: skip
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(pod))

    cluster.kubectl("wait", "pod/paused", "--for=condition=Ready", "--timeout=90s")

    node = cluster.get("node", "node-1")
    assert node["status"]["nodeInfo"]["kubeletVersion"].startswith("v1.36.")
    assert node["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")
    cluster.kubectl("delete", "pod", "paused", "--wait", "--timeout=60s")
