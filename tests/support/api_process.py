"""The real API server as a process of a test's own: store and server only, over a unix socket and TLS.

`python api_process.py CONFIG` is that process; `ApiProcess` starts, kills and restarts it, and makes a kubeconfig for it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

READY_S = 60.0


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ApiProcess:
    """One API server on a directory of its own. `kill` is kill -9; `start` brings it back on the same data."""

    def __init__(
        self, folder: Path, *, tls: bool = False, node_socket: Path | None = None, program: Path = Path(__file__)
    ) -> None:
        """program: what is run with the path of the configuration; this file, or one that breaks the server first."""
        self.program = program
        self.folder = folder
        self.socket = folder / "api.sock"
        self.token = "t" * 40
        self.port = free_port() if tls else None
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "admin.token").write_text(self.token)
        if tls:
            make_certificates(folder)
        self.config = folder / "api_process.json"
        self.config.write_text(
            json.dumps(
                {
                    "folder": str(folder),
                    "port": self.port,
                    "node_socket": str(node_socket) if node_socket else None,
                }
            )
        )

    def start(self) -> None:
        """Returns once requests are answered."""
        self.process = subprocess.Popen(
            [sys.executable, str(self.program), str(self.config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], READY_S)
        line = self.process.stdout.readline() if ready else b""
        if line != b"ready\n":
            self.process.kill()
            _, stderr = self.process.communicate()
            raise AssertionError(f"the API server did not start: {stderr.decode()}")

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ends it as its supervisor would; returns the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.communicate(timeout=60)
        code = self.process.returncode
        self.process = None
        return code

    def close(self) -> None:
        if self.process is not None:
            self.kill()

    def kubeconfig(self) -> Path:
        """A kubeconfig of the administrator over TLS."""
        path = self.folder / "kubeconfig"
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [
                        {
                            "name": "test",
                            "cluster": {
                                "server": f"https://127.0.0.1:{self.port}",
                                "certificate-authority": str(self.folder / "ca.crt"),
                            },
                        }
                    ],
                    "users": [{"name": "admin", "user": {"token": self.token}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
                }
            )
        )
        return path


def make_certificates(folder: Path, address: str = "127.0.0.1") -> None:
    """`ca.crt`, `ca.key`, and `server.crt`, `server.key` for an address."""
    _, authority_key, authority = issue("test CA", None, None)
    key_pem, _, certificate = issue(address, authority, authority_key)
    from cryptography.hazmat.primitives import serialization

    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(authority.public_bytes(pem))
    (folder / "ca.key").write_bytes(_private_pem(authority_key))
    (folder / "server.crt").write_bytes(certificate.public_bytes(pem))
    (folder / "server.key").write_bytes(key_pem)


def issue(name: str, authority: object | None, authority_key: object | None, organization: str = "") -> tuple:  # type: ignore[type-arg]
    """A key (PEM and object) and a certificate; of a CA of its own when none is given."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if organization:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    subject = x509.Name(parts)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject if authority is not None else subject)  # type: ignore[attr-defined]
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
    )
    with suppress(ValueError):
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))])
        builder = builder.add_extension(names, critical=False)
    certificate = builder.sign(authority_key or key, hashes.SHA256())  # type: ignore[arg-type]
    return _private_pem(key), key, certificate


def _private_pem(key: object) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(  # type: ignore[attr-defined,no-any-return]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def main() -> None:
    from trimtab.server.serve import Listen, serve
    from trimtab.server.server import ServerSettings

    config = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(config["folder"])
    tls = config["port"] is not None
    listen = Listen(
        unix=folder / "api.sock",
        port=config["port"],
        certificate=folder / "server.crt" if tls else None,
        key=folder / "server.key" if tls else None,
        client_ca=folder / "ca.crt" if tls else None,
    )
    node_socket = Path(config["node_socket"]) if config["node_socket"] else None
    settings = ServerSettings(
        admin_token_file=folder / "admin.token", service_account_key=folder / "sa.key", node_socket=node_socket
    )
    serve(folder / "store.sqlite", listen, settings, on_ready=lambda: os.write(1, b"ready\n") and None)


if __name__ == "__main__":
    main()
