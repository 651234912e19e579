"""`metrics.k8s.io`: asked of the node agents, one line each when they do not answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from api_in_process import Api, running_api
from trimtab.server.server import ServerSettings

GROUP = "/apis/metrics.k8s.io/v1beta1"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
REPORT = {
    "timestamp": "2026-01-01T00:00:00Z",
    "windowSeconds": 15.0,
    "node": {"cpu": 250_000_000, "memory": 1 << 30},
    "pods": [
        {
            "namespace": "default",
            "name": "web",
            "containers": [
                {"name": "main", "cpu": 100_000_000, "memory": 1 << 20},
                {"name": "side", "cpu": 50_000_000, "memory": 2 << 20},
            ],
        },
        {"namespace": "default", "name": "gone", "containers": []},
    ],
}


@asynccontextmanager
async def agent(socket: Path, answer: web.Response) -> AsyncIterator[None]:
    """What a node agent answers to the question what it uses."""

    async def usage(request: web.Request) -> web.Response:
        return web.Response(status=answer.status, body=answer.body)

    app = web.Application()
    app.router.add_get("/usage", usage)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, socket).start()
    try:
        yield
    finally:
        await runner.cleanup()


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "node.sock"


@pytest.fixture
async def api(socket: Path) -> AsyncIterator[Api]:
    async with running_api(settings=ServerSettings(node_socket=socket)) as running:
        await running.post("/api/v1/nodes", {"metadata": {"name": "node-1", "labels": {"zone": "a"}}})
        for name, phase in (("web", "Running"), ("done", "Succeeded")):
            spec = {"nodeName": "node-1", "containers": [{"name": "main", "image": "x"}]}
            body = {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}
            (await running.post("/api/v1/namespaces/default/pods", body)).ok()
            path = f"/api/v1/namespaces/default/pods/{name}/status"
            (await running.patch(path, {"status": {"phase": phase}})).ok()
        yield running


def said(report: Any = REPORT, status: int = 200) -> web.Response:
    return web.Response(status=status, body=json.dumps(report).encode() if status == 200 else str(report).encode())


async def test_nodes_and_pods_have_what_their_agents_report(api: Api, socket: Path) -> None:
    async with agent(socket, said()):
        nodes = (await api.get(f"{GROUP}/nodes")).ok()
        pod = (await api.get(f"{GROUP}/namespaces/default/pods/web")).ok()

    [node] = nodes["items"]
    assert nodes["kind"] == "NodeMetricsList"
    assert node["metadata"]["labels"] == {"zone": "a"}
    assert (node["usage"], node["window"]) == ({"cpu": "250000000n", "memory": "1048576Ki"}, "15.0s")
    assert pod["kind"] == "PodMetrics"
    assert [c["usage"]["cpu"] for c in pod["containers"]] == ["100000000n", "50000000n"]


async def test_pods_are_selected_by_label_and_namespace(api: Api, socket: Path) -> None:
    async with agent(socket, said()):
        by_label = (await api.get(f"{GROUP}/pods?labelSelector=app%3Dweb")).ok()
        by_other = (await api.get(f"{GROUP}/pods?labelSelector=app%3Dshop")).ok()
        elsewhere = (await api.get(f"{GROUP}/namespaces/kube-system/pods")).ok()

    assert [item["metadata"]["name"] for item in by_label["items"]] == ["web"]
    assert by_other["items"] == elsewhere["items"] == []


async def test_a_table_sums_up_a_pod(api: Api, socket: Path) -> None:
    async with agent(socket, said()):
        table = (await api.get(f"{GROUP}/pods", accept=TABLE)).ok()

    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "CPU", "Memory", "Window"]
    assert table["rows"][0]["cells"] == ["web", "150m", "3072Ki", "15.0s"]


async def test_what_is_not_measured_is_not_found(api: Api, socket: Path) -> None:
    async with agent(socket, said()):
        done = await api.get(f"{GROUP}/namespaces/default/pods/done")
        unknown = await api.get(f"{GROUP}/nodes/node-9")

    assert (done.status, unknown.status) == (404, 404)
    assert unknown.body["message"] == 'nodes.metrics.k8s.io "node-9" not found'


async def test_an_agent_that_is_away_or_fails_is_named(api: Api, socket: Path) -> None:
    away = await api.get(f"{GROUP}/nodes")
    async with agent(socket, said("containerd does not say what its containers use: it is away", 503)):
        failing = await api.get(f"{GROUP}/nodes")

    assert (away.status, failing.status) == (503, 503)
    assert away.body["message"].startswith("no node says what it uses: node-1: ")
    assert failing.body["message"] == (
        "no node says what it uses: node-1: containerd does not say what its containers use: it is away"
    )


async def test_measurements_cannot_be_written(api: Api) -> None:
    created = await api.post(f"{GROUP}/namespaces/default/pods", {"metadata": {"name": "web"}})
    deleted = await api.delete(f"{GROUP}/namespaces/default/pods/web")

    assert (created.status, deleted.status) == (405, 405)


async def test_discovery_shows_the_group(api: Api) -> None:
    groups = (await api.get("/apis")).ok()["groups"]
    resources = (await api.get(GROUP)).ok()["resources"]

    assert "metrics.k8s.io" in [group["name"] for group in groups]
    assert {r["name"]: (r["kind"], r["verbs"]) for r in resources} == {
        "nodes": ("NodeMetrics", ["get", "list"]),
        "pods": ("PodMetrics", ["get", "list"]),
    }
    paths = (await api.get("/openapi/v3")).ok()["paths"]
    assert "apis/metrics.k8s.io/v1beta1" not in paths


async def test_viewers_may_read_measurements(api: Api) -> None:
    view = (await api.get("/apis/rbac.authorization.k8s.io/v1/clusterroles/system:aggregated-metrics-reader")).ok()

    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert view["rules"] == [
        {"apiGroups": ["metrics.k8s.io"], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}
    ]
