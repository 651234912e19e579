"""Custom kinds: from their definition to their objects, columns, subresources and end."""

from __future__ import annotations

from typing import Any

from api_in_process import Api

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WIDGETS = "/apis/shop.example/v1/namespaces/default/widgets"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def widget_crd(**spec: Any) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["size"],
                "properties": {
                    "size": {"type": "integer", "minimum": 1},
                    "color": {"type": "string", "default": "red", "enum": ["red", "blue"]},
                    "replicas": {"type": "integer"},
                },
            },
            "status": {
                "type": "object",
                "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}},
            },
        },
    }
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [
            {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
            {"name": "Owner", "type": "string", "jsonPath": ".metadata.labels.shop\\.example/owner", "priority": 1},
        ],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.shop.example"},
        "spec": {
            "group": "shop.example",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [version],
            **spec,
        },
    }


def widget(name: str = "w", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "shop.example/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": 1, **spec}}


async def test_a_kind_is_served_from_the_moment_its_definition_is_there(api: Api) -> None:
    crd = (await api.post(CRDS, widget_crd())).ok()
    created = (await api.post(WIDGETS, widget())).ok()

    conditions = {c["type"]: c["status"] for c in crd["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}
    assert crd["status"]["storedVersions"] == ["v1"]
    assert crd["spec"]["names"]["listKind"] == "WidgetList"
    assert created["spec"] == {"size": 1, "color": "red"}
    assert created["metadata"]["generation"] == 1
    assert (await api.get(WIDGETS)).ok()["kind"] == "WidgetList"


async def test_a_schema_prunes_and_refuses(api: Api) -> None:
    (await api.post(CRDS, widget_crd())).ok()

    pruned = await api.post(WIDGETS, widget("a", shape="round"))
    wrong = await api.post(WIDGETS, widget("b", size=0, color="green"))

    assert "shape" not in pruned.body["spec"]
    assert pruned.headers["warning"] == '299 - "unknown field \\"spec.shape\\""'
    assert wrong.status == 422
    assert {cause["field"] for cause in wrong.body["details"]["causes"]} == {"spec.size", "spec.color"}


async def test_status_and_scale_of_a_custom_kind(api: Api) -> None:
    (await api.post(CRDS, widget_crd())).ok()
    (await api.post(WIDGETS, widget(replicas=2))).ok()

    stated = (await api.patch(f"{WIDGETS}/w/status", {"status": {"replicas": 1, "selector": "app=w"}})).ok()
    assert stated["metadata"]["generation"] == 1
    scale = (await api.get(f"{WIDGETS}/w/scale")).ok()
    assert (scale["spec"], scale["status"]) == ({"replicas": 2}, {"replicas": 1, "selector": "app=w"})
    (await api.patch(f"{WIDGETS}/w/scale", {"spec": {"replicas": 4}})).ok()
    assert (await api.get(f"{WIDGETS}/w")).ok()["spec"]["replicas"] == 4


async def test_columns_come_from_the_definition(api: Api) -> None:
    (await api.post(CRDS, widget_crd())).ok()
    body = widget(size=3)
    body["metadata"]["labels"] = {"shop.example/owner": "ann"}
    (await api.post(WIDGETS, body)).ok()

    table = (await api.get(WIDGETS, accept=TABLE)).ok()

    assert table["kind"] == "Table"
    assert [(c["name"], c["priority"]) for c in table["columnDefinitions"]] == [("Name", 0), ("Size", 0), ("Owner", 1)]
    assert table["rows"][0]["cells"] == ["w", 3, "ann"]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"


async def test_two_versions_show_one_object(api: Api) -> None:
    crd = widget_crd()
    old = {**crd["spec"]["versions"][0], "name": "v1beta1", "storage": False, "deprecated": True}
    crd["spec"]["versions"].append(old)
    (await api.post(CRDS, crd)).ok()
    beta = WIDGETS.replace("/v1/", "/v1beta1/")

    created = await api.post(beta, {**widget(), "apiVersion": "shop.example/v1beta1"})

    assert created.ok()["apiVersion"] == "shop.example/v1beta1"
    assert created.headers["warning"] == '299 - "shop.example/v1beta1 Widget is deprecated"'
    assert (await api.get(f"{WIDGETS}/w")).ok()["apiVersion"] == "shop.example/v1"
    watch = await api.watch(f"{beta}?watch=1")
    assert (await watch.next())["object"]["apiVersion"] == "shop.example/v1beta1"
    await watch.close()


async def test_a_bad_definition_is_refused_naming_the_paths(api: Api) -> None:
    crd = widget_crd()
    crd["metadata"]["name"] = "gadgets.shop.example"
    crd["spec"]["versions"][0]["storage"] = False
    del crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["type"]

    answer = await api.post(CRDS, crd)

    assert answer.status == 422
    fields = {cause["field"] for cause in answer.body["details"]["causes"]}
    assert "metadata.name" in fields
    assert "spec.versions" in fields
    assert any(field.startswith("spec.validation.openAPIV3Schema") for field in fields)


async def test_names_in_use_are_refused(api: Api) -> None:
    (await api.post(CRDS, widget_crd())).ok()
    other = widget_crd(names={"plural": "gizmos", "kind": "Widget"})
    other["metadata"]["name"] = "gizmos.shop.example"

    answer = await api.post(CRDS, other)

    assert answer.message == (
        'CustomResourceDefinition.apiextensions.k8s.io "gizmos.shop.example" is invalid: [spec.names: Invalid value: '
        '"widget": already in use by widgets.shop.example, spec.names: Invalid value: "Widget": already in use by '
        "widgets.shop.example]"
    )


async def test_the_objects_go_with_their_definition(api: Api) -> None:
    (await api.post(CRDS, widget_crd())).ok()
    (await api.post(WIDGETS, widget("a"))).ok()
    held = widget("held")
    held["metadata"]["finalizers"] = ["shop.example/hold"]
    (await api.post(WIDGETS, held)).ok()

    (await api.delete(f"{CRDS}/widgets.shop.example")).ok()
    await api.gone(f"{WIDGETS}/a")
    late = await api.post(WIDGETS, widget("late"))
    assert (late.status, late.message) == (
        405,
        "create not allowed while custom resource definition is terminating",
    )
    (await api.patch(f"{WIDGETS}/held", {"metadata": {"finalizers": None}})).ok()

    await api.gone(f"{CRDS}/widgets.shop.example")
    assert (await api.get(WIDGETS)).status == 404
    assert [r.key for r in api.server.store.list("/shop.example/")] == []


async def test_discovery_knows_custom_kinds(api: Api) -> None:
    (await api.post(CRDS, widget_crd())).ok()

    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    aggregated = await api.get("/apis", accept=accept)
    group = next(item for item in aggregated.ok()["items"] if item["metadata"]["name"] == "shop.example")
    [resource] = group["versions"][0]["resources"]
    assert resource["resource"] == "widgets"
    assert resource["shortNames"] == ["wd"]
    assert [sub["subresource"] for sub in resource["subresources"]] == ["scale", "status"]
    assert aggregated.headers["content-type"].endswith("as=APIGroupDiscoveryList")

    legacy = (await api.get("/apis/shop.example/v1")).ok()
    assert [line["name"] for line in legacy["resources"]] == ["widgets", "widgets/scale", "widgets/status"]
