"""Stories of Indexed Jobs, their policies, and of Jobs whose pods are deleted under them, for the contract kit.

The counts have to be exact to the pod, whatever is lost, repeated or deleted on the way.
"""

from __future__ import annotations

from typing import Any

from simulated_node import fail_pod
from trimtab.api.core import Pod
from trimtab.api.jobs import (
    Job,
    OnExitCodes,
    OnPodCondition,
    PodFailurePolicy,
    PodFailurePolicyRule,
    SuccessPolicy,
    SuccessPolicyRule,
)
from trimtab.runtime.contract import Scenario, Stage
from workload_stories import job, node, step


def end_of(found: Job) -> tuple[str, str]:
    ended = [(c.type, c.reason) for c in found.status.conditions if c.type in ("Complete", "Failed")]
    return ended[-1] if ended else ("", "")


def counts_of(found: Job) -> tuple[int, int, str, str | None]:
    status = found.status
    return status.succeeded, status.failed, status.completed_indexes, status.failed_indexes


def ends(expected: dict[str, tuple[tuple[str, str], tuple[int, int, str, str | None]]]) -> Any:
    """A goal: the Jobs have ended so, with these counts, and none of their pods is held any more."""

    async def goal(stage: Stage) -> str | None:
        found = {each.name: (end_of(each), counts_of(each)) for each in await stage.list(Job)}
        if found != expected:
            return f"Jobs ended with {found}"
        held = [pod.name for pod in await stage.list(Pod) if pod.metadata.finalizers]
        return f"pods are still held: {held}" if held else None

    return goal


REACHED = ("Complete", "CompletionsReached")


# Pods deleted under their Job


async def all_over(stage: Stage) -> str | None:
    return None if all(end_of(each) != ("", "") for each in await stage.list(Job)) else "a Job is not over"


async def delete_finished(stage: Stage) -> None:
    for pod in await stage.list(Pod):
        if pod.status.phase in ("Succeeded", "Failed"):
            await stage.delete(pod)


DELETED = Scenario(
    "jobs-whose-finished-pods-are-deleted",
    objects=[
        job("many", "exit-0", completions=6, parallelism=2),
        job("parts", "exit-0", completions=5, parallelism=2, completion_mode="Indexed"),
        job("flaky", "flaky", backoff_limit=3),
    ],
    steps=[delete_finished, delete_finished, delete_finished, step(delete_finished, all_over)],
    goal=ends(
        {
            "many": (REACHED, (6, 0, "", None)),
            "parts": (REACHED, (5, 0, "0-4", None)),
            "flaky": (REACHED, (1, 1, "", None)),
        }
    ),
    world=node,
)


# Failures by index, and the policies


def rule(action: str, *codes: int, condition: str = "") -> PodFailurePolicyRule:
    return PodFailurePolicyRule(
        action=action,
        on_exit_codes=OnExitCodes(operator="In", values=list(codes)) if codes else None,
        on_pod_conditions=[OnPodCondition(type=condition)] if condition else [],
    )


def policy(*rules: PodFailurePolicyRule) -> dict[str, Any]:
    return {"pod_failure_policy": PodFailurePolicy(rules=list(rules)), "pod_replacement_policy": "Failed"}


POLICIES = Scenario(
    "jobs-with-policies",
    objects=[
        job("odd", "odd", completions=4, parallelism=4, completion_mode="Indexed", backoff_limit_per_index=1),
        job(
            "enough",
            "exit-1",
            completions=4,
            parallelism=1,
            completion_mode="Indexed",
            backoff_limit_per_index=0,
            max_failed_indexes=1,
        ),
        job("fatal", "exit-42", backoff_limit=6, **policy(rule("FailJob", 42))),
        job(
            "part",
            "odd",
            completions=2,
            parallelism=2,
            completion_mode="Indexed",
            backoff_limit_per_index=5,
            **policy(rule("FailIndex", 1)),
        ),
        job(
            "led",
            "leader",
            completions=3,
            parallelism=3,
            completion_mode="Indexed",
            success_policy=SuccessPolicy(rules=[SuccessPolicyRule(succeeded_indexes="0", succeeded_count=1)]),
        ),
    ],
    goal=ends(
        {
            "odd": (("Failed", "FailedIndexes"), (2, 4, "0,2", "1,3")),
            "enough": (("Failed", "MaxFailedIndexesExceeded"), (0, 2, "", "0,1")),
            "fatal": (("Failed", "PodFailurePolicy"), (0, 1, "", None)),
            "part": (("Failed", "FailedIndexes"), (1, 1, "0", "1")),
            "led": (("Complete", "SuccessPolicy"), (1, 0, "0", None)),
        }
    ),
    world=node,
)


# Suspended, resumed, evicted, in this order


async def runs(stage: Stage) -> str | None:
    found = await stage.get(Job, "long")
    return None if found is not None and found.status.ready == 2 else "the Job does not run"


async def rests(stage: Stage) -> str | None:
    found = await stage.get(Job, "long")
    left = await stage.list(Pod)
    suspended = found is not None and any(c.type == "Suspended" and c.status == "True" for c in found.status.conditions)
    return None if suspended and not left else "the Job is not at rest"


async def suspend(stage: Stage, yes: bool = True) -> None:
    found = await stage.get(Job, "long")
    assert found is not None
    await stage.client.patch(found, {"spec": {"suspend": yes}}, manager="user")


async def resume(stage: Stage) -> None:
    await suspend(stage, False)


async def evict_one(stage: Stage) -> None:
    pods = await stage.list(Pod)
    await stage.client.patch(
        pods[0],
        {"status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]}},
        manager="eviction",
        subresource="status",
        type="strategic",
    )
    await fail_pod(stage, pods[0])


async def runs_uncounted(stage: Stage) -> str | None:
    found = await stage.get(Job, "long")
    assert found is not None
    if (found.status.active, found.status.ready, found.status.succeeded, found.status.failed) != (2, 2, 0, 0):
        return f"the Job stands at {found.status}"
    failed = [pod.name for pod in await stage.list(Pod) if pod.status.phase == "Failed"]
    return None if len(failed) == 1 else f"failed pods: {failed}"


async def delete_all(stage: Stage) -> None:
    for found in await stage.list(Job):
        await stage.delete(found)


RESTS = Scenario(
    "job-suspended-and-evicted",
    objects=[job("long", "ok", completions=2, parallelism=2, **policy(rule("Ignore", condition="DisruptionTarget")))],
    steps=[step(suspend, runs), step(resume, rests), step(evict_one, runs)],
    goal=runs_uncounted,
    world=node,
    uninstall=delete_all,
)

JOB_STORIES = [DELETED, POLICIES, RESTS]
