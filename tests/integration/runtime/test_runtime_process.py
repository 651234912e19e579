"""A process: its services, its heartbeat, its events, its share in a leader election."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from running import running
from simulated_api import make_api
from trimtab.api import ObjectMeta
from trimtab.api.cluster import Lease
from trimtab.api.core import ConfigMap, Event, Namespace, Secret
from trimtab.client import AsgiTransport, Client
from trimtab.client.clock import SystemClock
from trimtab.client.errors import NotFound
from trimtab.client.transport import Request
from trimtab.runtime import Component, Context, Desired, Owned, Posts, Service, Undeclared, Writes, reconciler
from trimtab.runtime.component import Outcome
from trimtab.runtime.faults import NO_FAULTS, FaultyTransport, Rates
from trimtab.runtime.heartbeat import BEAT_S, health_path, read_health
from trimtab.runtime.journal import Journal
from trimtab.runtime.leases import DURATION_S, LeaseLost, while_leading
from trimtab.runtime.ownership import SYSTEM_NAMESPACE
from trimtab.runtime.process import run_process
from trimtab.runtime.settings import Settings
from trimtab.runtime.simulation import SimulatedClock, simulate


def with_service(run: Callable[[Any], Any], **declared: Any) -> Component:
    return Component(name="comp", summary="", services=(Service("serve", run, **declared),))


def test_a_service_that_fails_is_restarted_later_each_time() -> None:
    starts: list[float] = []

    async def serve(process: Any) -> None:
        starts.append(asyncio.get_running_loop().time())
        raise ValueError("broken")

    async def main(clock: SimulatedClock) -> None:
        async with running(clock, with_service(serve)) as here:
            await here.settle(300)
            said = [e.message for e in here.journal.timeline()]
        assert said[0] == "service serve: ValueError: broken; restarted in 0.2 s"
        assert said[-1].endswith("restarted in 30.0 s")
        assert 10 < len(starts) < 25

    simulate(main)


def test_a_service_sends_only_what_it_declared() -> None:
    refused: list[str] = []

    async def serve(process: Any) -> None:
        async def attempt(work: Any) -> None:
            try:
                await work
            except Undeclared as err:
                refused.append(str(err))

        client: Client = process.client
        meta = ObjectMeta(name="x", namespace="default")
        await attempt(client.get(ConfigMap, "x", "default"))
        await attempt(client.apply(ConfigMap(metadata=meta), manager="m"))
        await attempt(client.list(Namespace))
        await attempt(client.apply(Namespace(metadata=ObjectMeta(name="y")), manager="m"))
        target = (await client.list(Secret)).items
        assert target == []
        await attempt(client.patch(Secret(metadata=meta), {"data": {"other": "MQ=="}}, manager="m"))
        path = "/api/v1/namespaces/default/secrets/x"
        await attempt(client.raw("POST", f"{path}/other"))
        with pytest.raises(NotFound):
            await client.raw("POST", f"{path}/seal")
        await attempt(client.get(Lease, "x", "default"))
        try:
            process.informer(Lease)
        except Undeclared as err:
            refused.append(str(err))
        await asyncio.get_running_loop().create_future()

    async def main(clock: SimulatedClock) -> None:
        made = with_service(
            serve,
            reads=(Namespace,),
            owns=(Owned(ConfigMap),),
            writes=(Writes(Secret, ("data.mine",)),),
            posts=(Posts(Secret, "seal"),),
        )
        async with running(clock, made) as here:
            await here.settle(5)
            assert [e.message for e in here.journal.timeline()] == []

    simulate(main)
    assert refused == [
        "comp.serve writes namespaces of v1: add the kind to owns=(...) of the Service",
        "comp.serve writes data.other of secrets of v1: its writes allow only data.mine",
        "comp.serve writes secrets of v1: add the kind to owns=(...) of the Service",
        "comp.serve reads leases of coordination.k8s.io/v1: add the kind to reads=(...) of the Service",
        "comp.serve reads Lease: add the kind to reads=(...) of the Service",
    ]


def test_two_owners_of_an_exclusive_kind_are_refused_at_the_start() -> None:
    async def function(subject: ConfigMap, ctx: Context) -> Outcome:
        return Desired()

    def owner(name: str, shared: bool) -> Component:
        made = reconciler(ConfigMap, name="r", owns=[Owned(Secret, shared=shared)])(function)
        return Component(name=name, summary="", reconcilers=(made,))

    async def main(clock: SimulatedClock) -> None:
        with pytest.raises(ValueError, match="Secret is owned by b alone, but a creates it too"):
            async with running(clock, owner("a", True), owner("b", False)):
                pass

    simulate(main)


def test_what_is_said_becomes_one_event_with_a_count() -> None:
    async def speak(subject: ConfigMap, ctx: Context) -> Outcome:
        if subject.name == "speaker":
            ctx.event("Looked", f"at {subject.data.get('thing')}", warning=True)
        return Desired()

    made = reconciler(ConfigMap, name="speak")(speak)

    async def main(clock: SimulatedClock) -> None:
        component = Component(name="comp", summary="", reconcilers=(made,))
        async with running(clock, component, events=True) as here:
            for i in range(6):
                meta = ObjectMeta(name="speaker", namespace="default")
                await here.apply(ConfigMap(metadata=meta, data={"thing": "same", "i": str(i)}))
                await here.settle(20)
            found = [e for e in (await here.client.list(Event, "default")).items if e.reason == "Looked"]
            assert [(e.message, e.type, e.count) for e in found] == [("at same", "Warning", 1)]
            assert found[0].involved_object.name == "speaker"
            assert found[0].source.component == "trimtab-comp-speak"

            await here.settle(610)
            await here.apply(ConfigMap(metadata=meta, data={"thing": "same", "i": "last"}))
            await here.settle(20)
            found = [e for e in (await here.client.list(Event, "default")).items if e.reason == "Looked"]
            assert [e.count for e in found] == [2], "said again, more than ten minutes later"
            assert len([e for e in here.journal.timeline() if e.verb == "warned"]) == 2

    simulate(main)


def test_one_of_two_leads_and_the_other_takes_over_when_it_falls_silent() -> None:
    async def main(clock: SimulatedClock) -> None:
        api = await make_api(clock)
        admin = Client(api.transport())
        await admin.apply(Namespace(metadata=ObjectMeta(name=SYSTEM_NAMESPACE)), manager="user")
        leading: list[tuple[float, str]] = []
        loop = asyncio.get_running_loop()

        def candidate(name: str, transport: Any) -> asyncio.Task[None]:
            async def work() -> None:
                leading.append((loop.time(), name))
                await loop.create_future()

            return loop.create_task(while_leading(Client(transport), "t", work, clock=clock, identity=name))

        cut = FaultyTransport(api.transport(), random.Random(1), NO_FAULTS)
        first = candidate("first", cut)
        await asyncio.sleep(1)
        second = candidate("second", api.transport())
        await asyncio.sleep(60)
        assert [name for _, name in leading] == ["first"]

        cut.rates = Rates(lost_before=1.0, latency_s_max=0)
        await asyncio.sleep(60)
        assert [name for _, name in leading] == ["first", "second"]
        with pytest.raises(LeaseLost, match="the lease trimtab-system/t could not be renewed for 10 s; starting anew"):
            await first
        taken = leading[1][0] - 61
        assert DURATION_S - 5 < taken < DURATION_S + 10

        # One that ends properly lets the next one in at once.
        third = candidate("third", api.transport())
        await asyncio.sleep(10)
        ended = loop.time()
        second.cancel()
        await asyncio.sleep(10)
        assert leading[2][1] == "third"
        assert leading[2][0] - ended < 5
        third.cancel()
        await asyncio.wait([second, third])
        await api.close()

    simulate(main)


async def test_a_process_beats_and_leaves_nothing_behind(tmp_path: Path) -> None:
    api = await make_api(SystemClock())
    settings = Settings(id="abcdef", data=str(tmp_path / "data"), run=str(tmp_path / "run"))
    journal = Journal(settings.data_path("journal", "journal.sqlite"))
    path = health_path(settings, "controllers")

    async def fail(subject: ConfigMap, ctx: Context) -> Outcome:
        if subject.name == "bad":
            raise ValueError("bad one")
        return Desired()

    made = reconciler(ConfigMap, name="r")(fail)
    component = Component(name="comp", summary="", reconcilers=(made,))
    client = Client(api.transport())
    task = asyncio.create_task(run_process([component], "controllers", settings, client, journal))
    try:
        async with asyncio.timeout(60):
            while not path.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        found = read_health(settings, "controllers", time.time())
        assert found is not None
        health, fresh = found
        assert (health.pid, fresh) == (os.getpid(), True)
        assert read_health(settings, "controllers", time.time() + 100) == (health, False)
        await client.apply(ConfigMap(metadata=ObjectMeta(name="bad", namespace="default")), manager="user")
        async with asyncio.timeout(3 * BEAT_S):
            while b"bad one" not in path.read_bytes():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert msgspec.json.decode(path.read_bytes())["failing"] == {"ConfigMap default/bad": "bad one"}
    finally:
        task.cancel()
        await asyncio.wait([task])
        journal.close()
        await api.close()
    assert not path.exists()
    assert read_health(settings, "controllers", time.time()) is None


async def test_a_request_that_breaks_in_the_server_does_not_break_the_client() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("the application broke")

    response = await AsgiTransport(broken).send(Request("GET", "/", stream=True))

    assert [chunk async for chunk in response.chunks()] == []
