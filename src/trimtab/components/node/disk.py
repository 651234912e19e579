"""What the agent keeps on this machine's disk about pods, beside their volumes.

DATA/node/pods/UID/volumes      see volumes.py
DATA/node/pods/UID/logs         CONTAINER/ATTEMPT.log, written by containerd
DATA/node/pods/UID/termination  what a container said when it ended
DATA/node/pods/UID/hosts        its /etc/hosts
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from trimtab.components.node import cgroup, machine
from trimtab.components.node.configs import termination_file
from trimtab.components.node.node_config import NodeConfig
from trimtab.components.node.projected import Projector
from trimtab.components.node.volumes import BlockVolumes, Volumes
from trimtab.runtime.settings import Settings

TERMINATION_BYTES_MAX = 4096

log = logging.getLogger(__name__)


class NodeDisk(Volumes):
    """Implements the agent's `Disk`."""

    def __init__(
        self, settings: Settings, projector: Projector, config: NodeConfig, block: BlockVolumes | None = None
    ) -> None:
        super().__init__(settings, projector, block)
        self._cgroup = settings.cgroup
        self._pids_max = config.pids_max

    async def confine(self, uid: str) -> None:
        limit = cgroup.limit_processes
        if not await asyncio.to_thread(limit, machine.cgroups(), self._cgroup, uid, self._pids_max):
            log.warning("the processes of pod %s cannot be limited: it has no pids cgroup", uid)

    def hosts_of_node(self) -> str:
        try:
            return Path("/etc/hosts").read_text(errors="replace")
        except OSError:
            return ""

    def write_hosts(self, uid: str, text: str) -> None:
        directory = self.pod_directory(uid)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "hosts"
        path.write_text(text)
        path.chmod(0o644)

    def begin_container(self, uid: str, container: str, attempt: int) -> None:
        directory = self.pod_directory(uid)
        (directory / "logs" / container).mkdir(parents=True, exist_ok=True)
        path = termination_file(directory, container, attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.chmod(0o666)  # whatever user the container runs as may write it

    def termination_message(self, uid: str, container: str, attempt: int) -> str:
        try:
            with termination_file(self.pod_directory(uid), container, attempt).open("rb") as file:
                return file.read(TERMINATION_BYTES_MAX).decode(errors="replace").strip()
        except OSError:
            return ""

    def forget_container(self, uid: str, container: str, attempt: int) -> None:
        directory = self.pod_directory(uid)
        for path in (directory / "logs" / container).glob(f"{attempt}.log*"):
            path.unlink(missing_ok=True)
        termination_file(directory, container, attempt).unlink(missing_ok=True)

    async def remove(self, uid: str) -> None:
        await super().remove(uid)
        for directory in machine.cgroups().directories(self._cgroup, uid):
            remove_cgroup(directory)

    def has(self, uid: str) -> bool:
        return any((base / uid).exists() for base in (self._pods, self._secrets))

    def uids(self) -> Sequence[str]:
        found = machine.cgroups().pods(self._cgroup)
        for base in (self._pods, self._secrets):
            with contextlib.suppress(FileNotFoundError):
                found |= {entry.name for entry in os.scandir(base) if entry.is_dir()}
        return sorted(found)


def remove_cgroup(path: Path) -> None:
    """Removes a cgroup and those below it; one that still has a process stays."""
    if not path.is_dir():
        return
    for directory, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(directory)
