"""Which Jobs are refused: numbers and policies that contradict each other, in Kubernetes' words."""

from __future__ import annotations

from typing import Any

from trimtab.api import JSON
from trimtab.components.workloads import indexes
from trimtab.components.workloads.fields import not_negative, one_of
from trimtab.runtime import Denied

RULES_MAX = 20
EXIT_CODES_MAX = 255
PARALLELISM_MAX_INDEXED = 100_000


def check_job_spec(path: str, spec: JSON) -> None:
    """The spec of a Job, or of the Jobs that a template makes.

    Raises:
        Denied: it contradicts itself.
    """
    for name in (
        "parallelism",
        "completions",
        "backoffLimit",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ):
        not_negative(f"{path}.{name}", spec.get(name))
    one_of(f"{path}.completionMode", spec.get("completionMode"), ("NonIndexed", "Indexed"))
    one_of(f"{path}.podReplacementPolicy", spec.get("podReplacementPolicy"), ("Failed", "TerminatingOrFailed"))
    _indexed(path, spec)
    _failure_policy(path, spec)
    _success_policy(path, spec)


def _indexed(path: str, spec: JSON) -> None:
    if spec.get("completionMode") == "Indexed":
        if spec.get("completions") is None:
            raise Denied(f"{path}.completions", "Required value: when completion mode is Indexed")
        if (spec.get("parallelism") or 0) > PARALLELISM_MAX_INDEXED:
            text = f"must be less than or equal to {PARALLELISM_MAX_INDEXED} when completion mode is Indexed"
            raise Denied(f"{path}.parallelism", f"Invalid value: {spec['parallelism']}: {text}")
    for name in ("backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"):
        if spec.get(name) is not None and spec.get("completionMode") != "Indexed":
            raise Denied(f"{path}.{name}", "Invalid value: requires indexed completion mode")
    most = spec.get("maxFailedIndexes")
    if most is not None:
        if spec.get("backoffLimitPerIndex") is None:
            raise Denied(f"{path}.backoffLimitPerIndex", "Required value: when maxFailedIndexes is specified")
        if most > (spec.get("completions") or 0):
            raise Denied(
                f"{path}.maxFailedIndexes", f"Invalid value: {most}: must be less than or equal to completions"
            )


def _failure_policy(path: str, spec: JSON) -> None:
    policy = spec.get("podFailurePolicy")
    if policy is None:
        return
    pod: JSON = (spec.get("template") or {}).get("spec") or {}
    if pod.get("restartPolicy") != "Never":
        said = (
            f'Invalid value: "{pod.get("restartPolicy")}": only "Never" is supported when podFailurePolicy is specified'
        )
        raise Denied(f"{path}.template.spec.restartPolicy", said)
    if spec.get("podReplacementPolicy") == "TerminatingOrFailed":
        text = 'Unsupported value: "TerminatingOrFailed": supported values: "Failed" (with podFailurePolicy)'
        raise Denied(f"{path}.podReplacementPolicy", text)
    containers = {c.get("name") for part in ("containers", "initContainers") for c in pod.get(part) or ()}
    rules = policy.get("rules") or ()
    if len(rules) > RULES_MAX:
        raise Denied(f"{path}.podFailurePolicy.rules", f"Too many: {len(rules)}: must have at most {RULES_MAX} items")
    for number, rule in enumerate(rules):
        at = f"{path}.podFailurePolicy.rules[{number}]"
        one_of(f"{at}.action", rule.get("action") or "", ("Count", "FailIndex", "FailJob", "Ignore"))
        if rule["action"] == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
            raise Denied(f"{at}.action", 'Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set')
        codes, found = rule.get("onExitCodes"), rule.get("onPodConditions") or ()
        if bool(codes) == bool(found):
            raise Denied(
                at, "Invalid value: specifying one of OnExitCodes and OnPodConditions is required, and only one"
            )
        if codes:
            _exit_codes(f"{at}.onExitCodes", codes, containers)
        for index, condition in enumerate(found):
            words = ("False", "True", "Unknown")
            one_of(f"{at}.onPodConditions[{index}].status", condition.get("status") or "True", words)


def _exit_codes(path: str, codes: JSON, containers: set[Any]) -> None:
    one_of(f"{path}.operator", codes.get("operator") or "", ("In", "NotIn"))
    name = codes.get("containerName")
    if name is not None and name not in containers:
        text = f'Invalid value: "{name}": must be one of the container or initContainer names in the pod template'
        raise Denied(f"{path}.containerName", text)
    values = codes.get("values") or []
    if not values or len(values) > EXIT_CODES_MAX:
        raise Denied(
            f"{path}.values", f"Invalid value: {values}: at least one value is required, at most {EXIT_CODES_MAX}"
        )
    if values != sorted(set(values)):
        raise Denied(f"{path}.values", f"Invalid value: {values}: must be ordered, each value once")
    if codes["operator"] == "In" and 0 in values:
        raise Denied(f"{path}.values", "Invalid value: 0: must not be 0 for the In operator: that is no failure")


def _success_policy(path: str, spec: JSON) -> None:
    policy = spec.get("successPolicy")
    if policy is None:
        return
    rules = policy.get("rules") or ()
    if not rules or len(rules) > RULES_MAX:
        raise Denied(f"{path}.successPolicy.rules", f"Required value: between 1 and {RULES_MAX} rules")
    size = spec.get("completions") or 0
    for number, rule in enumerate(rules):
        at = f"{path}.successPolicy.rules[{number}]"
        count, named = rule.get("succeededCount"), rule.get("succeededIndexes")
        if count is None and named is None:
            raise Denied(at, "Required value: at least one of succeededCount or succeededIndexes must be specified")
        among = size
        if named is not None:
            try:
                listed = indexes.parse(named)
            except ValueError as err:
                raise Denied(f"{at}.succeededIndexes", f'Invalid value: "{named}": {err}') from None
            if listed and max(listed) >= size:
                raise Denied(f"{at}.succeededIndexes", f'Invalid value: "{named}": must be less than completions')
            among = len(listed)
        if count is not None and not 0 < count <= among:
            raise Denied(f"{at}.succeededCount", f"Invalid value: {count}: must be between 1 and {among}")
