"""What the dashboard's first page shows, as a pure function of what the API and the supervisor say.

Mirrored by `frontend/src/model.ts`. Times are RFC 3339 on the wire, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from trimtab import __version__
from trimtab.api import Condition
from trimtab.api.core import Pod
from trimtab.api.nodes import Node
from trimtab.components.apps.kinds import App
from trimtab.runtime import Component

APP_LABEL = "app.kubernetes.io/name"
PROCESS_LABEL = "app.kubernetes.io/component"


class PodLine(msgspec.Struct):
    name: str
    process: str
    phase: str
    ready: bool
    restarts: int
    message: str
    since: datetime | None


class AppCard(msgspec.Struct):
    namespace: str
    name: str
    healthy: bool
    reason: str
    message: str
    ready: str
    url: str
    image: str
    pods: list[PodLine]


class ProcessLine(msgspec.Struct):
    """One process of the engine. memory_bytes is its resident size, 0 where it cannot be read."""

    name: str
    pid: int
    ready: bool
    restarts: int
    memory_bytes: int
    since: datetime | None


class NodeLine(msgspec.Struct):
    name: str
    ready: bool
    message: str
    pods: int


class ViewName(msgspec.Struct):
    component: str
    name: str
    title: str
    troubled: int = 0
    """How many of what it shows need attention."""


class Overview(msgspec.Struct):
    version: str
    engine: str
    processes: list[ProcessLine]
    nodes: list[NodeLine]
    apps: list[AppCard]
    views: list[ViewName]
    problems: list[str] = []
    """What is wrong with the machine, each in a line."""


def overview(
    engine: str,
    apps: Sequence[App],
    pods: Sequence[Pod],
    nodes: Sequence[Node],
    processes: Sequence[ProcessLine],
    components: Sequence[Component],
    troubled: Mapping[tuple[str, str], int],
    problems: Sequence[str] = (),
) -> Overview:
    """`troubled`: (component, name of the view) -> how many of what it shows need attention."""
    return Overview(
        version=__version__,
        engine=engine,
        processes=list(processes),
        nodes=[_node(node, pods) for node in nodes],
        apps=[_app(app, pods) for app in apps],
        views=[
            ViewName(c.name, view.name, view.title, troubled.get((c.name, view.name), 0))
            for c in components
            for view in c.views
        ],
        problems=list(problems),
    )


def _app(app: App, pods: Sequence[Pod]) -> AppCard:
    ready = _condition(app.status.conditions, "Ready")
    mine = [p for p in pods if p.namespace == app.namespace and p.metadata.labels.get(APP_LABEL) == app.name]
    return AppCard(
        namespace=app.namespace or "",
        name=app.name,
        healthy=ready is not None and ready.status == "True",
        reason=ready.reason if ready else "",
        message=app.status.message or "waiting for the engine to take it up",
        ready=app.status.ready,
        url=app.status.url,
        image=app.status.image or app.spec.image,
        pods=[pod_line(pod) for pod in mine if pod.status.phase != "Succeeded"],
    )


def pod_line(pod: Pod) -> PodLine:
    """A pod in a line: its trouble if it has any, else how it is."""
    statuses = pod.status.container_statuses
    waiting = next((s.state.waiting for s in statuses if s.state.waiting and s.state.waiting.reason), None)
    ready = _condition(pod.status.conditions, "Ready")
    message = pod.status.message or pod.status.reason
    if pod.metadata.deletion_timestamp:
        message = "stopping"
    elif waiting:
        message = waiting.reason
    return PodLine(
        name=pod.name,
        process=pod.metadata.labels.get(PROCESS_LABEL, ""),
        phase=pod.status.phase or "Pending",
        ready=ready is not None and ready.status == "True" and not pod.metadata.deletion_timestamp,
        restarts=sum(s.restart_count for s in statuses),
        message=message,
        since=_since(pod),
    )


def _since(pod: Pod) -> datetime | None:
    started = [s.state.running.started_at for s in pod.status.container_statuses if s.state.running]
    return max((at for at in started if at), default=pod.metadata.creation_timestamp)


def _node(node: Node, pods: Sequence[Pod]) -> NodeLine:
    ready = _condition(node.status.conditions, "Ready")
    return NodeLine(
        name=node.name,
        ready=ready is not None and ready.status == "True",
        message=ready.message if ready else "has not reported yet",
        pods=sum(1 for p in pods if p.spec.node_name == node.name and p.status.phase in ("Running", "Pending")),
    )


def _condition(conditions: Iterable[Condition], type: str) -> Condition | None:
    return next((c for c in conditions if c.type == type), None)
