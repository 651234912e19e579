"""Custom metrics: the text that programs offer, which pods are asked, and rates of counters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from trimtab.api.core import Container, ContainerPort, Pod
from trimtab.api.labels import LabelSelector
from trimtab.components.workloads.autoscale import MetricMissing
from trimtab.components.workloads.measurements import LiveMeasurements, page_of, total
from trimtab.components.workloads.prometheus import Series, parse, seconds
from workload_pods import NOW, make_pod

PAGE = """# HELP http_requests_total Requests.
# TYPE http_requests_total counter
http_requests_total{code="200",path="/a,b"} 1027 1395066363000
http_requests_total{code="500", path="a \\"quoted\\" \\\\ name"} 3
queue_length 12.5
broken{ 1
no_number x
nothing NaN
"""


def test_a_page_becomes_series() -> None:
    assert list(parse(PAGE)) == [
        Series("http_requests_total", {"code": "200", "path": "/a,b"}, 1027),
        Series("http_requests_total", {"code": "500", "path": 'a "quoted" \\ name'}, 3),
        Series("queue_length", {}, 12.5),
    ]


def test_series_of_one_name_are_added_up_as_chosen() -> None:
    assert total(PAGE, "http_requests_total", None) == 1030
    assert total(PAGE, "http_requests_total", LabelSelector(match_labels={"code": "500"})) == 3
    assert total(PAGE, "http_requests", None) is None


@pytest.mark.parametrize(("text", "wanted"), [("15s", 15.0), ("1.318s", 1.318), ("1m30s", 90.0), ("250ms", 0.25)])
def test_durations(text: str, wanted: float) -> None:
    assert seconds(text) == wanted


def offering(port: int = 0, ip: str = "127.0.0.1", scrape: str = "true", **notes: str) -> Pod:
    containers = [Container(name="main", image="app", ports=[ContainerPort(container_port=8080)])]
    pod = make_pod("web-1", ready_for_s=9, containers=containers, status={"pod_ip": ip})
    pod.metadata.annotations = {f"prometheus.io/{key}": value for key, value in {"scrape": scrape, **notes}.items()}
    if port:
        pod.metadata.annotations["prometheus.io/port"] = str(port)
    return pod


@pytest.mark.parametrize(
    ("pod", "page"),
    [
        (offering(), "http://127.0.0.1:8080/metrics"),
        (offering(port=9, path="stats"), "http://127.0.0.1:9/stats"),
        (offering(scrape="false"), None),
        (offering(ip=""), None),
    ],
)
def test_pages_are_where_annotations_say(pod: Pod, page: str | None) -> None:
    assert page_of(pod) == page


@pytest.fixture
def pages() -> list[str]:
    return [PAGE]


@pytest.fixture
async def port(pages: list[str]) -> AsyncIterator[int]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=pages[-1])

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def test_gauges_are_as_they_are_and_pods_without_them_are_left_out(port: int) -> None:
    source = LiveMeasurements(Path("/nowhere"))
    away = offering(port=1)
    away.metadata.name = "away"

    found = await source.custom([offering(port=port), away], "queue_length", None, NOW)
    other = await source.custom([offering(port=port)], "temperature", None, NOW)

    assert {name: sample.value for name, sample in found.items()} == {"web-1": 12.5}
    assert other == {}


async def test_a_pod_cannot_send_the_controllers_elsewhere(port: int) -> None:
    async def elsewhere(request: web.Request) -> web.Response:
        raise web.HTTPFound(f"http://127.0.0.1:{port}/metrics")

    app = web.Application()
    app.router.add_get("/metrics", elsewhere)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        pod = offering(port=runner.addresses[0][1])
        assert await LiveMeasurements(Path("/nowhere")).custom([pod], "queue_length", None, NOW) == {}
    finally:
        await runner.cleanup()


async def test_counters_are_offered_as_rates(port: int, pages: list[str]) -> None:
    source = LiveMeasurements(Path("/nowhere"))
    loop = asyncio.get_running_loop()
    name, pod = "http_requests_per_second", offering(port=port)

    first = await source.custom([pod], name, None, NOW)
    began = loop.time()
    pages.append(PAGE.replace(" 1027", " 2027"))
    second = await source.custom([pod], name, None, NOW)
    rate = second["web-1"].value
    took = loop.time() - began
    pages.append("http_requests_total 1")
    third = await source.custom([pod], name, None, NOW)

    assert first == {}
    assert rate > 1000 / (took + 1)
    assert third == {}, "the program began anew: its counter says nothing about the time before"


async def test_an_api_that_is_away_is_named() -> None:
    with pytest.raises(MetricMissing, match=r"metrics\.k8s\.io does not answer: "):
        await LiveMeasurements(Path("/nowhere/api.sock")).usage("default")
