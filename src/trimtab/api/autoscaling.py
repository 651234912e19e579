"""`autoscaling/v2`: how many pods there should be, by what they use; and `metrics.k8s.io/v1beta1`, what they use."""

from __future__ import annotations

from datetime import datetime

from msgspec import field

from trimtab.api.labels import LabelSelector
from trimtab.api.resource import Condition, Model, Resource, resource


class CrossVersionObjectReference(Model):
    kind: str = ""
    name: str = ""
    api_version: str | None = None


class MetricTarget(Model):
    """Exactly one of the three amounts, as `type` says: Utilization (percent of the requests), AverageValue, Value."""

    type: str = ""
    value: str | int | None = None
    average_value: str | int | None = None
    average_utilization: int | None = None


class MetricIdentifier(Model):
    name: str = ""
    selector: LabelSelector | None = None


class ResourceMetricSource(Model):
    name: str = ""
    target: MetricTarget = field(default_factory=MetricTarget)


class ContainerResourceMetricSource(Model):
    name: str = ""
    container: str = ""
    target: MetricTarget = field(default_factory=MetricTarget)


class PodsMetricSource(Model):
    metric: MetricIdentifier = field(default_factory=MetricIdentifier)
    target: MetricTarget = field(default_factory=MetricTarget)


class ObjectMetricSource(Model):
    described_object: CrossVersionObjectReference = field(default_factory=CrossVersionObjectReference)
    metric: MetricIdentifier = field(default_factory=MetricIdentifier)
    target: MetricTarget = field(default_factory=MetricTarget)


class MetricSpec(Model):
    type: str = ""
    resource: ResourceMetricSource | None = None
    container_resource: ContainerResourceMetricSource | None = None
    pods: PodsMetricSource | None = None
    object: ObjectMetricSource | None = None


class HPAScalingPolicy(Model):
    type: str = ""
    value: int = 0
    period_seconds: int = 0


class HPAScalingRules(Model):
    stabilization_window_seconds: int | None = None
    select_policy: str | None = None
    policies: list[HPAScalingPolicy] = []
    tolerance: str | int | None = None


class HorizontalPodAutoscalerBehavior(Model):
    scale_up: HPAScalingRules | None = None
    scale_down: HPAScalingRules | None = None


class HorizontalPodAutoscalerSpec(Model):
    scale_target_ref: CrossVersionObjectReference = field(default_factory=CrossVersionObjectReference)
    min_replicas: int | None = None
    max_replicas: int = 0
    metrics: list[MetricSpec] = []
    behavior: HorizontalPodAutoscalerBehavior | None = None


class HorizontalPodAutoscalerStatus(Model):
    observed_generation: int | None = None
    last_scale_time: datetime | None = None
    current_replicas: int = 0
    desired_replicas: int = 0
    conditions: list[Condition] = []


@resource("autoscaling/v2", "horizontalpodautoscalers", short_names=("hpa",), categories=("all",))
class HorizontalPodAutoscaler(Resource):
    spec: HorizontalPodAutoscalerSpec = field(default_factory=HorizontalPodAutoscalerSpec)
    status: HorizontalPodAutoscalerStatus = field(default_factory=HorizontalPodAutoscalerStatus)


class ContainerMetrics(Model):
    name: str = ""
    usage: dict[str, str | int] = {}


@resource("metrics.k8s.io/v1beta1", "pods", status=False)
class PodMetrics(Resource):
    timestamp: datetime | None = None
    window: str = ""
    containers: list[ContainerMetrics] = []
