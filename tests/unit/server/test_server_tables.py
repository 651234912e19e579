"""What `kubectl get` prints: ages, pod states, JSONPath, columns of built-in kinds."""

from __future__ import annotations

from typing import Any

import pytest

from api_in_process import Api
from trimtab.server import jsonpath
from trimtab.server.pod_columns import pod_state
from trimtab.server.tables import duration

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (185, "3m5s"),
        (3_600, "60m"),
        (4 * 3_600 + 120, "4h2m"),
        (30 * 3_600, "30h"),
        (3 * 86_400, "3d"),
        (3 * 86_400 + 7_200, "3d2h"),
        (100 * 86_400, "100d"),
        (800 * 86_400, "2y70d"),
        (4_000 * 86_400, "10y"),
    ],
)
def test_ages(seconds: int, text: str) -> None:
    assert duration(seconds) == text


def pod(phase: str = "Running", **more: Any) -> dict[str, Any]:
    return {"metadata": {}, "spec": {}, "status": {"phase": phase, **more}}


def container(ready: bool = False, **state: Any) -> dict[str, Any]:
    return {"name": "c", "ready": ready, "state": state}


@pytest.mark.parametrize(
    ("obj", "word"),
    [
        (pod("Pending"), "Pending"),
        (pod(containerStatuses=[container(True, running={})]), "Running"),
        (pod(containerStatuses=[container(waiting={"reason": "CrashLoopBackOff"})]), "CrashLoopBackOff"),
        (pod("Failed", containerStatuses=[container(terminated={"exitCode": 3})]), "ExitCode:3"),
        (pod("Failed", containerStatuses=[container(terminated={"signal": 9, "exitCode": 137})]), "Signal:9"),
        (pod("Succeeded", containerStatuses=[container(terminated={"reason": "Completed"})]), "Completed"),
        (pod("Failed", reason="Evicted"), "Evicted"),
        ({**pod(), "metadata": {"deletionTimestamp": "x"}}, "Terminating"),
        (
            {
                **pod("Pending", initContainerStatuses=[{"name": "i", "state": {"running": {}}}]),
                "spec": {"initContainers": [{"name": "i"}, {"name": "j"}]},
            },
            "Init:0/2",
        ),
        (
            {
                **pod("Pending", initContainerStatuses=[{"name": "i", "state": {"terminated": {"exitCode": 1}}}]),
                "spec": {"initContainers": [{"name": "i"}]},
            },
            "Init:ExitCode:1",
        ),
    ],
)
def test_the_one_word_of_a_pod(obj: dict[str, Any], word: str) -> None:
    assert pod_state(obj) == word


OBJECT = {
    "spec": {"a": 1, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}], "flag": True},
    "metadata": {"labels": {"a.b/c": "L"}},
    "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".spec.a", [1]),
        ("spec.a", [1]),
        ("{.spec.a}", [1]),
        (".spec.missing", []),
        (".spec.list[0].n", ["x"]),
        (".spec.list[-1].n", ["y"]),
        (".spec.list[*].v", [1, 2]),
        (".metadata.labels.a\\.b/c", ["L"]),
        (".metadata.labels['a.b/c']", ["L"]),
        ('.status.conditions[?(@.type=="Ready")].status', ["True"]),
        (".status.conditions[?(@.type!='Ready')].type", ["Other"]),
    ],
)
def test_jsonpath(path: str, found: list[Any]) -> None:
    assert jsonpath.find(OBJECT, path) == found


def test_a_jsonpath_of_another_kind_is_named() -> None:
    with pytest.raises(ValueError, match=r"\.\.x: this JSONPath is not understood from '\.\.x' on"):
        jsonpath.compile_path("..x")


async def test_a_table_has_the_columns_that_people_know(api: Api) -> None:
    deployments = "/apis/apps/v1/namespaces/default/deployments"
    spec = {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "web:1"}]},
        },
    }
    (await api.post(deployments, {"metadata": {"name": "web"}, "spec": spec})).ok()

    table = (await api.get(deployments, accept=TABLE)).ok()

    names = [column["name"] for column in table["columnDefinitions"]]
    assert names == ["Name", "Ready", "Up-to-date", "Available", "Age", "Containers", "Images", "Selector"]
    cells = table["rows"][0]["cells"]
    assert cells[:4] == ["web", "0/2", 0, 0]
    assert cells[5:] == ["c", "web:1", "app=web"]
    assert len(table["metadata"]["resourceVersion"]) > 0


async def test_every_builtin_kind_fills_its_columns(api: Api) -> None:
    from trimtab.server.columns import BUILTIN

    for (group, kind), (columns, cells) in BUILTIN.items():
        made = cells({"metadata": {"name": "x"}}, api.server.clock.now())
        assert len(made) == len(columns), f"{group} {kind}"


async def test_a_watched_table_names_its_columns_once(api: Api) -> None:
    configs = "/api/v1/namespaces/default/configmaps"
    watch = await api.watch(f"{configs}?watch=1", accept=TABLE)
    for name in ("a", "b"):
        (await api.post(configs, {"metadata": {"name": name}, "data": {"x": "1"}})).ok()

    first, second = await watch.next(), await watch.next()

    assert first["object"]["kind"] == "Table"
    assert [c["name"] for c in first["object"]["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert second["object"]["columnDefinitions"] is None
    assert second["object"]["rows"][0]["cells"][:2] == ["b", 1]
    await watch.close()


async def test_metadata_alone(api: Api) -> None:
    accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
    listed = (await api.get("/api/v1/namespaces", accept=accept)).ok()

    assert listed["kind"] == "PartialObjectMetadataList"
    assert set(listed["items"][0]) == {"kind", "apiVersion", "metadata"}
    refused = await api.get("/api/v1/namespaces", accept="text/html")
    assert (refused.status, refused.message) == (
        406,
        "only the following media types are accepted: application/json",
    )


async def test_discovery_in_both_forms(api: Api) -> None:
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    core = (await api.get("/api", accept=accept)).ok()
    pods = next(r for r in core["items"][0]["versions"][0]["resources"] if r["resource"] == "pods")
    assert pods["scope"] == "Namespaced"
    assert {s["subresource"] for s in pods["subresources"]} == {
        "attach",
        "binding",
        "ephemeralcontainers",
        "eviction",
        "exec",
        "log",
        "portforward",
        "proxy",
        "resize",
        "status",
    }
    assert (await api.get("/api")).ok()["versions"] == ["v1"]
    groups = (await api.get("/apis")).ok()["groups"]
    assert next(g for g in groups if g["name"] == "apps")["preferredVersion"]["groupVersion"] == "apps/v1"
    assert (await api.get("/apis/batch")).ok()["kind"] == "APIGroup"
    unchanged = await api.get(
        "/apis", accept=accept, if_none_match=(await api.get("/apis", accept=accept)).headers["etag"]
    )
    assert unchanged.status == 304
    assert (await api.get("/apis/nothing")).status == 404
