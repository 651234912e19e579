"""Pipeline -> its repository (on the first node); and its runs -> the App's image, and how things stand (in the controllers).

    PipelineRuns of the branch, newest first --green?--> the image that it published --> App spec.image, once for each green run

Only the newest green run counts, and each is given to the App once: who changes the App by hand afterwards keeps what he wrote
until the next green run. Making a repository and removing it can both be repeated, so there is no record of either: what is on the disk
tells; a repository that was lost with its disk is there again, empty, for the next push.
"""

from __future__ import annotations

import msgspec

from trimtab.api import JSON
from trimtab.components.pipelines.kinds import Deployed, Pipeline, PipelineRun, PublishedImage, Shipped
from trimtab.components.pipelines.reasons import READY
from trimtab.components.pipelines.runner import PHASES, Runner
from trimtab.runtime import Context, Desired, FieldWrite, Writes, reconciler


@reconciler(Pipeline, effects=True, place="node", name="repository")
async def repository(subject: Pipeline, ctx: Context) -> Desired:
    """Keeps a place for what is pushed, and removes it with the Pipeline."""
    runner = ctx.adapter(Runner)  # type: ignore[type-abstract]
    if runner.is_here and ctx.deleting:
        await runner.remove_repository(subject.metadata.uid)
    elif runner.is_here and not await runner.repository(subject.metadata.uid):
        await runner.make_repository(subject.metadata.uid)
    return Desired()


@reconciler(Pipeline, reads=[PipelineRun, Shipped], writes=[Writes(Shipped, ("spec.image",))], name="deploy")
async def deploy(subject: Pipeline, ctx: Context) -> Desired:
    """Gives the App the image of the newest green run."""
    name, branch = subject.name, f"refs/heads/{subject.spec.branch}"
    runs = await ctx.list(
        PipelineRun, subject.namespace, where=lambda r: r.spec.pipeline == name and r.spec.ref in ("", branch)
    )
    newest = sorted(runs, key=lambda r: (str(r.metadata.creation_timestamp), r.name), reverse=True)
    if not newest:
        return Desired(status=_status(subject, [], ("Unknown", "NoRunYet", "nothing was pushed yet")))
    last = newest[0]
    green = next((r for r in newest if r.status.phase == "Succeeded"), None)
    writes: list[FieldWrite] = []
    deployed, problem = subject.status.deployed, None
    if green is not None and subject.spec.app is not None:
        image = _image(subject, green)
        app = await ctx.get(Shipped, subject.spec.app.name)
        if image is None:
            problem = ("NoImage", _no_image(subject, green))
        elif app is None:
            problem = (
                "AppMissing",
                f"there is no App {subject.namespace}/{subject.spec.app.name}: make it with `trimtab up`",
            )
        elif deployed is None or deployed.run != green.name:
            if app.spec.image != image.reference:
                note = f"{image.reference} of {green.name}, commit {green.spec.commit[:12]}"
                writes.append(FieldWrite(app.ref, {"spec": {"image": image.reference}}, note=note))
                ctx.event(
                    "Deployed",
                    f"{app.name} gets {green.spec.commit[:12]}, the image of {green.name}",
                    regarding=app.ref,
                )
            deployed = Deployed(run=green.name, commit=green.spec.commit, image=image.reference, at=ctx.now)
    return Desired(status=_status(subject, newest, _state(last, problem), deployed), writes=writes)


def _image(pipeline: Pipeline, run: PipelineRun) -> PublishedImage | None:
    """The image of a run that is for the App."""
    assert pipeline.spec.app is not None
    step = pipeline.spec.app.step
    found = [image for image in run.status.images if step in ("", image.step)]
    return found[0] if len(found) == 1 else None


def _no_image(pipeline: Pipeline, run: PipelineRun) -> str:
    assert pipeline.spec.app is not None
    steps = ", ".join(image.step for image in run.status.images)
    if not steps:
        return f"{run.name} published no image: the pipeline needs publish(...)"
    if pipeline.spec.app.step:
        return f"{run.name} has no image of step {pipeline.spec.app.step}; it has {steps}"
    return f"{run.name} published several images: name one of {steps} as spec.app.step"


def _state(last: PipelineRun, problem: tuple[str, str] | None) -> tuple[str, str, str]:
    if last.status.phase not in PHASES:
        return "Unknown", "RunUnderWay", f"{last.name} is under way"
    if last.status.phase != "Succeeded":
        return "False", "LastRunFailed", f"{last.name}: {last.status.message}"
    if problem is not None:
        return "False", *problem
    return "True", "UpToDate", f"{last.name} is green"


def _status(
    subject: Pipeline, newest: list[PipelineRun], state: tuple[str, str, str], deployed: Deployed | None = None
) -> JSON:
    green = next((r.name for r in newest if r.status.phase == "Succeeded"), "")
    status: JSON = {
        "observedGeneration": subject.metadata.generation or 0,
        "git": f"{Pipeline.resource_type.path(subject.namespace, subject.name, 'git')}",
        "lastRun": newest[0].name if newest else "",
        "lastGreen": green,
        "message": state[2],
        "conditions": [dict(zip(("type", "status", "reason", "message"), (READY, *state), strict=True))],
    }
    if deployed is not None:
        told = msgspec.to_builtins(deployed)
        if deployed.at is not None:
            told["at"] = f"{deployed.at:%Y-%m-%dT%H:%M:%SZ}"
        status["deployed"] = told
    return status
