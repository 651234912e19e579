"""Housekeeping of the node: logs that grew too large are rotated."""

from __future__ import annotations

import asyncio
import logging

from trimtab.components.node import logs
from trimtab.components.node.agent import NodeAgent
from trimtab.components.node.sandboxes import RuntimeFailure
from trimtab.runtime.process import Process

LOOK_EVERY_S = 10.0

log = logging.getLogger(__name__)


async def run_upkeep(process: Process) -> None:
    """Looks at the size of every running container's log now and then, until cancelled."""
    agent = process.adapter(NodeAgent)
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        await rotate_logs(agent)


async def rotate_logs(agent: NodeAgent) -> int:
    """Rotates what is too large; returns how many logs that were."""
    rotated = 0
    for ident, view in agent.running_containers().items():
        path = agent.log_path(view)
        if not logs.too_large(path):
            continue
        logs.rotate(path)
        rotated += 1
        try:
            await agent.runtime.reopen_log(ident)
        except RuntimeFailure as err:
            log.warning("the log of container %s goes on in the renamed file: %s", view.name, err)
    return rotated
