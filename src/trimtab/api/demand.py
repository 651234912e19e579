"""What a pod asks for as a whole: for the scheduler, for eviction, for LimitRange and ResourceQuota alike.

The containers and the sidecars (init containers that stay) run together; each other init container runs before them, beside
the sidecars that started earlier. So a pod asks for the sum, or for its hungriest init container if that is more. Source:
Kubernetes' enhancement 753 (sidecar containers), "Resources calculation for scheduling and pod admission".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TypeVar

from trimtab.api.core import Container, Pod
from trimtab.api.quantity import milli, whole

Amounts = dict[str, int]
"""What a pod asks for or a node has: cpu in thousandths of a core, all else in whole units (bytes, pods, devices)."""

N = TypeVar("N", int, Decimal)


def together(containers: Iterable[Mapping[str, N]], init: Iterable[tuple[Mapping[str, N], bool]]) -> dict[str, N]:
    """What they ask for as a whole, by resource. init: each one's amounts, and whether it stays."""
    total: dict[str, N] = {}
    for asked in containers:
        add(total, asked)
    sidecars: dict[str, N] = {}
    peaks: list[dict[str, N]] = []
    for asked, stays in init:
        if stays:
            add(sidecars, asked)
        else:
            peak = dict(asked)
            add(peak, sidecars)
            peaks.append(peak)
    add(total, sidecars)
    for peak in peaks:
        for name, amount in peak.items():
            total[name] = max(total[name], amount) if name in total else amount
    return total


def add(into: dict[str, N], more: Mapping[str, N]) -> None:
    """Adds amounts in place."""
    for name, amount in more.items():
        into[name] = into[name] + amount if name in into else amount


def requests(pod: Pod) -> Amounts:
    """What the pod asks for, with what its runtime takes; where a container says only a limit, that is its request."""
    asked = together(
        (_of(container) for container in pod.spec.containers),
        ((_of(container), container.restart_policy == "Always") for container in pod.spec.init_containers),
    )
    add(asked, amounts(pod.spec.overhead))
    return asked


def amounts(listed: Mapping[str, str | int]) -> Amounts:
    """Quantities as numbers."""
    return {name: milli(amount) if name == "cpu" else whole(amount) for name, amount in listed.items()}


def _of(container: Container) -> Amounts:
    resources = container.resources
    return {} if resources is None else amounts({**resources.limits, **resources.requests})
