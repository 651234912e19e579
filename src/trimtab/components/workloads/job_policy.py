"""What a Job's policies say of a pod that failed, and of the indexes that succeeded. Pure.

The first rule that a failed pod matches decides: the whole Job fails, its index does, the failure is not counted, or it counts
as any other. The texts are Kubernetes' own, since people search for them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from trimtab.api.core import ContainerStatus, Pod
from trimtab.api.jobs import Job, OnExitCodes, PodFailurePolicyRule
from trimtab.components.workloads import indexes
from trimtab.components.workloads import pods as facts

FAIL_JOB = "FailJob"
FAIL_INDEX = "FailIndex"
IGNORE = "Ignore"


@dataclass(frozen=True)
class Verdict:
    """What a failed pod's failure means, and the line that says why."""

    action: str
    message: str


def verdict(job: Job, pod: Pod) -> Verdict | None:
    """The action of the first rule that the failed pod matches; None without one."""
    policy = job.spec.pod_failure_policy
    if policy is None or pod.status.phase != "Failed":
        return None
    for number, rule in enumerate(policy.rules):
        if (matched := _matched(rule, pod)) is not None:
            return Verdict(rule.action, f"{matched} matching {rule.action} rule at index {number}")
    return None


def _matched(rule: PodFailurePolicyRule, pod: Pod) -> str | None:
    if rule.on_exit_codes is not None:
        for status in (*pod.status.container_statuses, *pod.status.init_container_statuses):
            code = _exit_code(rule.on_exit_codes, status)
            if code is not None:
                return f"Container {status.name} for pod {pod.namespace}/{pod.name} failed with exit code {code}"
        return None
    for wanted in rule.on_pod_conditions:
        found = facts.condition(pod, wanted.type)
        if found is not None and found.status == wanted.status:
            return f"Pod {pod.namespace}/{pod.name} has condition {wanted.type}"
    return None


def _exit_code(rule: OnExitCodes, status: ContainerStatus) -> int | None:
    ended = status.state.terminated
    if ended is None or ended.exit_code == 0 or rule.container_name not in (None, status.name):
        return None
    return ended.exit_code if (ended.exit_code in rule.values) == (rule.operator == "In") else None


def success_rule(job: Job, completed: Collection[int]) -> int | None:
    """The number of the first rule of the success policy that the completed indexes meet."""
    policy = job.spec.success_policy
    for number, rule in enumerate(policy.rules if policy else ()):
        named = indexes.parse(rule.succeeded_indexes) if rule.succeeded_indexes else None
        met = len(named.intersection(completed)) if named is not None else len(completed)
        needed = rule.succeeded_count if rule.succeeded_count is not None else len(named or ())
        if met >= needed:
            return number
    return None
