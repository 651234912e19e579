"""The life of an endpoint: each step on its own, then 1,000 seeds against a proxy that lags, restarts and miscounts nothing."""

from __future__ import annotations

import random

import pytest

from trimtab.components.ingress.endpoints import SETTLED_S, Observed, Phase, Want, Wanted, Written, step

SERVE = Wanted(Want.SERVE, 24.0, "shop/web-1/u1")
DRAIN = Wanted(Want.DRAIN, 24.0, "shop/web-1/u1")
UP = Observed(None, 0)
A = "10.0.0.1:80"


def test_an_endpoint_is_up_only_when_the_proxy_says_so():
    fresh = step({A: SERVE}, {}, {}, 100.0)
    assert fresh.write == {A: Written(None, "shop/web-1/u1")}
    assert fresh.phases == {A: Phase.ATTACHING}
    assert fresh.moving
    unheard = step({A: SERVE}, fresh.write, None, 100.0)
    assert unheard.phases == {A: Phase.ATTACHING}
    up = step({A: SERVE}, fresh.write, {A: UP}, 100.0)
    assert up.phases == {A: Phase.UP}
    assert not up.moving


def test_a_drain_waits_for_the_proxy_to_settle_and_to_be_idle():
    written = {A: Written()}
    began = step({A: DRAIN}, written, {A: UP}, 100.0)
    assert began.write[A].draining_since == 100.0
    for seen in (UP, Observed(0.0, 0), Observed(SETTLED_S, 1), Observed(5.0, 3)):
        assert step({A: DRAIN}, began.write, {A: seen}, 101.0).write == began.write
    done = step({A: DRAIN}, began.write, {A: Observed(SETTLED_S, 0)}, 101.0)
    assert done.write == {}
    assert done.phases == {A: Phase.LEAVING}
    assert step({A: DRAIN}, {}, {}, 101.0).phases == {A: Phase.GONE}


def test_a_drain_has_a_limit_and_says_what_it_cut():
    draining = {A: Written(100.0, "shop/web-1/u1")}
    assert step({A: DRAIN}, draining, {A: Observed(20.0, 2)}, 123.9).write == draining
    late = step({A: DRAIN}, draining, {A: Observed(20.0, 2)}, 124.0)
    assert late.write == {}
    assert late.cut == {A: 2}
    silent = step({A: DRAIN}, draining, None, 124.0)
    assert silent.write == {}
    assert silent.phases == {A: Phase.LEAVING}


def test_a_failed_endpoint_leaves_at_once():
    gone = step({}, {A: Written()}, {A: Observed(None, 7)}, 100.0)
    assert gone.write == {}
    assert gone.phases == {A: Phase.LEAVING}


def test_a_draining_endpoint_that_is_wanted_again_serves_again():
    back = step({A: SERVE}, {A: Written(90.0)}, {A: Observed(1.0, 0)}, 100.0)
    assert back.write == {A: Written(None, "shop/web-1/u1")}
    assert back.phases == {A: Phase.ATTACHING}
    # Written as serving, but the proxy still shows the drain.
    assert step({A: SERVE}, back.write, {A: Observed(1.0, 0)}, 100.0).phases == {A: Phase.ATTACHING}


def test_an_unwritten_endpoint_is_never_added_to_drain():
    assert step({A: DRAIN}, {}, {}, 100.0).write == {}


class LaggingProxy:
    """Takes files in late, hands drains to its workers later still, restarts, and sends requests as a worker sees fit."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.main: dict[str, float | None] = {}
        self.worker: dict[str, bool] = {}
        self.since: dict[str, float] = {}
        self.active: dict[str, list[float]] = {}
        self.queue: list[tuple[float, dict[str, bool]]] = []
        self.to_worker: list[tuple[float, dict[str, bool]]] = []
        self.down_until = 0.0

    def write(self, now: float, file: dict[str, Written]) -> None:
        self.queue.append((now + self.rng.random() * 0.1, {a: w.draining for a, w in file.items()}))

    def restart(self, now: float, file: dict[str, Written]) -> None:
        self.down_until = now + self.rng.random()
        self.queue = [(self.down_until, {a: w.draining for a, w in file.items()})]
        self.to_worker, self.main, self.worker, self.since, self.active = [], {}, {}, {}, {}

    def pass_to(self, now: float) -> None:
        while self.queue and self.queue[0][0] <= now:
            at, state = self.queue.pop(0)
            self.main = dict(state)
            self.since = {a: self.since.get(a, at) for a, draining in state.items() if draining}
            self.to_worker.append((at + self.rng.random() * SETTLED_S * 0.9, state))
        while self.to_worker and self.to_worker[0][0] <= now:
            self.worker = dict(self.to_worker.pop(0)[1])
        for address, ends in list(self.active.items()):
            self.active[address] = [end for end in ends if end > now]

    def observe(self, now: float) -> dict[str, Observed] | None:
        if now < self.down_until:
            return None
        return {
            a: Observed(now - self.since[a] if draining else None, len(self.active.get(a, [])))
            for a, draining in self.main.items()
        }

    def request(self, now: float) -> str | None:
        """Sends a request to an endpoint that a worker believes to serve."""
        serving = [a for a, draining in self.worker.items() if not draining]
        if now < self.down_until or not serving:
            return None
        address = self.rng.choice(serving)
        self.active.setdefault(address, []).append(now + self.rng.choice([0.005, 0.03, 0.4]))
        return address


@pytest.mark.parametrize("block", range(10))
def test_no_request_meets_a_stopped_pod_under_1000_seeds(block: int):
    for seed in range(block * 100, block * 100 + 100):
        rolling_replacements(seed)


def rolling_replacements(seed: int) -> None:
    """Six replacements as a Deployment does them: stop an old pod only once a new one is attached, and only when the old
    one is detached. The controller restarts (forgets all but the file) and the proxy is killed now and then."""
    rng = random.Random(seed)
    proxy = LaggingProxy(rng)
    now, version = 0.0, 1
    running = {"10.0.0.1:80"}
    wanted = {"10.0.0.1:80": Wanted(Want.SERVE, 1e9)}
    file: dict[str, Written] = {}
    replaced = 0
    lookouts = 0
    while replaced < 6:
        lookouts += 1
        assert lookouts < 20_000, f"seed {seed}: does not converge"
        now += rng.random() * 0.06
        proxy.pass_to(now)
        for _ in range(rng.randrange(3)):
            address = proxy.request(now)
            assert address is None or address in running, f"seed {seed}: request to stopped {address} at {now:.3f}"
        if rng.random() < 0.003:
            proxy.restart(now, file)
        taken = step(wanted, file, proxy.observe(now), now)
        if taken.write != file:
            file = taken.write
            proxy.write(now, file)
        newest = f"10.0.0.{version}:80"
        if taken.phases.get(newest) is Phase.UP:
            old = [a for a, w in wanted.items() if w.want is Want.SERVE and a != newest]
            for address in old:
                wanted[address] = Wanted(Want.DRAIN, 1e9)
            if not old and len(wanted) == 1:
                version += 1
                newest = f"10.0.0.{version}:80"
                running.add(newest)
                wanted[newest] = Wanted(Want.SERVE, 1e9)
        for address, want in list(wanted.items()):
            if want.want is Want.DRAIN and taken.phases.get(address) is Phase.GONE:
                assert not proxy.active.get(address), f"seed {seed}: {address} stopped with requests active"
                running.discard(address)
                del wanted[address]
                replaced += 1
