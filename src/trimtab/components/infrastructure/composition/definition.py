"""A CompositeDefinition -> the CustomResourceDefinition of its kind, and who may do what with all such kinds."""

from __future__ import annotations

from collections.abc import Iterable

from trimtab.api import JSON, ObjectMeta
from trimtab.api.cluster import ClusterRole, CustomResourceDefinition, PolicyRule
from trimtab.components.infrastructure.composition.fields import schema, status_schema
from trimtab.components.infrastructure.composition.kinds import Claim, CompositeDefinition, plural
from trimtab.components.infrastructure.composition.terms import EDIT_ROLE, ROLE, VIEW_ROLE
from trimtab.runtime.crd import kind_schema

__all__ = ["crd", "crd_name", "granted", "refused"]

OWN_GROUPS = ("trimtab.dev", "k8s.io", "kubernetes.io")
COLUMNS: list[JSON] = [
    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"},
    {"name": "Synced", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Synced')].status"},
    {"name": "Message", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].message", "priority": 1},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]
_LABEL = "rbac.authorization.k8s.io/aggregate-to-"
_READ = ["get", "list", "watch"]
_WRITE = ["create", "update", "patch", "delete", "deletecollection"]
_CONTROL = ["get", "list", "watch", "patch", "update", "delete"]
_CHILDREN = ["get", "list", "watch", "create", "patch", "delete"]


def refused(made: CompositeDefinition) -> str:
    """Why an API cannot have this definition, beside its fields; empty when it can."""
    spec = made.spec
    if any(spec.group == own or spec.group.endswith(f".{own}") for own in OWN_GROUPS):
        return f"spec.group: {spec.group} is not yours: take a domain of your own"
    if bool(spec.compose.source) == bool(spec.compose.package):
        return "spec.compose: give either source or package"
    if spec.compose.package and spec.compose.function.startswith("source:"):
        return "spec.compose.function: name the function of the package: acme_platform:compose"
    if made.name != crd_name(made):
        return f"metadata.name: it has to be {crd_name(made)}"
    return ""


def crd_name(made: CompositeDefinition) -> str:
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


def granted(made: Iterable[CompositeDefinition], children: Iterable[tuple[str, str]]) -> list[ClusterRole]:
    """The roles for all of these kinds, which the engine binds. children: (group, plural) of what claims are composed of, for the controllers alone."""
    own: dict[str, set[str]] = {}
    for one in made:
        own.setdefault(one.spec.group, set()).add(plural(one.spec))
    parts: dict[str, set[str]] = {}
    for group, resource in children:
        parts.setdefault(group, set()).add(resource)

    def rules(found: dict[str, set[str]], verbs: list[str], suffix: str = "") -> list[PolicyRule]:
        return [
            PolicyRule(api_groups=[group], resources=[f"{one}{suffix}" for one in sorted(found[group])], verbs=verbs)
            for group in sorted(found)
        ]

    control = [
        *rules(own, _CONTROL),
        *rules(own, ["patch", "update"], "/status"),
        *rules(own, ["update"], "/finalizers"),
        *rules(parts, _CHILDREN),
    ]
    return [
        ClusterRole(metadata=ObjectMeta(name=ROLE), rules=control),
        ClusterRole(metadata=_labelled(VIEW_ROLE, "view"), rules=rules(own, _READ)),
        ClusterRole(metadata=_labelled(EDIT_ROLE, "edit", "admin"), rules=rules(own, _WRITE)),
    ]


def _labelled(name: str, *roles: str) -> ObjectMeta:
    return ObjectMeta(name=name, labels={f"{_LABEL}{role}": "true" for role in roles})
