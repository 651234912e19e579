"""ResourceQuota and LimitRange beyond what the conformance suite tells: writers at once, growth by updates, sums of pods."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api_in_process import Api
from trimtab.server.limit_range import pod_total

BASE = "/api/v1/namespaces/default"


async def quota(api: Api, **hard: str) -> None:
    await api.eventually(f"{BASE}/serviceaccounts/default", lambda answer: answer.status == 200)
    (await api.post(f"{BASE}/resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": hard}})).ok()


async def test_writers_at_once_do_not_slip_through_together(api: Api) -> None:
    await quota(api, **{"count/configmaps": "5"})

    answers = await asyncio.gather(
        *(api.post(f"{BASE}/configmaps", {"metadata": {"name": f"c{i}"}}) for i in range(20))
    )

    assert sorted(answer.status for answer in answers) == [201] * 5 + [403] * 15
    await api.eventually(
        f"{BASE}/resourcequotas/q", lambda a: a.body.get("status", {}).get("used") == {"count/configmaps": "5"}
    )


async def test_a_claim_may_not_grow_and_a_service_not_open_more_ports_than_are_left(api: Api) -> None:
    await quota(api, **{"requests.storage": "2Gi", "services.nodeports": "1"})
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "x"}
    storage_class = {"metadata": {"name": "x"}, "provisioner": "x.dev/x", "allowVolumeExpansion": True}
    (await api.post("/apis/storage.k8s.io/v1/storageclasses", storage_class)).ok()
    (await api.post(f"{BASE}/persistentvolumeclaims", {"metadata": {"name": "c"}, "spec": spec})).ok()
    ports = [{"name": "a", "port": 1}, {"name": "b", "port": 2}]
    (await api.post(f"{BASE}/services", {"metadata": {"name": "s"}, "spec": {"ports": ports}})).ok()

    opened = await api.patch(f"{BASE}/services/s", {"spec": {"type": "NodePort"}})
    labelled = await api.patch(f"{BASE}/services/s", {"metadata": {"labels": {"a": "b"}}})

    assert (opened.status, labelled.status) == (403, 200)
    assert (
        "requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1" in opened.message
    )


async def test_a_dry_run_is_refused_and_counts_nothing(api: Api) -> None:
    await quota(api, **{"count/configmaps": "1"})
    url = f"{BASE}/configmaps?dryRun=All"
    assert [(await api.post(url, {"metadata": {"name": "a"}})).status for _ in range(3)] == [201] * 3

    (await api.post(f"{BASE}/configmaps", {"metadata": {"name": "a"}})).ok()
    assert (await api.post(url, {"metadata": {"name": "b"}})).status == 403


async def test_an_ended_pod_leaves_its_share(api: Api) -> None:
    await quota(api, pods="1")
    pod: dict[str, Any] = {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    (await api.post(f"{BASE}/pods", pod)).ok()
    assert (await api.post(f"{BASE}/pods", {**pod, "metadata": {"name": "b"}})).status == 403

    (await api.patch(f"{BASE}/pods/a/status", {"status": {"phase": "Succeeded"}})).ok()

    (await api.post(f"{BASE}/pods", {**pod, "metadata": {"name": "b"}})).ok()


@pytest.mark.parametrize(
    ("init", "cpu"),
    [
        ([], "3"),
        ([("1", None)], "3"),
        ([("5", None)], "5500m"),
        ([("1", "Always")], "4"),
        ([("1", "Always"), ("4", None)], "5500m"),
    ],
    ids=["none", "small", "hungry", "sidecar", "hungry beside a sidecar"],
)
def test_what_a_pod_asks_for_as_a_whole(init: list[tuple[str, str | None]], cpu: str) -> None:
    def container(cpu: str, policy: str | None = None) -> dict[str, Any]:
        asked = {"resources": {"requests": {"cpu": cpu, "memory": "32Mi"}}}
        return {**asked, "restartPolicy": policy} if policy else asked

    spec = {
        "containers": [container("1"), container("1500m")],
        "initContainers": [container(*one) for one in init],
        "overhead": {"cpu": "500m"},
    }

    assert pod_total(spec, "requests")["cpu"] == cpu
