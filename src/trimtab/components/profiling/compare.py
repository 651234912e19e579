"""App -> its new image beside the one before it: what grew is said in the timeline, in an Event, and in a condition of the App.

    App status.image changes --noted--> Profiler status.deploys: Comparing --samples enough--> compared, once
                                                                                '--> ProfileSteady on the App, an entry that `why` shows

How it is told from noise: queries/growth.py. The profiles are looked at elsewhere (comparer.py); here only what is said.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from trimtab.api import JSON
from trimtab.components.profiling.comparer import Comparer, Deploy, digest_of
from trimtab.components.profiling.kinds import DEFAULT, Profiled, Profiler, ProfilerDeploy
from trimtab.components.profiling.queries.shapes import CompareAnswer, Grown
from trimtab.components.profiling.reasons import STEADY
from trimtab.runtime import Context, Desired, FieldWrite, Writes, reconciler

FIRST_LOOK_S = 120.0
"""A minute of a program's start does not count, and one that counts is the least that can be said something about."""
LOOK_LATER = 0.5
"""Each further look comes after half the time that has passed."""
RETRY_S = 60.0
"""After no answer."""
NAMES_TOLD = 3
MESSAGE_MAX = 900

FIRST, COMPARING, GREW, STEADY_ON, FEW, SAME = (
    "FirstImage", "Comparing", "FunctionsGrew", "NothingGrew", "TooFewSamples", "SameImage",
)  # fmt: skip
_STATES = {COMPARING: "Unknown", FEW: "Unknown", SAME: "Unknown", GREW: "False", STEADY_ON: "True"}


@reconciler(
    Profiler,
    reads=[Profiled],
    writes=[Writes(Profiled, (f"status.conditions[{STEADY}]",))],
    effects=True,
    workers=1,
    name="compare",
)
async def compare(subject: Profiler, ctx: Context) -> Desired:
    """Compares the images of Apps, and says what grew; takes it back when nobody measures any more."""
    if subject.name != DEFAULT:
        return Desired()
    if ctx.deleting:
        said = [app for app in await ctx.list(Profiled) if any(c.type == STEADY for c in app.status.conditions)]
        return Desired(writes=[FieldWrite(app.ref, {}, "status") for app in said])
    known = {(deploy.namespace, deploy.app): deploy for deploy in subject.status.deploys}
    deploys, writes, waits = [], [], []
    for app in await ctx.list(Profiled):
        if not digest_of(app.status.image):
            continue
        deploy = noted(known.get((app.namespace or "", app.name)), app, ctx.now)
        if deploy.state == COMPARING:
            if due(deploy) <= ctx.now:
                deploy = await _looked(deploy, app, subject, ctx)
            if deploy.state == COMPARING:
                wait_s = (due(deploy) - ctx.now).total_seconds()
                waits.append(wait_s if wait_s > 0 else RETRY_S)
        deploys.append(deploy)
        if deploy.state in _STATES:
            condition = {
                "type": STEADY,
                "status": _STATES[deploy.state],
                "reason": deploy.state,
                "message": deploy.message,
            }
            writes.append(FieldWrite(app.ref, {"status": {"conditions": [condition]}}, "status"))
    status: JSON = {"deploys": [_told(deploy) for deploy in deploys]}
    return Desired(status=status, writes=writes, requeue_after_s=min(waits, default=None))


def noted(known: ProfilerDeploy | None, app: Profiled, now: datetime) -> ProfilerDeploy:
    """What is known of an App's image; the beginning of a comparison when it is another."""
    image = digest_of(app.status.image)
    if known is not None and known.image == image:
        return known
    began = ProfilerDeploy(
        namespace=app.namespace or "", app=app.name, image=image, since=now.replace(microsecond=0), state=FIRST
    )
    if known is None:
        return began
    message = f"{_short(known.image)} -> {_short(image)}: waiting for samples of the new image"
    return msgspec.structs.replace(began, before=known.image, state=COMPARING, message=message)


def due(deploy: ProfilerDeploy) -> datetime:
    """When it is to be looked at."""
    if deploy.looked_at is None:
        return deploy.since + timedelta(seconds=FIRST_LOOK_S)
    passed = (deploy.looked_at - deploy.since).total_seconds()
    return deploy.looked_at + timedelta(seconds=LOOK_LATER * passed)


async def _looked(deploy: ProfilerDeploy, app: Profiled, subject: Profiler, ctx: Context) -> ProfilerDeploy:
    limits = subject.spec.compare
    asked = Deploy(
        subject.metadata.uid, deploy.namespace, deploy.app, tuple(sorted(app.spec.processes)), deploy.before, deploy.image,
        int(deploy.since.timestamp()), limits.threshold_percent, limits.min_samples,
    )  # fmt: skip
    try:
        answer = await ctx.adapter(Comparer).compare(asked)  # type: ignore[type-abstract]
    except ConnectionError as err:
        ctx.log.warning("%s/%s: %s", deploy.namespace, deploy.app, err)
        return deploy
    state, message = said(deploy, answer)
    if state != COMPARING:
        ctx.event(state, message, warning=state == GREW, regarding=app.ref)
    looked_at = ctx.now.replace(microsecond=0)
    return msgspec.structs.replace(deploy, looked_at=looked_at, state=state, message=message)


def said(deploy: ProfilerDeploy, answer: CompareAnswer) -> tuple[str, str]:
    """The state that an answer means, and one line for people."""
    images = f"{_short(answer.before_image or deploy.before)} -> {_short(answer.after_image or deploy.image)}"
    samples = f"{answer.before.samples:,.0f} and {answer.after.samples:,.0f} samples"
    if answer.state == "waiting":
        return COMPARING, f"{images}: waiting for samples, {samples} until now"
    if answer.state == "same-image":
        return SAME, f"{images}: all samples before and after are of one image"
    if answer.state == "too-few":
        return FEW, f"{images}: {samples} are too few to compare"
    basis = f"{_basis(answer)}; {samples}"
    if not answer.grown:
        return STEADY_ON, f"{images}: none of {answer.functions} functions grew beyond the threshold ({basis})"
    named = ", ".join(_grown(grown) for grown in answer.grown[:NAMES_TOLD])
    more = f" and {len(answer.grown) - NAMES_TOLD} more" if len(answer.grown) > NAMES_TOLD else ""
    return GREW, f"{images}: {named}{more} ({basis})"[:MESSAGE_MAX]


def _grown(grown: Grown) -> str:
    after, place = f"{100 * grown.after:.1f} %", grown.function.place
    where = f" ({place})" if place and place != grown.function.name else ""
    if grown.change == "new":
        return f"{grown.function.name}{where} is new, {after}"
    return f"{grown.function.name}{where} {100 * grown.before:.1f} % -> {after}"


def _basis(answer: CompareAnswer) -> str:
    if answer.per != "request":
        return "of the App's CPU time, as the requests it served are not known"
    return f"per request, which took {answer.cost_before / 1e6:.2f} ms of CPU and takes {answer.cost_after / 1e6:.2f} ms; parts are of what one took"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12] or "nothing"


def _told(deploy: ProfilerDeploy) -> JSON:
    told: JSON = {"namespace": deploy.namespace, "app": deploy.app, "image": deploy.image, "before": deploy.before}
    told |= {"state": deploy.state, "message": deploy.message, "since": f"{deploy.since:%Y-%m-%dT%H:%M:%SZ}"}
    if deploy.looked_at is not None:
        told["lookedAt"] = f"{deploy.looked_at:%Y-%m-%dT%H:%M:%SZ}"
    return told
