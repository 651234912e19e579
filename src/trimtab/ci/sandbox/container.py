"""One container of a step, ready to be started: what its file system is stacked from, and how bubblewrap is called for it.

    image's layers + laid inputs (read-only) + upper (its own) --overlayfs--> root;  bwrap: root, /proc, /dev, hosts, caches

The step itself, each of its services, and a shell in the state of a failed one are such containers.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.ci.cache.blobs import Blobs
from trimtab.ci.cache.tree import encode
from trimtab.ci.runs.ports import EngineFault, Job
from trimtab.ci.sandbox.rootfs import PATH, Account, Root, account, real, unpacked

if TYPE_CHECKING:
    from trimtab.ci.sandbox.plan import Overlay

BWRAP = "/usr/bin/bwrap"
VOLUMES = "volumes"
"""Where the copies of a container's cache volumes are, in its directory."""
SHM_BYTES = 1 << 30
RESOLV_CONF = Path("/etc/resolv.conf")
# What root in a container of the well-known engines may do, less what means nothing with one user.
ROOT_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT")


@dataclass(frozen=True)
class Container:
    """name: its host name. lowers: the stack below the upper directory, topmost first, absolute."""

    name: str
    job: Job
    root: Root
    lowers: tuple[Path, ...]
    overlay: Overlay
    at: Path
    hosts: Path
    volumes: Path
    network: bool

    def env(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The image's variables, those declared, the secrets; `PATH` and `HOME` where nothing says them."""
        declared = {**self.root.env, **self.job.action.get("env", {}), **(more or {}), **self.job.secrets}
        return {"PATH": PATH, **declared}

    def account(self, user: str | None = None) -> Account:
        return account(list(self.lowers), user or self.job.action.get("user") or self.root.user)

    def cwd(self, said: str | None = None) -> str:
        """Where a command runs; a step that says `/` runs where the image says."""
        said = said or self.job.action.get("cwd", "/")
        return said if said != "/" else self.root.cwd

    def wrap(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        terminal: bool = False,
        also: Sequence[str] = (),
    ) -> tuple[list[str], dict[str, str]]:
        """The call of bubblewrap and its environment. also: further arguments of it. terminal: may keep the one it has."""
        who = self.account(user)
        directory = self.cwd(cwd)
        call = [BWRAP, "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        call += ["--uid", str(who.uid), "--gid", str(who.gid), "--hostname", self.name]
        call += ["--bind", str(self.at), "/", "--proc", "/proc", "--dev", "/dev"]
        call += ["--perms", "1777", "--size", str(SHM_BYTES), "--tmpfs", "/dev/shm"]
        call += ["--ro-bind", str(self.hosts), "/etc/hosts"]
        if self.network and RESOLV_CONF.exists():
            call += ["--ro-bind", str(RESOLV_CONF.resolve()), "/etc/resolv.conf"]
        for file, at in self.job.files.items():
            call += ["--ro-bind", file, at]
        for cache in self.job.action.get("caches", ()):
            volume = self.volumes / cache["key"]
            call += ["--bind", str(volume), real(list(self.lowers), cache["path"])]
        call += ["--dir", real(list(self.lowers), directory), "--chdir", directory, *also, "--remount-ro", "/dev"]
        call += ["--cap-drop", "ALL"]
        if who.uid == 0:
            for capability in ROOT_CAPABILITIES:
                call += ["--cap-add", f"CAP_{capability}"]
        if not terminal:
            call += ["--new-session"]
        return [*call, "--", *argv], {"HOME": who.home, **self.env(env)}


def prepare(state: Path, blobs: Blobs, job: Job, name: str, hosts: Path) -> Container:
    """Everything that a container needs on disk. Raises `EngineFault`, and `Lost` for a tree that is not in the store."""
    root = unpacked(state, job.image)
    lowers = [state / layer for layer in root.layers]
    for laid in job.inputs:
        lowers.insert(0, Path(blobs.materialise(_below(blobs, laid.tree, real(lowers, laid.to)))))
    upper, work, at = (job.directory / one for one in ("upper", "work", "root"))
    for path in (upper, work, at):
        path.mkdir(parents=True, exist_ok=True, mode=0o755)
    if not lowers:
        empty = job.directory / "empty"
        empty.mkdir(exist_ok=True)
        lowers = [empty]
    overlay: Overlay = {
        "lowers": [_option(one, state).replace(":", "\\:") for one in lowers],
        "upper": _option(upper, state),
        "work": _option(work, state),
        "at": str(at),
    }
    network = job.action.get("net") == "allow"
    return Container(name, job, root, tuple(lowers), overlay, at, hosts, job.directory / VOLUMES, network)


def _below(blobs: Blobs, tree: str, to: str) -> str:
    """The tree in which `tree` lies at `to`."""
    for part in reversed(posixpath.normpath(to).strip("/").split("/")):
        if part:
            tree = blobs.put(encode([(part, "d", tree.removeprefix("sha256:"), 0)]))
    return tree


def _option(path: Path, state: Path) -> str:
    """A path as an option of a mount in the state's directory: as short as can be, since all of them have to fit into a page."""
    text = str(path.relative_to(state)) if path.is_relative_to(state) else str(path)
    return text.replace("\\", "\\\\").replace(",", "\\,")


def installed() -> None:
    """Raises `EngineFault` where bubblewrap is missing."""
    if not Path(BWRAP).exists():
        raise EngineFault(f"{BWRAP} is not there; install bubblewrap (`apt-get install bubblewrap`)")
