"""Where a rollout stands, as conditions of a Deployment: `Available`, `Progressing`, `ReplicaFailure`.

`kubectl rollout status` and `kubectl wait` read them, so types, reasons and the moments at which they change are those
of Kubernetes' deployment controller (`progress.go`, `sync.go`). The progress deadline runs from `lastUpdateTime` of
`Progressing`: from the creation of a ReplicaSet, then from every step that brought the rollout further. Messages say
more than Kubernetes' do: the line ends with what is wrong with a pod, since that line is what a person sees first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from trimtab.api.workloads import DeploymentCondition, DeploymentStatus
from trimtab.components.workloads.conditions import find, whole_seconds

DEADLINE_DEFAULT_S = 600
DEADLINE_OFF_S = 2**31 - 1
"""Kubernetes' way to say that there is no deadline."""

NEW_AVAILABLE = "NewReplicaSetAvailable"
TIMED_OUT = "ProgressDeadlineExceeded"
CREATED = "NewReplicaSetCreated"
FOUND = "FoundNewReplicaSet"
UPDATED = "ReplicaSetUpdated"
PAUSED = "DeploymentPaused"
RESUMED = "DeploymentResumed"
FAILED_CREATE = "FailedCreate"
ENOUGH = "MinimumReplicasAvailable"
TOO_FEW = "MinimumReplicasUnavailable"


@dataclass(frozen=True)
class Rollout:
    """What the conditions are computed from: counts before and after, the ReplicaSet rolled out to, times in seconds.

    `replica_set` is None while there is none (a paused Deployment that never ran); `deadline_s` None switches the
    deadline off; `trouble` is one line about a pod that is not ready; `replica_failure` says why a ReplicaSet could not
    create pods.
    """

    replicas: int
    fewest: int
    before: DeploymentStatus
    after: DeploymentStatus
    replica_set: str | None
    created: bool
    paused: bool
    deadline_s: int | None
    trouble: str | None = None
    replica_failure: str | None = None

    @property
    def complete(self) -> bool:
        return self.after.updated_replicas == self.after.replicas == self.after.available_replicas == self.replicas

    @property
    def further(self) -> bool:
        """True when this step brought the rollout further than the last recorded status."""
        before, after = self.before, self.after
        return (
            after.updated_replicas > before.updated_replicas
            or after.replicas - after.updated_replicas < before.replicas - before.updated_replicas
            or after.ready_replicas > before.ready_replicas
            or after.available_replicas > before.available_replicas
        )


def conditions(rollout: Rollout, now: datetime) -> list[DeploymentCondition]:
    """All conditions of the Deployment."""
    old = rollout.before.conditions
    made = [_available(rollout), _progressing(rollout, now), _replica_failure(rollout)]
    return [_settle(old, condition, now) for condition in made if condition is not None]


def deadline_in_s(rollout: Rollout, after: Sequence[DeploymentCondition], now: datetime) -> float | None:
    """Seconds until the progress deadline passes, or None when nothing is waited for."""
    progressing = find(after, "Progressing")
    if (
        rollout.deadline_s is None
        or rollout.paused
        or progressing is None
        or progressing.reason in (NEW_AVAILABLE, TIMED_OUT, PAUSED)
        or progressing.last_update_time is None
    ):
        return None
    passes = progressing.last_update_time + timedelta(seconds=rollout.deadline_s)
    return max(0.0, (passes - now).total_seconds()) + _JUST_AFTER_S


_JUST_AFTER_S = 0.001
"""The deadline has passed when more time than it went by, as in Kubernetes."""


def _available(rollout: Rollout) -> DeploymentCondition:
    if rollout.after.available_replicas >= rollout.fewest:
        return DeploymentCondition(
            type="Available", status="True", reason=ENOUGH, message="Deployment has minimum availability."
        )
    return DeploymentCondition(
        type="Available",
        status="False",
        reason=TOO_FEW,
        message=_with("Deployment does not have minimum availability", rollout.trouble),
    )


def _progressing(rollout: Rollout, now: datetime) -> DeploymentCondition | None:
    if rollout.deadline_s is None:
        return None
    old = find(rollout.before.conditions, "Progressing")
    if rollout.paused:
        if old is not None and old.reason == TIMED_OUT:
            return old
        return _progress("Unknown", PAUSED, "Deployment is paused")
    name = rollout.replica_set
    if name is None:
        return old
    if rollout.created:
        return _progress("True", CREATED, f'Created new replica set "{name}"')
    if rollout.complete:
        return _progress("True", NEW_AVAILABLE, f'ReplicaSet "{name}" has successfully progressed.')
    if old is None:
        return _progress("True", FOUND, f'Found new replica set "{name}"')
    if old.reason == PAUSED:
        return _progress("Unknown", RESUMED, "Deployment is resumed")
    if old.reason != RESUMED and f'"{name}"' not in old.message:
        return _progress("True", FOUND, f'Found new replica set "{name}"')
    if rollout.further:
        return _progress("True", UPDATED, f'ReplicaSet "{name}" is progressing.')
    if old.reason == NEW_AVAILABLE:
        # It was complete once: a pod lost since is a matter of Available, not of this rollout.
        return old
    if old.reason == TIMED_OUT or _overdue(old, rollout.deadline_s, now):
        message = _with(f'ReplicaSet "{name}" has timed out progressing', rollout.trouble)
        return _progress("False", TIMED_OUT, message)
    return old


def _overdue(progressing: DeploymentCondition, deadline_s: int, now: datetime) -> bool:
    since = progressing.last_update_time
    return since is not None and now - since > timedelta(seconds=deadline_s)


def _replica_failure(rollout: Rollout) -> DeploymentCondition | None:
    if rollout.replica_failure is None:
        return None
    return DeploymentCondition(
        type="ReplicaFailure", status="True", reason=FAILED_CREATE, message=rollout.replica_failure
    )


def _progress(status: str, reason: str, message: str) -> DeploymentCondition:
    return DeploymentCondition(type="Progressing", status=status, reason=reason, message=message)


def _with(sentence: str, trouble: str | None) -> str:
    return f"{sentence}: {trouble}" if trouble else f"{sentence}."


def _settle(old: Sequence[DeploymentCondition], new: DeploymentCondition, now: datetime) -> DeploymentCondition:
    """Gives a condition its `lastUpdateTime`: kept while nothing changes, renewed by every step forward."""
    before = find(old, new.type)
    if before is new:
        return new
    same = before is not None and (before.status, before.reason) == (new.status, new.reason)
    kept = before.last_update_time if before and same and new.reason != UPDATED else None
    return msgspec.structs.replace(new, last_update_time=kept or whole_seconds(now))
