"""OpenAPI v3: what kubectl looks for in the documents, and that each is complete in itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from api_in_process import Api
from trimtab.server import openapi
from trimtab.server.builtin_kinds import BUILTIN_KINDS
from trimtab.server.kinds import Kind, Scale

GROUPS = sorted({(kind.group, kind.version) for kind in BUILTIN_KINDS})
WIDGET = Kind("x.dev", "v1", "Widget", "widgets", crd="/crds/widgets.x.dev", status=True, scale=Scale())
SCHEMA = {"type": "object", "description": "A widget.", "properties": {"spec": {"type": "object"}}}


def documented(group: str, version: str) -> dict[str, Any]:
    kinds = [kind for kind in BUILTIN_KINDS if (kind.group, kind.version) == (group, version)]
    return openapi.document(kinds, lambda kind: None)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield path, method, operation


@pytest.mark.parametrize(("group", "version"), GROUPS)
def test_a_document_is_complete(group: str, version: str) -> None:
    document = documented(group, version)

    components = document["components"]["schemas"]
    assert {name for name in openapi._references(document) if name not in components} == set()
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(("group", "version"), GROUPS)
def test_kubectl_finds_the_parameters_it_looks_for(group: str, version: str) -> None:
    found = list(operations(documented(group, version)))

    assert found
    for path, method, operation in found:
        names = {parameter["name"] for parameter in operation["parameters"]}
        if method in ("patch", "post", "put"):
            assert {"dryRun", "fieldManager", "fieldValidation"} <= names, path
        assert operation["x-kubernetes-group-version-kind"]["kind"], path


def test_every_kind_has_its_patch_under_its_own_name() -> None:
    document = documented("apps", "v1")

    patch = document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert patch["x-kubernetes-group-version-kind"] == {"group": "apps", "version": "v1", "kind": "Deployment"}
    assert "force" in {parameter["name"] for parameter in patch["parameters"]}
    assert "application/strategic-merge-patch+json" in patch["requestBody"]["content"]


def test_components_are_of_openapi_v3() -> None:
    components = documented("apps", "v1")["components"]["schemas"]

    deployment = components["io.k8s.api.apps.v1.Deployment"]
    assert deployment["x-kubernetes-group-version-kind"] == [{"group": "apps", "kind": "Deployment", "version": "v1"}]
    assert deployment["type"] == "object"
    assert "enum" not in deployment["properties"]["kind"]
    spec = deployment["properties"]["spec"]
    assert spec["allOf"] == [{"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"}]
    containers = components["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert (containers["x-kubernetes-patch-merge-key"], containers["x-kubernetes-patch-strategy"]) == ("name", "merge")
    assert components["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["oneOf"] == [
        {"type": "string"},
        {"type": "integer"},
    ]


def test_a_custom_kind_shows_its_own_schema() -> None:
    document = openapi.document([WIDGET], lambda kind: SCHEMA)

    component = document["components"]["schemas"]["dev.x.v1.Widget"]
    assert component["description"] == "A widget."
    assert component["properties"]["spec"] == {"type": "object"}
    assert component["properties"]["metadata"]["allOf"][0]["$ref"].endswith("meta.v1.ObjectMeta")
    assert component["x-kubernetes-group-version-kind"] == [{"group": "x.dev", "version": "v1", "kind": "Widget"}]
    paths = document["paths"]
    item = "/apis/x.dev/v1/namespaces/{namespace}/widgets/{name}"
    assert {item, f"{item}/status", f"{item}/scale"} < set(paths)
    assert "application/strategic-merge-patch+json" not in paths[item]["patch"]["requestBody"]["content"]
    assert paths[f"{item}/scale"]["get"]["x-kubernetes-group-version-kind"]["kind"] == "Scale"
    assert "properties" not in SCHEMA["properties"]["spec"]  # type: ignore[index]


def test_a_custom_kind_without_a_schema() -> None:
    document = openapi.document([WIDGET], lambda kind: None)

    assert document["components"]["schemas"]["dev.x.v1.Widget"]["type"] == "object"


async def test_the_index_names_every_document_with_a_hash_that_changes(api: Api) -> None:
    before = (await api.get("/openapi/v3")).ok()["paths"]
    assert "api/v1" in before
    assert "apis/apps/v1" in before
    url = before["apis/apps/v1"]["serverRelativeURL"]

    answer = await api.get(url)

    assert answer.ok()["openapi"] == "3.0.0"
    assert "immutable" in answer.headers["cache-control"]
    assert (await api.get("/openapi/v3")).ok()["paths"] == before
    assert (await api.get("/openapi/v3/apis/nothing/v1")).status == 404
