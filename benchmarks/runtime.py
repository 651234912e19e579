"""How fast the runtime is: reconciles at rest, writes through the real API server in-process, seeds of the contract kit.

    python benchmarks/runtime.py

Prints medians of several rounds, per second of CPU time (the whole benchmark is one thread), with the machine's load. The peer of a reconcile at rest is calling the same function
directly: the ratio is what queue, cache, dependencies and the comparison of intents cost.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from running import Running, running
from sample_component import SCENARIO, component
from simulated_api import make_api
from trimtab.api import ObjectMeta
from trimtab.api.core import ConfigMap, Secret
from trimtab.runtime import Component, Context, Desired, Owned, reconciler
from trimtab.runtime.contract import Rates, rehearse
from trimtab.runtime.queue import Cause
from trimtab.runtime.simulation import SimulatedClock, simulate

SUBJECTS = 500
ROUNDS = 5
SEEDS = 100


@reconciler(Secret, name="copy", owns=[Owned(ConfigMap)])
async def copy(secret: Secret, ctx: Context) -> Desired:
    return Desired(objects=[copied(secret)])


def copied(secret: Secret) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=secret.name), data={"n": secret.data["n"]})


COPY = Component(name="bench", summary="", reconcilers=(copy,))


async def until_copied(here: Running, count: int) -> None:
    while len([w for w in here.transport.writes if w.startswith("PATCH")]) < count or not here.process.idle:
        await here.settle(0.1)


def applies_per_s() -> tuple[float, float]:
    """(subjects created, seen, reconciled and journaled, reconciles when nothing differs), each per second of CPU."""
    found: list[float] = []

    async def main(clock: SimulatedClock) -> None:
        async with running(clock, COPY) as here:
            began = time.process_time()
            for i in range(SUBJECTS):
                await here.apply(Secret(metadata=ObjectMeta(name=f"s{i}", namespace="default"), data={"n": "MQ=="}))
            await until_copied(here, SUBJECTS)
            found.append(SUBJECTS / (time.process_time() - began))

            controller = here.process.controllers[0]
            before = controller.runs
            began = time.process_time()
            for _ in range(10):
                for i in range(SUBJECTS):
                    controller._queue.add(("default", f"s{i}"), Cause("bench"))
                while not controller.idle:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            found.append((controller.runs - before) / (time.process_time() - began))

    simulate(main)
    return found[0], found[1]


def direct_per_s() -> float:
    secret = Secret(metadata=ObjectMeta(name="s", namespace="default"), data={"n": "MQ=="})
    began = time.process_time()
    for _ in range(20_000):
        copied(secret)
    return 20_000 / (time.process_time() - began)


def seeds_per_s() -> float:
    calm = rehearse(component(), SCENARIO, make_api)
    began = time.process_time()
    for seed in range(SEEDS):
        rehearse(component(), SCENARIO, make_api, seed=seed, rates=Rates(), expected=calm.found)
    return SEEDS / (time.process_time() - began)


def main() -> None:
    rounds = [applies_per_s() for _ in range(ROUNDS)]
    created = statistics.median(r[0] for r in rounds)
    rest = statistics.median(r[1] for r in rounds)
    direct = statistics.median(direct_per_s() for _ in range(ROUNDS))
    seeds = statistics.median(seeds_per_s() for _ in range(3))
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f}")
    print(f"subject made and reconciled    {created:8.0f} /s (two writes through the API server, watches, journal)")
    print(
        f"reconcile at rest              {rest:8.0f} /s ({1e6 / rest:.0f} us; the bare function takes {1e6 / direct:.1f} us)"
    )
    print(f"contract kit, sample component {seeds:8.0f} seeds/s ({1000 / seeds:.0f} s for 1,000)")


if __name__ == "__main__":
    main()
