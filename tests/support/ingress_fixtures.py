"""The ingress component and its pods, for the tests of `integration` and of `faults`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from ingress_under_test import Backends, IngressUnderTest


@pytest_asyncio.fixture
async def under_test(tmp_path: Path) -> AsyncIterator[IngressUnderTest]:
    async with IngressUnderTest(tmp_path) as started:
        yield started


@pytest_asyncio.fixture
async def web(under_test: IngressUnderTest) -> AsyncIterator[Backends]:
    """Pods of Service shop/web; none is running yet."""
    backends = Backends(under_test)
    yield backends
    backends.kill_all()
