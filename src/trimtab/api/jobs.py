"""Jobs of `batch/v1`: pods that run to their end."""

from __future__ import annotations

from datetime import datetime

from msgspec import field

from trimtab.api.core import PodTemplateSpec
from trimtab.api.labels import LabelSelector
from trimtab.api.resource import Condition, Model, Resource, resource


class OnExitCodes(Model):
    """`operator` In or NotIn; without `container_name` any container's exit code counts."""

    operator: str = ""
    values: list[int] = []
    container_name: str | None = None


class OnPodCondition(Model):
    type: str = ""
    status: str = "True"


class PodFailurePolicyRule(Model):
    """`action` is FailJob, FailIndex, Ignore or Count."""

    action: str = ""
    on_exit_codes: OnExitCodes | None = None
    on_pod_conditions: list[OnPodCondition] = []


class PodFailurePolicy(Model):
    """The first rule that a failed pod matches decides what its failure means."""

    rules: list[PodFailurePolicyRule] = []


class SuccessPolicyRule(Model):
    """`succeeded_indexes` as text, `0,2-4`; `succeeded_count` of them, or of all, are enough."""

    succeeded_indexes: str | None = None
    succeeded_count: int | None = None


class SuccessPolicy(Model):
    rules: list[SuccessPolicyRule] = []


class JobSpec(Model):
    template: PodTemplateSpec = field(default_factory=PodTemplateSpec)
    selector: LabelSelector | None = None
    manual_selector: bool | None = None
    parallelism: int | None = None
    completions: int | None = None
    completion_mode: str | None = None
    backoff_limit: int | None = None
    backoff_limit_per_index: int | None = None
    max_failed_indexes: int | None = None
    pod_failure_policy: PodFailurePolicy | None = None
    success_policy: SuccessPolicy | None = None
    pod_replacement_policy: str | None = None
    active_deadline_seconds: int | None = None
    ttl_seconds_after_finished: int | None = None
    suspend: bool | None = None
    managed_by: str | None = None


class UncountedTerminatedPods(Model):
    """The uids of pods that have ended, are not counted yet, and keep their finalizer until they stand here."""

    succeeded: list[str] = []
    failed: list[str] = []


class JobStatus(Model):
    active: int = 0
    ready: int = 0
    terminating: int = 0
    succeeded: int = 0
    failed: int = 0
    completed_indexes: str = ""
    failed_indexes: str | None = None
    uncounted_terminated_pods: UncountedTerminatedPods | None = None
    start_time: datetime | None = None
    completion_time: datetime | None = None
    conditions: list[Condition] = []


@resource("batch/v1", "jobs", categories=("all",))
class Job(Resource):
    spec: JobSpec = field(default_factory=JobSpec)
    status: JobStatus = field(default_factory=JobStatus)
