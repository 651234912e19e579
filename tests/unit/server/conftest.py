from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from api_in_process import Api, running_api
from fuzz_world import World


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as running:
        yield running


@pytest.fixture
def world() -> Iterator[World]:
    with asyncio.Runner() as runner:
        made = World(runner)
        yield made
        made.close()
