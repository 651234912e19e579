"""An admission webhook of a test's own: HTTPS on loopback, with a certificate of its own CA, answering as the test says.

`WebhookServer` answers `AdmissionReview`s by a function of the request, and remembers every review that it was sent. Faults are
answers of other kinds: `Raw` bytes, a redirect, silence until `release` is set.
"""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SILENCE_MAX_S = 60.0


@dataclass
class Raw:
    """An answer that is no review: what is sent, as it is."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})


class Silence:
    """No answer at all until `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()


Answer = dict[str, Any] | Raw | Silence
Decide = Callable[[dict[str, Any]], Answer]


def allowed(**more: Any) -> dict[str, Any]:
    """A response that lets the request pass."""
    return {"allowed": True, **more}


def denied(message: str = "", code: int = 0, **status: Any) -> dict[str, Any]:
    """A response that refuses the request."""
    result = {**({"message": message} if message else {}), **({"code": code} if code else {}), **status}
    return {"allowed": False, **({"status": result} if result else {})}


def patched(*operations: dict[str, Any]) -> dict[str, Any]:
    """A response that changes the object by a JSON patch."""
    patch = base64.b64encode(json.dumps(list(operations)).encode()).decode()
    return {"allowed": True, "patchType": "JSONPatch", "patch": patch}


class WebhookServer:
    """Listens from its creation until `close`. `decide` answers; `reviews` are the requests that came, in order;
    `connections` how many connections brought them."""

    def __init__(self, folder: Path, decide: Decide = lambda request: allowed(), *names: str) -> None:
        self.decide = decide
        self.reviews: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.connections = 0
        self._silences: list[Silence] = []
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.ca, self._key, self._authority = _authority()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.renew(*names)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def do_POST(self) -> None:
                outer._answer(self)

            do_GET = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def finish_request(self, request: Any, client_address: Any) -> None:
                request.settimeout(SILENCE_MAX_S)
                try:
                    with outer._context.wrap_socket(request, server_side=True) as secured:
                        Handler(secured, client_address, self)
                except OSError:
                    pass  # the client did not trust us, or went away: it has noticed itself

            def shutdown_request(self, request: Any) -> None:
                request.close()  # wrapping has taken the connection over, and closed it

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca_bundle(self) -> str:
        """The CA's certificate as `clientConfig.caBundle` has it."""
        return base64.b64encode(self.ca).decode()

    def renew(self, *names: str) -> None:
        """Gives it a certificate anew, of the same CA, for 127.0.0.1 and the names."""
        key, certificate = _certificate(self._authority, self._key, names)
        pair = self._folder / "webhook.pem"
        pair.write_bytes(key + certificate)
        self._context.load_cert_chain(pair)

    def close(self) -> None:
        for silence in self._silences:
            silence.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        request = json.loads(body)["request"] if body else {}
        self.reviews.append(request)
        self.paths.append(handler.path)
        answer = self.decide(request)
        if isinstance(answer, Silence):
            self._silences.append(answer)
            answer.release.wait(SILENCE_MAX_S)
            answer = allowed()
        if not isinstance(answer, Raw):
            response = {"uid": request.get("uid", ""), **answer}
            review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
            answer = Raw(body=json.dumps(review).encode())
        try:
            handler.send_response(answer.status)
            for name, value in answer.headers.items():
                handler.send_header(name, value)
            handler.send_header("content-length", str(len(answer.body)))
            handler.end_headers()
            handler.wfile.write(answer.body)
        except OSError:
            handler.close_connection = True  # whoever asked did not wait


def _authority() -> tuple[bytes, Any, Any]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"webhook CA {secrets.token_hex(4)}")])
    now = datetime.now(UTC)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM), key, made


def _certificate(authority: Any, authority_key: Any, names: tuple[str, ...]) -> tuple[bytes, bytes]:
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    alternatives: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    alternatives += [x509.DNSName(name) for name in names]
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "webhook")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, made.public_bytes(pem)
