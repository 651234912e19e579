"""Things that tests of the ingress component share: a CA, objects written briefly, pods as a node would make them."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from trimtab.api import ObjectMeta, from_wire
from trimtab.api.core import PROXIED, Pod, Secret, Service
from trimtab.api.networking import EndpointSlice, Ingress
from trimtab.components.ingress.certificates import CA_SECRET, Pair


def engine_ca(now: datetime, *, days: int = 3650) -> Pair:
    """A self-signed CA as the engine makes one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Trimtab test CA")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=3650))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return Pair(certificate.public_bytes(serialization.Encoding.PEM).decode(), pem)


def tls_secret(name: str, pair: Pair, namespace: str = "shop") -> Secret:
    data = {"tls.crt": pair.chain, "tls.key": pair.key}
    return Secret(
        metadata=ObjectMeta(name=name, namespace=namespace),
        type="kubernetes.io/tls",
        data={key: base64.b64encode(text.encode()).decode() for key, text in data.items()},
    )


def ca_secret(pair: Pair) -> Secret:
    return tls_secret(CA_SECRET.name, pair, CA_SECRET.namespace or "")


def service(name: str = "web", *, port: int = 80, target: int | str = 8080, app_protocol: str | None = None) -> Service:
    entry: dict[str, Any] = {"name": "http", "port": port, "targetPort": target}
    if app_protocol:
        entry["appProtocol"] = app_protocol
    return from_wire(
        Service,
        {"metadata": {"name": name, "namespace": "shop"}, "spec": {"selector": {"app": name}, "ports": [entry]}},
    )


def ingress(
    name: str = "web",
    host: str | None = "shop.example.com",
    *,
    backend: str = "web:80",
    path: str = "/",
    tls: bool = True,
    secret: str | None = None,
    notes: dict[str, str] | None = None,
) -> Ingress:
    service_name, _, port = backend.partition(":")
    rule: dict[str, Any] = {
        "http": {
            "paths": [
                {
                    "path": path,
                    "pathType": "Prefix",
                    "backend": {"service": {"name": service_name, "port": {"number": int(port)}}},
                }
            ]
        }
    }
    if host:
        rule["host"] = host
    spec: dict[str, Any] = {"ingressClassName": "trimtab", "rules": [rule]}
    if tls:
        spec["tls"] = [{**({"hosts": [host]} if host else {}), **({"secretName": secret} if secret else {})}]
    meta = {"name": name, "namespace": "shop", "annotations": notes or {}}
    return from_wire(Ingress, {"metadata": meta, "spec": spec})


def pod(name: str, *, app: str = "web", gate: bool = True, grace_s: int = 30) -> Pod:
    """As a ReplicaSet makes it, already placed on a node."""
    return from_wire(
        Pod,
        {
            "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}},
            "spec": {
                "nodeName": "node-1",
                "containers": [{"name": "main", "image": "example.org/app:1"}],
                "terminationGracePeriodSeconds": grace_s,
                "readinessGates": [{"conditionType": PROXIED}] if gate else [],
            },
        },
    )


def running_status(ip: str, *, ready: bool = True) -> dict[str, Any]:
    """The status that a node writes of a pod whose containers run."""
    return {
        "phase": "Running",
        "podIP": ip,
        "conditions": [{"type": "ContainersReady", "status": "True" if ready else "False"}],
        "containerStatuses": [{"name": "main", "ready": ready, "image": "", "imageID": "", "restartCount": 0}],
    }


def endpoint_slice(pods: list[tuple[str, str, str]], *, app: str = "web", port: int = 8080) -> EndpointSlice:
    """Of (name, uid, ip)."""
    return from_wire(
        EndpointSlice,
        {
            "metadata": {
                "name": f"{app}-1",
                "namespace": "shop",
                "labels": {"kubernetes.io/service-name": app},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
            "endpoints": [
                {
                    "addresses": [ip],
                    "conditions": {"ready": False},
                    "targetRef": {"kind": "Pod", "namespace": "shop", "name": name, "uid": uid},
                }
                for name, uid, ip in pods
            ],
        },
    )
