"""What the reconciler and the service of profiling ask of the world: one agent that measures this machine.

Profiler --service.py--> want() --> an agent runs       look() --reconcile.py--> status
Pods     --service.py--> contain()  and knows whose each container is
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from trimtab.api.core import Pod

APP_LABELS = ("app.kubernetes.io/name", "app")
"""Labels of a pod that name its app, the first that is there."""

Labels = Mapping[str, str]
"""namespace, pod, container, app, image of a container; what is unknown is left out."""


@dataclass(frozen=True)
class Order:
    """How the machine is to be measured, and what is kept."""

    hz: int
    types: tuple[str, ...]
    cpu_percent: float
    memory_bytes: int
    retention_s: int
    disk_bytes: int
    scrape: tuple[tuple[str, int, tuple[tuple[str, str], ...]], ...] = ()
    """URL, seconds between two times, labels."""
    debuginfod_urls: tuple[str, ...] = ()
    debuginfod_listen: str = ""


@dataclass(frozen=True)
class Seen:
    """How it is. `reason` is one of `REASONS`; the rest as the agent last told."""

    reason: str = "Starting"
    message: str = ""
    mode: str = ""
    hz: int = 0
    cpu_percent: float = 0.0
    memory_bytes: int = 0
    processes: int = 0
    samples: int = 0
    types: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    shed: str = ""
    restarts: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    disk_bytes: int = 0
    scrape_errors: Mapping[str, str] = field(default_factory=dict)
    """Targets of the scrape that do not answer as they should: what is wrong, by URL."""
    rolled_up_at: float = 0.0
    """Unix seconds; 0: not yet."""


class Measurer(Protocol):
    """The agent of this machine."""

    @property
    def is_here(self) -> bool:
        """Whether this process is the one that has it: the first node's agent."""

    def want(self, order: Order | None) -> None:
        """What `run` brings about; None: nothing runs."""

    def contain(self, containers: Mapping[str, Labels]) -> None:
        """All containers of the engine, by id."""

    def look(self) -> Seen:
        """How it is now."""

    def tells(self, changed: Callable[[str], None]) -> None:
        """Has `changed` called, with one line why, when `look` has something to say that should be known."""

    async def run(self) -> None:
        """Brings about what is wanted, until cancelled."""

    async def serve(self, process: Any) -> None:
        """Answers at the endpoints of Profilers, until cancelled."""


def containers_of(pods: list[Pod]) -> dict[str, dict[str, str]]:
    """Whose each container is, by its id: node, namespace, pod, container, app and the digest of its image."""
    found: dict[str, dict[str, str]] = {}
    for pod in pods:
        app = next((pod.metadata.labels[name] for name in APP_LABELS if name in pod.metadata.labels), "")
        for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
            identifier = status.container_id.rpartition("://")[2]
            if not identifier:
                continue
            labels = {
                "node": pod.spec.node_name,
                "namespace": pod.namespace or "",
                "pod": pod.name,
                "container": status.name,
                "app": app,
                "image": _digest(status.image_id),
            }
            found[identifier] = {name: value for name, value in labels.items() if value}
    return found


def _digest(image: str) -> str:
    digest = image.rpartition("@")[2]
    return digest if digest.startswith("sha256:") else ""
