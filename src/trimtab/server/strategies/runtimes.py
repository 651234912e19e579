"""What a RuntimeClass gives the pods that name it, as Kubernetes' admission plugin RuntimeClass does (k8s.io/kubernetes
`plugin/pkg/admission/runtimeclass`): its overhead, the nodes that have the runtime, and the taints that they may have."""

from __future__ import annotations

from trimtab.api import JSON
from trimtab.api.quantity import parse_quantity
from trimtab.server import errors
from trimtab.server.errors import StatusError
from trimtab.server.kinds import Kind
from trimtab.server.strategies.base import Surroundings


def give_runtime(around: Surroundings, kind: Kind, pod: JSON) -> None:
    """Completes a new pod, in place. Raises `StatusError` 403."""
    spec = pod["spec"]
    name = spec.get("runtimeClassName")
    found: JSON = {}
    if name:
        class_ = around.runtime_class(name)
        if class_ is None:
            raise _refused(kind, pod, f'pod rejected: RuntimeClass "{name}" not found')
        found = class_
    overhead = (found.get("overhead") or {}).get("podFixed")
    if overhead is None:
        if spec.get("overhead") is not None:
            text = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
            raise _refused(kind, pod, text)
    elif spec.get("overhead") and _amounts(spec["overhead"]) != _amounts(overhead):
        raise _refused(kind, pod, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
    else:
        spec["overhead"] = dict(overhead)
    scheduling = found.get("scheduling") or {}
    wanted = scheduling.get("nodeSelector") or {}
    selector = dict(spec.get("nodeSelector") or {})
    for key, value in wanted.items():
        if selector.setdefault(key, value) != value:
            there = f"runtimeClass.scheduling.nodeSelector[{key}] = {value}"
            raise _refused(kind, pod, f"conflict: {there}; pod.spec.nodeSelector[{key}] = {selector[key]}")
    if wanted:
        spec["nodeSelector"] = selector
    tolerated = spec.get("tolerations") or []
    if more := [toleration for toleration in scheduling.get("tolerations") or () if toleration not in tolerated]:
        spec["tolerations"] = [*tolerated, *more]


def _amounts(listed: JSON) -> JSON:
    return {name: parse_quantity(amount) for name, amount in listed.items()}


def _refused(kind: Kind, pod: JSON, why: str) -> StatusError:
    return errors.forbidden(kind.plural, kind.group, pod["metadata"].get("name") or "", why)
