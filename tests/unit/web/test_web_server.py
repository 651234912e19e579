"""The dashboard's server on a real API in this process: what it shows, and all that it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from simulated_api import make_api
from trimtab.api import Ref, kind_of
from trimtab.api.core import Container, Pod, PodSpec
from trimtab.client import Client, SystemClock
from trimtab.runtime import Component, Endpoint, View
from trimtab.runtime.crd import ensure_crds
from trimtab.runtime.journal import Entry, Journal
from trimtab.runtime.settings import Settings
from trimtab.web.hub import Hub
from trimtab.web.overview import ProcessLine
from trimtab.web.server import WebServer

DEADLINE_S = 60.0


async def names(client: Any) -> dict[str, Any]:
    return {"columns": ["Name"], "rows": [[pod.name] for pod in (await client.list(Pod)).items]}


async def pending(client: Any) -> int:
    return sum(pod.status.phase != "Running" for pod in (await client.list(Pod)).items)


COMPONENT = Component(
    name="sample",
    summary="",
    views=(View("pods", "Pods", names, pending),),
    endpoints=(
        Endpoint(Pod, "log", "s"),
        Endpoint(Pod, "report", "s", page=True),
        Endpoint(Pod, "status", "s", data=True),
    ),
)


@dataclass
class Page:
    """One request and what came of it."""

    server: WebServer
    sent: list[dict[str, Any]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    more: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self, path: str, method: str = "GET", host: str = "127.0.0.1:8080") -> Page:
        path, _, query = path.partition("?")
        scope = {"type": "http", "path": path, "method": method, "headers": [(b"host", host.encode())]}
        scope["query_string"] = query.encode()
        await self.server(scope, self._receive, self._send)
        return self

    async def _receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(dict(message))
        self.more.set()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def text(self) -> str:
        return b"".join(m.get("body", b"") for m in self.sent[1:]).decode()

    def events(self, name: str) -> list[Any]:
        blocks = [dict(line.split(": ", 1) for line in b.splitlines()) for b in self.text.split("\n\n") if b]
        return [json.loads(b["data"]) for b in blocks if b.get("event") == name]

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self.more.clear()
                await self.more.wait()


@dataclass
class Setting:
    server: WebServer
    client: Client
    journal: Journal

    def page(self) -> Page:
        return Page(self.server)


@pytest.fixture
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    api = await make_api(SystemClock())
    client = Client(api.transport())
    app = kind_of("trimtab.dev/v1alpha1", "App")
    assert app is not None
    await ensure_crds(client, [app])
    settings = Settings(id="abc123", data=str(tmp_path), run=str(tmp_path))
    journal = Journal(tmp_path / "journal" / "journal.sqlite")
    process = ProcessLine("api", 1, True, 0, 40_000_000, None)
    hub = Hub(client, settings, [COMPONENT], lambda: [process])
    yield Setting(WebServer(hub, client, [COMPONENT], hosts=["box"]), client, journal)
    await hub.close()
    journal.close()
    await api.close()


def pod(name: str) -> Pod:
    made = Pod(spec=PodSpec(containers=[Container(name="c", image="i")]))
    made.metadata.name, made.metadata.namespace = name, "default"
    return made


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_nothing_can_be_written(setting: Setting, method: str) -> None:
    page = await setting.page().open("/api/views/sample/pods", method)
    assert page.status == 405
    assert page.text == "This page can change nothing; use trimtab or kubectl.\n"


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:8080", 200), ("[::1]:8080", 200), ("box", 200), ("evil.example", 421)]
)
async def test_only_this_machine_is_a_host(setting: Setting, host: str, status: int) -> None:
    assert (await setting.page().open("/healthz", host=host)).status == status


async def test_the_page_may_load_nothing_from_elsewhere(setting: Setting) -> None:
    page = await setting.page().open("/healthz")
    headers = dict(page.sent[0]["headers"])
    assert headers[b"content-security-policy"].startswith(b"default-src 'self'")


async def test_a_view_shows_what_its_component_says(setting: Setting) -> None:
    await setting.client.create(pod("one"), manager="test")
    page = await setting.page().open("/api/views/sample/pods")
    assert json.loads(page.text) == {"title": "Pods", "note": "", "columns": ["Name"], "rows": [["one"]]}


async def test_unknown_pages_say_so(setting: Setting) -> None:
    assert (await setting.page().open("/api/views/sample/none")).text == "No view sample/none.\n"
    assert (await setting.page().open("/../secret")).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "sample/pods/default/one/log",  # no page: plain text
        "sample/pods/default/one",
        "sample/pods/default/../report",
        "sample/pods/default/one/report/more",
        "sample/pods/default/one?x=/report",
        "other/pods/default/one/report",
    ],
)
async def test_only_pages_of_endpoints_are_shown(setting: Setting, path: str) -> None:
    page = await setting.page().open(f"/api/pages/{path}")
    assert (page.status, page.text) == (404, "No such page.\n")


async def test_data_of_endpoints_that_give_any_is_passed_on(setting: Setting) -> None:
    await setting.client.create(pod("one"), manager="test")
    page = await setting.page().open("/api/data/sample/pods/default/one/status?a=b")
    headers = dict(page.sent[0]["headers"])
    assert (page.status, headers[b"content-type"]) == (200, b"application/json")
    assert json.loads(page.text)["metadata"]["name"] == "one"


@pytest.mark.parametrize(
    "path", ["sample/pods/default/one/report", "sample/pods/default/one/log", "other/pods/default/one/status"]
)
async def test_no_other_endpoint_gives_data(setting: Setting, path: str) -> None:
    page = await setting.page().open(f"/api/data/{path}")
    assert (page.status, page.text) == (404, "No such page.\n")


async def test_data_is_no_page(setting: Setting) -> None:
    assert (await setting.page().open("/api/pages/sample/pods/default/one/status")).status == 404


async def test_a_page_of_what_is_not_there_says_so(setting: Setting) -> None:
    page = await setting.page().open("/api/pages/sample/pods/default/none/report")
    assert page.status == 404
    assert "o" in page.text


async def test_the_stream_tells_the_state_and_then_each_change(setting: Setting) -> None:
    page = setting.page()
    opened = asyncio.create_task(page.open("/api/stream"))
    await page.until(lambda: page.events("overview"))
    assert page.events("overview")[0]["processes"][0]["name"] == "api"
    object = Ref("v1", "Pod", "default", "one")
    setting.journal.append(Entry(datetime.now(UTC), "node", "node", "said", object, message="hello", duration_ms=312.0))
    await page.until(lambda: page.events("timeline"))
    told = page.events("timeline")[-1][-1]
    assert (told["message"], told["duration_ms"], told["object"]) == ("hello", 312.0, "Pod default/one")
    page.left.set()
    await opened


async def test_the_state_tells_how_much_of_a_view_needs_attention(setting: Setting) -> None:
    await setting.client.create(pod("one"), manager="test")
    page = setting.page()
    opened = asyncio.create_task(page.open("/api/stream"))
    await page.until(lambda: any(told["views"][0]["troubled"] for told in page.events("overview")))
    assert page.events("overview")[-1]["views"] == [
        {"component": "sample", "name": "pods", "title": "Pods", "troubled": 1}
    ]
    page.left.set()
    await opened


async def test_the_last_page_that_leaves_stops_the_work(setting: Setting) -> None:
    page = setting.page()
    opened = asyncio.create_task(page.open("/api/stream"))
    await page.until(lambda: page.events("overview"))
    page.left.set()
    await opened
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "dashboard"] == []
