"""What an engine made outside of this machine, said before the engine goes: a provider's resources are deleted with their objects alone.

objects of providers' kinds, while the engine runs --> one line on how many stay, a line for each, the command that deletes them
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from trimtab.api import JSON, Ref
from trimtab.cli.target import Target

SHOWN_MAX = 20
ASK_S = 10.0


def say_what_stays(target: Target, say: Callable[[str], None]) -> None:
    """Nothing when there is none, or when the engine does not run and nobody can be asked."""
    for line in lines(asyncio.run(_made(target))):
        say(line)


async def _made(target: Target) -> list[JSON]:
    from trimtab.client import ApiError
    from trimtab.components.infrastructure.questions.outside import kept_objects
    from trimtab.engine.errors import EngineError

    try:
        async with asyncio.timeout(ASK_S), target.client() as client:
            return await kept_objects(client, None)
    except (ApiError, EngineError, OSError, TimeoutError):
        return []


def lines(objects: list[JSON]) -> list[str]:
    """What to say of objects of providers' kinds."""
    there = [one for one in objects if one.get("status", {}).get("id")]
    if not there:
        return []
    what = "1 resource" if len(there) == 1 else f"{len(there):,} resources"
    out = [f"{what} of providers stay where they are, and nobody keeps them any more:"]
    out += [f"  {Ref.of_wire(one)}: {one['status']['id']}" for one in there[:SHOWN_MAX]]
    if len(there) > SHOWN_MAX:
        out.append(f"  and {len(there) - SHOWN_MAX:,} more: trimtab get infrastructure -A")
    out.append(
        "to have them deleted, too, start the engine again and delete their objects first: kubectl delete infrastructure --all -A"
    )
    return out
