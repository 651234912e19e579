"""A namespace that is deleted at once, with everything of infrastructure in it: in order at the cloud, nothing bypassed, nothing left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from composing_world import LAB, ComposingWorld, a_composing_world
from manifests_world import Elsewhere
from trimtab.api import ObjectMeta
from trimtab.api.core import ConfigMap, Namespace, Secret
from trimtab.components.infrastructure.kinds import (
    Connection,
    ManagedSpec,
    PolicySpec,
    ProviderConfig,
    ProviderRef,
    Reference,
    SecretKey,
    Source,
)
from trimtab.components.infrastructure.remote import ClusterManifests
from trimtab.components.infrastructure.remote.kinds import ClusterManifestsSpec

SHOP = "shop"
NETWORK, SERVER, CLUSTER = "cloud_network", "cloud_server", "cloud_cluster"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ComposingWorld]:
    async with a_composing_world(tmp_path) as one:
        yield one


@pytest.fixture
async def elsewhere(tmp_path: Path) -> AsyncIterator[Elsewhere]:
    one = Elsewhere(tmp_path / "elsewhere")
    yield one
    await one.lost()


async def declare(world: ComposingWorld, resource: str, name: str, given: dict[str, Any], **spec: Any) -> None:
    made = ManagedSpec(for_provider=given, **{"interval": "1s", "provider_ref": ProviderRef(name="default"), **spec})
    await world.make(world.kinds[resource](metadata=ObjectMeta(name=name, namespace=SHOP), spec=made))


async def says(world: ComposingWorld, resource: str, name: str, reason: str) -> bool:
    found = await world.client.get(world.kinds[resource], name, SHOP)
    return found is not None and any(one.type == "Synced" and one.reason == reason for one in found.status.conditions)


async def filled(world: ComposingWorld, elsewhere: Elsewhere) -> None:
    """A credential, two networks with servers in them (one by a claim), a cluster and what is in it."""
    world.cloud.kubeconfig = elsewhere.kubeconfig()
    await world.make(Namespace(metadata=ObjectMeta(name=SHOP)))
    await world.make(Secret(metadata=ObjectMeta(name="cloud", namespace=SHOP), string_data={"token": "secret"}))
    config = await world.client.get(ProviderConfig, "default", "default")
    assert config is not None
    await world.make(ProviderConfig(metadata=ObjectMeta(name="default", namespace=SHOP), spec=config.spec))
    await declare(world, NETWORK, "main", {"name": "main"})
    reference = Reference(field="network", source=Source(kind="Network", name="main", field="id"))
    policy = PolicySpec(delete="deny")
    await declare(world, SERVER, "web", {"name": "web", "region": "eu"}, references=[reference], policy=policy)
    connection = Connection(secret_name="prod", data={"kubeconfig": "{{ kubeconfig | b64decode }}"})
    await declare(world, CLUSTER, "prod", {"name": "prod"}, connection=connection)
    within = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "in-there", "namespace": "default"}}
    spec = ClusterManifestsSpec(kubeconfig=SecretKey(name="prod", key="kubeconfig"), manifests=[within], interval="1s")
    await world.make(ClusterManifests(metadata=ObjectMeta(name="in-prod", namespace=SHOP), spec=spec))
    await world.define(LAB)
    await world.claim("lab", namespace=SHOP, region="eu", hosts=1)

    async def ready() -> bool:
        lab = await world.raw("Lab", "lab", SHOP) or {}
        whole = any(c["type"] == "Ready" and c["status"] == "True" for c in lab.get("status", {}).get("conditions", []))
        there = await elsewhere.client.get(ConfigMap, "in-there", "default") is not None
        return whole and there and await says(world, SERVER, "web", "Synced")

    await world.until(ready, "all of it is there")


async def test_a_namespace_goes_in_order_and_takes_nothing_along_that_must_stay(
    world: ComposingWorld, elsewhere: Elsewhere
) -> None:
    await filled(world, elsewhere)
    assert {kind: len(world.cloud.all(kind)) for kind in ("networks", "servers", "clusters")} == {
        "networks": 2, "servers": 2, "clusters": 1
    }  # fmt: skip

    await world.client.wire.delete(Namespace.resource_type, SHOP)

    await world.until(lambda: says(world, SERVER, "web", "DeleteDenied"), "what must not be deleted says so")
    await world.until(lambda: says(world, NETWORK, "main", "InUse"), "what it needs waits for it")
    await world.until(lambda: not world.cloud.all("clusters"), "the cluster goes")
    await world.until(
        lambda: len(world.cloud.all("servers")) == len(world.cloud.all("networks")) == 1, "the claim goes"
    )
    assert await elsewhere.client.get(ConfigMap, "in-there", "default") is None, (
        "what was in the cluster went before it"
    )
    assert [one["name"] for one in world.cloud.all("servers")] == ["web"]
    assert await world.client.get(ProviderConfig, "default", SHOP) is not None
    assert await world.client.get(Secret, "cloud", SHOP) is not None
    assert await world.client.get(Secret, "web-server-state", SHOP) is not None

    path = world.kinds[SERVER].resource_type.path(SHOP, "web")
    let = msgspec.json.encode({"spec": {"policy": {"delete": "delete"}}})
    await world.client.wire.send("PATCH", path, {}, let, "application/merge-patch+json")

    async def gone() -> bool:
        return await world.client.get(Namespace, SHOP) is None

    await world.until(gone, "the namespace goes")
    assert world.cloud.objects["servers"] == world.cloud.objects["networks"] == world.cloud.objects["clusters"] == {}
    deleted = [path.split("/")[1] for _, method, path in world.cloud.log if method == "DELETE"]
    assert sorted(deleted) == ["clusters", "networks", "networks", "servers", "servers"]  # each once, and none refused
    assert deleted[-2:] == ["servers", "networks"]
