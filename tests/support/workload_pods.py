"""Pods in one line each, for unit tests of the workloads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from trimtab.api import Condition, ObjectMeta
from trimtab.api.core import Container, Pod, PodSpec, PodStatus

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def make_pod(
    name: str = "web-1",
    *,
    phase: str = "Running",
    ready_for_s: float | None = None,
    deleting: bool = False,
    node: str | None = "node-1",
    labels: dict[str, str] | None = None,
    age_s: float = 100,
    status: dict[str, Any] | None = None,
    **spec: Any,
) -> Pod:
    """`ready_for_s` None: not ready."""
    word = "False" if ready_for_s is None else "True"
    since = ago(ready_for_s or 0)
    containers = spec.pop("containers", [Container(name="main", image="app")])
    return Pod(
        metadata=ObjectMeta(
            name=name,
            namespace="default",
            uid=f"uid-{name}",
            labels=labels or {},
            creation_timestamp=ago(age_s),
            deletion_timestamp=NOW if deleting else None,
        ),
        spec=PodSpec(containers=containers, node_name=node, **spec),
        status=PodStatus(
            phase=phase,
            conditions=[Condition(type="Ready", status=word, last_transition_time=since)],
            **(status or {}),
        ),
    )
