"""Which pods of a StatefulSet are made and unmade next, by ordinal: pure, one step at a time.

Order is the promise. Pods come up from 0, each once the one before serves; they go down from the top; an update replaces
one pod at a time from the top, and goes on only when that one serves again (Kubernetes' `stateful_set_control.go`).

Two cases are settled here in which Kubernetes waits for a person: a pod of an abandoned update that never served is
replaced by the next one; and a pod that does not serve in the old revision may be the first to get the new one, as long
as no pod of the new one is in trouble itself. As long as one is, a lost pod comes back in the old revision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from trimtab.api.core import Pod
from trimtab.components.workloads import pods as facts
from trimtab.components.workloads.revisions import REVISION_LABEL

REPLACED_NOT_BEFORE_S = 5.0
"""A pod that has finished sooner than this after it was made waits so long for its replacement."""


@dataclass(frozen=True)
class Wanted:
    """A StatefulSet's size and rules. Its ordinals are `start` and up; the first `partition` of them stay in the current
    revision; an update has at most `unavailable` pods not serving."""

    replicas: int
    current: str
    update: str
    parallel: bool = False
    rolling: bool = True
    partition: int = 0
    min_ready_s: int = 0
    start: int = 0
    unavailable: int = 1

    @property
    def ordinals(self) -> range:
        return range(self.start, self.start + self.replicas)

    @property
    def updated(self) -> range:
        """The ordinals that an update replaces."""
        return range(min(self.start + self.partition, self.ordinals.stop), self.ordinals.stop)


@dataclass
class Step:
    """Ordinals to create, with the revision of each, and pods to delete. All the other pods stay. retry_s: until one that failed as
    soon as it was made is replaced."""

    create: dict[int, str] = field(default_factory=dict)
    delete: list[Pod] = field(default_factory=list)
    retry_s: float | None = None


def ordinal(base: str, name: str) -> int | None:
    """`ordinal("db", "db-3") == 3`; None for a name that is not one of the set's."""
    number = name.removeprefix(f"{base}-")
    return int(number) if number != name and number.isdigit() and str(int(number)) == number else None


def revision(pod: Pod) -> str:
    return pod.metadata.labels.get(REVISION_LABEL, "")


def step(wanted: Wanted, pods: Mapping[int, Pod], now: datetime) -> Step:
    """The next step from the pods as they are, by ordinal."""
    out = Step()
    if _fill(wanted, pods, out, now) and _shrink(wanted, pods, out, now):
        _update(wanted, pods, out, now)
    return out


def _serves(wanted: Wanted, pod: Pod, now: datetime) -> bool:
    return facts.active(pod) and facts.available(pod, wanted.min_ready_s, now)


def _in_doubt(wanted: Wanted, pods: Mapping[int, Pod], now: datetime) -> bool:
    """True while a pod of the update revision exists that does not serve."""
    return any(revision(pod) == wanted.update and not _serves(wanted, pod, now) for pod in pods.values())


def _revision_for(wanted: Wanted, number: int, doubt: bool) -> str:
    if number not in wanted.updated and wanted.rolling:
        return wanted.current
    return wanted.current if doubt and wanted.rolling else wanted.update


def _fill(wanted: Wanted, pods: Mapping[int, Pod], out: Step, now: datetime) -> bool:
    """Creates what is missing. False: wait for what is coming up."""
    doubt = _in_doubt(wanted, pods, now)
    for number in wanted.ordinals:
        pod = pods.get(number)
        if pod is None:
            out.create[number] = _revision_for(wanted, number, doubt)
        elif facts.deleting(pod):
            pass
        elif facts.finished(pod) and (pause := _too_young_s(pod, now)):
            out.retry_s = pause if out.retry_s is None else min(out.retry_s, pause)
        elif facts.finished(pod) or _outdated_and_broken(wanted, number, pod, doubt):
            out.delete.append(pod)
        elif _serves(wanted, pod, now):
            continue
        if not wanted.parallel:
            return False
    return not out.create and not out.delete and out.retry_s is None


def _too_young_s(pod: Pod, now: datetime) -> float:
    """Seconds until a finished pod may be replaced: a node that refuses pods at once is not asked again and again."""
    made = pod.metadata.creation_timestamp
    return max(0.0, REPLACED_NOT_BEFORE_S - (now - made).total_seconds()) if made is not None else 0.0


def _outdated_and_broken(wanted: Wanted, number: int, pod: Pod, doubt: bool) -> bool:
    """True for a pod that does not serve and is better replaced by another revision right away."""
    if not wanted.rolling or facts.ready(pod) or revision(pod) == wanted.update:
        return False
    if revision(pod) == wanted.current:
        return number in wanted.updated and not doubt
    return True


def _shrink(wanted: Wanted, pods: Mapping[int, Pod], out: Step, now: datetime) -> bool:
    """Deletes pods beyond the size, or below the start, from the top. False: wait for them to be gone.

    In order, one that does not serve goes only when no other of them does not: as long as one below it is in trouble, a set
    shrinks no further (it may be the last copy of what the others lost).
    """
    condemned = sorted((number for number in pods if number not in wanted.ordinals), reverse=True)
    ailing = [number for number in condemned if not _serves(wanted, pods[number], now)]
    for number in condemned:
        if not wanted.parallel and number in ailing[:-1]:
            return False
        if not facts.deleting(pods[number]):
            out.delete.append(pods[number])
        if not wanted.parallel:
            return False
    return not condemned


def _update(wanted: Wanted, pods: Mapping[int, Pod], out: Step, now: datetime) -> None:
    """Deletes the topmost pods of another revision, once all serve (those that do not were seen to before): as many as may be
    unavailable at once."""
    if not wanted.rolling or not all(_serves(wanted, pod, now) for pod in pods.values()):
        return
    outdated = [pods[number] for number in reversed(wanted.updated) if revision(pods[number]) != wanted.update]
    out.delete += outdated[: wanted.unavailable]
