"""The kinds of `apps/v1`, and the ReplicationController that was before them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import field

from trimtab.api.core import PodTemplateSpec
from trimtab.api.labels import LabelSelector
from trimtab.api.resource import Condition, Model, Resource, resource
from trimtab.api.volumes import PersistentVolumeClaim


class ReplicaSetSpec(Model):
    selector: LabelSelector = field(default_factory=LabelSelector)
    template: PodTemplateSpec = field(default_factory=PodTemplateSpec)
    replicas: int | None = None
    min_ready_seconds: int | None = None


class ReplicaSetStatus(Model, omit_defaults=False):
    replicas: int = 0
    fully_labeled_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    observed_generation: int = 0
    conditions: list[Condition] = []


@resource("apps/v1", "replicasets", short_names=("rs",), categories=("all",))
class ReplicaSet(Resource):
    spec: ReplicaSetSpec = field(default_factory=ReplicaSetSpec)
    status: ReplicaSetStatus = field(default_factory=ReplicaSetStatus)


class ReplicationControllerSpec(Model):
    selector: dict[str, str] = {}
    template: PodTemplateSpec = field(default_factory=PodTemplateSpec)
    replicas: int | None = None
    min_ready_seconds: int | None = None


@resource("v1", "replicationcontrollers", short_names=("rc",), categories=("all",))
class ReplicationController(Resource):
    """The ReplicaSet's ancestor: the same with a plain map of labels for a selector."""

    spec: ReplicationControllerSpec = field(default_factory=ReplicationControllerSpec)
    status: ReplicaSetStatus = field(default_factory=ReplicaSetStatus)


class DeploymentCondition(Condition):
    """The progress deadline counts from `last_update_time`."""

    last_update_time: datetime | None = None


class RollingUpdateDeployment(Model):
    max_surge: int | str | None = None
    max_unavailable: int | str | None = None


class DeploymentStrategy(Model):
    type: str | None = None
    rolling_update: RollingUpdateDeployment | None = None


class DeploymentSpec(Model):
    selector: LabelSelector = field(default_factory=LabelSelector)
    template: PodTemplateSpec = field(default_factory=PodTemplateSpec)
    replicas: int | None = None
    strategy: DeploymentStrategy | None = None
    min_ready_seconds: int | None = None
    progress_deadline_seconds: int | None = None
    revision_history_limit: int | None = None
    paused: bool | None = None


class DeploymentStatus(Model, omit_defaults=False):
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    unavailable_replicas: int = 0
    observed_generation: int = 0
    conditions: list[DeploymentCondition] = []


@resource("apps/v1", "deployments", short_names=("deploy",), categories=("all",))
class Deployment(Resource):
    spec: DeploymentSpec = field(default_factory=DeploymentSpec)
    status: DeploymentStatus = field(default_factory=DeploymentStatus)


class RollingUpdateStatefulSet(Model):
    partition: int | None = None
    max_unavailable: int | str | None = None


class StatefulSetUpdateStrategy(Model):
    type: str | None = None
    rolling_update: RollingUpdateStatefulSet | None = None


class StatefulSetOrdinals(Model):
    start: int = 0


class ClaimRetentionPolicy(Model):
    """`Retain` or `Delete`: what becomes of the claims when the set is deleted, or of those of a pod that is scaled away."""

    when_deleted: str | None = None
    when_scaled: str | None = None


class StatefulSetSpec(Model):
    selector: LabelSelector = field(default_factory=LabelSelector)
    template: PodTemplateSpec = field(default_factory=PodTemplateSpec)
    service_name: str = ""
    replicas: int | None = None
    volume_claim_templates: list[PersistentVolumeClaim] = []
    pod_management_policy: str | None = None
    ordinals: StatefulSetOrdinals | None = None
    persistent_volume_claim_retention_policy: ClaimRetentionPolicy | None = None
    update_strategy: StatefulSetUpdateStrategy | None = None
    min_ready_seconds: int | None = None
    revision_history_limit: int | None = None


class StatefulSetStatus(Model, omit_defaults=False):
    replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    current_replicas: int = 0
    updated_replicas: int = 0
    current_revision: str = ""
    update_revision: str = ""
    observed_generation: int = 0
    conditions: list[Condition] = []


@resource("apps/v1", "statefulsets", short_names=("sts",), categories=("all",))
class StatefulSet(Resource):
    spec: StatefulSetSpec = field(default_factory=StatefulSetSpec)
    status: StatefulSetStatus = field(default_factory=StatefulSetStatus)


class RollingUpdateDaemonSet(Model):
    max_unavailable: int | str | None = None
    max_surge: int | str | None = None


class DaemonSetUpdateStrategy(Model):
    type: str | None = None
    rolling_update: RollingUpdateDaemonSet | None = None


class DaemonSetSpec(Model):
    selector: LabelSelector = field(default_factory=LabelSelector)
    template: PodTemplateSpec = field(default_factory=PodTemplateSpec)
    update_strategy: DaemonSetUpdateStrategy | None = None
    min_ready_seconds: int | None = None
    revision_history_limit: int | None = None


class DaemonSetStatus(Model, omit_defaults=False):
    desired_number_scheduled: int = 0
    current_number_scheduled: int = 0
    number_misscheduled: int = 0
    number_ready: int = 0
    number_available: int = 0
    number_unavailable: int = 0
    updated_number_scheduled: int = 0
    observed_generation: int = 0
    conditions: list[Condition] = []


@resource("apps/v1", "daemonsets", short_names=("ds",), categories=("all",))
class DaemonSet(Resource):
    spec: DaemonSetSpec = field(default_factory=DaemonSetSpec)
    status: DaemonSetStatus = field(default_factory=DaemonSetStatus)


@resource("apps/v1", "controllerrevisions", status=False)
class ControllerRevision(Resource):
    """A past pod template of a StatefulSet or DaemonSet, as a strategic merge patch; `kubectl rollout history|undo` reads it."""

    data: dict[str, Any] = {}
    revision: int = 0
