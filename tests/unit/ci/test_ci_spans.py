"""A run as a trace: what a collector gets, and what becomes of a run whose collector is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from http_posts import Posts, listening
from steps_in_process import Project
from trimtab.ci.runs import spans

SHIP = """
@step
def build():
    return base.run("make").output("/w/out")

@step
def unit():
    return base.add(build()).run("test")

@pipeline
def ci():
    return unit()
"""


class Collector(Posts):
    """Takes traces; answers with `status`."""

    status = 200

    def answer(self, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        return self.status, b"no room"


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    with listening(made):
        yield made


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    project = Project(tmp_path)
    project.write(SHIP)
    project.does = {"unit": lambda job, write, stop: ("exit", 3)}
    return project.run()


def about(span: Any) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values())) for one in span["attributes"]}


def test_a_collector_gets_the_run_and_its_steps(collector: Collector, record: dict[str, Any]) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url + "/",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x, tenant=shop",
        "TRACEPARENT": parent,
    }

    assert spans.send(record, env) == ""

    ((path, headers, posted),) = collector.taken
    body = json.loads(posted)
    assert (path, headers["authorization"], headers["tenant"]) == ("/v1/traces", "Bearer x", "shop")
    ((resource,),) = [body["resourceSpans"]]
    run, build, unit = resource["scopeSpans"][0]["spans"]
    assert {one["traceId"] for one in (run, build, unit)} == {"0af7651916cd43dd8448eb211c80319c"}
    assert (run["parentSpanId"], build["parentSpanId"], unit["parentSpanId"]) == (
        "b7ad6b7169203331",
        run["spanId"],
        run["spanId"],
    )
    assert about(run)["cicd.pipeline.run.id"] == record["id"]
    assert about(run)["cicd.pipeline.result"] == "failure"
    assert (build["status"], unit["status"]["code"]) == ({"code": 1}, 2)
    assert about(unit)["trimtab.ci.exit"] == "3"
    assert about(unit)["cicd.pipeline.task.run.result"] == "failure"
    assert int(build["endTimeUnixNano"]) - int(build["startTimeUnixNano"]) == 2_000_000_000


def test_twice_is_one_trace(record: dict[str, Any]) -> None:
    one, other = spans.trace(record, {}), spans.trace(record, {})

    assert one == other
    assert "parentSpanId" not in one["resourceSpans"][0]["scopeSpans"][0]["spans"][0]


def test_nobody_is_asked_without_an_address(record: dict[str, Any]) -> None:
    assert spans.send(record, {}) == ""


def test_a_collector_that_refuses_or_is_gone_is_named(collector: Collector, record: dict[str, Any]) -> None:
    collector.status = 503
    assert spans.send(record, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/t"}) == (
        f"OpenTelemetry: {collector.url}/t answers 503 no room"
    )
    gone = spans.send(record, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert gone == "OpenTelemetry: http://127.0.0.1:1/v1/traces does not take the trace: [Errno 111] Connection refused"
    assert spans.send(record, {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}) == (
        "OpenTelemetry: collector:4318/v1/traces is no address; write http://HOST:4318"
    )
