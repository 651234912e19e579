"""The kernel's word that memory is short: where there is one, and where there is none."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from trimtab.components.node.psi import MEMORY, Stalls


@pytest.mark.skipif(not MEMORY.exists() or os.geteuid() != 0, reason="this kernel has no pressure stall information")
async def test_a_trigger_is_taken_by_the_kernel_and_given_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    stalls = Stalls(lambda: None)

    assert stalls.open()
    assert len(os.listdir("/proc/self/fd")) > before
    stalls.close()
    stalls.close()

    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("content", [None, "some avg10=0.00\n"])
async def test_without_it_nothing_is_noticed_and_nothing_breaks(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "memory"
    if content is not None:
        path.write_text(content)  # a file that cannot be polled: epoll refuses it
    noticed: list[bool] = []
    stalls = Stalls(lambda: noticed.append(True), path)

    assert not stalls.open()
    await asyncio.sleep(0)
    stalls.close()

    assert noticed == []
