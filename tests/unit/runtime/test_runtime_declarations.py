"""From declarations: what may be written, the CRD, the RBAC rules, the graph."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import field

from trimtab.api import JSON, Condition, Model, Ref, Resource, resource
from trimtab.api.core import ConfigMap, Pod, PodTemplateSpec, Secret
from trimtab.api.networking import Ingress
from trimtab.api.storage import VolumeSnapshot
from trimtab.runtime import Component, Desired, FieldWrite, Owned, Service, Undeclared, Writes, reconciler
from trimtab.runtime.crd import crd
from trimtab.runtime.declared import Declared, field_paths
from trimtab.runtime.graph import conflicts, graph
from trimtab.runtime.guard import resource_place
from trimtab.runtime.rbac import as_json, reader_rules, rules


class Port(Model):
    name: str
    number: Annotated[int, msgspec.Meta(ge=1, le=65535)]


class GadgetSpec(Model):
    """What the gadget should be."""

    size: Literal["small", "large"]
    """How big it is."""
    name: Annotated[str, msgspec.Meta(pattern="^[a-z]+$", max_length=10)] = "x"
    ports: list[Port] = []
    limit: int | str | None = None
    ratio: float = 1.0
    template: PodTemplateSpec | None = None
    anything: Any = None
    env: dict[str, str] = {}
    at: datetime | None = None


class GadgetStatus(Model):
    conditions: list[Condition] = []


@resource(
    "declared.trimtab.dev/v1",
    "gadgets",
    short_names=("gd",),
    scale={"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
    columns=(("Size", "string", ".spec.size"),),
)
class Gadget(Resource):
    """A gadget."""

    spec: GadgetSpec = field(default_factory=lambda: GadgetSpec(size="small"))
    status: GadgetStatus = field(default_factory=GadgetStatus)


async def function(subject: Any, ctx: Any) -> Desired:
    return Desired()


MADE = reconciler(
    Gadget,
    name="make",
    reads=[Ingress],
    owns=[ConfigMap, Owned(Secret, retain=True)],
    writes=[Writes(Pod, ("spec.nodeName", "status.conditions[Ready]", "metadata.annotations[x.dev/y]"))],
    effects=True,
)(function)
GADGETS = Component(
    name="gadgets",
    summary="",
    kinds=(Gadget,),
    reconcilers=(MADE,),
    services=(Service("serve", function, reads=(Pod,)),),  # type: ignore[arg-type]
)
TARGET = Ref("v1", "Pod", "n", "p")


def test_a_crd_says_what_the_struct_says() -> None:
    made = crd(Gadget)

    assert made["metadata"] == {"name": "gadgets.declared.trimtab.dev"}
    assert made["spec"]["names"] == {
        "kind": "Gadget",
        "listKind": "GadgetList",
        "plural": "gadgets",
        "singular": "gadget",
        "shortNames": ["gd"],
    }
    version = made["spec"]["versions"][0]
    assert set(version["subresources"]) == {"status", "scale"}
    assert version["additionalPrinterColumns"] == [{"name": "Size", "type": "string", "jsonPath": ".spec.size"}]
    schema = version["schema"]["openAPIV3Schema"]
    assert schema["description"] == "A gadget."
    spec = schema["properties"]["spec"]
    assert spec["description"] == "What the gadget should be."
    assert spec["required"] == ["size"]
    properties = spec["properties"]
    assert properties["size"] == {"type": "string", "enum": ["large", "small"], "description": "How big it is."}
    assert properties["name"] == {"type": "string", "pattern": "^[a-z]+$", "maxLength": 10}
    assert properties["ports"] == {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name", "number"],
            "properties": {
                "name": {"type": "string"},
                "number": {"type": "integer", "format": "int64", "minimum": 1, "maximum": 65535},
            },
        },
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    }
    assert properties["limit"] == {"x-kubernetes-int-or-string": True}
    assert properties["ratio"] == {"type": "number"}
    assert properties["anything"] == {"x-kubernetes-preserve-unknown-fields": True}
    assert properties["env"] == {"type": "object", "additionalProperties": {"type": "string"}}
    assert properties["at"] == {"type": "string", "format": "date-time"}
    assert properties["template"]["properties"]["metadata"] == {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }
    conditions = schema["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


def test_a_kind_that_contains_itself_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"Recursive.spec.inner: Nested contains itself"):
        crd(Recursive)


class Nested(Model):
    inner: Nested | None = None


@resource("declared.trimtab.dev/v1", "recursives")
class Recursive(Resource):
    spec: Nested = field(default_factory=Nested)


@pytest.mark.parametrize(
    ("fields", "paths"),
    [
        ({"spec": {"nodeName": "n"}}, ["spec.nodeName"]),
        ({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, ["status.conditions[Ready]"]),
        (
            {"metadata": {"annotations": {"x.dev/y": "1", "plain": "2"}}},
            ["metadata.annotations[x.dev/y]", "metadata.annotations.plain"],
        ),
        ({"spec": {"list": [1, 2], "empty": {}}}, ["spec.list", "spec.empty"]),
    ],
)
def test_paths_of_fields(fields: JSON, paths: list[str]) -> None:
    assert list(field_paths(fields)) == paths


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (FieldWrite(TARGET, {"spec": {"nodeName": "n"}}), None),
        (FieldWrite(TARGET, {"status": {"conditions": [{"type": "Ready"}]}}, "status"), None),
        (FieldWrite(TARGET, {"metadata": {"annotations": {"x.dev/y": "1"}}}), None),
        (
            FieldWrite(TARGET, {"spec": {"nodeName": "n", "hostname": "h"}}),
            "gadgets.make writes spec.hostname of Pod: writes=[...] allows only spec.nodeName, status.conditions[Ready], "
            "metadata.annotations[x.dev/y]",
        ),
        (FieldWrite(TARGET, {"spec": {"nodeNameX": "n"}}), "gadgets.make writes spec.nodeNameX of Pod"),
        (
            FieldWrite(TARGET, {"status": {"conditions": [{"type": "Other"}]}}, "status"),
            "gadgets.make writes status.conditions[Other] of Pod",
        ),
        (
            FieldWrite(TARGET, {"status": {"conditions": [{"type": "Ready"}]}}),
            "gadgets.make writes status.conditions[Ready]: status fields, and only these, need subresource='status'",
        ),
        (
            FieldWrite(Ref("v1", "Secret", "n", "s"), {"data": {"a": "b"}}),
            "gadgets.make writes fields of Secret: add it to writes=[Writes(...)]",
        ),
    ],
)
def test_only_declared_fields(write: FieldWrite, says: str | None) -> None:
    declared = Declared("gadgets", MADE)
    if says is None:
        assert declared.check_write(write) is Pod
        return

    with pytest.raises(Undeclared) as caught:
        declared.check_write(write)

    assert str(caught.value).startswith(says)


def test_rbac_is_what_was_declared() -> None:
    found = as_json(rules([GADGETS]))

    def verbs(group: str, name: str) -> list[str]:
        return next((r["verbs"] for r in found if group in r["apiGroups"] and name in r["resources"]), [])

    assert verbs("networking.k8s.io", "ingresses") == ["get", "list", "watch"]
    assert verbs("", "secrets") == ["create", "delete", "get", "list", "patch", "watch"]
    assert verbs("", "pods") == ["get", "list", "patch", "watch"]
    assert verbs("", "pods/status") == ["patch"]
    assert verbs("declared.trimtab.dev", "gadgets/status") == ["patch"]
    assert verbs("trimtab.dev", "effects") == ["create", "delete", "get", "list", "patch", "watch"]
    assert verbs("", "nodes") == []
    assert all("*" not in r["verbs"] + r["resources"] + r["apiGroups"] for r in found)


def test_rbac_of_a_place_is_what_runs_there() -> None:
    elsewhere = as_json(rules([GADGETS], "node"))
    assert not any("gadgets" in rule["resources"] for rule in elsewhere)
    assert as_json(rules([GADGETS], "controllers")) == as_json(rules([GADGETS]))


def test_a_reader_sees_what_is_worked_on_but_what_is_hidden_and_writes_nothing() -> None:
    found = as_json(reader_rules([GADGETS], hidden=[Secret]))

    assert {verb for rule in found for verb in rule["verbs"]} == {"get", "list", "watch"}
    resources = {name for rule in found for name in rule["resources"]}
    assert {"gadgets", "ingresses", "configmaps", "pods"} <= resources
    assert "secrets" not in resources


def test_the_graph() -> None:
    drawn = graph([GADGETS])

    assert drawn.to_text().splitlines() == [
        "gadgets.make",
        "  subject  Gadget.declared.trimtab.dev (effects)",
        "  reads    Ingress.networking.k8s.io",
        "  owns     ConfigMap, Secret (retained)",
        "  writes   Pod (spec.nodeName, status.conditions[Ready], metadata.annotations[x.dev/y])",
        "gadgets.serve",
        "  reads    Pod",
    ]
    assert {"who": "gadgets.make", "relation": "owns", "kind": "Secret", "detail": "retained"} in drawn.to_json()[
        "edges"
    ]
    assert '"gadgets.make" -> "Secret";' in drawn.to_dot()


def test_an_exclusive_kind_has_one_owner() -> None:
    def owner(name: str, shared: bool) -> Component:
        made = reconciler(Gadget, name="r", owns=[Owned(ConfigMap, shared=shared)])(function)
        return Component(name=name, summary="", reconcilers=(made,))

    assert conflicts([owner("a", False), owner("b", True)]) == ["ConfigMap is owned by a alone, but b creates it too"]
    assert conflicts([owner("a", True), owner("b", True)]) == []


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/api/v1/pods", ("v1", "pods")),
        ("/api/v1/namespaces", ("v1", "namespaces")),
        ("/api/v1/namespaces/shop", ("v1", "namespaces")),
        ("/api/v1/namespaces/shop/pods/web/status", ("v1", "pods")),
        ("/apis/apps/v1/namespaces/shop/deployments/web", ("apps/v1", "deployments")),
        ("/apis/apps/v1/deployments", ("apps/v1", "deployments")),
        ("/version", None),
        ("/apis/apps/v1", None),
    ],
)
def test_what_a_path_names(path: str, place: tuple[str, str] | None) -> None:
    assert resource_place(path) == place


def test_a_definition_in_a_group_of_kubernetes_says_that_it_is_not_the_approved_one() -> None:
    [(name, reason)] = crd(VolumeSnapshot)["metadata"]["annotations"].items()
    assert name == "api-approved.kubernetes.io"
    assert reason.startswith("unapproved")
