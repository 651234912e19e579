"""How long to wait before a container is started again.

Kubernetes' rule: at once after the first end, then 10 s, 20 s, 40 s ... 5 min, forgiven after a good run. A good run is
one of six times the delay that was earned, at most Kubernetes' own ten minutes: a process that is killed once a minute is
back at once each time, one that crashes at start is not. The delay a container has earned so far travels with it, as an
annotation, so that no restart of the agent or of the machine forgets it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from trimtab.components.node.sandboxes import ContainerView

EARNED = "trimtab.dev/restart-delay-seconds"
FIRST_S = 10
LAST_S = 300
GOOD_RUN_FACTOR = 6
GOOD_RUN_S_MAX = 600


def earned_s(container: ContainerView) -> int:
    """The delay that an ended container must wait; 0 after a first end or a good run."""
    delay_s = int(container.annotations.get(EARNED, "0") or 0)
    if container.started_at is None or container.finished_at is None:
        return delay_s
    ran_s = (container.finished_at - container.started_at).total_seconds()
    return 0 if ran_s >= min(GOOD_RUN_S_MAX, max(FIRST_S, delay_s) * GOOD_RUN_FACTOR) else delay_s


def next_earned_s(container: ContainerView | None) -> int:
    """What the container that follows `container` is to carry in its annotation."""
    if container is None:
        return 0
    return min(LAST_S, max(FIRST_S, earned_s(container) * 2))


def restart_at(container: ContainerView) -> datetime | None:
    """When an ended container may start again; None: now."""
    delay_s = earned_s(container)
    if not delay_s or container.finished_at is None:
        return None
    return container.finished_at + timedelta(seconds=delay_s)


def retry_s(failures: int) -> float:
    """The wait after so many failures in a row to pull an image or make a sandbox: 1 s at first, then as above."""
    return 1.0 if failures <= 1 else min(LAST_S, FIRST_S * 2.0 ** (failures - 2))
