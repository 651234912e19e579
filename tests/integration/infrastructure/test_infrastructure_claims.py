"""Claims against a real API server, a cloud and functions in their own processes: composed, kept, pruned, and taken away in order."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud import Cloud
from composing_world import LAB, ComposingWorld
from trimtab.api.core import Secret


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ComposingWorld]:
    tmp_path.chmod(0o755)
    with Cloud() as cloud:
        one = ComposingWorld(tmp_path, cloud)
        await one.start()
        try:
            yield one
        finally:
            await one.stop()


async def test_the_life_of_a_claim(world: ComposingWorld) -> None:
    await world.define(LAB, connection={"address": "{{ host-0.address }}", "network": "{{ net.status.id }}"})
    await world.claim("lab", region="eu", hosts=2)
    await world.claim_says("lab", "AllReady", "Ready")
    lab = await world.raw("Lab", "lab")
    assert lab is not None
    assert [(r["name"], r["kind"], r["object"], r["ready"]) for r in lab["status"]["resources"]] == [
        ("net", "Network", "lab-net", True),
        ("host-0", "Server", "lab-host-0", True),
        ("host-1", "Server", "lab-host-1", True),
    ]
    (network,) = world.cloud.all("networks")
    assert {s["network"] for s in world.cloud.all("servers")} == {network["id"]}
    assert len(lab["status"]["addresses"]) == 2
    secret = await world.client.get(Secret, lab["status"]["connectionSecret"], "default")
    assert secret is not None
    assert base64.b64decode(secret.data["network"]).decode() == network["id"]
    assert base64.b64decode(secret.data["address"]).decode() in lab["status"]["addresses"]

    await world.claim("lab", region="eu", hosts=1)
    await world.until(lambda: len(world.cloud.all("servers")) == 1, "a host that is no longer wanted goes")
    assert len(world.cloud.all("networks")) == 1

    await world.drop("Lab", "lab")
    await world.until(lambda: not world.cloud.all("networks"), "the network goes")
    assert not world.cloud.all("servers"), "what refers to the network goes before it"

    async def gone() -> bool:
        return await world.raw("Lab", "lab") is None

    await world.until(gone, "the claim goes")
