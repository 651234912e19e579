"""An informer against the real server in simulated time: late kinds, expired versions, objects that lose their shape."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from msgspec import field

from simulated_api import make_api
from trimtab.api import JSON, Model, ObjectMeta, Resource, resource
from trimtab.api.cluster import CustomResourceDefinition
from trimtab.api.core import ConfigMap
from trimtab.client import Client, Informer
from trimtab.runtime.crd import crd, ensure_crds
from trimtab.runtime.faults import FaultyTransport, Rates
from trimtab.runtime.simulation import SimulatedClock, simulate


class CupSpec(Model):
    size: int = 0


@resource("informer.trimtab.dev/v1", "cups")
class Cup(Resource):
    spec: CupSpec = field(default_factory=CupSpec)


def cup(name: str, size: Any = 1) -> JSON:
    return {
        "apiVersion": "informer.trimtab.dev/v1",
        "kind": "Cup",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"size": size},
    }


def config(name: str, value: str = "") -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default"), data={"v": value})


def test_a_kind_that_comes_late_is_empty_until_then() -> None:
    async def main(clock: SimulatedClock) -> None:
        api = await make_api(clock)
        client = Client(api.transport())
        informer = Informer(client, Cup, clock=clock)
        task = asyncio.ensure_future(informer.run())
        await informer.wait_synced()
        assert informer.list() == []

        await ensure_crds(client, [Cup])
        await client.wire.create(Cup.resource_type, cup("a"), manager="t")
        await asyncio.sleep(30)

        assert [c.name for c in informer.list()] == ["a"]
        task.cancel()
        await asyncio.wait([task])
        await api.close()

    simulate(main)


def test_an_object_that_loses_its_shape_is_left_out_until_it_is_corrected() -> None:
    async def main(clock: SimulatedClock) -> None:
        api = await make_api(clock)
        client = Client(api.transport())
        loose = crd(Cup)
        version = loose["spec"]["versions"][0]
        version["schema"] = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
        await client.wire.apply(CustomResourceDefinition.resource_type, loose, manager="t")
        await asyncio.sleep(1)
        await client.wire.create(Cup.resource_type, cup("good"), manager="t")
        await client.wire.create(Cup.resource_type, cup("bad", "huge"), manager="t")
        informer = Informer(client, Cup, clock=clock)
        task = asyncio.ensure_future(informer.run())
        await informer.wait_synced()
        assert [c.name for c in informer.list()] == ["good"]

        async def set_size(name: str, size: Any) -> list[str]:
            await client.wire.patch(Cup.resource_type, name, "default", {"spec": {"size": size}}, manager="t")
            await asyncio.sleep(1)
            return [c.name for c in informer.list()]

        assert await set_size("bad", 3) == ["bad", "good"]
        assert await set_size("good", "tiny") == ["bad"]
        await client.wire.delete(Cup.resource_type, "good", "default")
        assert await set_size("bad", 4) == ["bad"]
        task.cancel()
        await asyncio.wait([task])
        await api.close()

    simulate(main)


def test_whatever_breaks_it_ends_with_what_the_api_has() -> None:
    rates = Rates(watch_broken=0.2, watch_expired=0.3, watch_refused=0.3, watch_late=0.5, crashes_max=0)

    async def main(clock: SimulatedClock) -> None:
        api = await make_api(clock)
        client = Client(api.transport())
        transport = FaultyTransport(api.transport(), random.Random(clock.seed), rates)
        informer = Informer(Client(transport), ConfigMap, clock=clock)
        mirror: dict[str, str] = {}

        def follow(change: Any) -> None:
            if change.new is None:
                mirror.pop(change.key[1])
            else:
                assert (change.old is None) == (change.key[1] not in mirror)
                mirror[change.key[1]] = change.new.data.get("v", "")

        informer.subscribe(follow)
        task = asyncio.ensure_future(informer.run())
        for i in range(60):
            name = f"c{clock.random.randrange(8)}"
            if clock.random.random() < 0.3:
                await client.delete(config(name).ref)
            else:
                await client.apply(config(name, str(i)), manager="t")
            await asyncio.sleep(clock.random.random() * 3)
        await asyncio.sleep(200)

        live = {c.name: c.data.get("v", "") for c in (await client.list(ConfigMap)).items}
        assert {c.name: c.data.get("v", "") for c in informer.list()} == live
        assert mirror == live
        task.cancel()
        await asyncio.wait([task])
        await api.close()

    for seed in range(40):
        simulate(main, seed=seed)
