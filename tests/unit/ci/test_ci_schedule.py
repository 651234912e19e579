"""The longest way first, as far as there are processors; what fails, hangs, is silent or interrupted ends in order."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest

from trimtab.ci.runs import schedule
from trimtab.ci.runs.ports import EngineFault
from trimtab.ci.runs.schedule import Interrupted, Plan, Run, Watch, critical_path, ranks

DIAMOND = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}
SECONDS = {"a": 1.0, "b": 5.0, "c": 2.0, "d": 1.0}
FOREVER_S = 3600.0


def forever(plan: Plan) -> dict[str, float]:
    return dict.fromkeys(plan.waiting, FOREVER_S)


def test_rank_is_the_longest_way_to_the_end() -> None:
    assert ranks(DIAMOND, SECONDS) == {"a": 7.0, "b": 6.0, "c": 3.0, "d": 1.0}
    assert critical_path(DIAMOND, SECONDS) == ["a", "b", "d"]
    assert critical_path({}, {}) == []


def test_the_longest_way_starts_first_and_nothing_before_what_it_needs() -> None:
    plan = Plan(DIAMOND, SECONDS, slots=2)
    assert plan.next() == "a"
    assert plan.next() is None
    plan.done("a")
    assert [plan.next(), plan.next(), plan.next()] == ["b", "c", None]
    plan.done("c")
    assert plan.next() is None
    plan.done("b")
    assert plan.next() == "d"


def test_what_needs_a_failed_step_will_never_run_and_the_rest_does() -> None:
    plan = Plan({**DIAMOND, "e": []}, SECONDS, slots=8)
    assert {plan.next(), plan.next()} == {"a", "e"}
    assert sorted(plan.failed("a")) == ["b", "c", "d"]
    plan.done("e")
    assert plan.next() is None
    assert not plan.waiting


def test_steps_start_only_while_processors_are_free_and_a_wide_one_gets_its_turn() -> None:
    narrow = {f"n{i}": [] for i in range(100)}
    seconds = {**dict.fromkeys(narrow, 1.0), "wide": 0.5}
    plan = Plan({**narrow, "wide": []}, seconds, slots=2, cpus={"wide": 4})
    started = []
    running = []
    while plan.waiting or plan.running:
        while (step := plan.next()) is not None:
            started.append(step)
            running.append(step)
            assert len(running) == 1 or "wide" not in running
            assert len(running) <= 2
        plan.done(running.pop(0))
    assert sorted(started) == sorted(seconds)


def test_a_wide_step_is_overtaken_only_so_often() -> None:
    narrow = {f"n{i:03}": [] for i in range(100)}
    plan = Plan({**narrow, "wide": []}, {"wide": 9.0}, slots=2, cpus={"wide": 2})
    first = plan.next()
    assert first == "wide"
    plan.done("wide")
    plan = Plan({"first": [], "wide": [], **narrow}, {"first": 10.0, "wide": 9.0}, slots=2, cpus={"wide": 2})
    assert plan.next() == "first"
    overtook = 0
    while (step := plan.next()) is not None:
        overtook += 1
        plan.done(step)
    assert overtook == schedule.OVERTAKEN_MAX
    plan.done("first")
    assert plan.next() == "wide"


@pytest.mark.parametrize("seed", range(20))
def test_any_graph_runs_whole_and_in_order(seed: int) -> None:
    chance = random.Random(seed)
    needs = {f"s{i}": [f"s{j}" for j in range(i) if chance.random() < 0.1] for i in range(60)}
    plan = Plan(needs, {step: chance.random() for step in needs}, slots=4, cpus={"s7": 3, "s8": 99, "s9": 0.25})
    done: list[str] = []
    lock = threading.Lock()

    def work(step: str, watch: Watch) -> bool:
        with lock:
            assert set(needs[step]) <= set(done)
            done.append(step)
        return True

    Run(plan, work, forever(plan)).drive()
    assert sorted(done) == sorted(needs)


def test_a_failure_skips_what_needs_it_and_says_because_of_what() -> None:
    plan = Plan({**DIAMOND, "e": []}, SECONDS, slots=2)
    skipped: dict[str, str] = {}
    run = Run(plan, lambda step, watch: step != "b", forever(plan), skipped=skipped.__setitem__)
    run.drive()
    assert skipped == {"d": "b"}


def test_fail_fast_ends_what_runs() -> None:
    plan = Plan({"bad": [], "long": [], "later": []}, {"bad": 3.0, "long": 2.0}, slots=2)
    both = threading.Barrier(2, timeout=60)
    reasons: list[str | None] = []
    skipped: dict[str, str] = {}

    def work(step: str, watch: Watch) -> bool:
        both.wait()
        if step == "bad":
            return False
        ended = threading.Event()
        watch.stop.then(ended.set)
        assert ended.wait(60)
        reasons.append(watch.stop.reason)
        return False

    Run(plan, work, forever(plan), fail_fast=True, skipped=skipped.__setitem__).drive()
    assert reasons == ["cancelled"]
    assert skipped == {"later": "bad"}


def test_a_step_that_runs_out_of_time_is_told_to_stop() -> None:
    plan = Plan({"hung": []}, {}, slots=1)
    reasons: list[str | None] = []

    def work(step: str, watch: Watch) -> bool:
        ended = threading.Event()
        watch.stop.then(ended.set)
        assert ended.wait(60)
        reasons.append(watch.stop.reason)
        return False

    Run(plan, work, {"hung": 0.05}).drive()
    assert reasons == ["timeout"]


def test_an_executor_that_does_not_stop_is_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "GRACE_S", 0.05)
    plan = Plan({"deaf": []}, {}, slots=1)
    release = threading.Event()
    try:
        with pytest.raises(
            EngineFault, match=r"^deaf was told to stop and has not ended in 0 s; look for what is left of it$"
        ):
            Run(plan, lambda step, watch: release.wait(60), {"deaf": 0.05}).drive()
    finally:
        release.set()


def test_silence_is_told_once_until_something_is_heard() -> None:
    plan = Plan({"quiet": []}, {}, slots=1)
    told: list[float] = []
    enough = threading.Event()
    watches: list[Watch] = []

    def silent(step: str, seconds: float) -> None:
        told.append(seconds)
        if len(told) == 1:
            watches[0].heard()
        else:
            enough.set()

    def work(step: str, watch: Watch) -> bool:
        watches.append(watch)
        return enough.wait(60)

    Run(plan, work, forever(plan), silent=silent, stall_s=0.02).drive()
    assert len(told) == 2
    assert all(seconds >= 0.02 for seconds in told)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_in_order(number: signal.Signals) -> None:
    plan = Plan({"one": [], "two": [], "three": []}, {}, slots=2)
    both = threading.Barrier(2, timeout=60)
    skipped: dict[str, str] = {}

    def work(step: str, watch: Watch) -> bool:
        ended = threading.Event()
        watch.stop.then(ended.set)
        if both.wait() == 0:
            os.kill(os.getpid(), number)
        return not ended.wait(60)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted):
        Run(plan, work, forever(plan), skipped=skipped.__setitem__).drive()
    assert list(skipped.values()) == ["the interrupt"]
    assert signal.getsignal(number) is before


def test_what_a_step_raises_ends_the_run() -> None:
    plan = Plan({"a": [], "b": ["a"]}, {}, slots=1)

    def work(step: str, watch: Watch) -> bool:
        raise EngineFault("the disk is full")

    with pytest.raises(EngineFault, match=r"^the disk is full$"):
        Run(plan, work, forever(plan)).drive()


def test_a_signal_that_comes_just_before_the_wait_is_not_lost() -> None:
    events = schedule._Events()
    with events:
        os.write(events.writer, b"s")  # as the interpreter does when a signal comes
        began = time.monotonic()
        assert events.next(3600.0) is None
        assert time.monotonic() - began < 1800
    events.put(schedule.Ended("late", True))  # after the end nobody hears of it
