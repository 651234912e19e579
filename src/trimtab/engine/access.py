"""The administrator's kubeconfig: what `trimtab kubeconfig` prints and every Kubernetes tool reads.

It follows from the settings and the keys, so it is written anew whenever it differs from what they say: a damaged one
heals at the next `trimtab start` or `trimtab kubeconfig`.
"""

from __future__ import annotations

import os
from pathlib import Path

from trimtab.client.kubeconfig import ClusterAccess, kubeconfig_text
from trimtab.engine.datadir import disk_error
from trimtab.engine.errors import EngineError
from trimtab.runtime.settings import Settings

KUBECONFIG = "admin.kubeconfig"


def cluster_access(settings: Settings) -> ClusterAccess:
    """How clients outside reach this engine's API.

    Raises:
        EngineError: the CA is missing or may not be read.
    """
    folder = settings.data_path("pki")
    address = "127.0.0.1" if settings.listen == "0.0.0.0" else settings.listen
    return ClusterAccess(f"https://{address}:{settings.api_port}", ca=_read(settings, folder / "ca.crt"))


def _read(settings: Settings, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except PermissionError:
        raise EngineError(f"{path} cannot be read: run this as root") from None
    except FileNotFoundError:
        raise EngineError(f"{path} is missing: run `trimtab --data {settings.data} start`, which makes it") from None


def cluster_name(settings: Settings) -> str:
    """What this engine is called in kubeconfigs."""
    return f"trimtab-{settings.id}"


def admin_kubeconfig(settings: Settings) -> str:
    """The administrator's kubeconfig; names of cluster, user and context are `trimtab-ID`, so that files can be merged.

    Raises:
        EngineError: a key is missing or may not be read.
    """
    access = cluster_access(settings)
    access.token = _read(settings, settings.data_path("pki", "admin.token")).decode().strip()
    return kubeconfig_text(cluster_name(settings), "", access)


def write_kubeconfig(settings: Settings) -> Path:
    """Writes `DATA/admin.kubeconfig` (root, 0600) when it is not already what it should be; returns its path."""
    path = settings.data_path(KUBECONFIG)
    text = admin_kubeconfig(settings)
    try:
        if path.exists() and path.read_text(errors="replace") == text and path.stat().st_mode & 0o777 == 0o600:
            return path
        temporary = path.with_name(f"{KUBECONFIG}.new")
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError as err:
        raise disk_error(path, err) from None
    return path
