"""What the dashboard shows of workloads: each with how far it is, and what its conditions say when it is not there."""

from __future__ import annotations

from collections.abc import Iterable

from trimtab.api import JSON, Condition, Resource
from trimtab.api.jobs import Job
from trimtab.api.workloads import Deployment, StatefulSet
from trimtab.client import Client
from trimtab.runtime import View

COLUMNS = ["Kind", "Namespace", "Name", "Ready", "Image", "State"]


async def workloads(client: Client) -> JSON:
    """A table of Deployments, StatefulSets and Jobs."""
    rows: list[list[str]] = []
    for deployment in (await client.list(Deployment)).items:
        wanted = 1 if deployment.spec.replicas is None else deployment.spec.replicas
        ready = f"{deployment.status.ready_replicas}/{wanted}"
        rows.append(_row(deployment, ready, deployment.spec.template.spec.containers, deployment.status.conditions))
    for stateful in (await client.list(StatefulSet)).items:
        wanted = 1 if stateful.spec.replicas is None else stateful.spec.replicas
        ready = f"{stateful.status.ready_replicas}/{wanted}"
        rows.append(_row(stateful, ready, stateful.spec.template.spec.containers, stateful.status.conditions))
    for job in (await client.list(Job)).items:
        wanted = 1 if job.spec.completions is None else job.spec.completions
        ready = f"{job.status.succeeded}/{wanted}"
        rows.append(_row(job, ready, job.spec.template.spec.containers, job.status.conditions))
    return {"columns": COLUMNS, "rows": rows}


def _row(obj: Resource, ready: str, containers: Iterable[object], conditions: Iterable[Condition]) -> list[str]:
    images = ", ".join(_short(getattr(container, "image", "")) for container in containers)
    kind = type(obj).resource_type.kind
    return [kind, obj.namespace or "", obj.name, ready, images, _state(conditions)]


def _short(image: str) -> str:
    name, at, digest = image.partition("@sha256:")
    return f"{name}@{digest[:12]}" if at else name


def _state(conditions: Iterable[Condition]) -> str:
    """The message of what is wrong, else of what is done."""
    found = {condition.type: condition for condition in conditions}
    for type in ("Failed", "ReplicaFailure"):
        if type in found and found[type].status == "True":
            return found[type].message or found[type].reason
    for type in ("Progressing", "Available"):
        if type in found and found[type].status == "False":
            return found[type].message or found[type].reason
    return "complete" if "Complete" in found and found["Complete"].status == "True" else ""


VIEWS = (View("workloads", "Workloads", workloads),)
