"""Installed providers on disk, each by the hash of its program, and how one is started: shut in.

    DATA/providers/SHA256/terraform-provider      the program         DATA/providers/SHA256/schema      its schema, read once
                                                                      RUN/user/providers/...            sockets

A provider may use the network, which is its job. It sees its program, the system's libraries and certificates, and nothing else: no
data of the engine, no other process, no environment; it has no privileges and so much memory.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from trimtab.components.infrastructure.kinds import Provider
from trimtab.components.infrastructure.pool import NotReady
from trimtab.components.infrastructure.protocol.schema import ProviderSchema

PROGRAM = "terraform-provider"
SCHEMA = "schema.msgpack"
SCHEMA_FORMAT = 1
MEMORY_BYTES = 4 << 30
"""Of private memory: the biggest provider needs less than one."""
READABLE = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ssl", "/etc/ca-certificates", "/etc/pki", "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf")  # fmt: skip


class Shelf:
    """The providers of one engine. root: DATA/providers."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def program(self, checksum: str) -> Path:
        return self._root / checksum.removeprefix("sha256:") / PROGRAM

    def put(self, program: bytes) -> str:
        """Keeps a program; returns its checksum. It is there whole, or not at all. Raises `OSError`."""
        checksum = f"sha256:{hashlib.sha256(program).hexdigest()}"
        path = self.program(checksum)
        if path.exists():
            return checksum
        self._root.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=self._root))
        try:
            (fresh / PROGRAM).write_bytes(program)
            (fresh / PROGRAM).chmod(0o755)
            fresh.chmod(0o755)
            fresh.rename(path.parent)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            if not path.exists():
                raise
        return checksum

    def remove(self, checksum: str) -> None:
        shutil.rmtree(self.program(checksum).parent, ignore_errors=True)

    def installed(self) -> list[str]:
        """Checksums of all that is there."""
        if not self._root.is_dir():
            return []
        return sorted(f"sha256:{p.name}" for p in self._root.iterdir() if (p / PROGRAM).exists())

    # Schemas

    def schema(self, checksum: str) -> ProviderSchema | None:
        """What was read of a program before."""
        try:
            raw = (self.program(checksum).parent / SCHEMA).read_bytes()
            return msgspec.msgpack.decode(raw, type=tuple[int, ProviderSchema])[1] if raw else None
        except (OSError, msgspec.MsgspecError):
            return None

    def keep_schema(self, checksum: str, schema: ProviderSchema) -> None:
        """Raises `OSError`."""
        path = self.program(checksum).parent / SCHEMA
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_bytes(msgspec.msgpack.encode((SCHEMA_FORMAT, schema)))
        fresh.rename(path)


class ShutIn:
    """Starts providers where they reach nothing but the network. Implements `pool.Command`."""

    def __init__(self, shelf: Shelf, sockets: Path) -> None:
        self._shelf = shelf
        self._sockets = sockets

    def __call__(self, provider: Provider) -> tuple[Sequence[str], Path, Mapping[str, str]]:
        """Raises `NotReady`."""
        program = self._shelf.program(provider.spec.checksum)
        if not provider.spec.checksum or not program.exists():
            raise NotReady(
                "ProviderFailed",
                f"the program of Provider {provider.name} is not on this machine: trimtab provider install {provider.spec.source}"
                + (f"@{provider.spec.version}" if provider.spec.version else ""),
            )
        self._sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        sockets = Path(tempfile.mkdtemp(prefix=f"{provider.name}-", dir=self._sockets))
        return confined(program, sockets), sockets, {"PATH": "/usr/bin:/bin", "HOME": "/tmp"}


def confined(program: Path, sockets: Path) -> list[str]:
    """The command that runs a provider shut in. Raises `NotReady`: bubblewrap is missing."""
    if shutil.which("bwrap") is None:
        raise NotReady("ProviderFailed", "bwrap is missing, which shuts providers in: apt-get install bubblewrap")
    command = ["prlimit", f"--data={MEMORY_BYTES}", "--core=0", "bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]  # fmt: skip
    command += [
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
    ]
    for path in READABLE:
        if Path(path).is_symlink() and not path.startswith("/etc"):
            command += ["--symlink", os.readlink(path), path]
        else:
            command += ["--ro-bind-try", path, path]
    command += ["--ro-bind", str(program), f"/provider/{PROGRAM}", "--bind", str(sockets), str(sockets)]
    return [*command, f"/provider/{PROGRAM}"]
