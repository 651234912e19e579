"""PipelineRun -> a process that runs it -> its status, step by step; one run at a time on an engine, in the order they came.

    Pending --turn--> Runner.begin --> Running: looked at once a second --> Succeeded | Failed | Error
                                                                              '--> the oldest beyond `keepRuns` are deleted

The process dies with the node agent. Whoever comes after it finds the run begun and nothing at work, and begins it again: steps
that were done are found in the cache. A deleted PipelineRun ends its process and takes log and record with it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from trimtab.api import JSON
from trimtab.api.core import Secret
from trimtab.components.pipelines.kinds import Pipeline, PipelineRun
from trimtab.components.pipelines.reasons import SUCCEEDED
from trimtab.components.pipelines.runner import PHASES, Order, Progress, Runner
from trimtab.runtime import Context, Desired, reconciler

LOOK_S = 1.0
"""How often a run under way is looked at."""
ATTEMPTS_MAX = 10
DONE = ("hit", "succeeded")
STEPS_MAX = 500
"""Of a run's steps in its status; the report has all."""
REASON_OF = {"Succeeded": "Green", "Failed": "StepFailed", "Error": "NotRun"}


@reconciler(PipelineRun, reads=[Pipeline, Secret], effects=True, place="node", name="run")
async def run(subject: PipelineRun, ctx: Context) -> Desired:
    """Carries a run out."""
    runner = ctx.adapter(Runner)  # type: ignore[type-abstract]
    if not runner.is_here:
        return Desired()
    uid, status = subject.metadata.uid, subject.status
    if ctx.deleting:
        await runner.remove_run(uid)
        return Desired()
    if status.phase in PHASES:
        return await _ended(subject, ctx)
    pipeline = await ctx.get(Pipeline, subject.spec.pipeline)
    if pipeline is None:
        message = f"there is no Pipeline {subject.namespace}/{subject.spec.pipeline}"
        return _over(subject, ctx, Progress("Error", message), "PipelineMissing")
    found = runner.look(uid)
    if found is None:
        return await _begun(subject, pipeline, ctx, runner)
    if found.ended:
        return _over(subject, ctx, found, REASON_OF[found.phase])
    return Desired(status=_status(subject, found, "Running", "Unknown", found.message), requeue_after_s=LOOK_S)


async def _begun(subject: PipelineRun, pipeline: Pipeline, ctx: Context, runner: Runner) -> Desired:
    status = subject.status
    if status.attempts >= ATTEMPTS_MAX:
        message = f"the node agent ended {status.attempts} times while this ran"
        return _over(subject, ctx, Progress("Error", message), "Interrupted")
    if pipeline.spec.suspend and status.phase == "Pending":
        return Desired(
            status=_status(subject, Progress("Pending"), "Suspended", "Unknown", "the Pipeline is suspended")
        )
    if (earlier := await _earlier(subject, ctx)) is not None:
        message = f"waits for {earlier.ref.namespace}/{earlier.name}"
        return Desired(status=_status(subject, Progress("Pending"), "Waiting", "Unknown", message))
    hook = pipeline.spec.webhook if subject.spec.trigger == "webhook" else None
    login: dict[str, str] = {}
    if hook is not None and hook.login:
        secret = await ctx.get(Secret, hook.login)
        if secret is None:
            message = f"there is no Secret {subject.namespace}/{hook.login}, which spec.webhook.login of {pipeline.name} names"
            return _over(subject, ctx, Progress("Error", message), "NotRun")
        login = {name: base64.b64decode(value).decode(errors="replace") for name, value in secret.data.items()}
    if status.phase == "Pending":
        # It stands there before anything is done, so that who comes after a crash knows.
        ctx.event("Started", f"runs {subject.spec.commit[:12]} of {subject.spec.pipeline}: {subject.spec.message}")
    spec = pipeline.spec
    runner.begin(
        Order(
            subject.metadata.uid,
            pipeline.metadata.uid,
            subject.spec.commit,
            spec.directory,
            spec.pipeline,
            spec.parameters,
            hook.repository if hook is not None else "",
            f"{pipeline.namespace}/{pipeline.name}",
            login,
        )
    )
    began = _status(subject, Progress(), "Running", "Unknown", "", started=ctx.now, attempts=status.attempts + 1)
    return Desired(status=began, requeue_after_s=LOOK_S)


async def _earlier(subject: PipelineRun, ctx: Context) -> PipelineRun | None:
    """The run whose turn is before this one's, if there is any."""
    mine = _turn(subject)
    suspended = {(p.namespace, p.name) for p in await ctx.list(Pipeline) if p.spec.suspend}

    def before(other: PipelineRun) -> bool:
        waits = (other.namespace, other.spec.pipeline) in suspended and other.status.phase == "Pending"
        gone = other.metadata.deletion_timestamp is not None
        return other.status.phase not in PHASES and not waits and not gone and _turn(other) < mine

    others = await ctx.list(PipelineRun, where=before)
    return min(others, key=_turn) if others else None


def _turn(run: PipelineRun) -> tuple[int, str, str, str]:
    """Who is under way is first, then who came first."""
    waits = 0 if run.status.phase == "Running" else 1
    return (waits, str(run.metadata.creation_timestamp), run.namespace or "", run.name)


async def _ended(subject: PipelineRun, ctx: Context) -> Desired:
    """Leaves the status as it is; deletes the run when there are enough newer ones of its Pipeline."""
    pipeline = await ctx.get(Pipeline, subject.spec.pipeline)
    if pipeline is None:
        return Desired()
    mine = (str(subject.metadata.creation_timestamp), subject.name)

    def newer(other: PipelineRun) -> bool:
        same = other.spec.pipeline == subject.spec.pipeline and other.status.phase in PHASES
        return same and (str(other.metadata.creation_timestamp), other.name) > mine

    others = await ctx.list(PipelineRun, subject.namespace, where=newer)
    return Desired(delete_subject=len(others) >= pipeline.spec.keep_runs)


def _over(subject: PipelineRun, ctx: Context, found: Progress, reason: str) -> Desired:
    green = found.phase == "Succeeded"
    what = f"{subject.spec.commit[:12]} of {subject.spec.pipeline}"
    said = f"{what} is green" if green else f"{what}: {found.message}"
    began = subject.status.started_at
    took_ms = (ctx.now - began).total_seconds() * 1000 if began is not None else None
    ctx.event(reason, said, warning=not green, duration_ms=took_ms)
    state = "True" if green else "False"
    return Desired(status=_status(subject, found, reason, state, found.message, finished=ctx.now), requeue_after_s=0.0)


def _status(
    subject: PipelineRun,
    found: Progress,
    reason: str,
    state: str,
    message: str,
    *,
    started: datetime | None = None,
    finished: datetime | None = None,
    attempts: int | None = None,
) -> JSON:
    """The whole status: what is not given stays as it was."""
    was = subject.status
    steps: Sequence[Any] = found.steps or [msgspec.to_builtins(step) for step in was.steps]
    status: JSON = {
        "phase": found.phase,
        "attempts": was.attempts if attempts is None else attempts,
        "seconds": round(found.seconds or was.seconds, 2),
        "message": message,
        "steps": list(steps)[:STEPS_MAX],
        "images": list(found.images),
        "summary": _summary(found) or was.summary,
        "run": found.run or was.run,
        "conditions": [{"type": SUCCEEDED, "status": state, "reason": reason, "message": message}],
    }
    for name, at in (("startedAt", was.started_at or started), ("finishedAt", finished)):
        if at is not None:
            status[name] = f"{at:%Y-%m-%dT%H:%M:%SZ}"
    return status


def _summary(found: Progress) -> str:
    if not found.total:
        return ""
    done = sum(1 for step in found.steps if step["state"] in DONE)
    unchanged = sum(1 for step in found.steps if step["state"] == "hit")
    return f"{done}/{found.total}" + (f" ({unchanged} unchanged)" if unchanged else "")
