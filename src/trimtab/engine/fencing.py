"""Further nodes of this machine as its own agent sees them: whether they live, and their end by force.

Proof is the end of a node's process 1 (machine.py). An agent of a further node is in a namespace of its own and sees nobody: for it, every
node is unknown.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal

from trimtab.components.workloads.fencing import State
from trimtab.engine import procfs
from trimtab.engine.plan import read_json
from trimtab.runtime.settings import Settings

END_S_MAX = 30.0
"""How long the kernel may take to write back and let go of what a node had mounted."""


def first_process(settings: Settings, name: str) -> procfs.Identity | None:
    """Process 1 of a node, if it lives."""
    raw = read_json(f"{settings.node_run(name)}.json")
    if not isinstance(raw, dict) or raw.get("boot") != procfs.boot_id():
        return None
    process = procfs.Identity(raw["pid"], raw["start"])
    return process if procfs.alive(process) else None


class NamespaceMachines:
    """`Machines` by process namespaces."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def state(self, node: str) -> State:
        settings = self._settings
        if node == settings.node_name or not settings.first_node:
            return "unknown"
        process = first_process(settings, node)
        if process is not None:
            return "runs"
        disks = (settings.data_path("nodes", f"{node}.img"), settings.data_path("nodes", node))
        return "ended" if any(disk.exists() for disk in disks) else "gone"

    async def end(self, node: str) -> bool:
        process = first_process(self._settings, node)
        handle = procfs.pidfd(process) if process is not None else None
        if handle is None:
            return True
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            return await asyncio.to_thread(_ended, handle)
        finally:
            os.close(handle)


def _ended(handle: int) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(int(END_S_MAX * 1000)))
