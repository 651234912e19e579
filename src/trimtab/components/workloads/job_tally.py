"""How a Job's ended pods are counted, each exactly once, whoever deletes them and whenever the counter dies.

    pod ends --> its uid stands in status.uncountedTerminatedPods --> its finalizer is lifted --> it is in the count
                 (or its index in status.completedIndexes)

The finalizer `batch.kubernetes.io/job-tracking` keeps a pod that somebody deletes (a person, an eviction, the loss of its node)
until the status has it. Both halves of each step are decided by what the API holds, so a step that is repeated after a crash
changes nothing: a uid that stands in the status is counted when its pod has no finalizer any more (Kubernetes' KEP-2307).
A pod that the Job itself stops, because it is one too many, loses its finalizer first and is no failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trimtab.api.core import Pod
from trimtab.api.jobs import Job
from trimtab.components.workloads import indexes
from trimtab.components.workloads import pods as facts
from trimtab.components.workloads.job_policy import FAIL_INDEX, IGNORE, verdict

TRACKING = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
FAILURES = "batch.kubernetes.io/job-index-failure-count"
IGNORED_FAILURES = "batch.kubernetes.io/job-index-ignored-failure-count"
UNCOUNTED_MAX = 500
"""Pods that are taken into one status; the rest follow in the next (Kubernetes' limit)."""


def tracked(pod: Pod) -> bool:
    """Whether the pod still has to be counted."""
    return TRACKING in pod.metadata.finalizers


def index_of(pod: Pod) -> int | None:
    """The completion index of a pod of an Indexed Job."""
    text = pod.metadata.annotations.get(INDEX, "")
    return int(text) if text.isdigit() else None


def indexed(job: Job) -> bool:
    return job.spec.completion_mode == "Indexed"


def failures_before(pod: Pod) -> int:
    """How many pods of its index had failed when this one was made."""
    text = pod.metadata.annotations.get(FAILURES, "")
    return int(text) if text.isdigit() else 0


def terminating(pod: Pod) -> bool:
    """True for a pod that is on its way out and may still run."""
    if facts.finished(pod) or not facts.deleting(pod):
        return False
    return bool(pod.spec.node_name) and pod.metadata.deletion_grace_period_seconds != 0


def failed(job: Job, pod: Pod, doomed: bool) -> bool:
    """Whether the pod has failed. One that is being deleted has, unless its replacement waits for its end; with the Job
    doomed, every pod that is stopped has."""
    if pod.status.phase == "Failed":
        return True
    if pod.status.phase == "Succeeded" or not facts.deleting(pod):
        return False
    if job.spec.pod_replacement_policy == "Failed" and not doomed:
        return not terminating(pod)
    return True


@dataclass
class Tally:
    """The counts as they will stand once all that has ended is counted, and how far the counting is."""

    succeeded: int = 0
    """Counted for good."""
    failed: int = 0
    uncounted_succeeded: list[str] = field(default_factory=list)
    uncounted_failed: list[str] = field(default_factory=list)
    completed: frozenset[int] = frozenset()
    failed_indexes: frozenset[int] = frozenset()
    lift: list[Pod] = field(default_factory=list)
    """Pods whose finalizer may go now."""
    adopt: list[Pod] = field(default_factory=list)
    """Running pods that an earlier release made without the finalizer."""
    waiting: bool = False
    """Pods have ended whose counting takes another step."""

    @property
    def successes(self) -> int:
        return self.succeeded + len(self.uncounted_succeeded)

    @property
    def failures(self) -> int:
        return self.failed + len(self.uncounted_failed)


def tally(job: Job, pods: Sequence[Pod], *, doomed: bool = False) -> Tally:
    """Counts the pods that have ended. `doomed`: the Job has failed, so a pod that is being stopped has, too."""
    status = job.status
    out = Tally(status.succeeded, status.failed)
    out.completed, out.failed_indexes = indexes.parse(status.completed_indexes), indexes.parse(status.failed_indexes)
    before = status.uncounted_terminated_pods
    if before is None:
        _take_over(job, pods, out)
    waiting = dict.fromkeys(before.succeeded, "succeeded") if before else {}
    waiting.update(dict.fromkeys(before.failed, "failed") if before else {})
    by_uid = {pod.metadata.uid: pod for pod in pods}
    for uid, how in waiting.items():
        pod = by_uid.get(uid)
        if pod is not None and tracked(pod) and _holds_the_count(job, pod, pods, doomed):
            _note(out, uid, how)
            continue
        if pod is not None and tracked(pod):
            out.lift.append(pod)
        if how == "succeeded":
            out.succeeded += 1
        else:
            out.failed += 1
    stored = out.completed
    for pod in pods:
        if tracked(pod) and pod.metadata.uid not in waiting:
            _look_at(job, pod, pods, stored, out, doomed)
    if indexed(job):
        size = job.spec.completions or 0
        out.completed = frozenset(index for index in out.completed if index < size)
        out.succeeded, out.uncounted_succeeded = len(out.completed), []
        if job.spec.backoff_limit_per_index is not None:
            _judge_indexes(job, pods, out)
    out.waiting = out.waiting or bool(out.uncounted_succeeded or out.uncounted_failed)
    return out


def _look_at(job: Job, pod: Pod, pods: Sequence[Pod], stored: frozenset[int], out: Tally, doomed: bool) -> None:
    """Takes one pod into the tally that no status has heard of."""
    index = index_of(pod)
    if pod.status.phase == "Succeeded":
        if not indexed(job):
            _note(out, pod.metadata.uid, "succeeded", new=True)
        elif index is None or index in stored or index >= (job.spec.completions or 0):
            out.lift.append(pod)
        else:
            out.completed |= {index}
            out.waiting = True
    elif failed(job, pod, doomed):
        said = verdict(job, pod)
        if said is not None and said.action == IGNORE:
            if not _holds_the_count(job, pod, pods, doomed):
                out.lift.append(pod)
        elif indexed(job) and (index is None or index >= (job.spec.completions or 0)):
            out.lift.append(pod)
        else:
            _note(out, pod.metadata.uid, "failed", new=True)


def _note(out: Tally, uid: str, how: str, *, new: bool = False) -> None:
    noted = out.uncounted_succeeded if how == "succeeded" else out.uncounted_failed
    if new and len(out.uncounted_succeeded) + len(out.uncounted_failed) >= UNCOUNTED_MAX:
        out.waiting = True
        return
    noted.append(uid)


def _take_over(job: Job, pods: Sequence[Pod], out: Tally) -> None:
    """A Job that an earlier release counted by the pods that are there: those that have ended are in its count, or are now."""
    if job.status.start_time is None and not job.status.succeeded and not job.status.failed:
        return
    untracked = [pod for pod in pods if not tracked(pod)]
    out.succeeded = max(out.succeeded, sum(pod.status.phase == "Succeeded" for pod in untracked))
    out.failed = max(out.failed, sum(pod.status.phase == "Failed" for pod in untracked))
    out.adopt = [pod for pod in untracked if facts.active(pod)]


# Failures by index


def index_failures(job: Job, pods: Sequence[Pod], index: int, *, without: Pod | None = None) -> int:
    """How often an index has failed, as far as its pods tell: each carries the number of failures before it."""
    known = [0]
    for pod in pods:
        if index_of(pod) == index and pod is not without:
            known.append(failures_before(pod) + _counts(job, pod))
    return max(known)


def ignored_failures(job: Job, pods: Sequence[Pod], index: int) -> int:
    """How often pods of an index failed in a way that the failure policy ignores; only for the pause before the next try."""
    return sum(
        1
        for pod in pods
        if index_of(pod) == index and (said := verdict(job, pod)) is not None and said.action == IGNORE
    )


def _counts(job: Job, pod: Pod) -> int:
    if not failed(job, pod, doomed=False):
        return 0
    said = verdict(job, pod)
    return 0 if said is not None and said.action == IGNORE else 1


def _holds_the_count(job: Job, pod: Pod, pods: Sequence[Pod], doomed: bool) -> bool:
    """Whether only this pod knows how often its index has failed: it stays until its replacement does."""
    index = index_of(pod)
    if job.spec.backoff_limit_per_index is None or index is None or doomed or not indexed(job):
        return False
    if index in indexes.parse(job.status.failed_indexes) or index in indexes.parse(job.status.completed_indexes):
        return False
    if index >= (job.spec.completions or 0):
        return False
    own = failures_before(pod) + _counts(job, pod)
    return own > index_failures(job, pods, index, without=pod)


def _judge_indexes(job: Job, pods: Sequence[Pod], out: Tally) -> None:
    limit = job.spec.backoff_limit_per_index or 0
    given_up = set(out.failed_indexes)
    for pod in pods:
        index = index_of(pod)
        if index is None or index in out.completed or not _counts(job, pod) or not tracked(pod):
            continue
        said = verdict(job, pod)
        if failures_before(pod) + 1 > limit or (said is not None and said.action == FAIL_INDEX):
            given_up.add(index)
    size = job.spec.completions or 0
    out.failed_indexes = frozenset(index for index in given_up if index < size)
