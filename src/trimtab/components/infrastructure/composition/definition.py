"""A CompositeDefinition -> the CustomResourceDefinition of its kind."""

from __future__ import annotations

from trimtab.api import JSON, ObjectMeta
from trimtab.api.cluster import CustomResourceDefinition
from trimtab.components.infrastructure.composition.fields import schema, status_schema
from trimtab.components.infrastructure.composition.kinds import Claim, CompositeDefinition, plural
from trimtab.runtime.crd import kind_schema

__all__ = ["crd", "crd_name", "refused"]

OWN_GROUPS = ("trimtab.dev", "k8s.io", "kubernetes.io")
COLUMNS: list[JSON] = [
    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"},
    {"name": "Synced", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Synced')].status"},
    {"name": "Message", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].message", "priority": 1},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]


def refused(made: CompositeDefinition) -> str:
    """Why an API cannot have this definition, beside its fields; empty when it can."""
    spec = made.spec
    if any(spec.group == own or spec.group.endswith(f".{own}") for own in OWN_GROUPS):
        return f"spec.group: {spec.group} is not yours: take a domain of your own"
    if bool(spec.compose.source) == bool(spec.compose.package):
        return "spec.compose: give either source or package"
    if spec.compose.package and spec.compose.function.startswith("source:"):
        return "spec.compose.function: name the function of the package: acme_platform:compose"
    for number, one in enumerate(spec.composes):
        if (one.api_version, one.kind) == ("v1", "Secret"):
            return f"spec.composes[{number}]: a Secret cannot be composed: refer to one by name, or use spec.connection"
    if made.name != crd_name(made):
        return f"metadata.name: it has to be {crd_name(made)}"
    return ""


def crd_name(made: CompositeDefinition) -> str:
    """The name of the CustomResourceDefinition of its kind."""
    return f"{plural(made.spec)}.{made.spec.group}"


def crd(made: CompositeDefinition) -> CustomResourceDefinition:
    """The definition of its kind. Raises `BadField`."""
    spec = made.spec
    own = schema(spec.fields, "spec.fields")
    common = kind_schema(Claim)["properties"]["status"]
    status = status_schema(spec.status, "spec.status")
    description = f"Composed by {made.name}."
    names: JSON = {
        "kind": spec.names.kind,
        "listKind": f"{spec.names.kind}List",
        "plural": plural(spec),
        "singular": spec.names.kind.lower(),
        "categories": ["claims"],
    }
    if spec.names.short_names:
        names["shortNames"] = list(spec.names.short_names)
    whole: JSON = {
        "type": "object",
        "description": description,
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": own,
            "status": common | {"properties": {**common["properties"], **status["properties"]}},
        },
    }
    if own.get("required"):
        whole["required"] = ["spec"]
    else:
        own["default"] = {}
    version: JSON = {
        "name": spec.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": whole},
        "subresources": {"status": {}},
        "additionalPrinterColumns": COLUMNS,
    }
    return CustomResourceDefinition(
        metadata=ObjectMeta(name=crd_name(made)),
        spec={"group": spec.group, "names": names, "scope": "Namespaced", "versions": [version]},
    )
