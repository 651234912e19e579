"""What should happen next for one pod: a pure function of its spec, what is seen of it, and the time.

    spec + Seen + now -> Plan(actions, wake_at)

The agent carries the actions out in order, looks again, and asks again, until there are none. Nothing is remembered
between two questions: a crash anywhere leaves what is seen, and from that the next answer follows. The order of things is
the kubelet's: sandbox, init containers one by one, then all containers; for a deleting pod: wait for the proxies to let go,
stop, tear down, then remove the object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from trimtab.api.core import PROXIED, Container, EphemeralContainer, Pod, ResourceRequirements
from trimtab.components.node import backoff, resize
from trimtab.components.node.resize import Waits
from trimtab.components.node.sandboxes import ContainerView, Sandbox

GRACE_S_DEFAULT = 30
GRACE_S_MIN = 2
"""What a container gets at least between SIGTERM and SIGKILL when its drain took up the whole grace period."""
EVICTED = "Evicted"
PORTS_TAKEN = "NodePorts"
"""Kubernetes' word for a pod that its node refuses, since another pod has a host port that it asks for."""
KEPT_ENDED = 1
"""Ended containers kept per name besides the newest: what `logs --previous` and `lastState` show."""


@dataclass(frozen=True)
class Health:
    """What the probes of a running container say. `failed` is why it must be restarted, or empty."""

    started: bool = True
    ready: bool = True
    failed: str = ""


@dataclass(frozen=True)
class Block:
    """Something failed, why, and when it is tried again. reason is Kubernetes' word (ErrImagePull ...)."""

    reason: str
    message: str
    retry_at: datetime
    failures: int = 1


@dataclass(frozen=True)
class Eviction:
    """The node takes a pod's place away, or never gives it one: why, and how long its containers may take to end."""

    message: str
    grace_s: float = 0.0
    reason: str = EVICTED


@dataclass(frozen=True)
class Seen:
    """All that is known about a pod besides its spec.

    sandboxes, and containers by name: newest first. health by container id. images: those of the spec that are
    present. pulling: images under way. stopping: container ids under way to their end. blocks: by container name, or
    "" for the pod as a whole. stops_failed_at: a deleting pod whose teardown failed is tried again then.
    """

    sandboxes: tuple[Sandbox, ...] = ()
    containers: Mapping[str, tuple[ContainerView, ...]] = field(default_factory=dict)
    health: Mapping[str, Health] = field(default_factory=dict)
    images: frozenset[str] = frozenset()
    pulling: frozenset[str] = frozenset()
    stopping: frozenset[str] = frozenset()
    blocks: Mapping[str, Block] = field(default_factory=dict)
    torn_down: bool = False
    evicted: Eviction | None = None
    unwanted: bool = False
    """Once it has ended nothing of it is to stay on the node."""
    granted: Mapping[str, ResourceRequirements] = field(default_factory=dict)
    """By id of a container: the resources that it was given."""
    resize_waits: Waits | None = None
    """Why what the pod asks for now is not given to it."""
    remains: bool = False
    """Something of it is on the node; only looked at when nothing is to stay."""

    @property
    def sandbox(self) -> Sandbox | None:
        """The one that containers run in now, if it is alive."""
        return self.sandboxes[0] if self.sandboxes and self.sandboxes[0].ready else None

    def newest(self, name: str) -> ContainerView | None:
        """The newest container of that name, in whatever sandbox."""
        found = self.containers.get(name)
        return found[0] if found else None

    def current(self, name: str) -> ContainerView | None:
        """The newest container of that name in the newest sandbox, alive or not."""
        newest = self.newest(name)
        if newest is None or not self.sandboxes or newest.sandbox_id != self.sandboxes[0].id:
            return None
        return newest

    def running(self) -> Iterator[ContainerView]:
        for found in self.containers.values():
            yield from (c for c in found if c.state in ("running", "unknown"))


# What can happen next


@dataclass(frozen=True)
class RunSandbox:
    """Volumes, then a sandbox."""

    attempt: int


@dataclass(frozen=True)
class StopSandbox:
    """Kills what is in it and gives its address back; its ended containers stay visible."""

    id: str


@dataclass(frozen=True)
class RemoveSandbox:
    """Removes it with all of its containers."""

    id: str


@dataclass(frozen=True)
class PullImage:
    """In the background."""

    container: Container


@dataclass(frozen=True)
class StartContainer:
    container: Container
    attempt: int
    earned_s: int
    previous: ContainerView | None


@dataclass(frozen=True)
class StopContainer:
    """In the background: preStop hook, SIGTERM, SIGKILL after `grace_s`. Liveness failures restart it afterwards."""

    view: ContainerView
    container: Container | None
    grace_s: float
    why: str


@dataclass(frozen=True)
class ResizeContainer:
    """Gives a running container the resources that it asks for now."""

    view: ContainerView
    container: Container


@dataclass(frozen=True)
class RemoveContainer:
    id: str


@dataclass(frozen=True)
class TearDown:
    """Everything of the pod on this node goes: sandboxes, volumes, files, cgroups."""


@dataclass(frozen=True)
class Finish:
    """Nothing is left here: the object itself is removed from the API."""


Action = (
    RunSandbox
    | StopSandbox
    | RemoveSandbox
    | PullImage
    | StartContainer
    | StopContainer
    | ResizeContainer
    | RemoveContainer
    | TearDown
    | Finish
)


@dataclass(frozen=True)
class Plan:
    """actions: to be carried out in order. wake_at: when to ask again even if nothing changes."""

    actions: tuple[Action, ...] = ()
    wake_at: datetime | None = None


def is_sidecar(container: Container) -> bool:
    """An init container that goes on running beside the others."""
    return container.restart_policy == "Always"


def restarts(pod: Pod, container: Container, exit_code: int, *, init: bool) -> bool:
    """Whether an ended container is started again."""
    if isinstance(container, EphemeralContainer):
        return False
    if container.restart_policy == "Always" and init:
        return True
    policy = pod.spec.restart_policy or "Always"
    if exit_code == 0:
        return policy == "Always" and not init
    return policy != "Never"


def grace_s(pod: Pod) -> int:
    given = pod.metadata.deletion_grace_period_seconds
    if given is None:
        given = pod.spec.termination_grace_period_seconds
    return GRACE_S_DEFAULT if given is None else given


def held_until(pod: Pod, now: datetime) -> datetime | None:
    """Until when a deleting pod must not be signalled, because a proxy may still send it requests; None: go ahead.

    The gate is open when no proxy was ever told of the pod (no condition), when all let it go (False), or when the grace
    period is over (the deletion timestamp is the request plus that period). Unknown: a proxy is just being told.
    """
    if all(gate.condition_type != PROXIED for gate in pod.spec.readiness_gates):
        return None
    attached = any(c.type == PROXIED and c.status != "False" for c in pod.status.conditions)
    deadline = pod.metadata.deletion_timestamp
    if not attached or deadline is None or now >= deadline:
        return None
    return deadline


def past_deadline(pod: Pod, now: datetime) -> bool:
    """True when `activeDeadlineSeconds` is over."""
    limit_s, start = pod.spec.active_deadline_seconds, pod.status.start_time
    return limit_s is not None and start is not None and now >= start + timedelta(seconds=limit_s)


def decide(pod: Pod, seen: Seen, now: datetime) -> Plan:
    """What should happen next for `pod`."""
    if pod.metadata.deletion_timestamp is not None:
        return _deleting(pod, seen, now)
    if pod.status.phase in ("Succeeded", "Failed") or past_deadline(pod, now):
        why = "ran past its activeDeadlineSeconds" if past_deadline(pod, now) else "the pod ended"
        return _ended(pod, seen, now, why)
    if seen.evicted is not None:
        return _ended(pod, seen, now, "the pod is evicted", seen.evicted.grace_s)
    plan = _running(pod, seen, now)
    limit_s, start = pod.spec.active_deadline_seconds, pod.status.start_time
    if limit_s is not None and start is not None:
        plan = _no_later(plan, start + timedelta(seconds=limit_s))
    return plan


def _no_later(plan: Plan, at: datetime) -> Plan:
    return Plan(plan.actions, at if plan.wake_at is None else min(plan.wake_at, at))


# Deleting and ended pods


def _deleting(pod: Pod, seen: Seen, now: datetime) -> Plan:
    if seen.torn_down:
        return Plan((Finish(),))
    deadline = held_until(pod, now)
    alive = list(seen.running())
    if alive and deadline is not None:
        return Plan(wake_at=deadline)
    waiting = [c for c in alive if c.id not in seen.stopping]
    if waiting:
        left_s = float(grace_s(pod))
        if pod.metadata.deletion_timestamp is not None and left_s:
            left_s = min(left_s, (pod.metadata.deletion_timestamp - now).total_seconds())
        left_s = max(left_s, min(GRACE_S_MIN, grace_s(pod)))
        return Plan(tuple(_stop(pod, view, left_s, "the pod is deleted") for view in _stop_order(pod, waiting)))
    if alive or any(c.id in seen.stopping for found in seen.containers.values() for c in found):
        return Plan()
    return _tear_down(seen, now)


def _tear_down(seen: Seen, now: datetime) -> Plan:
    blocked = seen.blocks.get("")
    if blocked is not None and blocked.reason == "FailedKillPod" and not_yet(blocked.retry_at, now):
        return Plan(wake_at=blocked.retry_at)
    return Plan((TearDown(),))


def _ended(pod: Pod, seen: Seen, now: datetime, why: str, within_s: float | None = None) -> Plan:
    """The pod must not run (any more); what is left of it stays visible until it is deleted. Of an evicted pod nothing is
    left: the node needs the room. within_s: how long its containers have, if not as long as the pod says."""
    waiting = [c for c in seen.running() if c.id not in seen.stopping]
    if waiting:
        wait_s = float(grace_s(pod)) if within_s is None else within_s
        return Plan(tuple(_stop(pod, view, wait_s, why) for view in waiting))
    if any(True for _ in seen.running()):
        return Plan()
    over = pod.status.phase in ("Succeeded", "Failed")
    if over and (seen.unwanted or pod.status.reason == EVICTED) and seen.remains and not seen.torn_down:
        return _tear_down(seen, now)
    return Plan(tuple(StopSandbox(s.id) for s in seen.sandboxes if s.ready))


def _stop_order(pod: Pod, views: list[ContainerView]) -> list[ContainerView]:
    """All at once, but sidecars only after the containers they serve."""
    sidecars = {c.name for c in pod.spec.init_containers if is_sidecar(c)}
    mains = [view for view in views if view.name not in sidecars]
    return mains or views


def _stop(pod: Pod, view: ContainerView, seconds: float, why: str) -> StopContainer:
    return StopContainer(view, container_of(pod, view.name), seconds, why)


def not_yet(at: datetime, now: datetime) -> bool:
    """Whether a time to try again is still to come. One that is further ahead than any pause is from before the clock was set back,
    and has come."""
    return now < at <= now + timedelta(seconds=backoff.LAST_S)


def container_of(pod: Pod, name: str) -> Container | None:
    """The container of that name in the spec, of whichever sort."""
    return next((c for c in all_containers(pod) if c.name == name), None)


def all_containers(pod: Pod) -> Iterator[Container]:
    """Containers, init containers and ephemeral ones."""
    yield from pod.spec.containers
    yield from pod.spec.init_containers
    yield from pod.spec.ephemeral_containers


# Running pods


def _running(pod: Pod, seen: Seen, now: datetime) -> Plan:
    if seen.sandbox is None:
        return _sandbox(pod, seen, now)
    unknown = [c for c in seen.running() if c.state == "unknown" and c.id not in seen.stopping]
    if unknown:
        return Plan(tuple(_stop(pod, view, 0.0, "containerd lost track of it") for view in unknown))
    plans = [*_containers(pod, seen, now), *_ephemeral(pod, seen, now)]
    actions = [action for plan in plans for action in plan.actions]
    if not actions:
        actions = list(_leftovers(pod, seen))
    wakes = [plan.wake_at for plan in plans if plan.wake_at is not None]
    return Plan(tuple(actions), min(wakes) if wakes else None)


def _sandbox(pod: Pod, seen: Seen, now: datetime) -> Plan:
    """The first sandbox, or a new one for a pod that lost it (its pause process died, the machine was rebooted)."""
    if seen.sandboxes and _all_done(pod, seen):
        return Plan()
    if any(True for _ in seen.running()):
        stopping = all(c.id in seen.stopping for c in seen.running())
        return Plan() if stopping else Plan(tuple(StopSandbox(s.id) for s in seen.sandboxes))
    blocked = seen.blocks.get("")
    if blocked is not None and not_yet(blocked.retry_at, now):
        return Plan(wake_at=blocked.retry_at)
    return Plan((RunSandbox(seen.sandboxes[0].attempt + 1 if seen.sandboxes else 0),))


def _all_done(pod: Pod, seen: Seen) -> bool:
    """Every container has ended for good."""
    for container in pod.spec.containers:
        view = seen.newest(container.name)
        if view is None or view.state != "exited" or restarts(pod, container, view.exit_code, init=False):
            return False
    return True


def _containers(pod: Pod, seen: Seen, now: datetime) -> Iterator[Plan]:
    begun = any(seen.current(c.name) is not None for c in pod.spec.containers)
    for container in pod.spec.init_containers:
        view = seen.current(container.name)
        if is_sidecar(container):
            if view is None and begun and _all_done(pod, seen):
                continue
            yield _one(pod, container, seen, now, init=True)
            up = view is not None and view.state == "running" and seen.health.get(view.id, Health()).started
            if not up and not begun:
                return
        elif not begun:
            if view is not None and view.state == "exited" and view.exit_code == 0:
                continue
            yield _one(pod, container, seen, now, init=True)
            return
    for container in pod.spec.containers:
        yield _one(pod, container, seen, now, init=False)
    if _all_done(pod, seen):
        sidecars = {c.name for c in pod.spec.init_containers}
        left = [c for c in seen.running() if c.name in sidecars and c.id not in seen.stopping]
        yield Plan(tuple(_stop(pod, view, float(grace_s(pod)), "the pod's containers ended") for view in left))


def _ephemeral(pod: Pod, seen: Seen, now: datetime) -> Iterator[Plan]:
    """Each is started once, whatever became of it; init containers that fail are a reason to look, so they do not wait."""
    for container in pod.spec.ephemeral_containers:
        view = seen.newest(container.name)
        if view is not None and view.state == "created":
            yield Plan((RemoveContainer(view.id),))
        elif view is None and not has_begun(pod, container.name) and not target_missing(container, seen):
            yield _start(container, seen, now, None)


def target_missing(container: EphemeralContainer, seen: Seen) -> str:
    """Why a container cannot be started yet that is to see the processes of another, or ""."""
    wanted = container.target_container_name
    view = seen.current(wanted) if wanted else None
    if not wanted or (view is not None and view.state == "running"):
        return ""
    return f"the container {wanted}, whose processes {container.name} is to see, does not run"


def has_begun(pod: Pod, name: str) -> bool:
    """Whether the pod's status says of an ephemeral container that it was started."""
    states = [status.state for status in pod.status.ephemeral_container_statuses if status.name == name]
    return any(state.running is not None or state.terminated is not None for state in states)


def _one(pod: Pod, container: Container, seen: Seen, now: datetime, *, init: bool) -> Plan:
    """What to do about one container."""
    view = seen.current(container.name)
    if view is not None and view.state == "running":
        return _alive(pod, container, view, seen, now)
    if view is not None and view.state == "created":
        return Plan((RemoveContainer(view.id),))
    if view is not None and view.id in seen.stopping:
        return Plan()
    previous = seen.newest(container.name)
    if view is not None:
        if not restarts(pod, container, view.exit_code, init=init):
            return Plan()
        at = backoff.restart_at(view)
        if at is not None and not_yet(at, now):
            return Plan(wake_at=at)
    return _start(container, seen, now, previous)


def _start(container: Container, seen: Seen, now: datetime, previous: ContainerView | None) -> Plan:
    """The next step towards a container that should run: wait, pull, start."""
    blocked = seen.blocks.get(container.name)
    if blocked is not None and not_yet(blocked.retry_at, now):
        return Plan(wake_at=blocked.retry_at)
    if container.image in seen.pulling:
        return Plan()
    if container.image not in seen.images:
        return Plan((PullImage(container),))
    attempt = previous.attempt + 1 if previous is not None else 0
    return Plan((StartContainer(container, attempt, backoff.next_earned_s(previous), previous),))


def _alive(pod: Pod, container: Container, view: ContainerView, seen: Seen, now: datetime) -> Plan:
    if view.id in seen.stopping:
        return Plan()
    health = seen.health.get(view.id, Health())
    if health.failed:
        probe = container.liveness_probe if health.started else container.startup_probe
        own = probe.termination_grace_period_seconds if probe is not None else None
        return Plan((StopContainer(view, container, float(own or grace_s(pod)), health.failed),))
    if view.image and container.image and view.annotations.get(IMAGE) not in (None, container.image):
        return Plan((StopContainer(view, container, float(grace_s(pod)), "its image was changed"),))
    return _resized(pod, container, view, seen, now)


def _resized(pod: Pod, container: Container, view: ContainerView, seen: Seen, now: datetime) -> Plan:
    """Towards the resources that the container asks for now."""
    names = resize.changed(container, seen.granted.get(view.id))
    if not names:
        return Plan()
    if seen.resize_waits is not None:
        later = seen.resize_waits.reason == resize.DEFERRED
        return Plan(wake_at=now + timedelta(seconds=resize.RETRY_S) if later else None)
    if resize.restarts_for(container, names):
        return Plan((StopContainer(view, container, float(grace_s(pod)), "its resources were changed"),))
    blocked = seen.blocks.get(resize_block(container.name))
    if blocked is not None and not_yet(blocked.retry_at, now):
        return Plan(wake_at=blocked.retry_at)
    return Plan((ResizeContainer(view, container),))


def resizing(pod: Pod, seen: Seen) -> list[Container]:
    """The running containers that ask for other resources than they were given."""
    views = ((c, seen.current(c.name)) for c in (*pod.spec.containers, *pod.spec.init_containers))
    running = ((c, view) for c, view in views if view is not None and view.state == "running")
    return [c for c, view in running if resize.changed(c, seen.granted.get(view.id))]


def resize_block(name: str) -> str:
    """Under which name it is noted that a container could not be given its resources."""
    return f"resize {name}"


IMAGE = "trimtab.dev/image"
"""The image reference of the spec that a container was made from."""
IMAGE_ID = "trimtab.dev/image-id"
"""What that was at the time: `NAME@DIGEST`."""

FALLBACK = "trimtab.dev/termination-message-policy"
"""`FallbackToLogsOnError` where the end of the log is the message of a container that failed without writing one."""


def _leftovers(pod: Pod, seen: Seen) -> Iterator[Action]:
    """Ended containers and sandboxes that nobody will look at again."""
    for found in seen.containers.values():
        ended = [c for c in found[1:] if c.state in ("exited", "created")]
        yield from (RemoveContainer(c.id) for c in ended[KEPT_ENDED:])
    kept = {
        view.sandbox_id
        for c in pod.spec.ephemeral_containers
        if (view := seen.newest(c.name)) is not None and not has_begun(pod, c.name)
    }
    """What shows that a container was started, until the status says so: it must not be started again."""
    for sandbox in seen.sandboxes[1:]:
        if sandbox.id not in kept and all(seen.current(c.name) is not None for c in pod.spec.containers):
            yield RemoveSandbox(sandbox.id)
