"""From a provider's program to kinds that can be used, on a whole engine: 40 kinds, and 1,000.

    python benchmarks/infrastructure_kinds.py [COUNT ...]

As root: starts an engine of its own, installs a provider with so many kinds from its file, enables all of them by the command, and makes an
object of the last one. Then what they cost while nothing uses them, against the same engine with the provider installed and none enabled.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from infrastructure_engine import GROUP, CloudEngine, cloud_engine, provider_program
from trimtab.engine.procfs import pss_bytes

COUNTS = (40, 1000)


def main() -> None:
    counts = [int(one) for one in sys.argv[1:]] or COUNTS
    print(f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}")
    for count in counts:
        with cloud_engine(enabled=()) as world:
            measure(world, count)


def measure(world: CloudEngine, count: int) -> None:
    program = provider_program(world.folder, f"many-{count}")
    before = _memory(world)
    began = time.monotonic()
    world.install(f"many-{count}", version="2.0.0")
    installed = time.monotonic()
    print(f"{count} kinds: installed ({program.stat().st_size:,} bytes) after {installed - began:.2f} s", flush=True)
    idle = _memory(world)
    enabling = time.monotonic()
    world.engine.run("provider", "enable", "cloud", "cloud_kind_*", timeout_s=600)
    enabled = time.monotonic()
    made = {"apiVersion": GROUP, "kind": f"Kind{count - 1:04d}", "metadata": {"name": "last", "namespace": "default"}}
    world.apply(made | {"spec": {"forProvider": {"name": "last"}}})
    world.until(made["kind"], "last")
    ready = time.monotonic()
    print(
        f"  enabled and served {enabled - enabling:.2f} s later, an object of the last one Ready after {ready - enabled:.2f} s more;"
        f" in all {installed - began + ready - enabling:.2f} s; load {os.getloadavg()[0]:.2f}"
    )
    full = _memory(world)
    for name in before:
        print(
            f"  {name}: {before[name]:.0f} MB with another version installed, {idle[name]:.0f} with this one and none enabled,"
            f" {full[name]:.0f} MB with {count} enabled"
        )


def _memory(world: CloudEngine) -> dict[str, float]:
    return {name: pss_bytes(world.engine.pid(name)) / 1e6 for name in ("api", "controllers")}


if __name__ == "__main__":
    main()
