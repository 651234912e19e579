"""How many pods an autoscaler wants: from what pods use to a number. Pure.

    metric -> proposal        how many pods would bring this metric to its target (`for_each_pod`, `for_an_object`)
    proposals -> the largest  a metric that is missing forbids to shrink, not to grow
    -> settle                 stabilization windows, rates of change, minimum and maximum

The arithmetic is the one that the Kubernetes documentation of horizontal pod autoscaling describes, with the defaults of
kube-controller-manager: pods that are not ready yet or have no measurement are counted with care, so that neither makes the
number swing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from trimtab.api.autoscaling import HPAScalingPolicy, HPAScalingRules
from trimtab.api.core import Pod
from trimtab.api.quantity import parse_quantity

TOLERANCE = 0.1
"""A metric so close to its target changes nothing."""
CPU_INITIALIZATION_S = 300.0
"""For so long after its start a pod's CPU counts only while it is ready, measured since it became so: programs work hard when
they start."""
READINESS_DELAY_S = 30.0
"""A pod that became unready so soon after its start has never been ready."""
DOWN_WINDOW_S = 300

UP_DEFAULT = HPAScalingRules(
    stabilization_window_seconds=0,
    select_policy="Max",
    policies=[
        HPAScalingPolicy(type="Pods", value=4, period_seconds=15),
        HPAScalingPolicy(type="Percent", value=100, period_seconds=15),
    ],
)
DOWN_DEFAULT = HPAScalingRules(
    stabilization_window_seconds=DOWN_WINDOW_S,
    select_policy="Max",
    policies=[HPAScalingPolicy(type="Percent", value=100, period_seconds=15)],
)


class MetricMissing(Exception):
    """A metric cannot be had or makes no sense now; one line says which and why."""


# One metric


@dataclass(frozen=True)
class Sample:
    """What one pod uses, in whatever unit the target has; when, and over which time, it was measured."""

    value: float
    at: datetime
    window_s: float = 0.0


@dataclass(frozen=True)
class Tolerances:
    """How far from the target a metric may be, in each direction."""

    up: float = TOLERANCE
    down: float = TOLERANCE

    def allow(self, ratio: float) -> bool:
        return 1.0 - self.down <= ratio <= 1.0 + self.up


@dataclass(frozen=True)
class Groups:
    """Pods by what is known of them."""

    ready: tuple[str, ...]
    unready: tuple[str, ...]
    missing: tuple[str, ...]


def grouped(pods: Sequence[Pod], samples: Mapping[str, Sample], now: datetime, *, cpu: bool) -> Groups:
    """Which pods count fully, which are on their way, and of which there is no measurement. Pods that are being deleted or
    have failed do not count at all. cpu: the metric is CPU, which says nothing while a pod starts."""
    ready, unready, missing = [], [], []
    for pod in pods:
        if pod.metadata.deletion_timestamp is not None or pod.status.phase == "Failed":
            continue
        sample = samples.get(pod.name)
        if pod.status.phase == "Pending":
            unready.append(pod.name)
        elif sample is None:
            missing.append(pod.name)
        elif cpu and _starting(pod, sample, now):
            unready.append(pod.name)
        else:
            ready.append(pod.name)
    return Groups(tuple(ready), tuple(unready), tuple(missing))


def _starting(pod: Pod, sample: Sample, now: datetime) -> bool:
    condition = next((c for c in pod.status.conditions if c.type == "Ready"), None)
    start = pod.status.start_time
    if condition is None or start is None:
        return True
    changed = condition.last_transition_time or start
    if start + timedelta(seconds=CPU_INITIALIZATION_S) > now:
        return condition.status == "False" or sample.at < changed + timedelta(seconds=sample.window_s)
    return condition.status == "False" and start + timedelta(seconds=READINESS_DELAY_S) > changed


@dataclass(frozen=True)
class Proposal:
    """How many pods one metric asks for, and what it is now: the average over pods (or the value), and of the requests."""

    replicas: int
    average: float
    utilization: int | None = None


def for_each_pod(
    current: int,
    groups: Groups,
    samples: Mapping[str, Sample],
    target: float,
    tolerances: Tolerances,
    requests: Mapping[str, float] | None = None,
) -> Proposal:
    """The size at which the pods' average is the target: a value, or, with `requests`, a percentage of them.

    Raises:
        MetricMissing: no pod that counts has been measured.
    """
    measured = {name: samples[name].value for name in groups.ready}
    if not measured:
        raise MetricMissing("no measurements of its pods yet (they may not be ready)")
    ratio = _ratio(measured, target, requests)
    average = sum(measured.values()) / len(measured)
    utilization = _utilization(measured, requests) if requests is not None else None
    starting = bool(groups.unready) and ratio > 1.0
    if not starting and not groups.missing:
        replicas = current if tolerances.allow(ratio) else math.ceil(ratio * len(measured))
        return Proposal(replicas, average, utilization)
    counted = dict(measured)
    for name in groups.missing:
        if ratio < 1.0:
            # To shrink: they may be as busy as they are meant to be, or more.
            counted[name] = requests[name] * max(100.0, target) / 100 if requests is not None else target
        elif ratio > 1.0:
            counted[name] = 0.0
    if starting:
        counted |= dict.fromkeys(groups.unready, 0.0)
    again = _ratio(counted, target, requests)
    turned = (ratio < 1.0 < again) or (ratio > 1.0 > again)
    replicas = math.ceil(again * len(counted))
    if (
        tolerances.allow(again)
        or turned
        or (again < 1.0 and replicas > current)
        or (again > 1.0 and replicas < current)
    ):
        replicas = current
    return Proposal(replicas, average, utilization)


def _utilization(values: Mapping[str, float], requests: Mapping[str, float]) -> int:
    return int(100 * sum(values.values()) / sum(requests[name] for name in values))


def _ratio(values: Mapping[str, float], target: float, requests: Mapping[str, float] | None) -> float:
    if requests is not None:
        return _utilization(values, requests) / target
    return sum(values.values()) / len(values) / target


def for_an_object(
    current: int, ready: int, value: float, target: float, tolerances: Tolerances, *, average: bool
) -> Proposal:
    """The size at which one value (requests at a Service, say) is the target; average: divided by the number of pods."""
    if average:
        ratio = value / (target * current) if current else math.inf
        replicas = current if current and tolerances.allow(ratio) else math.ceil(value / target)
        return Proposal(replicas, value / max(1, current))
    ratio = value / target
    replicas = current if tolerances.allow(ratio) else math.ceil(ratio * ready)
    return Proposal(replicas, value)


# Settling


@dataclass(frozen=True)
class Moment:
    """A number and when it was: a recommendation, or by how much the size was changed."""

    at: datetime
    amount: int


@dataclass
class History:
    """What an autoscaler has recommended and done lately. Lost with the process, as in Kubernetes: the present size then
    counts as the first recommendation, so that nothing shrinks sooner for it."""

    recommendations: list[Moment] = field(default_factory=list)
    ups: list[Moment] = field(default_factory=list)
    downs: list[Moment] = field(default_factory=list)

    def forget_before(self, at: datetime) -> None:
        for moments in (self.recommendations, self.ups, self.downs):
            moments[:] = [moment for moment in moments if moment.at >= at]


Limit = Literal["", "up-rate", "down-rate", "most", "fewest"]
Stabilized = Literal["", "up", "down"]


@dataclass(frozen=True)
class Settled:
    """The size to ask for now, and what kept it from being what the metrics say."""

    replicas: int
    stabilized: Stabilized = ""
    limit: Limit = ""


def rules(given: HPAScalingRules | None, default: HPAScalingRules) -> HPAScalingRules:
    """An autoscaler's rules for one direction, with what they leave open filled in."""
    if given is None:
        return default
    window = given.stabilization_window_seconds
    return HPAScalingRules(
        stabilization_window_seconds=default.stabilization_window_seconds if window is None else window,
        select_policy=given.select_policy or default.select_policy,
        policies=given.policies or default.policies,
        tolerance=given.tolerance,
    )


def tolerance_of(given: HPAScalingRules | None) -> float:
    return TOLERANCE if given is None or given.tolerance is None else float(parse_quantity(given.tolerance))


def settle(
    current: int,
    wanted: int,
    least: int,
    most: int,
    up: HPAScalingRules,
    down: HPAScalingRules,
    history: History,
    now: datetime,
) -> Settled:
    """What becomes of a wanted size; the recommendation is added to the history."""
    if not history.recommendations:
        history.recommendations.append(Moment(now, current))
    lowest = highest = wanted
    for said in history.recommendations:
        if said.at > now - timedelta(seconds=up.stabilization_window_seconds or 0):
            lowest = min(lowest, said.amount)
        if said.at > now - timedelta(seconds=down.stabilization_window_seconds or 0):
            highest = max(highest, said.amount)
    history.recommendations.append(Moment(now, wanted))
    stable = min(max(current, lowest), highest)
    stabilized: Stabilized = "" if stable == wanted else "down" if stable > wanted else "up"
    if stable > current:
        allowed = max(current, _up_limit(current, up, history, now))
        if stable > min(allowed, most):
            return Settled(min(allowed, most), stabilized, "up-rate" if allowed < most else "most")
    elif stable < current:
        allowed = min(current, _down_limit(current, down, history, now))
        if stable < max(allowed, least):
            return Settled(max(allowed, least), stabilized, "down-rate" if allowed > least else "fewest")
    return Settled(stable, stabilized)


def _began_with(current: int, policy: HPAScalingPolicy, history: History, now: datetime) -> int:
    """The size at the beginning of a policy's period."""
    since = now - timedelta(seconds=policy.period_seconds)
    added = sum(moment.amount for moment in history.ups if moment.at > since)
    removed = sum(moment.amount for moment in history.downs if moment.at > since)
    return current - added + removed


def _up_limit(current: int, up: HPAScalingRules, history: History, now: datetime) -> int:
    if up.select_policy == "Disabled":
        return current
    found = []
    for policy in up.policies:
        start = _began_with(current, policy, history, now)
        grown = start + policy.value if policy.type == "Pods" else math.ceil(start * (100 + policy.value) / 100)
        found.append(grown)
    return min(found) if up.select_policy == "Min" else max(found)


def _down_limit(current: int, down: HPAScalingRules, history: History, now: datetime) -> int:
    if down.select_policy == "Disabled":
        return current
    found = []
    for policy in down.policies:
        start = _began_with(current, policy, history, now)
        shrunk = start - policy.value if policy.type == "Pods" else math.floor(start * (100 - policy.value) / 100)
        found.append(max(0, shrunk))
    return max(found) if down.select_policy == "Min" else min(found)
