"""Installed providers on disk, each by the hash of its program, and how one is started: shut in.

    DATA/providers/SHA256/terraform-provider      the program         DATA/providers/SHA256/schema      its schema, read once
                          reads                   what else it reads  RUN/user/providers/NAME.PID.xxx   sockets, of whom it is asked by

A provider may use the network, which is its job. It sees its program, the system's libraries and certificates, what its installer let it
read, and nothing else: no data of the engine, no other process, of the environment only the way to the world; it has no privileges and
so much memory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

import trimtab
from trimtab.api.quantity import whole
from trimtab.components.infrastructure.kinds import Provider
from trimtab.components.infrastructure.programs.terms import NotReady
from trimtab.components.infrastructure.protocol.schema import ProviderSchema
from trimtab.confinement.outside import READABLE, WAY_OUT, libraries

PROGRAM = "terraform-provider"
SCHEMA = "schema.msgpack"
READS = "reads"
SCHEMA_FORMAT = 1
WITH_US = ("setpriv", "--pdeathsig", "KILL", "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"')
"""Before a process id and a command: ends with that process, also when that ended before it was asked for. (bwrap's --die-with-parent alone
does not look whether its parent still is there.)"""
NAME_MAX, SOCKETS_PATH_MAX = 12, 55
"""A unix socket's path has 107 bytes at most: this directory, `/NAME.PID.12345678`, and the name that the provider gives it. Where a longer
directory was chosen, sockets are in the temporary one."""


class ShelfError(Exception):
    """Something cannot be kept: one line with what to do."""


class Shelf:
    """The providers of one engine. root: DATA/providers."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def program(self, checksum: str) -> Path:
        return self._root / checksum.removeprefix("sha256:") / PROGRAM

    def put(self, program: bytes, reads: Sequence[str] = ()) -> str:
        """Keeps a program, and the directories that it may read beside itself; returns its checksum. It is there whole, or not at all.
        Raises `ShelfError`."""
        checksum = f"sha256:{hashlib.sha256(program).hexdigest()}"
        path = self.program(checksum)
        with self._alone():
            for left in self._root.glob(".new-*"):  # by one that was killed
                shutil.rmtree(left, ignore_errors=True)
            if path.exists():
                _replace(path.with_name(READS), msgspec.json.encode(list(reads)))
                return checksum
            fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=self._root))
            try:
                (fresh / PROGRAM).write_bytes(program)
                (fresh / PROGRAM).chmod(0o755)
                (fresh / READS).write_bytes(msgspec.json.encode(list(reads)))
                fresh.chmod(0o755)
                fresh.rename(path.parent)
            except OSError:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
        return checksum

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else writes here meanwhile; whoever is killed lets go. Raises `ShelfError` when nobody can."""
        try:
            self._root.mkdir(mode=0o755, parents=True, exist_ok=True)
            handle = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield
            finally:
                os.close(handle)
        except OSError as err:
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ShelfError(f"the disk of {self._root} is full: free some space and try again") from None
            raise ShelfError(f"{self._root}: {err.strerror or err}") from None

    def reads(self, checksum: str) -> list[str]:
        """The directories that a program may read beside itself and the system's."""
        try:
            return msgspec.json.decode(self.program(checksum).with_name(READS).read_bytes(), type=list[str])
        except (OSError, msgspec.MsgspecError):
            return []

    def remove(self, checksum: str) -> None:
        shutil.rmtree(self.program(checksum).parent, ignore_errors=True)

    def installed(self) -> list[str]:
        """Checksums of all that is there."""
        if not self._root.is_dir():
            return []
        found = (p for p in self._root.iterdir() if not p.name.startswith("."))  # those are what a crash left half-way
        return sorted(f"sha256:{p.name}" for p in found if (p / PROGRAM).exists())

    # Schemas

    def schema(self, checksum: str) -> ProviderSchema | None:
        """What was read of a program before."""
        try:
            raw = (self.program(checksum).parent / SCHEMA).read_bytes()
            return msgspec.msgpack.decode(raw, type=tuple[int, ProviderSchema])[1] if raw else None
        except (OSError, msgspec.MsgspecError):
            return None

    def keep_schema(self, checksum: str, schema: ProviderSchema) -> None:
        """Raises `ShelfError`."""
        with self._alone():
            _replace(self.program(checksum).with_name(SCHEMA), msgspec.msgpack.encode((SCHEMA_FORMAT, schema)))


def _replace(path: Path, data: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_bytes(data)
        fresh.rename(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


class ShutIn:
    """Starts providers where they reach nothing but the network. Implements `pool.Command`.

    user: whom they run as when this process is root.
    """

    def __init__(self, shelf: Shelf, sockets: Path, user: str) -> None:
        self._shelf = shelf
        self._sockets = sockets
        self._user = user
        self._ours: set[Path] = set()

    def __call__(self, provider: Provider) -> tuple[Sequence[str], Path, Mapping[str, str]]:
        """Raises `NotReady`."""
        program = self._shelf.program(provider.spec.checksum)
        if not provider.spec.checksum or not program.exists():
            raise NotReady(
                "ProviderFailed",
                f"the program of Provider {provider.name} is not on this machine: trimtab provider install {provider.spec.source}"
                + (f"@{provider.spec.version}" if provider.spec.version else ""),
            )
        sockets = self._room(provider.name)
        passed = {name: os.environ[name] for name in WAY_OUT if name in os.environ}
        user = self._user if os.geteuid() == 0 else ""
        if user and not _there(user):
            raise NotReady(
                "ProviderFailed", f"the system user {user}, as whom providers run, is missing: `trimtab run` makes it"
            )
        if user:
            shutil.chown(sockets, user)
        memory_bytes = whole(provider.spec.memory)
        command = confined(program, sockets, self._shelf.reads(provider.spec.checksum), user, memory_bytes)
        return command, sockets, {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": str(sockets)} | passed

    def _room(self, name: str) -> Path:
        """A directory for one process's socket."""
        folder = self._sockets
        if len(str(folder)) > SOCKETS_PATH_MAX:
            return Path(tempfile.mkdtemp(prefix="trimtab-"))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()
        sockets = Path(tempfile.mkdtemp(prefix=f"{name[:NAME_MAX]}.{os.getpid()}.", dir=folder))
        self._ours.add(sockets)
        return sockets

    def _sweep(self) -> None:
        """What processes that were killed left behind; one of them may have had our number."""
        for one in self._sockets.iterdir():
            pid = one.name.split(".")[-2] if one.name.count(".") > 1 else ""
            if one not in self._ours and (pid == str(os.getpid()) or not _runs(pid)):
                _end(one)
                shutil.rmtree(one, ignore_errors=True)


def _end(sockets: Path) -> None:
    """What is shut in with this directory ends. Its outer half ends with who started it, but the inner one, when that happens while it is
    being made, waits or runs on."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            said = (process / "cmdline").read_bytes().split(b"\0")
            if said[0] == b"bwrap" and os.fsencode(sockets) in said:
                os.kill(int(process.name), signal.SIGKILL)


def _runs(pid: str) -> bool:
    return pid.isdigit() and Path(f"/proc/{pid}").exists()


def closed(path: Path, user: str) -> Path | None:
    """The directory, `path` itself or one above it, that keeps this user from reading what is in it; None when none does. The program's own
    directories are in view wherever they lie. Raises `KeyError`: there is no such user."""
    ours = (Path(sys.prefix), Path(sys.base_prefix), Path(trimtab.__file__).parents[1])
    if any(path.is_relative_to(one) for one in ours):
        return None
    account = pwd.getpwnam(user)
    for folder in (*reversed(path.parents), path):
        found = folder.stat()
        shift = 6 if found.st_uid == account.pw_uid else 3 if found.st_gid == account.pw_gid else 0
        needed = 0o5 if folder == path else 0o1  # to be listed, and to be passed
        if found.st_mode >> shift & needed != needed:
            return folder
    return None


def _there(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def confined(
    program: Path, sockets: Path, reads: Sequence[str] = (), user: str = "", memory_bytes: int = 2 << 30
) -> list[str]:
    """The command that runs a provider shut in, as this user (of root) or as whoever runs it, for as long as this process runs, which has
    to start it. Raises `NotReady`: bubblewrap is missing."""
    if shutil.which("bwrap") is None:
        raise NotReady("ProviderFailed", "bwrap is missing, which shuts providers in: apt-get install bubblewrap")
    command = [
        *WITH_US,
        str(os.getpid()),
        "prlimit",
        f"--data={memory_bytes}",
        "--core=0",
        "bwrap",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
    ]
    command += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if user:  # given up inside: who is root outside reads too much of what is bound in
        account = pwd.getpwnam(user)
        become = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        become += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
        command += [part for name in ("SETUID", "SETGID", "SETPCAP") for part in ("--cap-add", f"CAP_{name}")]
    else:
        become = []
        command += ["--unshare-user"]
    command += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp"]
    command += libraries()
    inside = f"/provider/{PROGRAM}"
    for folder in _folders(inside, str(sockets), *reads):
        command += ["--perms", "0755", "--dir", folder]  # by itself it makes them so that root alone may pass
    for path in reads:
        command += ["--ro-bind-try", path, path]
    command += ["--ro-bind", str(program), inside, "--bind", str(sockets), str(sockets), "--", *become]
    return [*command, inside]


def _folders(*paths: str) -> list[str]:
    """The directories above these, outermost first, but for those that are bound as they are."""
    above = {str(folder) for path in paths for folder in Path(path).parents} - {"/"}
    return sorted(one for one in above if not any(f"{one}/".startswith(f"{there}/") for there in READABLE))
