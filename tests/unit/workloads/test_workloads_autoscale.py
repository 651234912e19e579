"""The arithmetic of autoscaling: cases of the Kubernetes documentation and of its rules for missing and starting pods."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.api.autoscaling import HPAScalingPolicy, HPAScalingRules
from trimtab.components.workloads.autoscale import (
    DOWN_DEFAULT,
    UP_DEFAULT,
    Groups,
    History,
    MetricMissing,
    Moment,
    Sample,
    Tolerances,
    for_an_object,
    for_each_pod,
    grouped,
    rules,
    settle,
    tolerance_of,
)
from workload_pods import NOW, ago, make_pod


def samples(**values: float) -> dict[str, Sample]:
    return {name: Sample(value, NOW) for name, value in values.items()}


def proposed(
    current: int, target: float, /, missing: int = 0, unready: int = 0, request: float = 0, **values: float
) -> int:
    gone, starting = [f"m{n}" for n in range(missing)], [f"u{n}" for n in range(unready)]
    groups = Groups(tuple(values), tuple(starting), tuple(gone))
    requests = dict.fromkeys((*values, *gone, *starting), request) if request else None
    return for_each_pod(current, groups, samples(**values), target, Tolerances(), requests).replicas


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        # The documentation's own: 200m instead of 100m doubles, 50m halves.
        (2, proposed(1, 0.1, a=0.2)),
        (1, proposed(2, 0.1, a=0.05, b=0.05)),
        # Percent of the requests.
        (4, proposed(2, 50, request=0.2, a=0.2, b=0.2)),
        # Within a tenth nothing changes.
        (2, proposed(2, 100, a=109, b=109)),
        (2, proposed(2, 100, a=91, b=91)),
        (3, proposed(2, 100, a=111, b=111)),
        # To shrink, a pod without measurement counts as on target; to grow, as idle.
        (2, proposed(3, 100, missing=1, a=20, b=20)),
        (4, proposed(3, 100, missing=1, a=200, b=200)),
        # It would turn the decision around: nothing happens.
        (3, proposed(3, 100, missing=2, a=150)),
        (2, proposed(2, 100, missing=1, request=1, a=0.99)),
        # A starting pod counts as idle when there is to be more, and not at all when there is to be less.
        (2, proposed(2, 100, unready=1, a=150)),
        (3, proposed(2, 100, unready=1, a=300)),
        (1, proposed(3, 100, unready=1, a=20, b=20)),
        (3, proposed(2, 100, a=150, b=150)),
    ],
)
def test_sizes_by_what_pods_use(wanted: int, found: int) -> None:
    assert found == wanted


def test_without_a_measured_pod_there_is_no_size() -> None:
    with pytest.raises(MetricMissing, match="no measurements of its pods yet"):
        for_each_pod(1, Groups((), ("a",), ()), {}, 50, Tolerances())


def test_utilization_is_told_in_percent() -> None:
    found = for_each_pod(1, Groups(("a",), (), ()), samples(a=0.305), 50, Tolerances(), {"a": 0.2})

    assert (found.replicas, found.utilization, found.average) == (4, 152, 0.305)


@pytest.mark.parametrize(
    ("current", "ready", "value", "target", "average", "wanted"),
    [
        (3, 3, 200.0, 100.0, False, 6),
        (3, 2, 200.0, 100.0, False, 4),
        (3, 3, 105.0, 100.0, False, 3),
        (4, 4, 1000.0, 100.0, True, 10),
        (4, 4, 410.0, 100.0, True, 4),
        (4, 4, 10.0, 100.0, True, 1),
    ],
)
def test_sizes_by_one_value(current: int, ready: int, value: float, target: float, average: bool, wanted: int) -> None:
    assert for_an_object(current, ready, value, target, Tolerances(), average=average).replicas == wanted


def test_a_tolerance_of_its_own_for_each_direction() -> None:
    eager = Tolerances(up=tolerance_of(HPAScalingRules(tolerance="0.01")), down=tolerance_of(None))

    assert eager.allow(0.91)
    assert not eager.allow(1.02)


class TestWhichPodsCount:
    def group(self, cpu: bool = True, **pod: Any) -> str:
        status = {"start_time": ago(pod.pop("started_s", 1000))}
        one = make_pod("a", status=status, **pod)
        groups = grouped([one], {"a": Sample(1, ago(5), 15)}, NOW, cpu=cpu)
        return next((name for name in ("ready", "unready", "missing") if getattr(groups, name)), "ignored")

    def test_a_pod_that_goes_or_failed_does_not(self) -> None:
        assert self.group(deleting=True, ready_for_s=50) == "ignored"
        assert self.group(phase="Failed") == "ignored"

    def test_a_pending_pod_is_on_its_way(self) -> None:
        assert self.group(phase="Pending", cpu=False) == "unready"

    def test_an_unmeasured_pod_is_missing(self) -> None:
        assert grouped([make_pod("b")], {}, NOW, cpu=False).missing == ("b",)

    def test_cpu_of_a_pod_that_starts_says_nothing(self) -> None:
        assert self.group(started_s=60) == "unready"
        assert self.group(started_s=60, ready_for_s=10) == "unready"
        assert self.group(started_s=60, ready_for_s=30) == "ready"
        assert self.group(started_s=60, ready_for_s=10, cpu=False) == "ready"

    def test_cpu_of_a_pod_that_became_unready_later_counts(self) -> None:
        broken = make_pod("a", status={"start_time": ago(1000)})
        broken.status.conditions[0].last_transition_time = ago(400)
        never = make_pod("b", status={"start_time": ago(1000)})
        never.status.conditions[0].last_transition_time = ago(990)
        groups = grouped([broken, never], samples(a=1, b=1), NOW, cpu=True)

        assert (groups.ready, groups.unready) == (("a",), ("b",))


def settled(current: int, wanted: int, history: History | None = None, **given: Any) -> tuple[int, str, str]:
    up, down = rules(given.get("up"), UP_DEFAULT), rules(given.get("down"), DOWN_DEFAULT)
    found = settle(current, wanted, 1, given.get("most", 100), up, down, history or History(), NOW)
    return found.replicas, found.stabilized, found.limit


def said(*recommendations: tuple[float, int]) -> History:
    return History([Moment(ago(seconds), amount) for seconds, amount in recommendations])


def policies(*given: tuple[str, int, int], **more: Any) -> HPAScalingRules:
    made = [HPAScalingPolicy(type=type_, value=value, period_seconds=seconds) for type_, value, seconds in given]
    return HPAScalingRules(policies=made, **more)


class TestSettling:
    def test_up_at_once_by_four_pods_or_twice_as_many(self) -> None:
        assert settled(1, 50) == (5, "", "up-rate")
        assert settled(10, 50) == (20, "", "up-rate")
        assert settled(10, 12) == (12, "", "")

    def test_never_beyond_the_bounds(self) -> None:
        assert settled(3, 50, most=4) == (4, "", "most")
        assert settled(3, 0, said((400, 0))) == (1, "", "fewest")

    def test_down_only_when_nothing_higher_was_wanted_for_five_minutes(self) -> None:
        assert settled(8, 2) == (8, "down", "")
        assert settled(8, 2, said((299, 5), (200, 3))) == (5, "down", "")
        assert settled(8, 2, said((301, 9), (200, 3))) == (3, "down", "")

    def test_a_window_for_growth(self) -> None:
        calm = HPAScalingRules(stabilization_window_seconds=60)

        assert settled(2, 6, said((30, 3)), up=calm) == (3, "up", "")
        assert settled(2, 6, said((90, 3)), up=calm) == (6, "", "")

    def test_policies_count_what_was_done_within_their_period(self) -> None:
        history = said((1000, 1))
        history.ups.append(Moment(ago(30), 3))
        slow = policies(("Pods", 4, 60))

        assert settled(8, 20, history, up=slow) == (9, "", "up-rate")
        history = said((1000, 1))
        history.ups.append(Moment(ago(61), 3))
        assert settled(8, 20, history, up=slow) == (12, "", "up-rate")

    def test_the_strictest_policy_on_request_and_none_at_all(self) -> None:
        both = (("Pods", 1, 60), ("Percent", 50, 60))

        assert settled(10, 50, up=policies(*both, select_policy="Min"))[0] == 11
        assert settled(10, 50, up=policies(*both))[0] == 15
        assert settled(10, 50, up=policies(select_policy="Disabled")) == (10, "", "up-rate")

    def test_down_by_policies(self) -> None:
        at_once = {"stabilization_window_seconds": 0}

        assert settled(80, 1, said((1, 1)), down=policies(("Percent", 10, 60), **at_once)) == (72, "", "down-rate")
        assert settled(80, 1, said((1, 1)), down=policies(("Pods", 5, 60), ("Percent", 10, 60), **at_once))[0] == 72
        tight = policies(("Pods", 5, 60), ("Percent", 10, 60), select_policy="Min", **at_once)
        assert settled(80, 1, said((1, 1)), down=tight)[0] == 75
        assert settled(80, 1, said((1, 1)), down=policies(select_policy="Disabled", **at_once))[0] == 80


@given(
    current=st.integers(1, 60),
    wanted=st.lists(st.integers(0, 200), min_size=1, max_size=30),
    least=st.integers(1, 5),
    extra=st.integers(0, 40),
    window=st.integers(0, 300),
)
def test_a_size_stays_within_its_bounds_and_rates(
    current: int, wanted: list[int], least: int, extra: int, window: int
) -> None:
    from datetime import timedelta

    history, most, now = History(), least + extra, NOW
    size = min(max(current, least), most)
    down = rules(HPAScalingRules(stabilization_window_seconds=window), DOWN_DEFAULT)
    for one in wanted:
        found = settle(size, one, least, most, UP_DEFAULT, down, history, now)
        assert least <= found.replicas <= most
        assert found.replicas <= max(size + 4, size * 2)
        # Never past what is wanted now in the direction of the change.
        assert found.replicas <= size or found.replicas <= one
        if found.replicas != size:
            (history.ups if found.replicas > size else history.downs).append(Moment(now, abs(found.replicas - size)))
        size, now = found.replicas, now + timedelta(seconds=15)
