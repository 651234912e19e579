"""The small parts: simulated time, queue, dependencies, breaker, ownership."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from trimtab.api import ObjectMeta, OwnerReference, Ref
from trimtab.api.core import ConfigMap
from trimtab.client.cache import Change, Index, Key
from trimtab.runtime.convergence import FIGHT_MAX, STREAK_MAX, Breaker, changed_paths
from trimtab.runtime.dependencies import Dependencies, Indexed, Named, selected
from trimtab.runtime.ownership import OWNER_LABEL, RECONCILER_LABEL, Identity, holder_of
from trimtab.runtime.queue import Cause, Queue
from trimtab.runtime.simulation import EPOCH, SimulatedClock, SimulationStuck, simulate

WHY = Cause("test")
ME = Identity("comp", "rec")


# Simulated time


def test_an_hour_takes_no_time_and_is_an_hour() -> None:
    async def main(clock: SimulatedClock) -> float:
        await asyncio.sleep(3600)
        return (clock.now() - EPOCH).total_seconds()

    assert simulate(main) == 3600


def test_nothing_to_wait_for_is_said_with_who_waits() -> None:
    async def main(clock: SimulatedClock) -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(
        SimulationStuck, match=r"nothing is ready and nothing is scheduled at 0.000 s\n  Task-\d+: .*test_runtime"
    ):
        simulate(main)


def test_time_has_an_end_and_so_has_an_instant() -> None:
    async def slow(clock: SimulatedClock) -> None:
        for _ in range(1_000_000):
            await asyncio.sleep(10)

    async def busy(clock: SimulatedClock) -> None:
        for _ in range(1_000_000):
            await asyncio.sleep(0)

    with pytest.raises(SimulationStuck, match="not done after 100 simulated seconds"):
        simulate(slow, limit_s=100)
    with pytest.raises(SimulationStuck, match="200000 steps without time passing"):
        simulate(busy)


def test_threads_are_not_needed() -> None:
    async def main(clock: SimulatedClock) -> int:
        return await asyncio.to_thread(sum, [1, 2])

    assert simulate(main) == 3


# Queue


def test_a_key_waits_once_and_runs_alone() -> None:
    async def main(clock: SimulatedClock) -> None:
        woken: list[int] = []
        queue = Queue(lambda: woken.append(1))
        key: Key = ("n", "a")
        queue.add(key, WHY)
        queue.add(key, Cause("again", external=False))
        taken = queue.take()
        assert taken is not None
        assert [cause.text for cause in taken[1]] == ["test", "again"]
        assert queue.take() is None

        queue.add(key, WHY)
        assert queue.take() is None, "it runs"
        queue.done(key)
        assert queue.take() is not None
        queue.done(key)
        assert queue.idle

    simulate(main)


def test_urgent_keys_go_first_once() -> None:
    async def main(clock: SimulatedClock) -> None:
        queue = Queue(lambda: None)
        for name in "abc":
            queue.add(("n", name), WHY)
        queue.add(("n", "c"), WHY, urgent=True)
        queue.add(("n", "d"), WHY, urgent=True)
        order = []
        while taken := queue.take():
            order.append(taken[0][1])
            if len(order) == 1:
                queue.add(("n", "c"), WHY, urgent=True)  # it runs: it comes again, and first
                queue.done(taken[0])
                queue.add(("n", "e"), WHY)
        assert order == ["c", "d", "c", "a", "b", "e"]

    simulate(main)


def test_the_earliest_delay_wins_and_a_run_cancels_it() -> None:
    async def main(clock: SimulatedClock) -> None:
        ready: list[float] = []
        loop = asyncio.get_running_loop()
        queue = Queue(lambda: ready.append(loop.time()))
        key: Key = ("n", "a")
        queue.add_after(key, 10, WHY)
        queue.add_after(key, 5, WHY)
        queue.add_after(key, 20, WHY)
        await asyncio.sleep(30)
        assert ready == [5]
        queue.add_after(key, 10, WHY)
        assert queue.take() is not None
        queue.done(key)
        await asyncio.sleep(30)
        assert ready == [5]

    simulate(main)


# Dependencies


def config(name: str, labels: dict[str, str] | None = None) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="n", labels=labels or {}))


def change(old: ConfigMap | None, new: ConfigMap | None) -> Change[Any]:
    return Change(ConfigMap, ("n", (new or old or config("")).name), old, new)


def test_reads_are_remembered_from_the_moment_they_are_made() -> None:
    dependencies = Dependencies()
    subject: Key = ("n", "s")
    dependencies.begin(subject)
    dependencies.add(subject, Named(ConfigMap, ("n", "a")))

    assert dependencies.touched(change(None, config("a"))) == [subject]
    assert dependencies.touched(change(None, config("b"))) == []


def test_of_what_is_given_a_status_is_no_change() -> None:
    dependencies = Dependencies()
    subject: Key = ("n", "s")
    dependencies.begin(subject)
    dependencies.add(subject, Named(ConfigMap, ("n", "a"), given=True))

    def at(generation: int, uid: str = "u") -> ConfigMap:
        return ConfigMap(metadata=ObjectMeta(name="a", namespace="n", uid=uid, generation=generation))

    assert dependencies.touched(change(at(1), at(1))) == []
    assert dependencies.touched(change(at(1), at(2))) == [subject]
    assert dependencies.touched(change(at(1), at(1, "another"))) == [subject]
    assert dependencies.touched(change(None, at(1))) == [subject]
    assert dependencies.touched(change(at(1), None)) == [subject]


def test_what_a_complete_run_no_longer_reads_is_forgotten_and_a_failed_one_forgets_nothing() -> None:
    dependencies = Dependencies()
    subject: Key = ("n", "s")
    for name, complete in (("a", True), ("b", False)):
        dependencies.begin(subject)
        dependencies.add(subject, Named(ConfigMap, ("n", name)))
        dependencies.end(subject, complete=complete)
    assert dependencies.touched(change(config("a"), None)) == [subject]

    dependencies.begin(subject)
    dependencies.add(subject, Named(ConfigMap, ("n", "b")))
    dependencies.end(subject, complete=True)

    assert dependencies.touched(change(config("a"), None)) == []
    assert dependencies.touched(change(config("b"), None)) == [subject]
    dependencies.forget(subject)
    assert dependencies.touched(change(config("b"), None)) == []


def test_selections_notice_what_comes_changes_and_goes() -> None:
    dependencies = Dependencies()
    subject: Key = ("n", "s")
    dependencies.begin(subject)
    dependencies.add(subject, selected(ConfigMap, "n", {"app": "x"}))
    mine, other = config("a", {"app": "x"}), config("a", {"app": "y"})

    assert dependencies.touched(change(None, mine)) == [subject]
    assert dependencies.touched(change(mine, other)) == [subject]
    assert dependencies.touched(change(other, mine)) == [subject]
    assert dependencies.touched(change(None, other)) == []


def test_two_lists_with_the_same_labels_and_different_filters_both_count() -> None:
    dependencies = Dependencies()
    subject: Key = ("n", "s")
    dependencies.begin(subject)
    dependencies.add(subject, selected(ConfigMap, None, None), lambda c: c.name == "a")
    dependencies.add(subject, selected(ConfigMap, None, None), lambda c: c.name == "b")

    assert [bool(dependencies.touched(change(None, config(name)))) for name in "abc"] == [True, True, False]


def test_of_an_index_only_its_values_are_noticed() -> None:
    words = Index(lambda one: one.metadata.labels.get("words", "").split("."))
    dependencies = Dependencies()
    subject: Key = ("n", "s")
    dependencies.begin(subject)
    dependencies.add(subject, Indexed(ConfigMap, "n", words, "x"))
    dependencies.add(("n", "t"), Indexed(ConfigMap, "n", words, "y"))
    mine, other = config("a", {"words": "x.z"}), config("a", {"words": "z"})

    assert dependencies.touched(change(None, mine)) == [subject]
    assert dependencies.touched(change(mine, other)) == [subject]
    assert dependencies.touched(change(other, mine)) == [subject]
    assert dependencies.touched(change(None, other)) == []

    dependencies.end(subject, complete=True)
    dependencies.begin(subject)
    dependencies.end(subject, complete=True)
    assert dependencies.touched(change(None, mine)) == []


# Convergence

REF = Ref("v1", "ConfigMap", "n", "a")


def test_the_breaker_opens_after_a_streak_and_closes_for_an_input() -> None:
    breaker = Breaker()
    for run in range(STREAK_MAX):
        assert breaker.begin(external=run == 0)
        breaker.count(REF, ("data.x",), repeated=False, now_s=run)
        why = breaker.end()
    assert why == f"wrote {STREAK_MAX} times in a row while nothing else changed: ConfigMap n/a (data.x)"
    assert not breaker.begin(external=False)
    assert breaker.begin(external=True)


def test_a_run_that_writes_nothing_ends_the_streak() -> None:
    breaker = Breaker()
    for run in range(STREAK_MAX * 3):
        breaker.begin(external=False)
        if run % 5:
            breaker.count(REF, (), repeated=False, now_s=run)
        assert breaker.end() == ""


def test_the_same_write_again_and_again_within_a_minute_is_a_fight() -> None:
    slow, fast = Breaker(), Breaker()
    for i in range(FIGHT_MAX):
        for breaker, pace in ((slow, 10), (fast, 1)):
            breaker.begin(external=True)
            breaker.count(REF, ("data.x",), repeated=True, now_s=i * pace)
    assert slow.end() == ""
    assert fast.end().startswith(f"ConfigMap n/a: data.x written {FIGHT_MAX} times in 14 s; somebody undoes it")


def test_differences_are_named_by_path() -> None:
    old = ConfigMap(metadata=ObjectMeta(name="a", resource_version="1"), data={"x": "1", "y": "1"})
    new = ConfigMap(
        metadata=ObjectMeta(name="a", resource_version="2", labels={"l.dev/x": "1"}), data={"x": "2", "y": "1"}
    )

    assert changed_paths(old, new) == ("metadata.labels[l.dev/x]", "data.x")


# Ownership


@pytest.mark.parametrize(
    ("labels", "holder"),
    [
        ({OWNER_LABEL: "u", RECONCILER_LABEL: "comp.rec"}, None),
        ({OWNER_LABEL: "v", RECONCILER_LABEL: "comp.rec"}, "another subject of comp.rec"),
        ({OWNER_LABEL: "u", RECONCILER_LABEL: "comp.other"}, "comp.other"),
        ({}, "somebody else (it has no owner label)"),
    ],
)
def test_who_holds_an_object(labels: dict[str, str], holder: str | None) -> None:
    assert holder_of(config("a", labels), ME, "u", retained=False) == holder


def test_a_controller_of_another_kind_holds_it() -> None:
    held = config("a")
    held.metadata.owner_references = [OwnerReference("apps/v1", "Deployment", "web", "x", controller=True)]

    assert holder_of(held, ME, "u", retained=False) == "Deployment web"


def test_what_is_retained_may_be_taken_over_by_the_same_reconciler() -> None:
    left = config("a", {OWNER_LABEL: "gone", RECONCILER_LABEL: "comp.rec"})

    assert holder_of(left, ME, "u", retained=True) is None
