"""The kinds of composition: what an API is made of, and what every object of such an API has in common.

    CompositeDefinition --publishing.py--> a CRD, a role, a reconciler --claims.py--> objects of it and what they are composed of

A definition's own kind is made while the engine runs (`claim_kind`); the kinds of what it is composed of, too (`child_kind`): as they are
on the wire, for what a struct does not name would be lost.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from trimtab.api import Condition, Model, Resource, ResourceType, resource
from trimtab.components.infrastructure.schemas import naming

Name = Annotated[str, Meta(min_length=1, max_length=253)]
KindName = Annotated[str, Meta(pattern=r"^[A-Z][A-Za-z0-9]{0,62}$")]
Group = Annotated[
    str, Meta(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)+$", max_length=200)
]
Version = Annotated[str, Meta(pattern=r"^v[1-9][0-9]*((alpha|beta)[1-9][0-9]*)?$")]
ApiVersion = Annotated[str, Meta(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?v[0-9][a-z0-9]*$", max_length=253)]
PluralName = Annotated[str, Meta(pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$", max_length=63)]
Function = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")]

COMPOSITE_LABEL = "trimtab.dev/composite"
"""On all that a claim is composed of: the claim's name."""
NAME_ANNOTATION = "trimtab.dev/composed-name"
"""The name that the function gave it."""
AFTER_ANNOTATION = "trimtab.dev/composed-after"
"""The names of others that it needs, where no field says so."""
SOURCE_BYTES_MAX = 256 << 10
COMPOSES_MAX = 100


class Names(Model):
    kind: KindName
    plural: str = ""
    """Unless given, from the kind."""
    short_names: list[str] = []


class ComposeSpec(Model):
    """Where the function comes from: `source`, or `package` and `function`."""

    source: Annotated[str, Meta(max_length=SOURCE_BYTES_MAX)] = ""
    """A Python file with a function `compose`."""
    package: str = ""
    """`acme-platform==1.2.0`, which `trimtab composition install` has put on this machine."""
    function: Function = "source:compose"
    """`module:function` within the package."""
    timeout_seconds: Annotated[int, Meta(ge=1, le=60)] = 5
    memory_mi_b: Annotated[int, Meta(ge=64, le=4096)] = field(default=256, name="memoryMiB")
    """Of its process, all of Python included."""


class ComposedKind(Model):
    """A kind of objects that claims are composed of."""

    api_version: ApiVersion
    kind: KindName
    plural: PluralName = ""
    """As its API calls them; unless given, the kind's regular plural."""


class CompositeDefinitionSpec(Model):
    group: Group
    names: Names
    version: Version = "v1alpha1"
    fields: dict[str, Any] = {}
    """What a claim may say: name -> {type, description, required, default, enum, minimum, maximum, minLength, maxLength, pattern,
    immutable, items, fields, values}."""
    status: dict[str, Any] = {}
    """What the function may say in a claim's status, in the same form."""
    connection: dict[str, str] = {}
    """Key -> template, of a claim's connection Secret: `{{ cluster.kubeconfig }}`, `{{ net.status.atProvider.id }}`."""
    composes: Annotated[list[ComposedKind], Meta(max_length=COMPOSES_MAX)] = []
    """The kinds of what its function returns: it may return no other, and an administrator grants the controllers just these."""
    compose: ComposeSpec = field(default_factory=ComposeSpec)


class CompositeDefinitionStatus(Model):
    observed_generation: int = 0
    served: bool = False
    """Whether objects of it can be made."""
    claims: int = 0
    conditions: list[Condition] = []


@resource(
    "trimtab.dev/v1alpha1",
    "compositedefinitions",
    namespaced=False,
    columns=(
        ("Kind", "string", ".spec.names.kind"),
        ("Group", "string", ".spec.group"),
        ("Served", "boolean", ".status.served"),
        ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ),
)
class CompositeDefinition(Resource):
    """An API of your own: its fields, and the Python function that says what an object of it is composed of."""

    spec: CompositeDefinitionSpec = field(
        default_factory=lambda: CompositeDefinitionSpec(group="example.org", names=Names(kind="Example"))
    )
    status: CompositeDefinitionStatus = field(default_factory=CompositeDefinitionStatus)


class Composed(Model):
    """One object of a claim, as its status has it."""

    name: str
    """As the function named it."""
    api_version: str = ""
    kind: str = ""
    object: str = ""
    ready: bool = False
    message: str = ""
    """Why it is not ready."""


class ClaimStatus(Model):
    """What every claim's status has, beside the fields that its function sets."""

    observed_generation: int = 0
    resources: list[Composed] = []
    connection_secret: str = ""
    conditions: list[Condition] = []


class Claim(Resource):
    """An object of a composed API, whichever it is."""

    spec: dict[str, Any] = {}
    status: ClaimStatus = field(default_factory=ClaimStatus)


def claim_kind(spec: CompositeDefinitionSpec) -> type[Claim]:
    """The struct of a definition's kind."""
    kind = spec.names.kind
    made: type[Claim] = type(kind, (Claim,), {"__module__": __name__, "__doc__": f"{kind} of {spec.group}."})
    return resource(f"{spec.group}/{spec.version}", plural(spec), kind=kind)(made)


def plural(spec: CompositeDefinitionSpec) -> str:
    """As the definition says, else the regular form."""
    return spec.names.plural or naming.plural(spec.names.kind)


IRREGULAR = {("trimtab.dev/v1alpha1", "ClusterManifests"): "clustermanifests", ("v1", "Endpoints"): "endpoints"}
"""Kinds whose plural is not the regular form."""


def plural_of(one: ComposedKind) -> str:
    """What the API calls the objects of a kind."""
    return one.plural or IRREGULAR.get((one.api_version, one.kind)) or naming.plural(one.kind)


class Child(Resource, omit_defaults=True):
    """An object of any kind with a namespace, as it is on the wire. What is unset is not there."""

    watched = COMPOSITE_LABEL

    spec: Any | UnsetType = UNSET
    status: Any | UnsetType = UNSET
    data: Any | UnsetType = UNSET
    binary_data: Any | UnsetType = UNSET
    string_data: Any | UnsetType = UNSET
    immutable: Any | UnsetType = UNSET
    type: Any | UnsetType = UNSET
    rules: Any | UnsetType = UNSET
    role_ref: Any | UnsetType = UNSET
    subjects: Any | UnsetType = UNSET
    secrets: Any | UnsetType = UNSET
    image_pull_secrets: Any | UnsetType = UNSET
    automount_service_account_token: Any | UnsetType = UNSET


FIELDS = frozenset(one.encode_name for one in msgspec.structs.fields(Child)) - {"metadata", "status"}
"""What an object may have beside apiVersion, kind and metadata."""


def child_kind(place: ResourceType) -> type[Child]:
    """The struct of a kind of objects that claims are composed of. Not the kind's own struct, where there is one: it does not take its place."""
    made: type[Child] = type(place.kind, (Child,), {"__module__": __name__, "__doc__": f"{place.kind} as it is."})
    made.resource_type = place
    return made
