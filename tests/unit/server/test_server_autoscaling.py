"""Autoscalers in their older form: what one version says the other keeps."""

from __future__ import annotations

from typing import Any

import pytest

from api_in_process import Api
from trimtab.server.autoscaling_views import PREFIX, from_v1, to_v1

V1 = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"
V2 = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers"
TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "php-apache"}


def cpu(percent: int) -> dict[str, Any]:
    return {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}},
    }


MEMORY = {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}}
SPEC = {"scaleTargetRef": TARGET, "minReplicas": 1, "maxReplicas": 10}


async def test_what_kubectl_autoscale_writes_is_read_in_both_versions(api: Api) -> None:
    body = {"metadata": {"name": "php-apache"}, "spec": {**SPEC, "targetCPUUtilizationPercentage": 50}}

    created = (await api.post(V1, body)).ok()

    assert created["apiVersion"] == "autoscaling/v1"
    assert created["spec"] == body["spec"]
    found = (await api.get(f"{V2}/php-apache")).ok()
    assert found["apiVersion"] == "autoscaling/v2"
    assert found["spec"] == {**SPEC, "metrics": [cpu(50)]}
    assert "annotations" not in found["metadata"]
    listed = (await api.get(V1)).ok()
    assert (listed["kind"], listed["items"][0]["spec"]["targetCPUUtilizationPercentage"]) == (
        "HorizontalPodAutoscalerList",
        50,
    )


async def test_without_a_target_it_is_that_of_kubernetes(api: Api) -> None:
    (await api.post(V1, {"metadata": {"name": "a"}, "spec": SPEC})).ok()

    assert (await api.get(f"{V2}/a")).ok()["spec"]["metrics"] == [cpu(80)]


async def test_who_changes_the_older_form_loses_nothing_of_the_newer(api: Api) -> None:
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 15}}
    spec = {**SPEC, "metrics": [cpu(50), MEMORY], "behavior": behavior}
    before = (await api.post(V2, {"metadata": {"name": "a", "annotations": {"mine": "1"}}, "spec": spec})).ok()
    conditions = [{"type": "AbleToScale", "status": "True", "reason": "ReadyForNewScale", "message": "ok"}]
    current = [
        {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 30, "averageValue": "60m"}}}
    ]
    status = {"currentReplicas": 2, "desiredReplicas": 2, "conditions": conditions, "currentMetrics": current}
    (await api.patch(f"{V2}/a/status", {"status": status})).ok()

    seen = (await api.get(f"{V1}/a")).ok()
    assert seen["spec"] == {**SPEC, "targetCPUUtilizationPercentage": 50}
    assert seen["status"] == {"currentReplicas": 2, "desiredReplicas": 2, "currentCPUUtilizationPercentage": 30}
    assert PREFIX + "behavior" in seen["metadata"]["annotations"]
    (await api.patch(f"{V1}/a", {"spec": {"maxReplicas": 7, "targetCPUUtilizationPercentage": 60}})).ok()

    after = (await api.get(f"{V2}/a")).ok()
    assert after["spec"]["metrics"] == [cpu(60), MEMORY]
    assert after["spec"]["maxReplicas"] == 7
    assert after["spec"]["behavior"] == before["spec"]["behavior"]
    assert after["metadata"]["annotations"] == {"mine": "1"}
    for condition in after["status"]["conditions"]:
        assert condition.pop("lastTransitionTime") is None  # nobody said; the real server writes null, too
    assert after["status"] == status


@pytest.mark.parametrize("metrics", [[cpu(50)], [MEMORY, cpu(50)], [cpu(50), MEMORY], [MEMORY]])
def test_there_and_back_nothing_changes(metrics: list[Any]) -> None:
    obj = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "a", "annotations": {"mine": "1"}},
        "spec": {**SPEC, "metrics": metrics},
        "status": {"currentReplicas": 1},
    }

    assert from_v1(to_v1(obj)) == obj


def test_annotations_that_somebody_spoilt_are_dropped() -> None:
    obj = {"metadata": {"name": "a", "annotations": {PREFIX + "metrics": "{", PREFIX + "behavior": "[]"}}, "spec": SPEC}

    found = from_v1(obj)

    assert found["spec"] == {**SPEC, "metrics": [cpu(80)]}
    assert "annotations" not in found["metadata"]


async def test_both_versions_are_discovered_and_the_newer_is_preferred(api: Api) -> None:
    groups = (await api.get("/apis")).ok()["groups"]
    group = next(one for one in groups if one["name"] == "autoscaling")

    assert [version["version"] for version in group["versions"]] == ["v2", "v1"]
    assert group["preferredVersion"]["version"] == "v2"


async def test_the_older_form_is_printed_alike(api: Api) -> None:
    table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    (await api.post(V1, {"metadata": {"name": "a"}, "spec": {**SPEC, "targetCPUUtilizationPercentage": 50}})).ok()

    old, new = [(await api.get(path, accept=table)).ok()["rows"][0]["cells"] for path in (V1, V2)]

    assert old == new
    assert old[2] == "cpu: <unknown>/50%"
