"""What a program sees that is shut in by bubblewrap and may use the network: the system's libraries, its certificates, the way out."""

from __future__ import annotations

import os
from pathlib import Path

WAY_OUT = (
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
"""Of the environment: the way to the world outside."""
READABLE = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ssl", "/etc/ca-certificates", "/etc/pki", "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf")  # fmt: skip


def libraries(*more: str) -> list[str]:
    """The arguments that bind what is readable, and `more` of it, where it is."""
    arguments: list[str] = []
    for path in (*READABLE, *more):
        if Path(path).is_symlink() and not path.startswith("/etc"):
            arguments += ["--symlink", os.readlink(path), path]
        else:
            arguments += ["--ro-bind-try", path, path]
    return arguments
