"""`python -m trimtab.components.profiling.agent ROOT --hz 19`: measures this machine until it is told to end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

from trimtab.components.profiling import lock
from trimtab.components.profiling.agent import talk, types
from trimtab.components.profiling.agent.run import Agent, BudgetExceeded, NotSupported, no_container
from trimtab.components.profiling.agent.sampler import cgroup_id


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trimtab.components.profiling.agent", description=__doc__)
    parser.add_argument("root", type=Path, help="where batches go: ROOT/incoming")
    parser.add_argument("--hz", type=float, default=19, help="samples a second of a CPU that is not idle")
    parser.add_argument("--seconds", type=float, default=0, help="end after so long; 0: when told to")
    parser.add_argument("--pid", type=int, default=0, help="only this process and its descendants")
    parser.add_argument("--types", type=types.parse, default=types.DEFAULT, help=f"of {', '.join(types.NAMES)}")
    parser.add_argument("--cgroup", type=Path, help="only this cgroup (its directory) and those in it")
    parser.add_argument("--cpu-percent", type=float, default=100.0, help="the budget: of one core")
    parser.add_argument("--memory-bytes", type=int, default=1 << 30, help="the budget")
    parser.add_argument("--perf", action="store_true", help="without BPF: frame pointers only")
    parser.add_argument(
        "--alone", action="store_true", help="only if no other that is to be alone measures this machine"
    )
    parser.add_argument(
        "--talk", action="store_true", help="lines of JSON on standard input and output; ends with its input"
    )
    return parser.parse_args()


NICE = -10
"""A machine that is busy is the one that is to be measured: what the agent does is little, and late it is of no use."""


_M_ARENA_MAX, _M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -8, -1, -3
KEPT_BYTES = 256 << 10


def _give_memory_back() -> None:
    """Large answers of the sandbox come and go: they are not to stay with the allocator, once for each thread (mallopt(3))."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_ARENA_MAX, 1)
    libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
    libc.mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)


async def _run(arguments: argparse.Namespace) -> None:
    _give_memory_back()
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if arguments.seconds:
        loop.call_later(arguments.seconds, stop.set)
    containers = talk.Containers()
    arguments.root.mkdir(mode=0o750, parents=True, exist_ok=True)
    agent = Agent(
        arguments.root,
        hz=arguments.hz,
        pid=arguments.pid,
        measured=arguments.types,
        cgroup=cgroup_id(arguments.cgroup) if arguments.cgroup else 0,
        provider=containers if arguments.talk else no_container,
        cpu_percent=arguments.cpu_percent,
        memory_bytes=arguments.memory_bytes,
        told=talk.tell,
        only_perf=arguments.perf,
    )
    with contextlib.closing(agent):
        containers.node_told = agent.processes.on_node
        listening = asyncio.create_task(talk.listen(containers, stop)) if arguments.talk else None
        try:
            await agent.run(stop)
        finally:
            if listening:
                listening.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await listening


def main() -> int:
    """Exit status 1 with a line that says why."""
    arguments = _arguments()
    try:
        held = lock.take() if arguments.alone else None
    except OSError as err:
        talk.tell(talk.Failure(error=f"{lock.AGENT}: {err.strerror}", reason="Failed"))
        return 1
    if arguments.alone and held is None:
        talk.tell(talk.Failure(error="another agent measures this machine", reason="AnotherAgent"))
        return 1
    with held or contextlib.nullcontext():
        try:
            asyncio.run(_run(arguments))
        except BudgetExceeded as err:
            talk.tell(talk.Failure(error=str(err), reason="BudgetExceeded"))
            return 1
        except NotSupported as err:
            talk.tell(talk.Failure(error=str(err), reason="NotSupported"))
            return 1
        except OSError as err:
            talk.tell(talk.Failure(error=str(err), reason="Failed"))
            return 1
    return 0


sys.exit(main())
