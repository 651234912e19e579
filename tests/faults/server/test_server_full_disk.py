"""A disk that is really full: writes are refused with a clear error, reads and watches go on, and all is well once there is
room again."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from api_process import ApiProcess

COLLECTION = "http://api/api/v1/namespaces/default/configmaps"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def _create_until_refused(session: aiohttp.ClientSession) -> tuple[list[str], Any]:
    """The names of what was created, and the refusal."""
    made = []
    for number in range(1_000):
        body = {"metadata": {"name": f"c{number}"}, "data": {"v": "x" * 20_000}}
        async with session.post(COLLECTION, json=body) as answer:
            if answer.status != 201:
                return made, await answer.json()
            made.append(f"c{number}")
    raise AssertionError("the disk never filled")


async def _names(session: aiohttp.ClientSession) -> list[str]:
    async with session.get(COLLECTION) as answer:
        listed = await answer.json()
    return sorted(item["metadata"]["name"] for item in listed["items"])


@pytest.mark.engine
async def test_a_full_disk_refuses_writes_and_nothing_else(small_disk: Path) -> None:
    server = ApiProcess(small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(os.urandom(1_000_000))
    await asyncio.to_thread(server.start)
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(server.socket))) as session:
            made, refusal = await _create_until_refused(session)
            assert refusal["code"] == 507
            assert refusal["reason"] == "InsufficientStorage"
            path = small_disk / "store.sqlite"
            assert refusal["message"] == (f"{path}: the disk is full, the write was refused: free some space and retry")
            assert await _names(session) == sorted(made)
            async with session.get("http://api/readyz") as answer:
                assert answer.status == 200

            ballast.unlink()
            async with session.post(COLLECTION, json={"metadata": {"name": "after"}}) as answer:
                assert answer.status == 201
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(server.socket))) as session:
            assert await _names(session) == sorted([*made, "after"])
    finally:
        server.close()
