"""Health and figures: what probes and dashboards read."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api_in_process import Api
from trimtab.server import http
from trimtab.server.errors import StatusError
from trimtab.server.http import Message, Request


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
    assert {
        "apiserver_request_duration_seconds",
        "apiserver_current_inflight_requests",
        "process_open_fds",
    } <= found.keys()
    resources = {sample.labels["resource"] for sample in found["apiserver_request"].samples}
    assert resources == {"configmaps", "unknown"}
    assert "evil" not in text


async def test_a_body_that_does_not_come_to_its_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_S", 0.01)

    async def never() -> Message:
        return await asyncio.get_running_loop().create_future()

    async def send(message: Message) -> None:
        raise AssertionError(message)

    with pytest.raises(StatusError, match=r"did not come to its end within 0\.01 s: send it again") as refused:
        await Request({"path": "/", "headers": []}, never, send).body()

    assert (refused.value.code, refused.value.reason) == (504, "Timeout")
