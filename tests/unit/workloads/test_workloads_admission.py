"""What is refused, with the line that a user reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trimtab.api import JSON
from trimtab.components.workloads.admission import (
    check_autoscaler,
    check_claim,
    check_deployment,
    check_job,
    check_pod,
    check_replicaset,
    check_statefulset,
)
from trimtab.runtime import Denied

Check = Callable[[JSON, JSON | None], list[str]]


def resources(**parts: Any) -> JSON:
    return {"template": {"spec": {"containers": [{"name": "c", "resources": parts}]}}}


@pytest.mark.parametrize(
    ("check", "spec", "line"),
    [
        (
            check_deployment,
            {"strategy": {"type": "Canary"}},
            'spec.strategy.type: Unsupported value: "Canary": supported values: "Recreate", "RollingUpdate"',
        ),
        (
            check_deployment,
            {"strategy": {"rollingUpdate": {"maxSurge": "half"}}},
            'spec.strategy.rollingUpdate.maxSurge: Invalid value: "half" is neither a number nor a percentage such as 25%',
        ),
        (
            check_deployment,
            {"strategy": {"rollingUpdate": {"maxUnavailable": "120%"}}},
            'spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "120%": must not be greater than 100%',
        ),
        (
            check_deployment,
            {"strategy": {"rollingUpdate": {"maxUnavailable": -1}}},
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            check_deployment,
            {"progressDeadlineSeconds": 5, "minReadySeconds": 5},
            "spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds",
        ),
        (
            check_deployment,
            resources(requests={"cpu": "lots"}),
            'spec.template.spec.containers[0].resources.requests[cpu]: Invalid value: "lots" is not a quantity; write a '
            "number with an optional suffix, for example 500m, 2 or 1.5Gi",
        ),
        (
            check_replicaset,
            resources(requests={"memory": "2Gi"}, limits={"memory": "1Gi"}),
            'spec.template.spec.containers[0].resources.requests: Invalid value: "2Gi": must be less than or equal to '
            "memory limit of 1Gi",
        ),
        (
            check_statefulset,
            {"podManagementPolicy": "Random"},
            'spec.podManagementPolicy: Unsupported value: "Random": supported values: "OrderedReady", "Parallel"',
        ),
        (
            check_statefulset,
            {"volumeClaimTemplates": [{"spec": {}}]},
            "spec.volumeClaimTemplates[0].metadata.name: Required value: it names the claims and the volume in the pod",
        ),
        (
            check_statefulset,
            {"updateStrategy": {"rollingUpdate": {"partition": -1}}},
            "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            check_job,
            {"completionMode": "Indexed"},
            "spec.completions: Required value: when completion mode is Indexed",
        ),
        (check_job, {"parallelism": -2}, "spec.parallelism: Invalid value: -2: must be greater than or equal to 0"),
        (
            check_claim,
            {"resources": {"requests": {"storage": "0"}}},
            'spec.resources.requests.storage: Invalid value: "0": must be greater than zero',
        ),
        (
            check_claim,
            {"accessModes": ["Often"]},
            'spec.accessModes[0]: Unsupported value: "Often": supported values: "ReadOnlyMany", "ReadWriteMany", '
            '"ReadWriteOnce", "ReadWriteOncePod"',
        ),
        (
            check_pod,
            {"initContainers": [{"resources": {"limits": {"cpu": "-1"}}}]},
            'spec.initContainers[0].resources.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0',
        ),
    ],
)
def test_is_refused_with_one_line(check: Check, spec: JSON, line: str) -> None:
    with pytest.raises(Denied) as refused:
        check({"spec": spec}, None)
    assert str(refused.value) == line


def test_a_claim_may_grow_but_not_shrink() -> None:
    small: JSON = {"spec": {"resources": {"requests": {"storage": "1Gi"}}}}
    large: JSON = {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
    assert check_claim(large, small) == []
    with pytest.raises(Denied, match="field can not be less than previous value: 2Gi is allocated, 1Gi was asked for"):
        check_claim(small, large)


def test_what_is_right_passes() -> None:
    fine = resources(requests={"cpu": "100m"}, limits={"cpu": 1, "memory": "1Gi"})
    for check in (check_deployment, check_replicaset, check_statefulset, check_job):
        assert check({"spec": fine}, None) == []


def autoscaler(**changes: Any) -> JSON:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    return {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3, **changes}


def metric(type_: str, **source: Any) -> JSON:
    return autoscaler(metrics=[{"type": type_, **source}])


def utilization(amount: Any, type_: str = "Utilization") -> JSON:
    return metric("Resource", resource={"name": "cpu", "target": {"type": type_, "averageUtilization": amount}})


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (autoscaler(scaleTargetRef={"kind": "Deployment"}), "spec.scaleTargetRef.name: Required value"),
        (
            autoscaler(minReplicas=0),
            "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
        ),
        (
            autoscaler(minReplicas=5),
            "spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`",
        ),
        (autoscaler(maxReplicas=0, minReplicas=1), "spec.maxReplicas: Invalid value: 0: must be greater than 0"),
        (
            metric("Cpu"),
            'spec.metrics[0].type: Unsupported value: "Cpu": supported values: "ContainerResource", "External", "Object", '
            '"Pods", "Resource"',
        ),
        (
            metric("Pods"),
            "spec.metrics[0].pods: Required value: must populate information for the given metric source",
        ),
        (utilization(0), "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be positive"),
        (
            utilization(5, "AverageValue"),
            "spec.metrics[0].resource.target.averageValue: Required value: the target's type is AverageValue",
        ),
        (
            autoscaler(behavior={"scaleDown": {"stabilizationWindowSeconds": 7200}}),
            "spec.behavior.scaleDown.stabilizationWindowSeconds: Invalid value: 7200: must be from 0 to 3600",
        ),
        (
            autoscaler(behavior={"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 0}]}}),
            "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 0: must be from 1 to 1800",
        ),
    ],
)
def test_impossible_autoscalers_are_refused(spec: JSON, line: str) -> None:
    with pytest.raises(Denied) as refused:
        check_autoscaler({"spec": spec}, None)

    assert str(refused.value) == line


def test_an_autoscaler_with_behaviour_is_taken() -> None:
    rules = {
        "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}],
        "selectPolicy": "Min",
        "tolerance": "0.05",
    }

    assert check_autoscaler({"spec": utilization(50) | {"behavior": {"scaleUp": rules}}}, None) == []
