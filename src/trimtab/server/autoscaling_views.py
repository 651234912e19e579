"""HorizontalPodAutoscalers in their older form, `autoscaling/v1`: what `kubectl autoscale` writes and many manifests say.

    v2 (stored)                                   v1
    the first metric: utilization of cpu   <->    spec.targetCPUUtilizationPercentage
    what it was measured at                <->    status.currentCPUUtilizationPercentage
    everything else of v2                  <->    annotations below autoscaling.alpha.kubernetes.io/, as JSON

So a client that reads, changes and writes back v1 loses nothing that it cannot see.
"""

from __future__ import annotations

import msgspec

from trimtab.api import JSON

PREFIX = "autoscaling.alpha.kubernetes.io/"
CPU_DEFAULT = 80
"""The target of an autoscaler that names none: Kubernetes' default."""
_STATUS = {"current-metrics": "currentMetrics", "conditions": "conditions"}


def to_v1(obj: JSON) -> JSON:
    """A stored object (v2) as v1 shows it. Changes nothing in place."""
    spec, status, meta = dict(obj.get("spec") or {}), dict(obj.get("status") or {}), dict(obj["metadata"])
    notes = dict(meta.get("annotations") or {})
    metrics = list(spec.pop("metrics", None) or ())
    if metrics and (target := _cpu(metrics[0], "target")) is not None:
        spec["targetCPUUtilizationPercentage"] = target
        del metrics[0]
    _note(notes, "metrics", metrics)
    _note(notes, "behavior", spec.pop("behavior", None))
    for metric in status.get("currentMetrics") or ():
        if (now := _cpu(metric, "current")) is not None:
            status["currentCPUUtilizationPercentage"] = now
            break
    for name, field in _STATUS.items():
        _note(notes, name, status.pop(field, None))
    meta.pop("annotations", None)
    if notes:
        meta["annotations"] = notes
    out = {**obj, "apiVersion": "autoscaling/v1", "metadata": meta, "spec": spec}
    return out | {"status": status} if "status" in obj else out


def from_v1(obj: JSON) -> JSON:
    """The object of a client that speaks v1, as it is stored (v2). Changes nothing in place."""
    spec, status, meta = dict(obj.get("spec") or {}), dict(obj.get("status") or {}), dict(obj["metadata"])
    notes = dict(meta.pop("annotations", None) or {})
    percent = spec.pop("targetCPUUtilizationPercentage", None)
    metrics = _noted(notes, "metrics")
    metrics = metrics if isinstance(metrics, list) else []
    if percent is not None or not metrics:
        target = {"type": "Utilization", "averageUtilization": CPU_DEFAULT if percent is None else percent}
        metrics = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}, *metrics]
    spec["metrics"] = metrics
    if isinstance(behavior := _noted(notes, "behavior"), dict):
        spec["behavior"] = behavior
    status.pop("currentCPUUtilizationPercentage", None)
    for name, field in _STATUS.items():
        if isinstance(found := _noted(notes, name), list):
            status[field] = found
    if notes:
        meta["annotations"] = notes
    out = {**obj, "apiVersion": "autoscaling/v2", "metadata": meta, "spec": spec}
    return out | {"status": status} if status or "status" in obj else out


def _cpu(metric: JSON, part: str) -> int | None:
    """The utilization of cpu that a metric wants, or has."""
    source = metric.get("resource") or {}
    amounts = source.get(part) or {}
    if metric.get("type") != "Resource" or source.get("name") != "cpu" or "averageUtilization" not in amounts:
        return None
    return int(amounts["averageUtilization"])


def _note(notes: dict[str, str], name: str, value: object) -> None:
    if value:
        notes[PREFIX + name] = msgspec.json.encode(value).decode()


def _noted(notes: dict[str, str], name: str) -> object:
    """What an annotation keeps, which is taken away; None for nothing, or for what no client of ours wrote."""
    try:
        return msgspec.json.decode(notes.pop(PREFIX + name, "null"))
    except (msgspec.DecodeError, TypeError):
        return None
