"""A rollout keeps its promises whatever the pods do: never too many, never too few, and it always ends."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trimtab.components.workloads.rolling import Bounds, Scale, bounds, paused, recreate, resolve, rolling


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (10, None, None, (3, 2)),
        (3, "25%", "25%", (1, 0)),
        (1, "25%", "25%", (1, 0)),
        (4, 1, 0, (1, 0)),
        (4, 0, "10%", (0, 1)),
        (0, None, None, (0, 1)),
        (5, "100%", "100%", (5, 5)),
    ],
)
def test_percentages_are_resolved_as_kubernetes_does(
    replicas: int, surge: int | str | None, unavailable: int | str | None, expected: tuple[int, int]
) -> None:
    size = bounds(replicas, surge, unavailable)
    assert (size.surge, size.unavailable) == expected


@pytest.mark.parametrize("share", ["a", "1", "-5%", "2.5%", ""])
def test_what_is_no_share_is_refused_with_an_example(share: str) -> None:
    with pytest.raises(ValueError, match="is neither a number nor a percentage such as 25%"):
        resolve(share, 10, up=True)


def test_without_permission_to_be_unavailable_the_old_pod_goes_last() -> None:
    size = Bounds(1, 1, 0)
    old = Scale("old", 1, 1, 1)
    assert rolling(size, Scale("new", 0, 0, 0), [old]) == {"old": 1, "new": 1}
    assert rolling(size, Scale("new", 1, 1, 0), [old]) == {"old": 1, "new": 1}
    assert rolling(size, Scale("new", 1, 1, 1), [old]) == {"old": 0, "new": 1}


def test_a_broken_old_version_makes_room_for_its_fix() -> None:
    size = Bounds(3, 1, 0)
    assert rolling(size, Scale("fix", 0, 0, 0), [Scale("good", 0, 0, 0), Scale("bad", 4, 4, 0)]) == {
        "good": 0,
        "bad": 3,
        "fix": 0,
    }


def test_a_broken_new_version_never_takes_the_place_of_the_old() -> None:
    size = Bounds(4, 1, 1)
    old, new = Scale("old", 4, 4, 4), Scale("new", 0, 0, 0)
    for _ in range(20):
        targets = rolling(size, new, [old])
        old = Scale("old", targets["old"], targets["old"], targets["old"])
        new = Scale("new", targets["new"], targets["new"], 0)
    assert (old.replicas, new.replicas) == (3, 2)


def test_growing_while_the_new_version_is_broken_grows_the_old_one() -> None:
    targets = rolling(Bounds(20, 4, 2), Scale("new", 4, 4, 0), [Scale("old", 8, 8, 8)])
    assert targets == {"old": 16, "new": 8}


def test_shrinking_takes_unready_new_pods_before_serving_old_ones() -> None:
    targets = rolling(Bounds(4, 1, 1), Scale("new", 5, 5, 0), [Scale("old", 8, 8, 8)])
    assert targets == {"old": 3, "new": 2}


def test_pods_that_are_still_there_take_up_room() -> None:
    targets = rolling(Bounds(3, 1, 0), Scale("new", 1, 1, 1), [Scale("old", 2, 3, 2)])
    assert targets["new"] == 1


def test_recreate_waits_for_the_last_old_pod() -> None:
    size = Bounds(2, 0, 1)
    new = Scale("new", 0, 0, 0)
    assert recreate(size, new, [Scale("old", 2, 2, 2)], 2) == {"old": 0, "new": 0}
    assert recreate(size, new, [Scale("old", 0, 0, 0)], 1) == {"old": 0, "new": 0}
    assert recreate(size, new, [Scale("old", 0, 0, 0)], 0) == {"old": 0, "new": 2}
    assert recreate(size, Scale("new", 2, 2, 2), [Scale("old", 0, 0, 0)], 0) == {"old": 0, "new": 2}


def test_paused_moves_nothing_but_follows_the_size() -> None:
    size = Bounds(10, 3, 2)
    assert paused(size, [Scale("old", 8, 8, 8), Scale("new", 4, 4, 4)]) == {"old": 8, "new": 4}
    assert paused(size, [Scale("old", 4, 4, 4), Scale("new", 1, 1, 1)]) == {"old": 8, "new": 2}
    assert paused(size, [Scale("old", 20, 4, 4), Scale("new", 6, 1, 1)]) == {"old": 10, "new": 3}
    assert paused(size, [Scale("old", 0, 0, 0), Scale("new", 3, 3, 3)]) == {"old": 0, "new": 10}
    assert paused(size, [Scale("old", 0, 0, 0)]) == {"old": 10}
    assert paused(size, []) == {}


def test_a_size_changed_in_a_stuck_rollout_is_shared_out_by_size() -> None:
    """Ten pods, a version that never serves, then thirty asked for: 8 + round(20 * 8/13), and the new one the rest."""
    size = bounds(30, 3, 7)
    assert rolling(size, Scale("new", 5, 5, 0), [Scale("old", 8, 8, 8)]) == {"old": 20, "new": 13}
    assert rolling(size, Scale("new", 13, 13, 0), [Scale("old", 20, 20, 20)]) == {"old": 20, "new": 13}


# Properties

counts = st.integers(0, 12)


@st.composite
def sizes(draw: st.DrawFn) -> Bounds:
    replicas = draw(st.integers(0, 12))
    surge, unavailable = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    assume(surge + unavailable > 0)
    return Bounds(replicas, surge, unavailable)


@st.composite
def scales(draw: st.DrawFn, name: str) -> Scale:
    replicas, present = draw(counts), draw(counts)
    return Scale(name, replicas, present, draw(st.integers(0, present)))


@st.composite
def olds(draw: st.DrawFn) -> list[Scale]:
    return [draw(scales(f"old-{i}")) for i in range(draw(st.integers(0, 3)))]


@given(sizes(), scales("new"), olds())
def test_from_any_state_no_step_breaks_a_promise(size: Bounds, new: Scale, old: list[Scale]) -> None:
    targets = rolling(size, new, old)
    before = sum(scale.replicas for scale in (*old, new))
    after = sum(targets.values())
    assert min(targets.values()) >= 0
    assert after <= max(before, size.most)
    serving_before = sum(scale.serving for scale in (*old, new))
    serving_after = sum(min(scale.serving, targets[scale.name]) for scale in (*old, new))
    if size.replicas >= new.replicas:
        assert serving_after >= min(serving_before, size.fewest)
    grown = sum(max(0, targets[scale.name] - max(scale.replicas, scale.present)) for scale in (*old, new))
    there = sum(max(scale.replicas, scale.present) for scale in (*old, new))
    assert grown == 0 or there + grown <= size.most


@dataclass
class Fleet:
    """A ReplicaSet as it really behaves: pods start, become ready in their own time, the unready are deleted first."""

    name: str
    target: int = 0
    pods: int = 0
    ready: int = 0
    reported: tuple[int, int] = (0, 0)
    settled: bool = True
    peak: int = 0

    def scale_to(self, target: int) -> None:
        if target != self.target:
            self.peak = self.seen().peak_after(target)
            self.target, self.settled = target, False

    def reconcile(self) -> None:
        self.pods = self.target if self.pods != self.target else self.pods
        self.ready = min(self.ready, self.pods)

    def report(self) -> None:
        """What it saw before it made or removed anything; ready counts only what stays."""
        self.reported = (self.pods, min(self.ready, self.target))
        self.settled = True

    def seen(self) -> Scale:
        return Scale(self.name, self.target, *self.reported, peak=0 if self.settled else self.peak)


@settings(max_examples=300, deadline=None)
@given(sizes(), st.integers(1, 4), st.integers(0, 2**32))
def test_any_schedule_of_events_keeps_the_promises_and_ends(size: Bounds, versions: int, seed: int) -> None:
    """Versions follow each other in mid-rollout; controllers run and report in any order, on numbers of the past."""
    rng = random.Random(seed)
    assume(size.replicas > 0)
    first = Fleet("v0", size.replicas, size.replicas, size.replicas, (size.replicas, size.replicas))
    fleets = [first]

    def step(event: int) -> None:
        fleet = rng.choice(fleets)
        if event == 0:
            *old, new = fleets
            targets = rolling(size, new.seen(), [fleet.seen() for fleet in old])
            for each in fleets:
                each.scale_to(targets[each.name])
        elif event == 1:
            fleet.reconcile()
        elif event == 2:
            fleet.report()
        elif fleet.ready < fleet.pods:
            fleet.ready += 1

    def check() -> None:
        assert sum(f.target for f in fleets) <= size.most
        assert sum(f.pods for f in fleets) <= size.most
        assert sum(f.ready for f in fleets) >= size.fewest

    for number in range(1, versions + 1):
        fleets.append(Fleet(f"v{number}"))
        for _ in range(rng.randrange(60)):
            step(rng.randrange(4))
            check()
    for _ in range(20 * (size.replicas + size.surge) * (versions + 2)):
        for event in (0, 1, 2, 3):
            for _ in fleets:
                step(event)
        check()
    *old, new = fleets
    assert (new.target, new.ready) == (size.replicas, size.replicas)
    assert [fleet.target for fleet in old] == [0] * len(old)


@given(sizes(), olds(), scales("new"))
def test_a_finished_rollout_stays_as_it_is(size: Bounds, old: list[Scale], new: Scale) -> None:
    done = Scale("new", size.replicas, size.replicas, size.replicas)
    gone = [replace(scale, replicas=0, present=0, available=0) for scale in old]
    assert rolling(size, done, gone) == {**{scale.name: 0 for scale in gone}, "new": size.replicas}


@given(sizes(), olds())
def test_paused_stays_within_bounds(size: Bounds, old: list[Scale]) -> None:
    targets = paused(size, old)
    if old:
        assert size.replicas <= sum(targets.values()) <= max(size.most, size.replicas)
