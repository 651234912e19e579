"""Probes: their order and timings in simulated time, and one attempt against real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from simulated_containerd import SimulatedContainerd
from trimtab.api import from_wire
from trimtab.api.core import Container, Probe
from trimtab.components.node.health import HealthWatch
from trimtab.components.node.probes import Answer, Handler, Target, ask
from trimtab.runtime.simulation import SimulatedClock, simulate


def container(**fields: Any) -> Container:
    return from_wire(Container, {"name": "c", **fields})


class World:
    """Answers probes by what is asked and when; remembers every question."""

    def __init__(self, truth: Callable[[str, float], bool], clock: SimulatedClock) -> None:
        self.truth = truth
        self.asked: list[tuple[str, float]] = []
        self.changes: list[tuple[float, bool, bool, str]] = []
        self.began = asyncio.get_running_loop().time()
        self.watch = HealthWatch(self.ask, self.changed)

    @property
    def now(self) -> float:
        return round(asyncio.get_running_loop().time() - self.began, 3)

    async def ask(self, handler: Handler, target: Target, timeout_s: float) -> Answer:
        what = "hook" if not isinstance(handler, Probe) else str(handler.http_get.path if handler.http_get else "")
        self.asked.append((what, self.now))
        ok = self.truth(what, self.now)
        return Answer(ok, "" if ok else "it said no")

    def changed(self, ident: str) -> None:
        health = self.watch.verdict(ident)
        assert health is not None
        self.changes.append((self.now, health.started, health.ready, health.failed))


def run(
    truth: Callable[[str, float], bool], for_s: float, *, fresh: bool = True, was_ready: bool = False, **fields: Any
) -> World:
    async def story(clock: SimulatedClock) -> World:
        world = World(truth, clock)
        world.watch.watch(Target(container(**fields), "id", "10.0.0.2"), fresh=fresh, was_ready=was_ready)
        await asyncio.sleep(for_s)
        await world.watch.close()
        return world

    return simulated(story)


def simulated(story: Callable[[SimulatedClock], Awaitable[World]]) -> World:
    return simulate(story, seed=1)


def probe(path: str, **fields: Any) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": 80}, **fields}


def test_readiness_is_noticed_within_a_fraction_of_its_period() -> None:
    world = run(lambda what, at: at >= 1.2, 15, readinessProbe=probe("/r"))
    assert world.changes == [(1.5, True, True, "")]
    assert [at for _, at in world.asked] == [0.0, 0.1, 0.3, 0.7, 1.5, 10.0]


def test_three_failures_a_period_apart_take_readiness_away_and_one_success_gives_it_back() -> None:
    world = run(lambda what, at: not 5 < at < 40, 60, readinessProbe=probe("/r", periodSeconds=10))
    assert [(at, ready) for at, _, ready, _ in world.changes] == [(0.0, True), (30.0, False), (40.0, True)]


def test_liveness_waits_for_startup_and_then_counts() -> None:
    world = run(
        lambda what, at: what == "/s" and at > 3,
        60,
        startupProbe=probe("/s", periodSeconds=1, failureThreshold=30),
        livenessProbe=probe("/l", periodSeconds=5, failureThreshold=2),
    )
    started_at = world.changes[0][0]
    assert 3 < started_at < 4.5
    first_live = next(at for what, at in world.asked if what == "/l")
    assert first_live >= started_at
    assert world.changes[-1][3] == "its liveness probe failed 2 times: it said no"
    assert world.changes[-1][0] - first_live == 5.0


def test_a_start_that_never_comes_counts_only_attempts_a_period_apart() -> None:
    world = run(lambda what, at: False, 60, startupProbe=probe("/s", periodSeconds=10, failureThreshold=3))
    [(at, started, _, failed)] = world.changes
    assert (started, failed) == (False, "its startup probe failed 3 times: it said no")
    assert at >= 20


def test_the_hook_comes_first_and_a_failed_one_ends_the_container() -> None:
    hook = {"postStart": {"exec": {"command": ["x"]}}}
    world = run(lambda what, at: True, 1, lifecycle=hook, readinessProbe=probe("/r"))
    assert [what for what, _ in world.asked][:2] == ["hook", "/r"]
    world = run(lambda what, at: what != "hook", 1, lifecycle=hook)
    assert world.changes[-1][3] == "its postStart hook failed: it said no"
    adopted = run(lambda what, at: True, 1, fresh=False, was_ready=True, lifecycle=hook, readinessProbe=probe("/r"))
    assert ("hook", 0.0) not in adopted.asked
    assert adopted.changes == [], "an adopted container keeps the verdict it had"


async def answer(action: dict[str, Any], port: int) -> Answer:
    handler = from_wire(Probe, action)
    return await ask(
        handler, Target(container(ports=[{"containerPort": port, "name": "web"}]), "id", "127.0.0.1"), NOBODY, 2
    )


NOBODY: Any = SimulatedContainerd


async def test_real_answers_of_a_server() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.read(4096)).decode()
        if not request:
            writer.close()
            return
        status = {"/ok": "204 No Content", "/moved": "302 Found"}.get(request.split()[1], "503 Busy")
        assert "X-Test: yes" in request or request.split()[1] != "/ok"
        writer.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        headers = [{"name": "X-Test", "value": "yes"}]
        assert (await answer({"httpGet": {"path": "/ok", "port": "web", "httpHeaders": headers}}, port)).ok
        assert (await answer({"httpGet": {"path": "/moved", "port": port}}, port)).ok
        assert (await answer({"tcpSocket": {"port": port}}, port)).ok
        busy = await answer({"httpGet": {"path": "/busy", "port": port}}, port)
        assert busy.why == f"GET http://127.0.0.1:{port}/busy: HTTP status 503"
        unknown = await answer({"httpGet": {"path": "/", "port": "other"}}, port)
        assert unknown.why == "the container has no port named other"
    refused = await answer({"tcpSocket": {"port": port}}, port)
    assert refused.why == f"tcp 127.0.0.1:{port}: connection refused"
    refused = await answer({"grpc": {"port": port}}, port)
    assert not refused.ok
