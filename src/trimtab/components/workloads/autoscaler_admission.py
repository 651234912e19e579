"""Which HorizontalPodAutoscalers are refused, in Kubernetes' words."""

from __future__ import annotations

from trimtab.api import JSON
from trimtab.api.quantity import parse_quantity
from trimtab.components.workloads.fields import one_of, quantity
from trimtab.runtime import Denied


def check_autoscaler(new: JSON, old: JSON | None) -> list[str]:
    """Sizes, metrics with exactly one target each, and the rules of behaviour."""
    spec = new["spec"]
    least, most = spec.get("minReplicas", 1), spec.get("maxReplicas", 0)
    for name in ("kind", "name"):
        if not (spec.get("scaleTargetRef") or {}).get(name):
            raise Denied(f"spec.scaleTargetRef.{name}", "Required value")
    if least < 1:
        raise Denied("spec.minReplicas", f"Invalid value: {least}: must be greater than or equal to 1")
    if most < 1:
        raise Denied("spec.maxReplicas", f"Invalid value: {most}: must be greater than 0")
    if most < least:
        raise Denied("spec.maxReplicas", f"Invalid value: {most}: must be greater than or equal to `minReplicas`")
    for index, metric in enumerate(spec.get("metrics") or ()):
        _metric(f"spec.metrics[{index}]", metric)
    for direction in ("scaleUp", "scaleDown"):
        _scaling_rules(f"spec.behavior.{direction}", (spec.get("behavior") or {}).get(direction) or {})
    return []


_METRICS = {
    "ContainerResource": "containerResource",
    "External": "external",
    "Object": "object",
    "Pods": "pods",
    "Resource": "resource",
}
_AMOUNTS = {"AverageValue": "averageValue", "Utilization": "averageUtilization", "Value": "value"}


def _metric(path: str, metric: JSON) -> None:
    type_ = metric.get("type")
    one_of(f"{path}.type", type_ or "", tuple(_METRICS))
    key = _METRICS[str(type_)]
    source = metric.get(key)
    if not source:
        raise Denied(f"{path}.{key}", "Required value: must populate information for the given metric source")
    target = source.get("target") or {}
    where = f"{path}.{key}.target"
    allowed = {"resource": ("Utilization", "AverageValue"), "pods": ("AverageValue",)}.get(
        key.replace("containerResource", "resource"), ("Value", "AverageValue")
    )
    one_of(f"{where}.type", target.get("type") or "", allowed)
    amount = target.get(_AMOUNTS[target["type"]])
    if amount is None:
        raise Denied(f"{where}.{_AMOUNTS[target['type']]}", f"Required value: the target's type is {target['type']}")
    if target["type"] != "Utilization":
        quantity(f"{where}.{_AMOUNTS[target['type']]}", amount)
    if parse_quantity(amount) <= 0:
        raise Denied(f"{where}.{_AMOUNTS[target['type']]}", f"Invalid value: {amount}: must be positive")


WINDOW_S_MAX = 3600
PERIOD_S_MAX = 1800


def _scaling_rules(path: str, rules: JSON) -> None:
    window = rules.get("stabilizationWindowSeconds")
    if window is not None and not 0 <= window <= WINDOW_S_MAX:
        raise Denied(f"{path}.stabilizationWindowSeconds", f"Invalid value: {window}: must be from 0 to {WINDOW_S_MAX}")
    one_of(f"{path}.selectPolicy", rules.get("selectPolicy"), ("Disabled", "Max", "Min"))
    if rules.get("tolerance") is not None:
        quantity(f"{path}.tolerance", rules["tolerance"])
    for index, policy in enumerate(rules.get("policies") or ()):
        where = f"{path}.policies[{index}]"
        one_of(f"{where}.type", policy.get("type") or "", ("Percent", "Pods"))
        if policy.get("value", 0) <= 0:
            raise Denied(f"{where}.value", f"Invalid value: {policy.get('value', 0)}: must be greater than zero")
        if not 0 < policy.get("periodSeconds", 0) <= PERIOD_S_MAX:
            said = f"Invalid value: {policy.get('periodSeconds', 0)}: must be from 1 to {PERIOD_S_MAX}"
            raise Denied(f"{where}.periodSeconds", said)
