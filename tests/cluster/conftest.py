"""One whole real Kubernetes for all tests here, started from what `.ci/kubernetes` and `.ci/cluster` built (`make test-cluster`)."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster_process import ClusterProcess

NEEDED = ("TRIMTAB_KUBERNETES", "TRIMTAB_KUBERNETES_NODE")


@pytest.fixture(scope="session")
def cluster() -> Iterator[ClusterProcess]:
    if missing := [name for name in NEEDED if name not in os.environ]:
        pytest.skip(f"needs a whole Kubernetes ({', '.join(missing)}): make test-cluster")
    if os.geteuid() != 0:
        pytest.skip("a kubelet and its containers need root")
    # A path of its own, and short: unix sockets below it have a length limit.
    folder = Path(tempfile.mkdtemp(prefix="ttc-", dir="/tmp"))
    cluster = ClusterProcess(folder, *(Path(os.environ[name]) for name in NEEDED))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder)
