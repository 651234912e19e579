"""`python -m trimtab.components.profiling.agent ROOT --hz 19`: measures this machine until it is told to end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from pathlib import Path

from trimtab.components.profiling.agent.run import Agent
from trimtab.components.profiling.agent.sampler import cgroup_id


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trimtab.components.profiling.agent", description=__doc__)
    parser.add_argument("root", type=Path, help="where batches go: ROOT/incoming")
    parser.add_argument("--hz", type=float, default=19, help="samples a second of a CPU that is not idle")
    parser.add_argument("--seconds", type=float, default=0, help="end after so long; 0: when told to")
    parser.add_argument("--pid", type=int, default=0, help="only this process and its descendants")
    parser.add_argument("--cgroup", type=Path, help="only this cgroup (its directory) and those in it")
    return parser.parse_args()


async def _run(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if arguments.seconds:
        loop.call_later(arguments.seconds, stop.set)
    cgroup = cgroup_id(arguments.cgroup) if arguments.cgroup else 0
    arguments.root.mkdir(mode=0o750, parents=True, exist_ok=True)
    with contextlib.closing(Agent(arguments.root, hz=arguments.hz, pid=arguments.pid, cgroup=cgroup)) as agent:
        await agent.run(stop)
        print(dict(agent.totals), agent.files.counts)


asyncio.run(_run(_arguments()))
