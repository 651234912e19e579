"""What kubectl prints of workloads: Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, CronJobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from trimtab.api import JSON
from trimtab.server.cells import NONE, age_of, containers_of, map_cell, name_of, selector_cell, spec_of, status_of
from trimtab.server.tables import age, duration, parse_time


def deployment_cells(obj: JSON, now: datetime) -> list[Any]:
    """Name, Ready, Up-to-date, Available, Age, and what its pods are."""
    spec, status = spec_of(obj), status_of(obj)
    return [
        name_of(obj),
        f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 1)}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        age_of(obj, now),
        *containers_of(spec.get("template")),
        selector_cell(spec.get("selector")),
    ]


def replica_set_cells(obj: JSON, now: datetime) -> list[Any]:
    """Name, Desired, Current, Ready, Age, and what its pods are."""
    spec, status = spec_of(obj), status_of(obj)
    return [
        name_of(obj),
        spec.get("replicas", 1),
        status.get("replicas", 0),
        status.get("readyReplicas", 0),
        age_of(obj, now),
        *containers_of(spec.get("template")),
        selector_cell(spec.get("selector")),
    ]


def stateful_set_cells(obj: JSON, now: datetime) -> list[Any]:
    """Name, Ready, Age, and what its pods are."""
    spec = spec_of(obj)
    ready = f"{status_of(obj).get('readyReplicas', 0)}/{spec.get('replicas', 1)}"
    return [name_of(obj), ready, age_of(obj, now), *containers_of(spec.get("template"))]


def daemon_set_cells(obj: JSON, now: datetime) -> list[Any]:
    """Name, six numbers of pods, Node Selector, Age, and what its pods are."""
    spec, status = spec_of(obj), status_of(obj)
    pod = (spec.get("template") or {}).get("spec") or {}
    return [
        name_of(obj),
        status.get("desiredNumberScheduled", 0),
        status.get("currentNumberScheduled", 0),
        status.get("numberReady", 0),
        status.get("updatedNumberScheduled", 0),
        status.get("numberAvailable", 0),
        map_cell(pod.get("nodeSelector")),
        age_of(obj, now),
        *containers_of(spec.get("template")),
        selector_cell(spec.get("selector")),
    ]


def job_cells(obj: JSON, now: datetime) -> list[Any]:
    """Name, Status, Completions, Duration, Age, and what its pods are."""
    spec, status = spec_of(obj), status_of(obj)
    wanted = spec.get("completions")
    done = status.get("succeeded", 0)
    if wanted is None:
        parallelism = spec.get("parallelism", 1)
        wanted = f"1 of {parallelism}" if parallelism > 1 else 1
    started, ended = parse_time(status.get("startTime")), parse_time(status.get("completionTime"))
    took = duration(int(((ended or now) - started).total_seconds())) if started else ""
    return [
        name_of(obj),
        _job_status(obj),
        f"{done}/{wanted}",
        took,
        age_of(obj, now),
        *containers_of(spec.get("template")),
        selector_cell(spec.get("selector")),
    ]


def _job_status(obj: JSON) -> str:
    true = {c.get("type") for c in status_of(obj).get("conditions") or () if c.get("status") == "True"}
    for condition, text in (("Complete", "Complete"), ("Failed", "Failed")):
        if condition in true:
            return text
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for condition, text in (
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ):
        if condition in true:
            return text
    return "Running"


def cron_job_cells(obj: JSON, now: datetime) -> list[Any]:
    """Name, Schedule, Timezone, Suspend, Active, Last Schedule, Age, and what its pods are."""
    spec, status = spec_of(obj), status_of(obj)
    last = status.get("lastScheduleTime")
    template = ((spec.get("jobTemplate") or {}).get("spec")) or {}
    return [
        name_of(obj),
        spec.get("schedule", ""),
        spec.get("timeZone") or NONE,
        str(bool(spec.get("suspend"))),
        len(status.get("active") or ()),
        age(last, now) if last else NONE,
        age_of(obj, now),
        *containers_of(template.get("template")),
        selector_cell(template.get("selector")),
    ]
