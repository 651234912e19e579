"""Taking this engine's pods, networks and leftovers away again, for `stop`, `uninstall` and tests.

First by asking containerd, then by force: whatever a crash, a reboot or a broken containerd left is found by name (cgroup,
bridge, nft table, directories, shims of our socket) and removed. Nothing of anybody else has these names.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.api.core import Pod
from trimtab.client import ApiError
from trimtab.components.node import machine, network
from trimtab.components.node.cri import Cri
from trimtab.components.node.decide import GRACE_S_DEFAULT, grace_s
from trimtab.components.node.disk import remove_cgroup
from trimtab.components.node.network import CommandFailed, run
from trimtab.components.node.sandboxes import RuntimeFailure
from trimtab.components.node.volumes import mounts_below
from trimtab.runtime.settings import Settings

STOP_LIMIT_S = 60.0
"""What no pod's grace period may exceed when the whole engine stops, unless the user says more."""
ASK_S = 3.0
"""How long the API may take to say how long each pod may take."""
DEAD_WITHIN_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stopping:
    """A pod that is being stopped. `grace_s`: what it has between SIGTERM and SIGKILL."""

    name: str
    grace_s: float


async def stop_pods(
    settings: Settings,
    limit_s: float = STOP_LIMIT_S,
    tell: Callable[[Sequence[Stopping]], None] = lambda left: None,
) -> None:
    """Stops every container and every sandbox; images and volumes stay. Each pod has its own grace period, but no more than
    `limit_s`; `tell` hears which pods are left, whenever that changes. Without a containerd that answers it does nothing:
    `cleanup` then ends what is left."""
    if not answers(settings):
        return
    graces = await _grace_periods(settings)
    cri = Cri(settings.containerd_socket)
    try:
        containers: dict[str, list[str]] = {}
        for container in await cri.containers():
            if container.state == "running":
                containers.setdefault(container.pod_uid, []).append(container.id)
        sandboxes = await cri.sandboxes()
        names = {sandbox.uid: f"{sandbox.namespace}/{sandbox.name}" for sandbox in sandboxes}
        left = {
            uid: Stopping(names.get(uid, uid), min(graces.get(uid, GRACE_S_DEFAULT), limit_s)) for uid in containers
        }

        async def stop(uid: str) -> None:
            await asyncio.gather(*(_quietly(cri.stop_container(c, left[uid].grace_s)) for c in containers[uid]))
            del left[uid]
            tell(list(left.values()))

        tell(list(left.values()))
        await asyncio.gather(*map(stop, containers))
        await asyncio.gather(*(_quietly(cri.stop_sandbox(sandbox.id)) for sandbox in sandboxes))
    finally:
        await cri.close()


async def _grace_periods(settings: Settings) -> dict[str, float]:
    """Seconds by pod uid; nothing when the API does not say."""
    from trimtab.client import Client, SocketTransport

    try:
        async with asyncio.timeout(ASK_S), SocketTransport(settings.api_socket) as transport:
            pods = await Client(transport).list(Pod)
    except (OSError, TimeoutError, ApiError) as err:
        log.warning("pods get %d s each, since the API does not say how long: %s", GRACE_S_DEFAULT, err)
        return {}
    return {pod.metadata.uid: float(grace_s(pod)) for pod in pods.items}


async def remove_pods(settings: Settings) -> None:
    """Stops and removes every sandbox with all that is in it. containerd must run."""
    cri = Cri(settings.containerd_socket)
    try:
        for sandbox in await cri.sandboxes():
            await _quietly(cri.stop_sandbox(sandbox.id))
            await _quietly(cri.remove_sandbox(sandbox.id))
    finally:
        await cri.close()


async def _quietly(work: object) -> None:
    try:
        await work  # type: ignore[misc]
    except RuntimeFailure as err:
        log.warning("%s", err)


def remove_networks(settings: Settings) -> None:
    """Removes the bridge and the tables of rules. Idempotent."""
    asyncio.run(_remove_networks(settings))


async def _remove_networks(settings: Settings) -> None:
    with contextlib.suppress(CommandFailed):
        await network.down(settings)


def cleanup(settings: Settings) -> None:
    """Removes everything of this engine's node from the machine, its images and volumes on disk excepted.

    Works with or without a running containerd; if one runs, it must be stopped afterwards. Idempotent.
    """
    if answers(settings):
        with contextlib.suppress(RuntimeFailure, TimeoutError):
            asyncio.run(asyncio.wait_for(remove_pods(settings), 60))
    kill_processes(settings)
    remove_networks(settings)
    for base in (settings.run_path(), settings.data_path("node")):
        for mount in mounts_below(base):
            if mount == base:
                continue  # a disk that somebody gave the node
            with contextlib.suppress(CommandFailed):
                asyncio.run(run("umount", "--lazy", str(mount)))
    for directory in (
        settings.data_path("node", "pods"),
        settings.run_path("pods"),
        settings.run_path("ipam"),
    ):
        shutil.rmtree(directory, ignore_errors=True)
    # Never by force: where a volume is still mounted, that would reach its data.
    attached = settings.data_path("node", "attached")
    for directory in (*attached.glob("*"), attached):
        with contextlib.suppress(OSError):
            directory.rmdir()
    remove_cgroups(settings)


def pod_cgroups(settings: Settings) -> list[Path]:
    """This node's cgroup in every hierarchy; the pods' lie directly in it."""
    return machine.cgroups().directories(settings.cgroup)


def remove_cgroups(settings: Settings) -> None:
    """Removes the cgroups of this node's pods; those in which a process still is stay."""
    for group in machine.cgroups().directories(settings.cgroup):
        remove_cgroup(group)


def answers(settings: Settings) -> bool:
    """True when somebody listens on our containerd's socket."""
    import socket

    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(settings.containerd_socket))
        except OSError:
            return False
    return True


def kill_processes(settings: Settings) -> None:
    """Kills the processes of our cgroup, then the shims of our containerd that are left, and waits until they are gone."""
    victims = {pid for group in machine.cgroups().directories(settings.cgroup) for pid in _members(group)}
    victims |= set(shims(settings))
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + DEAD_WITHIN_S
    while any(_alive(pid) for pid in victims) and time.monotonic() < deadline:
        time.sleep(0.01)


def _members(group: Path) -> list[int]:
    found = []
    for path in group.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            found += [int(line) for line in path.read_text().split()]
    return found


def shims(settings: Settings) -> list[int]:
    """The shims that belong to our containerd: those that were told its socket."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"containerd-shim" in words[0] and str(settings.containerd_socket).encode() in words:
            found.append(int(entry.name))
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
