"""Who refers to whom is looked up: nobody goes through all that there is."""

from __future__ import annotations

import asyncio
import sys
from types import FrameType
from typing import Any

from references_world import NAMESPACE, References
from trimtab.api import ObjectMeta
from trimtab.components.infrastructure.kinds import ManagedSpec, Reference, Source
from trimtab.components.infrastructure.loop.users import referring


async def test_what_refers_is_found_and_brings_back_what_waits_for_it() -> None:
    world = References(servers=3)
    network = world.network(metadata=ObjectMeta(name="main", namespace=NAMESPACE))
    found = await world.run(network, referring)
    assert [one.name for one in found] == ["web-0", "web-1", "web-2"]
    assert await world.run(world.servers[0], referring) == []

    waiting = [(NAMESPACE, "main")]
    assert world.gone(world.servers[0]) == waiting
    elsewhere = Source(kind="Network", name="main", field="id", api_version="other.tf.trimtab.dev/v1")
    moved = ManagedSpec(references=[Reference("network", elsewhere)])
    assert world.see(world.server(metadata=ObjectMeta(name="web-1", namespace=NAMESPACE), spec=moved)) == waiting
    assert [one.name for one in await world.run(network, referring)] == ["web-2"]
    assert world.see(world.server(metadata=ObjectMeta(name="web-1", namespace=NAMESPACE))) == []


def test_deleting_twice_as_many_takes_twice_as_long() -> None:
    few, many = _calls(servers=100), _calls(servers=400)
    assert many < 6 * few, f"{few} calls for 100, {many} for 400"


def _calls(servers: int) -> int:
    """How many functions are called while so many objects are deleted together."""
    world = References(servers)
    called = 0

    def count(frame: FrameType, event: str, _: Any) -> None:
        nonlocal called
        called += event == "call"

    sys.setprofile(count)
    try:
        assert asyncio.run(world.delete_all(referring)) == 0
    finally:
        sys.setprofile(None)
    return called
