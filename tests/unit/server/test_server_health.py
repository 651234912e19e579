"""Health and figures: what probes and dashboards read."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api_in_process import Api
from trimtab.server import http
from trimtab.server.errors import StatusError
from trimtab.server.http import Message, Request
from trimtab.server.metrics import Asked


async def test_each_check_is_told_and_can_be_asked_for_alone(api: Api) -> None:
    assert (await api.get("/livez")).body == b"ok"
    assert (await api.get("/readyz?verbose")).body == (
        b"[+]ping ok\n[+]store ok\n[+]bootstrap ok\n[+]shutdown ok\nreadyz check passed\n"
    )
    assert (await api.get("/readyz?verbose&exclude=store")).body.splitlines()[1] == b"[+]store excluded: ok"
    assert (await api.get("/readyz/store")).body == b"ok"
    assert (await api.get("/readyz/nothing")).status == 404


async def test_a_server_that_stops_is_alive_and_not_ready(api: Api) -> None:
    api.server.stopping = True

    ready, alive = await api.get("/readyz"), await api.get("/livez")

    assert (ready.status, alive.status) == (503, 200)
    assert ready.body.endswith(b"[-]shutdown failed: the API server is stopping\nreadyz check failed\n")


async def test_figures_are_well_formed_and_clients_cannot_add_names_to_them(api: Api) -> None:
    await api.get("/api/v1/namespaces/default/configmaps")
    await api.get("/api/v1/namespaces/default/evil%22%0Athing")
    await api.get("/api/v1/namespaces/default/pods/x/evil")

    text = (await api.get("/metrics")).body.decode()

    found = {family.name: family for family in text_string_to_metric_families(text)}
    resources = {sample.labels["resource"] for sample in found["apiserver_request"].samples}
    assert resources == {"configmaps", "unknown"}
    assert "evil" not in text


async def test_figures_have_the_names_and_labels_of_the_real_server(api: Api) -> None:
    configmaps = "/api/v1/namespaces/default/configmaps"
    (await api.post(configmaps, {"metadata": {"name": "a"}})).ok()
    (
        await api.apply(
            f"{configmaps}/a?dryRun=All", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
        )
    ).ok()
    assert (await api.get(f"{configmaps}/none")).status == 404
    watching = await api.watch(f"{configmaps}?watch=1")
    await watching.next()

    found = {
        family.name: family for family in text_string_to_metric_families((await api.get("/metrics")).body.decode())
    }

    kinds = {name: family.type for name, family in found.items()}
    assert (
        kinds
        | {
            "apiserver_request": "counter",
            "apiserver_request_duration_seconds": "histogram",
            "apiserver_request_sli_duration_seconds": "histogram",
            "apiserver_current_inflight_requests": "gauge",
            "apiserver_longrunning_requests": "gauge",
            "apiserver_storage_objects": "gauge",
            "apiserver_storage_size_bytes": "gauge",
            "apiserver_watch_events": "counter",
            "process_cpu_seconds": "counter",
            "process_resident_memory_bytes": "gauge",
            "kubernetes_build_info": "gauge",
        }
        == kinds
    )
    of = {"component": "apiserver", "group": "", "version": "v1", "resource": "configmaps", "subresource": ""}
    asked = [sample.labels for sample in found["apiserver_request"].samples]
    assert {**of, "verb": "POST", "scope": "resource", "dry_run": "", "code": "201"} in asked
    assert {**of, "verb": "APPLY", "scope": "resource", "dry_run": "All", "code": "200"} in asked
    assert {**of, "verb": "GET", "scope": "resource", "dry_run": "", "code": "404"} in asked
    [open_one] = found["apiserver_longrunning_requests"].samples
    assert (open_one.labels, open_one.value) == ({**of, "verb": "WATCH", "scope": "namespace"}, 1)
    objects = {sample.labels["resource"]: sample.value for sample in found["apiserver_storage_objects"].samples}
    assert (objects["configmaps"], objects["deployments.apps"]) == (1, 0)
    assert found["trimtab_store_revision"].samples[0].value == api.server.store.revision
    await watching.close()


async def test_the_buckets_of_a_duration_add_up(api: Api) -> None:
    series = api.server.metrics.series(Asked("GET", "", "v1", "pods", "", "cluster"))
    series.count(200, 0.03)
    series.count(500, 70.0, waited_s=69.9)

    found = {
        family.name: family for family in text_string_to_metric_families((await api.get("/metrics")).body.decode())
    }

    told = {
        (sample.name.rpartition("_")[2], sample.labels.get("le", "")): sample.value
        for sample in found["apiserver_request_duration_seconds"].samples
        if sample.labels["resource"] == "pods"
    }
    assert (told["bucket", "0.025"], told["bucket", "0.05"], told["bucket", "60"], told["bucket", "+Inf"]) == (
        0,
        1,
        1,
        2,
    )
    assert (told["count", ""], told["sum", ""]) == (2, 70.03)
    own = {
        sample.labels["le"]: sample.value
        for sample in found["apiserver_request_sli_duration_seconds"].samples
        if sample.labels["resource"] == "pods" and "le" in sample.labels
    }
    assert (own["0.05"], own["0.2"]) == (1, 2)


async def test_a_body_that_does_not_come_to_its_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_S", 0.01)

    async def never() -> Message:
        return await asyncio.get_running_loop().create_future()

    async def send(message: Message) -> None:
        raise AssertionError(message)

    with pytest.raises(StatusError, match=r"did not come to its end within 0\.01 s: send it again") as refused:
        await Request({"path": "/", "headers": []}, never, send).body()

    assert (refused.value.code, refused.value.reason) == (504, "Timeout")
