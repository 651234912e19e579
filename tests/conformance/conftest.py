"""One suite for any Kubernetes API: ours by default; the real one, whose programs `TRIMTAB_KUBERNETES` holds (`make
test-kubernetes`); or the one that `TRIMTAB_CONFORMANCE_KUBECONFIG` names.

Everything happens in namespaces of the suite's own, which it deletes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from api_process import ApiProcess
from kubernetes_process import KubernetesProcess
from webhook_cluster import Cluster
from webhook_server import WebhookServer

SERVER = "TRIMTAB_CONFORMANCE_KUBECONFIG"
PROGRAMS = "TRIMTAB_KUBERNETES"


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesProcess | ApiProcess | None]:
    """The process of the API, which may be killed and started again; None where it is somebody else's."""
    if os.environ.get(SERVER):
        yield None
        return
    folder = tmp_path_factory.mktemp("conformance")
    programs = os.environ.get(PROGRAMS)
    server = KubernetesProcess(folder, Path(programs)) if programs else ApiProcess(folder, tls=True)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def kubeconfig(api: KubernetesProcess | ApiProcess | None) -> Path:
    return Path(os.environ[SERVER]) if api is None else api.kubeconfig()


@pytest.fixture
def client(kubeconfig: Path) -> Iterator[Any]:
    made = kubernetes.config.new_client_from_config(str(kubeconfig))
    yield made
    made.rest_client.pool_manager.clear()
    made.close()


@pytest.fixture
def namespace(client: Any) -> Iterator[str]:
    core = kubernetes.client.CoreV1Api(client)
    name = f"conformance-{secrets.token_hex(3)}"
    core.create_namespace({"metadata": {"name": name}})
    yield name
    core.delete_namespace(name)


@pytest.fixture
def kubectl(kubeconfig: Path, namespace: str, tmp_path: Path) -> Callable[..., str]:
    """Runs kubectl in the test's namespace and returns what it prints; `fails=True` expects a refusal,
    `errors=True` returns its warnings."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not on PATH: install it to check that it works with this API")

    def run(*arguments: str, stdin: str = "", fails: bool = False, errors: bool = False) -> str:
        command = [program, "--kubeconfig", str(kubeconfig), "--cache-dir", str(tmp_path / "cache"), "-n", namespace]
        done = subprocess.run([*command, *arguments], input=stdin, capture_output=True, text=True, timeout=60)
        assert (done.returncode != 0) is fails, f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stderr if fails or errors else done.stdout

    return run


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[WebhookServer]:
    server = WebhookServer(tmp_path / "webhook")
    yield server
    server.close()


@pytest.fixture
def cluster(client: Any, namespace: str, hook: WebhookServer) -> Iterator[Cluster]:
    made = Cluster(client, namespace, hook)
    yield made
    made.close()
