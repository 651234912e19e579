"""Housekeeping of the node: logs that grew too large are rotated.

Sizes are looked at every `LOOK_EVERY_S`, and more often while a log grows so fast that it would be far too large by then: a flood is
cut to what a log may hold, however much came until it was noticed.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from trimtab.components.node import logs
from trimtab.components.node.agent import NodeAgent
from trimtab.components.node.node_config import NodeConfig
from trimtab.components.node.sandboxes import RuntimeFailure
from trimtab.runtime.process import Process

LOOK_EVERY_S = 10.0
LOOK_EVERY_S_MIN = 1.0

log = logging.getLogger(__name__)


class Rotation:
    """Remembers how large logs were, to see how fast they grow."""

    def __init__(self, agent: NodeAgent, config: NodeConfig) -> None:
        self._agent = agent
        self._config = config
        self._sizes: dict[str, tuple[float, int]] = {}

    async def look(self, now_s: float) -> float:
        """Rotates what is too large; returns when to look again, in seconds."""
        again_s, sizes = LOOK_EVERY_S, {}
        for ident, view in self._agent.running_containers().items():
            path = self._agent.log_path(view)
            size = _size(path)
            if size > self._config.log_bytes_max:
                await self._rotate(ident, view.name, path)
            before_s, before = self._sizes.get(ident, (now_s, size))
            sizes[ident] = (now_s, _size(path))
            grown = size - before if size >= before else size
            if now_s > before_s and grown > 0:
                full_in_s = self._config.log_bytes_max / (grown / (now_s - before_s))
                again_s = min(again_s, max(full_in_s, LOOK_EVERY_S_MIN))
        self._sizes = sizes
        return again_s

    async def _rotate(self, ident: str, name: str, path: Path) -> None:
        try:
            newest = logs.rotate(path, self._config.log_files_max - 1)
        except OSError as err:
            log.warning("the log of container %s cannot be rotated: %s", name, err)
            return
        try:
            await self._agent.runtime.reopen_log(ident)
        except RuntimeFailure as err:
            log.warning("the log of container %s goes on in the renamed file: %s", name, err)
            return
        try:
            await asyncio.to_thread(logs.cut, newest, self._config.log_bytes_max)
        except OSError as err:  # the pod went, or the disk is full: the next rotation removes it
            log.info("the log of container %s keeps its length: %s", name, err)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


async def run_upkeep(process: Process) -> None:
    """Looks at the size of every running container's log now and then, until cancelled."""
    rotation = Rotation(process.adapter(NodeAgent), process.adapter(NodeConfig))
    loop = asyncio.get_running_loop()
    again_s = LOOK_EVERY_S
    while True:
        await asyncio.sleep(min(again_s, LOOK_EVERY_S))
        again_s = await rotation.look(loop.time())
