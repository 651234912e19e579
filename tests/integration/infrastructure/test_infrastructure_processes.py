"""Providers' processes under two events at once: one process a credential, nothing left of one that ended; and how often a cloud is asked."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import cloud_provider
from cloud import Cloud
from managed_world import World
from trimtab.api import ObjectMeta
from trimtab.components.infrastructure.kinds import Provider, ProviderConfig, ProviderConfigSpec, ProviderSpec
from trimtab.components.infrastructure.programs.pool import SHARED_S, Pool, Talk
from trimtab.components.infrastructure.programs.rate import BUSY_FIRST_S, Rate
from trimtab.components.infrastructure.programs.terms import NotReady, asked_for


class Started:
    """Starts the cloud's provider, and counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def __call__(self, provider: Provider) -> tuple[Sequence[str], Path, Mapping[str, str]]:
        self.count += 1
        sockets = self.folder / f"s{self.count}"
        sockets.mkdir()
        return (
            [sys.executable, cloud_provider.__file__, "6"],
            sockets,
            {"PYTHONPATH": ":".join(filter(None, sys.path))},
        )


PROVIDER = Provider(metadata=ObjectMeta(name="cloud", uid="p"))


def config_of(cloud: Cloud) -> ProviderConfig:
    spec = ProviderConfigSpec(provider="cloud", config={"url": cloud.url})
    return ProviderConfig(metadata=ObjectMeta(name="default", uid="c"), spec=spec)


class SlowToEnd(Talk):
    """What is left of a process that ended takes long to be cleared up."""

    let: asyncio.Event

    async def close(self) -> None:
        await self.let.wait()
        await super().close()


async def test_what_asks_while_a_process_that_ended_is_cleared_up_starts_no_second_one(tmp_path: Path) -> None:
    started = Started(tmp_path)
    pool = Pool(started)
    with Cloud() as cloud:
        config = config_of(cloud)
        first = await pool.talk(PROVIDER, config, {"token": "secret"})
        first.began -= 3600  # it ran well
        first.__class__ = SlowToEnd
        first.let = asyncio.Event()  # type: ignore[attr-defined]
        os.killpg(first.provider.plugin.pid, signal.SIGKILL)
        await first.provider.plugin.wait()

        one = asyncio.create_task(pool.talk(PROVIDER, config, {"token": "secret"}))
        await asyncio.sleep(0)
        other = await pool.talk(PROVIDER, config, {"token": "secret"})
        first.let.set()  # type: ignore[attr-defined]

        assert await one is other
        assert started.count == 2
        await pool.close()
        assert not other.provider.plugin.running
        assert list(tmp_path.iterdir()) == []


async def test_of_a_configuration_that_is_refused_nothing_is_left(tmp_path: Path) -> None:
    pool = Pool(Started(tmp_path))
    with Cloud() as cloud, pytest.raises(NotReady, match="token: a token is needed"):
        await pool.talk(PROVIDER, config_of(cloud), {"token": ""})
    assert list(tmp_path.iterdir()) == []
    await pool.close()


async def test_a_stop_in_the_middle_of_clearing_up_clears_up_all_the_same(tmp_path: Path) -> None:
    pool = Pool(Started(tmp_path))
    with Cloud() as cloud:
        talk = await pool.talk(PROVIDER, config_of(cloud), {"token": "secret"})
        talk.used -= 3600
        talk.__class__ = SlowToEnd
        talk.let = asyncio.Event()  # type: ignore[attr-defined]
        reaping = asyncio.create_task(pool.reap())
        await asyncio.sleep(0)
        reaping.cancel()
        await asyncio.wait([reaping])
        talk.let.set()  # type: ignore[attr-defined]
        await pool.close()
    assert not talk.provider.plugin.running
    assert list(tmp_path.iterdir()) == []


async def test_another_limit_of_memory_holds_from_the_next_question_on(tmp_path: Path) -> None:
    started = Started(tmp_path)
    pool = Pool(started)
    with Cloud() as cloud:
        first = await pool.talk(PROVIDER, config_of(cloud), {"token": "secret"})
        assert await pool.talk(PROVIDER, config_of(cloud), {"token": "secret"}) is first
        more = Provider(metadata=PROVIDER.metadata, spec=ProviderSpec(source="trimtab/cloud", memory="4Gi"))
        other = await pool.talk(more, config_of(cloud), {"token": "secret"})
        assert (other is first, started.count) == (False, 2)
        assert other.rate is first.rate
        await pool.close()


async def test_of_a_credential_that_nobody_uses_any_more_nothing_is_kept(tmp_path: Path) -> None:
    pool = Pool(Started(tmp_path))
    with Cloud() as cloud:
        talk = await pool.talk(PROVIDER, config_of(cloud), {"token": "secret"})
        talk.rate.refused()
        talk.used -= 3600
        await pool.reap()
        assert pool.running == []
        again = await pool.talk(PROVIDER, config_of(cloud), {"token": "secret"})
        assert again.rate is talk.rate  # an idle end makes nobody forget

        again.used -= 3600
        await pool.reap()
        assert list(pool.shared) == ["c"]
        pool.shared["c"].used -= SHARED_S
        await pool.reap()
        assert pool.shared == {}
        await pool.close()


# Objects that change while a cloud is asked


class LateToTell(Cloud):
    """Answers to reads of servers only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()
        self.let.set()
        self.asked = 0

    def serve(self, method: str, target: str, login: str, body: Any) -> tuple[int, Any]:
        if method == "GET" and not self.let.is_set():
            self.asked += 1
            self.let.wait()
        return super().serve(method, target, login, body)


async def test_what_was_taken_back_while_the_cloud_was_asked_is_not_done(tmp_path: Path) -> None:
    given = {"name": "web", "region": "eu"}
    with LateToTell() as cloud:
        world = World(tmp_path, cloud)
        await world.start()
        try:
            await world.declare("cloud_server", "web", given)
            await world.ready("cloud_server", "web")
            cloud.let.clear()
            await world.declare("cloud_server", "web", given | {"size": "large"})
            await world.until(lambda: cloud.asked, "it is looked at")
            await world.declare("cloud_server", "web", given | {"size": "large"}, pause=True)
            assert world.process is not None
            server = world.process.informer(world.kinds["cloud_server"])

            def paused() -> bool:
                found = server.get("web", "default")
                return found is not None and found.spec.pause

            await world.until(paused, "the controllers know that it is paused")
            cloud.let.set()
            await world.says("cloud_server", "web", "Paused")
            assert cloud.all("servers")[0]["size"] == "small"
        finally:
            cloud.let.set()
            await world.stop()


# How often a cloud is asked


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_many_refusals_of_what_was_asked_together_are_one() -> None:
    clock = Clock()
    rate = Rate(2.0, clock)
    for _ in range(8):
        rate.refused()
    assert rate.busy_until == BUSY_FIRST_S
    clock.now = BUSY_FIRST_S
    rate.open()
    rate.refused()
    assert rate.busy_until == BUSY_FIRST_S * 3


def test_what_was_asked_before_a_refusal_and_answered_after_it_does_not_end_it() -> None:
    clock = Clock()
    rate = Rate(2.0, clock)
    rate.refused()
    rate.answered()
    clock.now = BUSY_FIRST_S
    rate.refused()
    assert rate.busy_until == BUSY_FIRST_S * 3
    clock.now = BUSY_FIRST_S * 3
    rate.answered()
    rate.refused()
    assert rate.busy_until == BUSY_FIRST_S * 4


async def test_who_waits_for_a_turn_does_not_ask_after_a_refusal() -> None:
    rate = Rate(20.0, asyncio.get_running_loop().time)
    await rate.turn()
    waiting = asyncio.create_task(rate.turn())
    await asyncio.sleep(0)
    rate.refused()
    with pytest.raises(NotReady, match=r"^the cloud asks for fewer requests: nothing is asked for 5 s$"):
        await waiting


async def test_questions_go_before_looks_and_looks_go_on() -> None:
    rate = Rate(200.0, asyncio.get_running_loop().time)
    went: list[str] = []

    async def one(name: str) -> None:
        await rate.turn()
        went.append(name)

    async def asked(name: str) -> None:
        with asked_for():
            await one(name)

    looks = [asyncio.create_task(one(f"look {n}")) for n in range(9)]
    await asyncio.sleep(0)
    assert rate.crowded is False
    questions = [asyncio.create_task(asked(f"question {n}")) for n in range(7)]
    await asyncio.sleep(0)
    looks[4].cancel()  # its object is gone: nobody waits for it
    await asyncio.wait([*looks, *questions])

    row = [f"question {n}" for n in range(7)]
    assert went[:11] == ["look 0", *row[:3], "look 1", *row[3:6], "look 2", row[6], "look 3"]
    assert went[11:] == [f"look {n}" for n in range(5, 9)]


async def test_what_waits_for_turns_is_a_crowd() -> None:
    rate = Rate(2.0, asyncio.get_running_loop().time)
    await rate.turn()
    assert not rate.crowded
    waiting = [asyncio.create_task(rate.turn()) for _ in range(3)]
    await asyncio.sleep(0)
    assert rate.crowded
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)
    assert not rate.crowded
