"""The conditions that `kubectl rollout status` and `kubectl wait` read, at each turn of a rollout."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from trimtab.api.workloads import DeploymentCondition, DeploymentStatus
from trimtab.components.workloads.progress import Rollout, conditions, deadline_in_s
from workload_pods import NOW


def status(updated: int, total: int, available: int, *held: DeploymentCondition) -> DeploymentStatus:
    return DeploymentStatus(
        replicas=total,
        updated_replicas=updated,
        ready_replicas=available,
        available_replicas=available,
        conditions=list(held),
    )


def rollout(before: DeploymentStatus, after: DeploymentStatus, **changes: object) -> Rollout:
    base = Rollout(
        replicas=3,
        fewest=2,
        before=before,
        after=after,
        replica_set="web-b",
        created=False,
        paused=False,
        deadline_s=60,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def progressing(reason: str, name: str = "web-b", age_s: float = 0, verdict: str = "True") -> DeploymentCondition:
    return DeploymentCondition(
        type="Progressing",
        status=verdict,
        reason=reason,
        message=f'ReplicaSet "{name}" is progressing.',
        last_update_time=NOW - timedelta(seconds=age_s),
    )


def told(made: Rollout, type_: str = "Progressing") -> tuple[str, str, str]:
    found = next(c for c in conditions(made, NOW) if c.type == type_)
    return found.status, found.reason, found.message


STUCK = status(1, 4, 3)


def test_from_creation_to_completion() -> None:
    created = rollout(status(0, 3, 3), status(0, 3, 3), created=True)
    assert told(created) == ("True", "NewReplicaSetCreated", 'Created new replica set "web-b"')
    moving = rollout(status(0, 3, 3, progressing("NewReplicaSetCreated")), status(1, 4, 3))
    assert told(moving) == ("True", "ReplicaSetUpdated", 'ReplicaSet "web-b" is progressing.')
    done = rollout(status(2, 4, 3, progressing("ReplicaSetUpdated")), status(3, 3, 3))
    assert told(done) == ("True", "NewReplicaSetAvailable", 'ReplicaSet "web-b" has successfully progressed.')


def test_an_old_template_again_starts_a_new_count() -> None:
    back = rollout(status(0, 3, 3, progressing("NewReplicaSetAvailable", "web-a", 900)), status(0, 3, 3))
    assert told(back) == ("True", "FoundNewReplicaSet", 'Found new replica set "web-b"')


def test_without_progress_the_deadline_passes_and_the_line_says_why() -> None:
    waiting = rollout(status(1, 4, 3, progressing("ReplicaSetUpdated", age_s=60)), STUCK)
    assert told(waiting)[1] == "ReplicaSetUpdated"
    late = rollout(
        status(1, 4, 3, progressing("ReplicaSetUpdated", age_s=61)),
        STUCK,
        trouble="pod web-b-1: container main: exited",
    )
    assert told(late) == (
        "False",
        "ProgressDeadlineExceeded",
        'ReplicaSet "web-b" has timed out progressing: pod web-b-1: container main: exited',
    )
    off = rollout(status(1, 4, 3, progressing("ReplicaSetUpdated", age_s=999)), STUCK, deadline_s=None)
    assert [c.type for c in conditions(off, NOW)] == ["Available"]


def test_a_complete_rollout_that_loses_a_pod_does_not_time_out() -> None:
    lost = rollout(status(3, 3, 3, progressing("NewReplicaSetAvailable", age_s=999)), status(3, 3, 1))
    assert told(lost)[:2] == ("True", "NewReplicaSetAvailable")
    assert told(lost, "Available")[:2] == ("False", "MinimumReplicasUnavailable")


def test_pausing_and_resuming() -> None:
    paused = rollout(status(1, 4, 3, progressing("ReplicaSetUpdated", age_s=999)), STUCK, paused=True)
    assert told(paused) == ("Unknown", "DeploymentPaused", "Deployment is paused")
    assert deadline_in_s(paused, conditions(paused, NOW), NOW) is None
    resumed = rollout(status(1, 4, 3, progressing("DeploymentPaused", age_s=999, verdict="Unknown")), STUCK)
    assert told(resumed)[:2] == ("Unknown", "DeploymentResumed")
    given_up = rollout(status(1, 4, 3, progressing("ProgressDeadlineExceeded", verdict="False")), STUCK, paused=True)
    assert told(given_up)[1] == "ProgressDeadlineExceeded"


def test_times_change_only_with_a_step() -> None:
    steady = rollout(status(3, 3, 3, progressing("NewReplicaSetAvailable", age_s=500)), status(3, 3, 3))
    [held] = [c for c in conditions(steady, NOW) if c.type == "Progressing"]
    assert held.last_update_time == NOW - timedelta(seconds=500)
    moving = rollout(status(1, 4, 3, progressing("ReplicaSetUpdated", age_s=50)), status(2, 4, 3))
    [renewed] = [c for c in conditions(moving, NOW) if c.type == "Progressing"]
    assert renewed.last_update_time == NOW


def test_comes_back_just_when_the_deadline_passes() -> None:
    waiting = rollout(status(1, 4, 3, progressing("ReplicaSetUpdated", age_s=20)), STUCK)
    left = deadline_in_s(waiting, conditions(waiting, NOW), NOW)
    assert left is not None
    assert 40 < left < 40.1


def test_refused_pods_are_told() -> None:
    refused = rollout(status(1, 4, 3), STUCK, replica_failure="pods is forbidden")
    assert told(refused, "ReplicaFailure") == ("True", "FailedCreate", "pods is forbidden")
