"""Putting kinds into the API and taking them out again, many at a time.

manifests --apply_all--> the API --served--> objects of them can be made         nothing_left, drop_all: the way back
half_enabled: what a command that was killed left, or did not take away
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec

from trimtab.api import JSON, Ref
from trimtab.client import ApiError, WireClient
from trimtab.components.infrastructure.commands.commanding import PLURALS, apply, drop
from trimtab.components.infrastructure.kinds import Provider
from trimtab.components.infrastructure.schemas import naming
from trimtab.runtime.commands import Refused

SERVED_WITHIN_S = 60.0
LOOK_S = 0.1
WORKERS = 8
"""Requests at a time: the API writes many in one go, and others want it, too."""
TELL_S = 1.0
Tell = Callable[[str], None]


async def apply_all(wire: WireClient, manifests: Sequence[JSON], tell: Tell) -> None:
    """Raises `ApiError`: the first refusal."""
    await _each(manifests, lambda one: apply(wire, one), tell, "defined")


async def drop_all(wire: WireClient, manifests: Sequence[JSON], tell: Tell) -> None:
    """Raises `ApiError`."""
    await _each(manifests, lambda one: drop(wire, f"{PLURALS[one['kind']]}/{one['metadata']['name']}"), tell, "removed")


async def served(wire: WireClient, manifests: Sequence[JSON], tell: Tell) -> None:
    """Waits until objects of these kinds can be made. Raises `Refused`, `ApiError`."""
    await _each(manifests, lambda one: _served(wire, one), tell, "served")


async def nothing_left(wire: WireClient, manifests: Sequence[JSON], tell: Tell) -> None:
    """Raises `Refused`: there are objects of these kinds, `ApiError`."""
    await _each(manifests, lambda one: _nothing_left(wire, one), tell, "looked at")


async def half_enabled(wire: WireClient, made: Provider) -> list[JSON]:
    """What the API serves of a provider although the Provider does not name it: as much of each definition as the way back needs."""
    group = naming.group(made.name)
    try:
        answer = await wire.send("GET", f"/apis/{group}/{naming.VERSION}")
    except ApiError as err:
        if err.status == 404:
            return []
        raise
    named = {naming.plural(naming.kind_name(made.name, one)) for one in made.spec.kinds}
    rows = [one for one in msgspec.json.decode(answer.body)["resources"] if "/" not in one["name"]]
    return [
        {
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{one['name']}.{group}"},
            "spec": {"group": group, "names": {"plural": one["name"], "kind": one["kind"]}},
        }
        for one in rows
        if one["name"] not in named
    ]


async def _each(items: Iterable[JSON], do: Callable[[JSON], Awaitable[None]], tell: Tell, what: str) -> None:
    todo = list(items)
    left = iter(todo)
    now = asyncio.get_running_loop().time
    done, told = 0, now()

    async def work() -> None:
        nonlocal done, told
        for item in left:
            await do(item)
            done += 1
            if now() - told >= TELL_S:
                told = now()
                tell(f"{done:,} of {len(todo):,} {what}")

    workers = [asyncio.create_task(work()) for _ in range(min(WORKERS, len(todo)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _objects(manifest: JSON) -> str:
    spec = manifest["spec"]
    return f"/apis/{spec['group']}/{naming.VERSION}/{spec['names']['plural']}"


async def _served(wire: WireClient, manifest: JSON) -> None:
    for _ in range(int(SERVED_WITHIN_S / LOOK_S)):
        try:
            await wire.send("GET", _objects(manifest), {"limit": "1"})
        except ApiError as err:
            if err.status != 404:
                raise
        else:
            return
        await asyncio.sleep(LOOK_S)
    raise Refused(
        f"{manifest['spec']['names']['kind']} is not served {SERVED_WITHIN_S:.0f} s after it was defined: "
        f"kubectl describe crd {manifest['metadata']['name']}"
    )


async def _nothing_left(wire: WireClient, manifest: JSON) -> None:
    try:
        answer = await wire.send("GET", _objects(manifest), {"limit": "3"})
    except ApiError as err:
        if err.status == 404:
            return
        raise
    if items := msgspec.json.decode(answer.body)["items"]:
        refs = [str(Ref.of_wire({**item, "kind": manifest["spec"]["names"]["kind"]})) for item in items]
        raise Refused(f"there are objects of it, which would be deleted with it: {', '.join(refs)}; delete them first")
