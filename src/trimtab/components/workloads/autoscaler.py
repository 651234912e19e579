"""HorizontalPodAutoscaler -> the size of a Deployment, ReplicaSet or StatefulSet.

    every 15 s: target's size, its pods, what they use --autoscale.py--> a size -> spec.replicas of the target
                                                       '-> status: what was measured, why the size is what it is

While no autoscaler exists nothing is measured. What a person sets in between (`kubectl scale`) stands until the next look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from trimtab.api import JSON, Condition
from trimtab.api.autoscaling import (
    HorizontalPodAutoscaler,
    HorizontalPodAutoscalerBehavior,
    MetricSpec,
    MetricTarget,
    PodMetrics,
)
from trimtab.api.core import Pod, Service
from trimtab.api.labels import LabelSelector
from trimtab.api.quantity import milli, parse_quantity
from trimtab.api.selector import selects
from trimtab.api.workloads import Deployment, ReplicaSet, StatefulSet
from trimtab.components.workloads import autoscale, conditions
from trimtab.components.workloads.autoscale import (
    History,
    MetricMissing,
    Moment,
    Proposal,
    Sample,
    Settled,
    Tolerances,
)
from trimtab.components.workloads.measurements import Measurements, PodUsage
from trimtab.runtime import Context, Desired, FieldWrite, Requeue, Writes, reconciler

LOOK_EVERY_S = 15.0
"""As kube-controller-manager's default."""
HISTORY_S = 3600.0
"""The longest window and more than the longest period that a rule may have."""

Target = Deployment | ReplicaSet | StatefulSet
TARGETS: Mapping[str, type[Target]] = {
    "Deployment": Deployment,
    "ReplicaSet": ReplicaSet,
    "StatefulSet": StatefulSet,
}


@dataclass
class Looks:
    """What is remembered of each autoscaler from look to look, by uid. Losing it costs a window of calm, nothing else."""

    histories: dict[str, History] = field(default_factory=dict)
    looked_at: dict[str, tuple[datetime, int]] = field(default_factory=dict)
    """When, and at which generation of the autoscaler."""

    def wait_s(self, subject: HorizontalPodAutoscaler, now: datetime) -> float:
        """For how long the last look is good: changes of pods come much more often than their usage says something."""
        at, generation = self.looked_at.get(subject.metadata.uid, (now - timedelta(seconds=LOOK_EVERY_S), -1))
        if generation != _version(subject):
            return 0.0
        return max(0.0, LOOK_EVERY_S - (now - at).total_seconds())

    def begin(self, subject: HorizontalPodAutoscaler, now: datetime) -> History:
        self.looked_at[subject.metadata.uid] = (now, _version(subject))
        history = self.histories.setdefault(subject.metadata.uid, History())
        history.forget_before(now - timedelta(seconds=HISTORY_S))
        return history

    def keep_only(self, uids: set[str]) -> None:
        for uid in self.looked_at.keys() - uids:
            self.looked_at.pop(uid)
            self.histories.pop(uid, None)


def _version(subject: HorizontalPodAutoscaler) -> int:
    """Changes with what is asked for: autoscalers have no generation in Kubernetes."""
    return hash(msgspec.json.encode(subject.spec))


@reconciler(
    HorizontalPodAutoscaler,
    reads=[Deployment, ReplicaSet, StatefulSet, Pod, Service],
    asks=[PodMetrics],
    writes=[Writes(kind, ("spec.replicas",)) for kind in TARGETS.values()],
    name="autoscaler",
)
async def autoscaler(subject: HorizontalPodAutoscaler, ctx: Context) -> Desired | Requeue:
    """Looks, decides, and says why."""
    looks = ctx.adapter(Looks)
    if wait_s := looks.wait_s(subject, ctx.now):
        return Requeue(wait_s, "the last look is still good")
    looks.keep_only({other.metadata.uid for other in await ctx.list(HorizontalPodAutoscaler)})
    history = looks.begin(subject, ctx.now)
    target = await _target(subject, ctx)
    if isinstance(target, str):
        ctx.event("FailedGetScale", target, warning=True)
        able = Condition(type="AbleToScale", status="False", reason="FailedGetScale", message=target)
        return Desired(status=_status(subject, 0, 0, [], [able]), requeue_after_s=LOOK_EVERY_S)
    owner = next((o for o in target.metadata.owner_references if o.controller), None)
    if owner is not None:
        text = f"{owner.kind} {owner.name} decides on the size of {subject.spec.scale_target_ref.name}: set it there"
        ctx.event("FailedUpdateScale", text, warning=True)
        able = Condition(type="AbleToScale", status="False", reason="FailedUpdateScale", message=text)
        return Desired(status=_status(subject, 0, 0, [], [able]), requeue_after_s=LOOK_EVERY_S)
    current = 1 if target.spec.replicas is None else target.spec.replicas
    if current == 0:
        text = "scaling is disabled since the replica count of the target is zero"
        found = [
            Condition(type="AbleToScale", status="True", reason="SucceededGetScale", message=GOT_SCALE),
            Condition(type="ScalingActive", status="False", reason="ScalingDisabled", message=text),
        ]
        return Desired(status=_status(subject, 0, 0, [], found), requeue_after_s=LOOK_EVERY_S)
    return await _look(subject, ctx, target, current, history)


GOT_SCALE = "the autoscaler was able to get the target's current size"


async def _target(subject: HorizontalPodAutoscaler, ctx: Context) -> Target | str:
    """What is to be scaled, or why it cannot be."""
    wanted = subject.spec.scale_target_ref
    kind = TARGETS.get(wanted.kind)
    if kind is None or wanted.api_version not in (None, "", "apps/v1"):
        return f"{wanted.api_version or 'apps/v1'} {wanted.kind} cannot be scaled here; one of {', '.join(TARGETS)} of apps/v1 can"
    found = await ctx.get(kind, wanted.name)
    return found if found is not None else f'{kind.resource_type.plural}.apps "{wanted.name}" not found'


@dataclass
class _Found:
    """What the metrics said: the proposals with their status entries, and what is missing."""

    proposals: list[tuple[Proposal, str]] = field(default_factory=list)
    statuses: list[JSON] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    """(reason, message)."""


async def _look(
    subject: HorizontalPodAutoscaler, ctx: Context, target: Target, current: int, history: History
) -> Desired:
    spec = subject.spec
    least, most = 1 if spec.min_replicas is None else spec.min_replicas, spec.max_replicas
    behavior = spec.behavior or HorizontalPodAutoscalerBehavior()
    able = Condition(type="AbleToScale", status="True", reason="ReadyForNewScale", message=READY)
    if not least <= current <= most:
        size, what = (most, "above Spec.MaxReplicas") if current > most else (least, "below Spec.MinReplicas")
        found = [able, *_kept(subject, "ScalingActive"), *_kept(subject, "ScalingLimited")]
        why = f"Current number of replicas {what}"
        return _rescaled(subject, ctx, target, current, size, why, history, [], found)
    metrics = await _measure(subject, ctx, target, current)
    able_before = Condition(type="AbleToScale", status="True", reason="SucceededGetScale", message=GOT_SCALE)
    wanted, why = max(((p.replicas, w) for p, w in metrics.proposals), key=lambda item: item[0], default=(current, ""))
    if metrics.missing and (not metrics.proposals or wanted < current):
        reason, message = metrics.missing[0]
        ctx.event(reason, message, warning=True)
        inactive = Condition(
            type="ScalingActive",
            status="False",
            reason=reason,
            message=f"the autoscaler was unable to compute the replica count: {message}",
        )
        found = [able_before, inactive, *_kept(subject, "ScalingLimited")]
        return Desired(status=_status(subject, current, current, metrics.statuses, found), requeue_after_s=LOOK_EVERY_S)
    settled = autoscale.settle(
        current,
        wanted,
        least,
        most,
        autoscale.rules(behavior.scale_up, autoscale.UP_DEFAULT),
        autoscale.rules(behavior.scale_down, autoscale.DOWN_DEFAULT),
        history,
        ctx.now,
    )
    said = f"the autoscaler was able to successfully calculate a replica count from {why}"
    found = [
        STABILIZED.get(settled.stabilized, able),
        Condition(type="ScalingActive", status="True", reason="ValidMetricFound", message=said),
        _limited(settled),
    ]
    text = f"{why} above target" if settled.replicas > current else "All metrics below target"
    return _rescaled(subject, ctx, target, current, settled.replicas, text, history, metrics.statuses, found)


READY = "recommended size matches current size"
STABILIZED = {
    "down": Condition(
        type="AbleToScale",
        status="True",
        reason="ScaleDownStabilized",
        message="recent recommendations were higher than current one, applying the highest recent recommendation",
    ),
    "up": Condition(
        type="AbleToScale",
        status="True",
        reason="ScaleUpStabilized",
        message="recent recommendations were lower than current one, applying the lowest recent recommendation",
    ),
}
LIMITS = {
    "": ("False", "DesiredWithinRange", "the desired count is within the acceptable range"),
    "up-rate": (
        "True",
        "ScaleUpLimit",
        "the desired replica count is increasing faster than the maximum scale rate",
    ),
    "down-rate": (
        "True",
        "ScaleDownLimit",
        "the desired replica count is decreasing faster than the maximum scale rate",
    ),
    "most": ("True", "TooManyReplicas", "the desired replica count is more than the maximum replica count"),
    "fewest": ("True", "TooFewReplicas", "the desired replica count is less than the minimum replica count"),
}


def _limited(settled: Settled) -> Condition:
    status, reason, message = LIMITS[settled.limit]
    return Condition(type="ScalingLimited", status=status, reason=reason, message=message)


def _kept(subject: HorizontalPodAutoscaler, type_: str) -> list[Condition]:
    """A condition about which this look says nothing, as it was."""
    found = conditions.find(subject.status.conditions, type_)
    return [found] if found is not None else []


def _rescaled(
    subject: HorizontalPodAutoscaler,
    ctx: Context,
    target: Target,
    current: int,
    size: int,
    why: str,
    history: History,
    statuses: Sequence[JSON],
    found: list[Condition],
) -> Desired:
    status = _status(subject, current, size, statuses, found)
    if size == current:
        return Desired(status=status, requeue_after_s=LOOK_EVERY_S)
    changes = history.ups if size > current else history.downs
    changes.append(Moment(ctx.now, abs(size - current)))
    ctx.event("SuccessfulRescale", f"New size: {size}; reason: {why}")
    found[0] = Condition(
        type="AbleToScale",
        status="True",
        reason="SucceededRescale",
        message=f"the autoscaler was able to update the target scale to {size}",
    )
    status = _status(subject, current, size, statuses, found)
    status["lastScaleTime"] = msgspec.to_builtins(conditions.whole_seconds(ctx.now))
    write = FieldWrite(target.ref, {"spec": {"replicas": size}})
    return Desired(status=status, writes=[write], requeue_after_s=LOOK_EVERY_S)


def _status(
    subject: HorizontalPodAutoscaler, current: int, desired: int, metrics: Sequence[JSON], found: Sequence[Condition]
) -> JSON:
    status: JSON = {
        "currentReplicas": current,
        "desiredReplicas": desired,
        "conditions": conditions.wire(found),
    }
    if metrics:
        status["currentMetrics"] = list(metrics)
    if subject.status.last_scale_time is not None:
        status["lastScaleTime"] = msgspec.to_builtins(subject.status.last_scale_time)
    return status


# Metrics


async def _measure(subject: HorizontalPodAutoscaler, ctx: Context, target: Target, current: int) -> _Found:
    """What every metric of the autoscaler proposes."""
    found = _Found()
    source = ctx.adapter(Measurements)  # type: ignore[type-abstract]
    selector = target.spec.selector
    pods = await ctx.list(Pod, subject.namespace, where=lambda pod: selects(selector, pod.metadata.labels))
    behavior = subject.spec.behavior or HorizontalPodAutoscalerBehavior()
    tolerances = Tolerances(autoscale.tolerance_of(behavior.scale_up), autoscale.tolerance_of(behavior.scale_down))
    usage: Mapping[str, PodUsage] | None = None
    for metric in subject.spec.metrics:
        reason = f"FailedGet{metric.type}Metric"
        try:
            if not pods:
                raise MetricMissing("no pods are selected by the target's selector")
            if metric.resource is not None or metric.container_resource is not None:
                if usage is None:
                    usage = await source.usage(subject.namespace or "")
                proposal, text, status = _resource(metric, pods, usage, current, tolerances, ctx.now)
            elif metric.pods is not None:
                wanted = metric.pods.metric
                samples = await source.custom(pods, wanted.name, wanted.selector, ctx.now)
                proposal, text, status = _of_pods(metric, pods, samples, current, tolerances, ctx.now)
            elif metric.object is not None:
                value = await _of_object(subject, metric, ctx, source)
                proposal, text, status = _object(metric, pods, value, current, tolerances)
            else:
                raise MetricMissing("there is no source of metrics of this type here")
        except MetricMissing as err:
            found.missing.append((reason, f"{_name(metric)}: {err}"))
            found.statuses.append({"type": metric.type} if metric.type else {"type": "Resource"})
            continue
        found.proposals.append((proposal, text))
        found.statuses.append(status)
    if not subject.spec.metrics:
        found.missing.append(("InvalidMetricSourceType", "the autoscaler names no metrics"))
    return found


def _name(metric: MetricSpec) -> str:
    for source in (metric.resource, metric.container_resource):
        if source is not None:
            return source.name
    identifier = metric.pods or metric.object
    return identifier.metric.name if identifier is not None else f"metric of type {metric.type}"


def _resource(
    metric: MetricSpec,
    pods: Sequence[Pod],
    usage: Mapping[str, PodUsage],
    current: int,
    tolerances: Tolerances,
    now: datetime,
) -> tuple[Proposal, str, JSON]:
    source = metric.resource or metric.container_resource
    assert source is not None
    only = metric.container_resource.container if metric.container_resource is not None else None
    samples = {}
    for name, pod in usage.items():
        amounts = [
            c.amounts[source.name] for c in pod.containers if source.name in c.amounts and only in (None, c.name)
        ]
        if amounts:
            samples[name] = Sample(sum(amounts), pod.at, pod.window_s)
    groups = autoscale.grouped(pods, samples, now, cpu=source.name == "cpu")
    where = f"{source.name} container {only} " if only else f"{source.name} resource "
    if source.target.average_utilization is not None:
        counted = {*groups.ready, *groups.unready, *groups.missing}
        requests = {pod.name: _requested(pod, source.name, only) for pod in pods if pod.name in counted}
        percent = float(source.target.average_utilization)
        proposal = autoscale.for_each_pod(current, groups, samples, percent, tolerances, requests)
        text = f"{where}utilization (percentage of request)"
    else:
        proposal = autoscale.for_each_pod(current, groups, samples, _amount(source.target), tolerances)
        text = f"{where.strip()}"
    entry: JSON = {"name": source.name, "current": {"averageValue": _quantity(proposal.average, source.name)}}
    if proposal.utilization is not None:
        entry["current"]["averageUtilization"] = proposal.utilization
    if only:
        return proposal, text, {"type": "ContainerResource", "containerResource": {**entry, "container": only}}
    return proposal, text, {"type": "Resource", "resource": entry}


def _requested(pod: Pod, name: str, only: str | None) -> float:
    """What a pod's containers ask for. Raises `MetricMissing` when one asks for nothing: there is nothing to compare with."""
    sidecars = [c for c in pod.spec.init_containers if c.restart_policy == "Always"]
    total = 0.0
    for container in (*pod.spec.containers, *sidecars):
        if only not in (None, container.name):
            continue
        resources = container.resources
        amounts = {} if resources is None else {**resources.limits, **resources.requests}
        if name not in amounts:
            raise MetricMissing(f"missing request for {name} in container {container.name} of Pod {pod.name}")
        total += float(parse_quantity(amounts[name]))
    if not total:
        raise MetricMissing(f"Pod {pod.name} asks for no {name}" + (f" in a container {only}" if only else ""))
    return total


def _of_pods(
    metric: MetricSpec,
    pods: Sequence[Pod],
    samples: Mapping[str, Sample],
    current: int,
    tolerances: Tolerances,
    now: datetime,
) -> tuple[Proposal, str, JSON]:
    assert metric.pods is not None
    if not samples:
        raise MetricMissing(
            "no pod offers it; its page is looked for where the annotations prometheus.io/scrape, port and path say"
        )
    groups = autoscale.grouped(pods, samples, now, cpu=False)
    proposal = autoscale.for_each_pod(current, groups, samples, _amount(metric.pods.target), tolerances)
    entry = {"metric": _identifier(metric.pods.metric.name, metric.pods.metric.selector)}
    status = {"type": "Pods", "pods": {**entry, "current": {"averageValue": _quantity(proposal.average)}}}
    return proposal, f"pods metric {metric.pods.metric.name}", status


async def _of_object(subject: HorizontalPodAutoscaler, metric: MetricSpec, ctx: Context, source: Measurements) -> float:
    """One number about an object: what the pods behind it offer, added up."""
    assert metric.object is not None
    described, wanted = metric.object.described_object, metric.object.metric
    chosen: Callable[[Pod], bool]
    if described.kind == "Pod":
        chosen = lambda pod: pod.name == described.name  # noqa: E731
    elif described.kind == "Service":
        service = await ctx.get(Service, described.name)
        if service is None:
            raise MetricMissing(f'services "{described.name}" not found')
        labels = service.spec.selector.items()
        chosen = lambda pod: bool(labels) and labels <= pod.metadata.labels.items()  # noqa: E731
    else:
        raise MetricMissing(f"metrics of a {described.kind} are not to be had here; of a Service or a Pod they are")
    pods = await ctx.list(Pod, subject.namespace, where=chosen)
    samples = await source.custom(pods, wanted.name, wanted.selector, ctx.now)
    if not samples:
        raise MetricMissing(f"no pod of {described.kind} {described.name} offers it")
    return sum(sample.value for sample in samples.values())


def _object(
    metric: MetricSpec, pods: Sequence[Pod], value: float, current: int, tolerances: Tolerances
) -> tuple[Proposal, str, JSON]:
    assert metric.object is not None
    source = metric.object
    average = source.target.average_value is not None
    ready = sum(conditions.holds(pod.status.conditions, "Ready") for pod in pods)
    proposal = autoscale.for_an_object(current, ready, value, _amount(source.target), tolerances, average=average)
    status = {
        "type": "Object",
        "object": {
            "describedObject": msgspec.to_builtins(source.described_object),
            "metric": _identifier(source.metric.name, source.metric.selector),
            "current": {"averageValue" if average else "value": _quantity(proposal.average)},
        },
    }
    return proposal, f"{source.described_object.kind} metric {source.metric.name}", status


def _identifier(name: str, selector: LabelSelector | None) -> JSON:
    return {"name": name} | ({"selector": msgspec.to_builtins(selector)} if selector is not None else {})


def _amount(target: MetricTarget) -> float:
    given = target.average_value if target.average_value is not None else target.value
    amount = float(parse_quantity(given)) if given is not None else 0.0
    if amount <= 0:
        raise MetricMissing("its target must be greater than zero")
    return amount


def _quantity(value: float, resource: str = "") -> str:
    """As Kubernetes writes such amounts: bytes whole, everything else in thousandths where it is not whole."""
    if resource == "memory":
        return str(int(value))
    thousandths = milli(f"{value:.6f}")
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"
