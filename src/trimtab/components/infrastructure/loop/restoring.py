"""Data that lived in a resource which had to be made anew: a Job of the user's brings it back before the object is Ready.

    made anew (Kept.restoring) --> Job NAME-KIND-restore-LIFE-HASH --> complete: Ready     failed: RestoreFailed, with its last line

The Job runs in the object's namespace. Every container of it has the connection Secret of the new resource as environment and as files. Its
name holds which life of the resource it is for and what it says, so it runs once for each, and another one when the user has mended it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from trimtab.api import JSON, InvalidObject, Ref, from_wire
from trimtab.api.core import Pod
from trimtab.api.jobs import Job
from trimtab.components.infrastructure.kinds import Managed, RestoreFrom
from trimtab.components.infrastructure.loop.gathering import Blocked
from trimtab.runtime import Context

CONNECTION = "/run/trimtab/connection"
"""Where a Job finds the files of the connection Secret."""
LIFE = "TRIMTAB_RESTORE"
"""The variable that says for which life of the resource it runs: 2 after it was made anew for the first time."""
JOB_NAME = "batch.kubernetes.io/job-name"
NAME_MAX = 63
VOLUME = "trimtab-connection"


class Restore(Struct, frozen=True):
    """How far it is. create: what is to be applied now. keep: what is there and stays. seconds: how long it took, when it is done."""

    state: Literal["running", "done", "failed"]
    message: str
    create: tuple[Job, ...] = ()
    keep: tuple[Ref, ...] = ()
    seconds: float = 0.0


async def restore(subject: Managed, ctx: Context, hook: RestoreFrom, life: int) -> Restore:
    """Looks how far the Job is; it is to be created when there is none. Raises `Blocked`: it is no Job."""
    job = job_of(subject, hook, life)
    there = await ctx.get(Job, job.name)
    if there is None:
        return Restore("running", f"Job {job.name} is begun", create=(job,))
    keep = (there.ref,)
    of = {c.type: c for c in there.status.conditions if c.status == "True"}
    if "Complete" in of:
        began, ended = there.status.start_time, there.status.completion_time
        took_s = (ended - began).total_seconds() if began and ended else 0.0
        return Restore("done", f"Job {job.name} is complete", keep=keep, seconds=took_s)
    if "Failed" in of:
        pods = await ctx.list(Pod, subject.namespace, labels={JOB_NAME: job.name})
        said = last_line(pods) or of["Failed"].message or "it failed"
        return Restore("failed", f"Job {job.name}: {said}; kubectl delete job {job.name} runs it again", keep=keep)
    if there.status.start_time is None and not there.spec.suspend:
        return Restore("running", f"Job {job.name} is made; it waits for a controller of Jobs to begin it", keep=keep)
    return Restore("running", f"Job {job.name} runs", keep=keep)


def job_of(subject: Managed, hook: RestoreFrom, life: int) -> Job:
    """The Job for one life of a resource. Raises `Blocked`: what the user gave is none."""
    place = type(subject).resource_type
    # The group and the uid: others have objects of this name of kinds of this name, and this one may have had a life before.
    said = msgspec.json.encode([hook, place.group, subject.metadata.uid], order="sorted")
    suffix = f"-restore-{life}-{hashlib.blake2s(said, digest_size=4).hexdigest()}"
    name = f"{subject.name}-{place.kind.lower()}"[: NAME_MAX - len(suffix)].rstrip("-.") + suffix
    connection = subject.spec.connection
    spec = msgspec.json.decode(msgspec.json.encode(hook.job))
    try:
        _complete(spec, connection.secret_name if connection is not None else "", life)
        wire = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": subject.namespace}}
        return from_wire(Job, wire | {"spec": spec})
    except InvalidObject as err:
        raise Blocked("InvalidField", f"spec.restoreFrom.job: {err.problem}") from None
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Blocked(
            "InvalidField", "spec.restoreFrom.job: it is the spec of a Job, and has template.spec.containers"
        ) from None


def _complete(spec: JSON, secret: str, life: int) -> None:
    """What every such Job needs, unless the user says otherwise; in place."""
    spec.pop("ttlSecondsAfterFinished", None)  # that it is complete has to be seen
    spec.setdefault("backoffLimit", 3)
    pod = spec["template"]["spec"]
    pod.setdefault("restartPolicy", "Never")
    containers: list[Any] = [*(pod.get("initContainers") or ()), *pod["containers"]]
    if not containers:
        raise ValueError
    for container in containers:
        container.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")
        container["env"] = [*(container.get("env") or ()), {"name": LIFE, "value": str(life)}]
        if secret:
            container["envFrom"] = [*(container.get("envFrom") or ()), {"secretRef": {"name": secret}}]
            mount = {"name": VOLUME, "mountPath": CONNECTION, "readOnly": True}
            container["volumeMounts"] = [*(container.get("volumeMounts") or ()), mount]
    if secret:
        volume = {"name": VOLUME, "secret": {"secretName": secret, "defaultMode": 0o444}}
        pod["volumes"] = [*(pod.get("volumes") or ()), volume]


def last_line(pods: Sequence[Pod]) -> str:
    """The last that the latest of its containers which failed said; empty when none said anything."""
    ended = []
    for pod in pods:
        for each in (*pod.status.init_container_statuses, *pod.status.container_statuses):
            done = each.state.terminated
            if done is not None and done.exit_code and done.finished_at is not None:
                lines = [line.strip() for line in done.message.splitlines() if line.strip()]
                ended.append((done.finished_at, f"{lines[-1] if lines else 'it said nothing'} (exit {done.exit_code})"))
    return max(ended)[1] if ended else ""
