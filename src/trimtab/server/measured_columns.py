"""The columns of autoscalers and of measurements: what is used now, and what should be."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from trimtab.api import JSON
from trimtab.api.quantity import milli, whole
from trimtab.server.tables import age

TARGETS_SHOWN_MAX = 2


def autoscaler_cells(obj: JSON, now: datetime) -> list[Any]:
    if obj.get("apiVersion") == "autoscaling/v1":
        from trimtab.server.autoscaling_views import from_v1

        obj = from_v1(obj)
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    target = spec.get("scaleTargetRef") or {}
    return [
        obj["metadata"]["name"],
        f"{target.get('kind', '')}/{target.get('name', '')}",
        _targets(spec.get("metrics") or (), status.get("currentMetrics") or ()),
        str(spec.get("minReplicas", "<unset>")),
        spec.get("maxReplicas", 0),
        status.get("currentReplicas", 0),
        age(obj["metadata"].get("creationTimestamp"), now),
    ]


def node_metrics_cells(obj: JSON, now: datetime) -> list[Any]:
    return [obj["metadata"]["name"], *_used([obj.get("usage") or {}]), obj.get("window", "")]


def pod_metrics_cells(obj: JSON, now: datetime) -> list[Any]:
    used = [container["usage"] for container in obj.get("containers") or ()]
    return [obj["metadata"]["name"], *_used(used), obj.get("window", "")]


def _used(amounts: Sequence[JSON]) -> tuple[str, str]:
    """CPU and memory of several, added up."""
    cpu = sum(milli(amount.get("cpu", 0)) for amount in amounts)
    memory = sum(whole(amount.get("memory", 0)) for amount in amounts)
    return f"{cpu}m", f"{memory >> 10}Ki"


_SOURCES = {
    "Resource": "resource",
    "ContainerResource": "containerResource",
    "Pods": "pods",
    "Object": "object",
    "External": "external",
}


def _targets(metrics: Sequence[JSON], found: Sequence[JSON]) -> str:
    """What each metric is now, and what it should be: `cpu: 40%/50%`, as kubectl prints it."""
    texts = []
    for index, metric in enumerate(metrics):
        key = _SOURCES.get(metric.get("type", ""), "")
        source = metric.get(key) or {}
        now = ((found[index].get(key) or {}) if index < len(found) else {}).get("current") or {}
        target = source.get("target") or {}
        if "averageUtilization" in target:
            said = f"{now['averageUtilization']}%" if "averageUtilization" in now else "<unknown>"
            text = f"{said}/{target['averageUtilization']}%"
        elif "averageValue" in target:
            text = f"{now.get('averageValue', '<unknown>')}/{target['averageValue']}"
            text += "" if key in ("resource", "containerResource", "pods") else " (avg)"
        else:
            text = f"{now.get('value', '<unknown>')}/{target.get('value', '')}"
        texts.append(f"{source.get('name', '')}: {text}" if key in ("resource", "containerResource") else text)
    shown = ", ".join(texts[:TARGETS_SHOWN_MAX])
    return (
        f"{shown} + {len(texts) - TARGETS_SHOWN_MAX} more..." if len(texts) > TARGETS_SHOWN_MAX else shown or "<none>"
    )
