"""Checks on writes of workloads, beyond what the API server itself knows of its kinds, in Kubernetes' words.

Most are Kubernetes' own validation of fields that agree with each other. The rest refuse what would be accepted and then be
done wrongly: a volume as a block device.
"""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.api import JSON, cron
from trimtab.api.autoscaling import HorizontalPodAutoscaler
from trimtab.api.batch import CronJob
from trimtab.api.core import Pod
from trimtab.api.jobs import Job
from trimtab.api.quantity import parse_quantity, whole
from trimtab.api.volumes import PersistentVolumeClaim
from trimtab.api.workloads import DaemonSet, Deployment, ReplicaSet, ReplicationController, StatefulSet
from trimtab.components.workloads.autoscaler_admission import check_autoscaler
from trimtab.components.workloads.fields import not_negative, one_of, quantity, share
from trimtab.components.workloads.job_admission import check_job_spec
from trimtab.components.workloads.progress import DEADLINE_DEFAULT_S
from trimtab.runtime import Admission, Denied


def check_deployment(new: JSON, old: JSON | None) -> list[str]:
    """Strategy, surge, deadline and the template's quantities."""
    spec = new["spec"]
    strategy = spec.get("strategy") or {}
    one_of("spec.strategy.type", strategy.get("type"), ("Recreate", "RollingUpdate"))
    update = strategy.get("rollingUpdate") or {}
    for name in ("maxSurge", "maxUnavailable"):
        share(f"spec.strategy.rollingUpdate.{name}", update.get(name))
    most = update.get("maxUnavailable")
    if isinstance(most, str) and int(most[:-1]) > 100:
        raise Denied(
            "spec.strategy.rollingUpdate.maxUnavailable", f'Invalid value: "{most}": must not be greater than 100%'
        )
    for name in ("minReadySeconds", "progressDeadlineSeconds", "revisionHistoryLimit"):
        not_negative(f"spec.{name}", spec.get(name))
    deadline, ready = spec.get("progressDeadlineSeconds", DEADLINE_DEFAULT_S), spec.get("minReadySeconds") or 0
    if deadline is not None and deadline <= ready:
        raise Denied("spec.progressDeadlineSeconds", f"Invalid value: {deadline}: must be greater than minReadySeconds")
    _template(spec)
    return []


def check_replicaset(new: JSON, old: JSON | None) -> list[str]:
    """Numbers, and the template's quantities."""
    not_negative("spec.minReadySeconds", new["spec"].get("minReadySeconds"))
    _template(new["spec"])
    return []


def check_statefulset(new: JSON, old: JSON | None) -> list[str]:
    """Update strategy, pod management, claim templates and the template's quantities."""
    spec = new["spec"]
    strategy = spec.get("updateStrategy") or {}
    one_of("spec.updateStrategy.type", strategy.get("type"), ("OnDelete", "RollingUpdate"))
    one_of("spec.podManagementPolicy", spec.get("podManagementPolicy"), ("OrderedReady", "Parallel"))
    partition = (strategy.get("rollingUpdate") or {}).get("partition")
    not_negative("spec.updateStrategy.rollingUpdate.partition", partition)
    most = (strategy.get("rollingUpdate") or {}).get("maxUnavailable")
    share("spec.updateStrategy.rollingUpdate.maxUnavailable", most)
    if most in (0, "0%"):
        raise Denied("spec.updateStrategy.rollingUpdate.maxUnavailable", f"Invalid value: {most}: must be at least 1")
    not_negative("spec.ordinals.start", (spec.get("ordinals") or {}).get("start"))
    retention = spec.get("persistentVolumeClaimRetentionPolicy") or {}
    for name in ("whenDeleted", "whenScaled"):
        one_of(f"spec.persistentVolumeClaimRetentionPolicy.{name}", retention.get(name), ("Delete", "Retain"))
    for name in ("minReadySeconds", "revisionHistoryLimit"):
        not_negative(f"spec.{name}", spec.get(name))
    seen = set()
    for index, claim in enumerate(spec.get("volumeClaimTemplates") or ()):
        path = f"spec.volumeClaimTemplates[{index}]"
        name = (claim.get("metadata") or {}).get("name") or ""
        if not name:
            raise Denied(f"{path}.metadata.name", "Required value: it names the claims and the volume in the pod")
        if name in seen:
            raise Denied(f"{path}.metadata.name", f'Duplicate value: "{name}"')
        seen.add(name)
        _claim_spec(f"{path}.spec", claim.get("spec") or {})
    _template(spec)
    return []


def check_daemonset(new: JSON, old: JSON | None) -> list[str]:
    """Update strategy and the template's quantities. Either pods may be missing during an update, or be there twice."""
    spec = new["spec"]
    strategy = spec.get("updateStrategy") or {}
    one_of("spec.updateStrategy.type", strategy.get("type"), ("OnDelete", "RollingUpdate"))
    update = strategy.get("rollingUpdate") or {}
    path = "spec.updateStrategy.rollingUpdate"
    for name in ("maxUnavailable", "maxSurge"):
        share(f"{path}.{name}", update.get(name))
    missing, double = (update.get(name) in (None, 0, "0%") for name in ("maxUnavailable", "maxSurge"))
    if update and missing and double and "maxUnavailable" in update:
        raise Denied(f"{path}.maxUnavailable", "Required value: cannot be 0 when maxSurge is 0")
    if update and not missing and not double:
        raise Denied(f"{path}.maxSurge", "Invalid value: may not be set when maxUnavailable is non-zero")
    for name in ("minReadySeconds", "revisionHistoryLimit"):
        not_negative(f"spec.{name}", spec.get(name))
    _template(spec)
    return []


def check_job(new: JSON, old: JSON | None) -> list[str]:
    """Numbers, completion mode, policies and the template's quantities."""
    check_job_spec("spec", new["spec"])
    _template(new["spec"])
    return []


def check_cronjob(new: JSON, old: JSON | None) -> list[str]:
    """Schedule, time zone, numbers and the template's quantities."""
    spec = new["spec"]
    for name, read in (("schedule", cron.parse), ("timeZone", cron.zone_of)):
        if spec.get(name):
            try:
                read(spec[name])
            except ValueError as err:
                raise Denied(f"spec.{name}", f'Invalid value: "{spec[name]}": {err}') from None
    for name in ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
        not_negative(f"spec.{name}", spec.get(name))
    one_of("spec.concurrencyPolicy", spec.get("concurrencyPolicy"), ("Allow", "Forbid", "Replace"))
    job = (spec.get("jobTemplate") or {}).get("spec") or {}
    check_job_spec("spec.jobTemplate.spec", job)
    _template(job)
    return []


def check_pod(new: JSON, old: JSON | None) -> list[str]:
    """Quantities, which the scheduler has to understand."""
    if old is None:
        _quantities("spec", new.get("spec") or {})
    return []


def check_claim(new: JSON, old: JSON | None) -> list[str]:
    """Size and mode of a claim; it may grow, never shrink."""
    spec = new.get("spec") or {}
    _claim_spec("spec", spec)
    if old is not None:
        before, after = _storage(old.get("spec") or {}), _storage(spec)
        if before is not None and after is not None and whole(after) < whole(before):
            raise Denied(
                "spec.resources.requests.storage",
                f"Forbidden: field can not be less than previous value: {before} is allocated, {after} was asked for",
            )
    return []


def _claim_spec(path: str, spec: JSON) -> None:
    storage = _storage(spec)
    if storage is not None:
        quantity(f"{path}.resources.requests.storage", storage)
        if parse_quantity(storage) <= 0:
            raise Denied(f"{path}.resources.requests.storage", f'Invalid value: "{storage}": must be greater than zero')
    modes = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
    for index, mode in enumerate(spec.get("accessModes") or ()):
        one_of(f"{path}.accessModes[{index}]", mode, modes)


def _storage(spec: JSON) -> str | int | None:
    asked: JSON = (spec.get("resources") or {}).get("requests") or {}
    return asked.get("storage")


def _template(spec: JSON) -> None:
    _quantities("spec.template.spec", (spec.get("template") or {}).get("spec") or {})


def _quantities(path: str, pod_spec: JSON) -> None:
    for where, container in _containers(path, pod_spec):
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for part, amounts in (("limits", limits), ("requests", requests)):
            for name, amount in amounts.items():
                quantity(f"{where}.resources.{part}[{name}]", amount)
        for name, amount in requests.items():
            if name in limits and parse_quantity(amount) > parse_quantity(limits[name]):
                raise Denied(
                    f"{where}.resources.requests",
                    f'Invalid value: "{amount}": must be less than or equal to {name} limit of {limits[name]}',
                )


def _containers(path: str, pod_spec: JSON) -> Iterator[tuple[str, JSON]]:
    for group in ("initContainers", "containers"):
        for index, container in enumerate(pod_spec.get(group) or ()):
            yield f"{path}.{group}[{index}]", container


CHECKS = (
    Admission("deployment", Deployment, check_deployment),
    Admission("replicaset", ReplicaSet, check_replicaset),
    Admission("replicationcontroller", ReplicationController, check_replicaset),
    Admission("statefulset", StatefulSet, check_statefulset),
    Admission("daemonset", DaemonSet, check_daemonset),
    Admission("job", Job, check_job),
    Admission("cronjob", CronJob, check_cronjob),
    Admission("autoscaler", HorizontalPodAutoscaler, check_autoscaler),
    Admission("pod", Pod, check_pod),
    Admission("claim", PersistentVolumeClaim, check_claim),
)
