"""ResourceQuota: how many objects a namespace may hold, and how much its pods and claims may ask for.

As Kubernetes' admission plugin and controller of that name, but what is used is counted at the moment of the question, from
the objects themselves, under a lock of the namespace: two writers at once cannot slip through together, and a status that
lags behind refuses nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal

from trimtab.api import JSON
from trimtab.api.quantity import parse_quantity, plain_quantity
from trimtab.server.kinds import Kind
from trimtab.server.limit_range import pod_total
from trimtab.server.strategies.pods import qos_class

PREFIX = "/core/resourcequotas/"
Amounts = dict[str, Decimal]
_COUNTED = frozenset(
    {"configmaps", "secrets", "services", "persistentvolumeclaims", "resourcequotas", "replicationcontrollers"}
)
"""Kinds that can be counted under their plain plural, too."""
_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_STORAGE_CLASS = ".storageclass.storage.k8s.io/"
_CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"


def hard_limits(quota: JSON) -> Amounts:
    return {name: parse_quantity(value) for name, value in ((quota.get("spec") or {}).get("hard") or {}).items()}


def usage(kind: Kind, obj: JSON) -> Amounts:
    """What one object counts as, under every name that a quota may limit."""
    one = Decimal(1)
    counted = f"count/{kind.plural}.{kind.group}" if kind.group else f"count/{kind.plural}"
    found: Amounts = {counted: one}
    if not kind.group and kind.plural in _COUNTED:
        found[kind.plural] = one
    if kind.group:
        return found
    match kind.kind:
        case "Pod" if (obj.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            found |= _pod_usage(obj["spec"])
        case "PersistentVolumeClaim":
            found |= _claim_usage(obj)
        case "Service":
            found |= _service_usage(obj["spec"])
    return found


def _pod_usage(spec: JSON) -> Amounts:
    found: Amounts = {"pods": Decimal(1)}
    for name, text in pod_total(spec, "requests").items():
        found[f"requests.{name}"] = amount = parse_quantity(text)
        if name in _COMPUTE:
            found[name] = amount
    for name, text in pod_total(spec, "limits").items():
        found[f"limits.{name}"] = parse_quantity(text)
    return found


def _claim_usage(claim: JSON) -> Amounts:
    asked = parse_quantity(((claim["spec"].get("resources") or {}).get("requests") or {}).get("storage", "0"))
    found: Amounts = {"requests.storage": asked}
    annotations = claim["metadata"].get("annotations") or {}
    name = annotations.get(_CLASS_ANNOTATION) or claim["spec"].get("storageClassName")
    if name:
        found[f"{name}{_STORAGE_CLASS}requests.storage"] = asked
        found[f"{name}{_STORAGE_CLASS}persistentvolumeclaims"] = Decimal(1)
    return found


def _service_usage(spec: JSON) -> Amounts:
    found: Amounts = {}
    ports = Decimal(len(spec.get("ports") or ()))
    if spec.get("type") == "LoadBalancer":
        found["services.loadbalancers"] = Decimal(1)
        if spec.get("allocateLoadBalancerNodePorts", True):
            found["services.nodeports"] = ports
    elif spec.get("type") == "NodePort":
        found["services.nodeports"] = ports
    return found


# Scopes: a quota may be for some pods only


def in_scope(quota: JSON, kind: Kind, obj: JSON) -> bool:
    """Whether a quota counts this object at all."""
    spec = quota.get("spec") or {}
    scopes: list[JSON] = [{"scopeName": name, "operator": "Exists"} for name in spec.get("scopes") or ()]
    scopes += (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    if not scopes:
        return True
    if kind.group or kind.kind != "Pod":
        return False
    return all(_matches(scope, obj["spec"]) for scope in scopes)


def _matches(scope: JSON, spec: JSON) -> bool:
    name, operator = scope.get("scopeName"), scope.get("operator", "Exists")
    if name == "PriorityClass":
        present = spec.get("priorityClassName") or ""
        values = scope.get("values") or ()
        match operator:
            case "In":
                return present in values
            case "NotIn":
                return present not in values
            case "DoesNotExist":
                return not present
            case _:
                return bool(present)
    test = _SCOPES.get(str(name))
    return test is not None and test(spec)


def _best_effort(spec: JSON) -> bool:
    return qos_class(spec) == "BestEffort"


def _affinity_crosses(spec: JSON) -> bool:
    affinity = spec.get("affinity") or {}
    for name in ("podAffinity", "podAntiAffinity"):
        terms = affinity.get(name) or {}
        required = list(terms.get("requiredDuringSchedulingIgnoredDuringExecution") or ())
        preferred = terms.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        required += [term.get("podAffinityTerm") or {} for term in preferred]
        if any(term.get("namespaces") or term.get("namespaceSelector") is not None for term in required):
            return True
    return False


_SCOPES: Mapping[str, Callable[[JSON], bool]] = {
    "Terminating": lambda spec: spec.get("activeDeadlineSeconds") is not None,
    "NotTerminating": lambda spec: spec.get("activeDeadlineSeconds") is None,
    "BestEffort": _best_effort,
    "NotBestEffort": lambda spec: not _best_effort(spec),
    "CrossNamespacePodAffinity": _affinity_crosses,
}


# The question, and the answer for the status


def refusal(quotas: Iterable[JSON], kind: Kind, new: JSON, old: JSON | None, used: Callable[[JSON], Amounts]) -> str:
    """Why the quotas of a namespace refuse a write; empty when they do not. used: what a quota counts now."""
    texts = []
    for quota in quotas:
        if not in_scope(quota, kind, new):
            continue
        name, hard = quota["metadata"]["name"], hard_limits(quota)
        if missing := _unsaid(kind, new, hard):
            texts.append(f"failed quota: {name}: must specify {missing}")
            continue
        before = usage(kind, old) if old is not None and in_scope(quota, kind, old) else {}
        asked = {key: value - before.get(key, Decimal(0)) for key, value in usage(kind, new).items() if key in hard}
        asked = {key: value for key, value in asked.items() if value > 0}
        if not asked:
            continue
        taken = used(quota)
        over = sorted(key for key, value in asked.items() if taken.get(key, Decimal(0)) + value > hard[key])
        if over:
            texts.append(
                f"exceeded quota: {name}, requested: {_listed(over, asked)}, used: {_listed(over, taken)}, "
                f"limited: {_listed(over, hard)}"
            )
    return ", ".join(texts)


def _unsaid(kind: Kind, pod: JSON, hard: Amounts) -> str:
    """What a quota limits and a container leaves open: `cpu for: web; memory for: web,db`."""
    if kind.group or kind.kind != "Pod":
        return ""
    wanted = {}
    for name in hard:
        part, _, resource = name.rpartition(".")
        if name in _COMPUTE or (part in ("requests", "limits") and resource in _COMPUTE):
            wanted[name] = ("limits" if part == "limits" else "requests", resource or name)
    missing: dict[str, list[str]] = {}
    spec = pod["spec"]
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        resources = container.get("resources") or {}
        for name, (part, resource) in wanted.items():
            if resource not in (resources.get(part) or {}):
                missing.setdefault(name, []).append(container["name"])
    return "; ".join(f"{name} for: {','.join(sorted(missing[name]))}" for name in sorted(missing))


def _listed(names: Iterable[str], amounts: Amounts) -> str:
    return ",".join(f"{name}={plain_quantity(amounts.get(name, Decimal(0)))}" for name in names)


def counted(quota: JSON, objects: Callable[[str], Iterator[tuple[Kind, JSON]]]) -> Amounts:
    """What a quota counts now under each name that it limits. objects: those of a resource (`pods`, `jobs.batch`)."""
    hard = hard_limits(quota)
    found = dict.fromkeys(hard, Decimal(0))
    for resource in {_resource_of(name) for name in hard}:
        for kind, obj in objects(resource):
            if in_scope(quota, kind, obj):
                for name, amount in usage(kind, obj).items():
                    if name in found and _resource_of(name) == resource:
                        found[name] += amount
    return found


def _resource_of(name: str) -> str:
    """Which objects are counted under a name: `count/jobs.batch` -> `jobs.batch`, `requests.cpu` -> `pods`."""
    if name.startswith("count/"):
        return name.removeprefix("count/")
    if name in _COUNTED:
        return name
    if name.startswith("services."):
        return "services"
    if name == "requests.storage" or _STORAGE_CLASS in name:
        return "persistentvolumeclaims"
    return "pods"


def status_of(quota: JSON, used: Amounts) -> JSON:
    """The status: the limits that are looked at, and what is used of them."""
    hard = (quota.get("spec") or {}).get("hard") or {}
    return {"hard": dict(hard), "used": {name: plain_quantity(used.get(name, Decimal(0))) for name in hard}}
