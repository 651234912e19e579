"""Serves a provider that is written in Python with the project's own messages, as the plugin protocol asks.

    a servicer (methods by our names: schema, plan, apply, ..., import_) --serve--> a greeting on stdout, gRPC on a socket

To Terraform itself, which asks for it, with TLS and a certificate of its own.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import sys
from concurrent import futures
from typing import Any

import grpc

from trimtab.components.infrastructure.protocol.messages import METHODS, Version, messages
from trimtab.components.infrastructure.protocol.types import Type, to_json


def attribute(name: str, of: Type, **flags: Any) -> dict[str, Any]:
    return {"name": name, "type": json.dumps(to_json(of)).encode(), **flags}


def error(summary: str, path: str = "", detail: str = "") -> dict[str, Any]:
    at = {"steps": [{"attribute_name": path}]} if path else None
    return {"diagnostics": [{"severity": 1, "summary": summary, "detail": detail, "attribute": at}]}


def serve(servicer: Any, version: Version) -> None:
    """Until the process is ended."""
    if "TF_PLUGIN_MAGIC_COOKIE" not in os.environ:
        sys.exit("This is a plugin: Trimtab starts it.")
    known = messages(version)
    handlers = {}
    for name, (name5, name6, asks, answers) in METHODS.items():
        do = getattr(servicer, "import_" if name == "import" else name, None)
        if do is None:
            continue
        handlers[name5 if version == 5 else name6] = grpc.unary_unary_rpc_method_handler(
            lambda request, _, do=do, answer=known[answers]: answer(**do(request)),
            request_deserializer=known[asks].FromString,
            response_serializer=known[answers].SerializeToString,
        )
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"tfplugin{version}.Provider", handlers),))
    path = os.path.join(os.environ.get("PLUGIN_UNIX_SOCKET_DIR", "/tmp"), f"plugin-{os.getpid()}")
    shown = ""
    if "PLUGIN_CLIENT_CERT" in os.environ:
        credentials, shown = _certificate()
        server.add_secure_port(f"unix:{path}", credentials)
    else:
        server.add_insecure_port(f"unix:{path}")
    server.start()
    print(f"1|{version}|unix|{path}|grpc|{shown}", flush=True)
    server.wait_for_termination()


def _certificate() -> tuple[grpc.ServerCredentials, str]:
    """Credentials to serve with, and their certificate as the greeting has it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    credentials = grpc.ssl_server_credentials([(pem, made.public_bytes(serialization.Encoding.PEM))])
    return credentials, base64.b64encode(made.public_bytes(serialization.Encoding.DER)).decode().rstrip("=")
