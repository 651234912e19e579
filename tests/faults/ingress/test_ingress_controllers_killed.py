"""Pods are replaced under load while the controllers die in the middle of every replacement: nothing is dropped."""

from __future__ import annotations

import asyncio
import random

import pytest

from ingress_under_test import Backends, IngressUnderTest
from ingress_world import ingress, service
from rollout import Load

REPLACEMENTS = 8


@pytest.mark.serial
async def test_controllers_that_die_in_every_replacement(under_test: IngressUnderTest, web: Backends):
    rng = random.Random(7)
    await under_test.apply(service(target=web.port))
    await under_test.apply(ingress())
    old = await web.start_pod()
    await web.attached(old)
    await under_test.answers("shop.example.com")
    load = Load(under_test.target(), clients=20)
    load.start()

    async def die_soon(for_s: float) -> None:
        await asyncio.sleep(for_s)
        await under_test.stop_controllers()
        under_test.start_controllers()

    for _ in range(REPLACEMENTS):
        dying = [asyncio.create_task(die_soon(rng.random() * 0.3))]
        new = await web.start_pod()
        await web.attached(new)
        await asyncio.gather(*dying)
        dying = [asyncio.create_task(die_soon(rng.random() * 0.3))]
        await web.remove_pod(old)
        await asyncio.gather(*dying)
        old = new
    result = await load.stop()
    assert result.failures == []
    assert result.doubled(web.executed) == []
    assert result.lost(web.executed) == []
    assert result.requests > 500
