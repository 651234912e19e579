"""What it costs to find who refers to what, while many objects of a provider that refer to one are deleted together.

    python benchmarks/infrastructure_deletions.py [--objects N]

In memory alone: the informers' caches, what each run read, and each run's context; no API server and no cloud, whose time comes on top.
The peer is a filter over all objects of the namespace, which every object that is being deleted looks through, and which every change
is then held against.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from references_world import Find, References  # noqa: E402
from trimtab.components.infrastructure.kinds import Managed  # noqa: E402
from trimtab.components.infrastructure.loop.users import enabled, objects, referring  # noqa: E402
from trimtab.runtime import Context  # noqa: E402


async def filtered(ctx: Context, subject: Managed) -> list[Managed]:
    """The peer."""
    kind = subject.resource_type

    def refers(one: Managed) -> bool:
        return any(
            (r.source.kind, r.source.name) == (kind.kind, subject.name)
            and (r.source.api_version or one.resource_type.api_version) == kind.api_version
            for r in one.spec.references
        )

    return await objects(ctx, await enabled(ctx), subject.namespace, refers)


def taken_s(count: int, find: Find) -> float:
    """CPU seconds for all of them."""
    world = References(count)
    began = time.process_time()
    asyncio.run(world.delete_all(find))
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=2000)
    most = parser.parse_args().objects
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    for count in (most // 4, most // 2, most):
        by_filter, by_index = taken_s(count, filtered), taken_s(count, referring)
        print(
            f"{count:6,} objects deleted together: by a filter {by_filter:8.2f} s CPU, by an index {by_index:6.3f} s: "
            f"{by_filter / by_index:,.0f} times less"
        )
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
