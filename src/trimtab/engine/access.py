"""The administrator's kubeconfig: what `trimtab kubeconfig` prints and every Kubernetes tool reads.

It follows from the settings and the keys, so it is written anew whenever it differs from what they say: a damaged one
heals at the next `trimtab start` or `trimtab kubeconfig`.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

from trimtab.engine.datadir import disk_error
from trimtab.engine.errors import EngineError
from trimtab.runtime.settings import Settings

KUBECONFIG = "admin.kubeconfig"


def kubeconfig_text(settings: Settings) -> str:
    """The kubeconfig as YAML; names of cluster, user and context are `trimtab-ID`, so that files can be merged.

    Raises:
        EngineError: a key is missing or may not be read.
    """
    folder = settings.data_path("pki")
    try:
        ca = base64.b64encode((folder / "ca.crt").read_bytes()).decode()
        token = (folder / "admin.token").read_text().strip()
    except PermissionError as err:
        raise EngineError(f"{err.filename} cannot be read: run this as root") from None
    except FileNotFoundError as err:
        raise EngineError(
            f"{err.filename} is missing: run `trimtab --data {settings.data} start`, which makes it"
        ) from None
    name = f"trimtab-{settings.id}"
    address = "127.0.0.1" if settings.listen == "0.0.0.0" else settings.listen
    return f"""\
apiVersion: v1
kind: Config
current-context: {name}
clusters:
- name: {name}
  cluster:
    server: https://{address}:{settings.api_port}
    certificate-authority-data: {ca}
users:
- name: {name}
  user:
    token: {token}
contexts:
- name: {name}
  context:
    cluster: {name}
    user: {name}
    namespace: default
"""


def write_kubeconfig(settings: Settings) -> Path:
    """Writes `DATA/admin.kubeconfig` (root, 0600) when it is not already what it should be; returns its path."""
    path = settings.data_path(KUBECONFIG)
    text = kubeconfig_text(settings)
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
