"""Clients that nobody here wrote, where pods run: on an embedded engine by default, or (`TRIMTAB_CLIENTS_ON=cluster`) on the whole
real Kubernetes of `tests/cluster`, on which the sessions were recorded. `make test-clients` runs them.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client_place import CLUSTER_PROGRAMS, Place, embedded, real

ON_CLUSTER = os.environ.get("TRIMTAB_CLIENTS_ON") == "cluster"
PROGRAMS = "TRIMTAB_CLIENTS"


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    if os.geteuid() != 0:
        pytest.skip("pods need root")
    if ON_CLUSTER and (missing := [name for name in CLUSTER_PROGRAMS if name not in os.environ]):
        pytest.skip(f"needs a whole Kubernetes ({', '.join(missing)}): make test-cluster builds it")
    # A path of its own, and short: unix sockets below it have a length limit.
    folder = Path(tempfile.mkdtemp(prefix="ttk-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        with real(folder) if ON_CLUSTER else embedded(folder) as made:
            yield made
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def namespace(place: Place) -> Iterator[str]:
    name = f"clients-{os.urandom(3).hex()}"
    place.run("kubectl", "create", "namespace", name)
    yield name
    place.run("kubectl", "delete", "namespace", name, "--wait=false")


@pytest.fixture
def kubeconfig(place: Place, namespace: str, tmp_path: Path) -> Path:
    """The place's kubeconfig, with the test's namespace as default."""
    config = json.loads(place.run("kubectl", "config", "view", "--raw", "--flatten", "-o", "json"))
    for context in config["contexts"]:
        context["context"]["namespace"] = namespace
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


@pytest.fixture
def program() -> Callable[[str], str]:
    """Where a client of `.ci/clients-go` is; what could not be built there is skipped."""

    def find(name: str) -> str:
        folder = os.environ.get(PROGRAMS)
        if not folder:
            pytest.skip(f"{PROGRAMS} is not set: make test-clients builds {name}")
        path = Path(folder) / name
        if not path.exists():
            pytest.skip(
                f"{name} is not there: it could not be built or fetched here, see what make test-clients printed"
            )
        return str(path)

    return find
