"""Variants: what is different about a cluster, in a YAML file a variant.

    # deep.yaml
    clusterDomain: corp.example              # services are NAME.NAMESPACE.svc.corp.example
    nodes: 3
    issuer: {certificate: ca.crt, key: ca.key}    # certificates are signed by this authority, not by one of its own
    upgradeFrom: /srv/data-of-0.1.0          # the data directory of an older release, copied, then run by this one
    manifests: [install.yaml, crds/]         # applied once the cluster serves
    node: false                              # only the API and the controllers

Paths are relative to the file. Everything is checked before anything is made; what cannot be is refused by name.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.engine.errors import EngineError

CNI_REFUSED = (
    "pods get their network from the node itself, which runs no CNI plugin that could be left out; "
    "`node: false` makes a cluster without pods, and hostNetwork pods need none"
)


@dataclass(frozen=True)
class Variant:
    """One variant, checked. `name`: that of its file."""

    name: str | None = None
    cluster_domain: str | None = None
    nodes: int | None = None
    node: bool = True
    issuer: tuple[Path, Path] | None = None
    """Certificate and key of an authority, PEM."""
    upgrade_from: Path | None = None
    manifests: tuple[Path, ...] = field(default=())

    def start_options(self) -> list[str]:
        """What `trimtab start` is told."""
        return [*(["--nodes", str(self.nodes)] if self.nodes else []), *([] if self.node else ["--no-node"])]

    def chosen(self) -> dict[str, Any]:
        """The settings of a new engine that it decides."""
        return {"cluster_domain": self.cluster_domain} if self.cluster_domain else {}


def read(path: Path) -> Variant:
    """The variant in a file.

    Raises:
        EngineError: one line that names the file, the field and the fix.
    """
    import yaml

    try:
        doc = yaml.safe_load(path.read_text())
    except OSError as err:
        raise EngineError(f"{path} cannot be read: {err.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise EngineError(f"{path} is no YAML: {' '.join(str(err).split())}") from None
    if doc is None:
        doc = {}
    if not isinstance(doc, dict):
        raise EngineError(f"{path}: a variant is a mapping such as `clusterDomain: corp.example`")
    values: dict[str, Any] = {}
    for key, value in doc.items():
        if key not in _FIELDS:
            raise EngineError(f"{path}: there is no field {key!r}; there are {', '.join(_FIELDS)}")
        try:
            values |= _FIELDS[key](value, path.parent)
        except _Bad as err:
            raise EngineError(f"{path}: {key}: {err}") from None
    variant = Variant(name=path.stem.lower().replace("_", "-"), **values)
    if not variant.node and variant.nodes:
        raise EngineError(f"{path}: nodes: a cluster with `node: false` has none; leave one of the two out")
    if variant.upgrade_from and (variant.cluster_domain or variant.issuer):
        wrong = "clusterDomain" if variant.cluster_domain else "issuer"
        raise EngineError(
            f"{path}: {wrong}: the older release's data already has its own; leave it out beside upgradeFrom"
        )
    return variant


class _Bad(Exception):
    """What is wrong with one field."""


def _domain(value: Any, near: Path) -> dict[str, Any]:
    import re

    part = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    if not isinstance(value, str) or len(value) > 200 or not re.fullmatch(rf"{part}(\.{part})*", value):
        raise _Bad(f"{value!r} is no domain: write one like cluster.local")
    return {"cluster_domain": value}


def _nodes(value: Any, near: Path) -> dict[str, Any]:
    from trimtab.runtime.settings import NODES_MAX

    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= NODES_MAX:
        raise _Bad(f"{value!r}: a cluster has 1 to {NODES_MAX} nodes")
    return {"nodes": value}


def _node(value: Any, near: Path) -> dict[str, Any]:
    if not isinstance(value, bool):
        raise _Bad(f"{value!r} is neither true nor false")
    return {"node": value}


def _issuer(value: Any, near: Path) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != {"certificate", "key"}:
        raise _Bad("write {certificate: FILE, key: FILE}")
    certificate, key = (near / str(value[name]) for name in ("certificate", "key"))
    for path in (certificate, key):
        if not path.is_file():
            raise _Bad(f"there is no file {path}")
    check_authority(certificate, key)
    return {"issuer": (certificate.absolute(), key.absolute())}


def check_authority(certificate: Path, key: Path) -> None:
    """Raises _Bad when the two do not belong together, or are no authority that this engine can sign with."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except ValueError:
        raise _Bad(f"{certificate} holds no certificate in PEM") from None
    try:
        private = load_pem_private_key(key.read_bytes(), None)
    except (ValueError, TypeError):
        raise _Bad(f"{key} holds no unencrypted private key in PEM") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise _Bad(f"{key} is no EC key, and the engine signs with ECDSA: make the authority with a P-256 key")
    if found.public_key() != private.public_key():
        raise _Bad(f"{key} does not belong to {certificate}")
    try:
        is_authority = found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_authority = False
    if not is_authority:
        raise _Bad(f"{certificate} may not sign others: it must be an authority (basicConstraints CA:TRUE)")
    left = ssl.cert_time_to_seconds(found.not_valid_after_utc.strftime("%b %d %H:%M:%S %Y GMT"))
    _require_valid(certificate, left)


def _require_valid(certificate: Path, ends_s: float) -> None:
    import time

    from trimtab.engine.pki import CA_LIFETIME

    if ends_s - time.time() <= CA_LIFETIME.total_seconds() / 3:
        raise _Bad(
            f"{certificate} ends too soon: with less than {CA_LIFETIME.days // 3} days left the engine would put one of its own in its place"
        )


def _upgrade_from(value: Any, near: Path) -> dict[str, Any]:
    from trimtab.engine.datadir import SETTINGS

    path = near / str(value)
    if not isinstance(value, str) or not (path / SETTINGS).is_file():
        raise _Bad(f"{path} holds no engine: give the data directory of an older release")
    return {"upgrade_from": path.absolute()}


def _cni(value: Any, near: Path) -> dict[str, Any]:
    if value != "none":
        raise _Bad(f"{value!r}: leave it out; the network of pods is built in")
    raise _Bad(f"none: {CNI_REFUSED}")


def _manifests(value: Any, near: Path) -> dict[str, Any]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise _Bad("write a list of files and directories")
    for one in value:
        if not (near / one).exists():
            raise _Bad(f"there is no {near / one}")
    return {"manifests": tuple((near / one).absolute() for one in value)}


_FIELDS: dict[str, Callable[[Any, Path], dict[str, Any]]] = {
    "clusterDomain": _domain,
    "nodes": _nodes,
    "node": _node,
    "issuer": _issuer,
    "upgradeFrom": _upgrade_from,
    "cni": _cni,
    "manifests": _manifests,
}
