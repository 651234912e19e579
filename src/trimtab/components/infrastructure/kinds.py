"""The kinds of infrastructure: which provider there is, with which credential, and what every resource of a provider has in common.

    Provider (its program, which of its kinds are enabled) <-- ProviderConfig (credential) <-- objects of the enabled kinds

A provider's own kinds are made while the engine runs (`managed_kind`), from its schema; `Managed` is what all of them look like.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, MsgspecError, field, json

from trimtab.api import Condition, Model, Resource, resource
from trimtab.components.infrastructure.schemas import naming
from trimtab.components.infrastructure.schemas.changes import Change

Name = Annotated[str, Meta(min_length=1, max_length=253)]
Duration = Annotated[str, Meta(pattern=r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$", min_length=2)]


class ProviderSpec(Model):
    source: Name
    """Where it comes from: `NAMESPACE/NAME` of a registry, or the path of its program."""
    version: str = ""
    checksum: str = ""
    """`sha256:` of its program: what was installed is what runs."""
    kinds: list[Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=128)]] = []
    """The resources that are enabled, by the provider's names: `linode_lke_cluster`."""
    memory: Annotated[str, Meta(pattern=r"^[1-9][0-9]*(Mi|Gi)$")] = "2Gi"
    """What each of its processes may have; there is one for each credential in use."""


class ProviderStatus(Model):
    observed_generation: int = 0
    resources: int = 0
    """How many kinds of resources it has."""
    enabled: int = 0
    conditions: list[Condition] = []


@resource(
    "trimtab.dev/v1alpha1",
    "providers",
    namespaced=False,
    columns=(
        ("Source", "string", ".spec.source"),
        ("Version", "string", ".spec.version"),
        ("Enabled", "integer", ".status.enabled"),
        ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status"),
        ("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ),
)
class Provider(Resource):
    """A Terraform provider whose resources can be kinds of this API. Made by `trimtab provider install`."""

    spec: ProviderSpec = field(default_factory=lambda: ProviderSpec(source="?"))
    status: ProviderStatus = field(default_factory=ProviderStatus)


VERSIONS = "trimtab.dev/versions"
"""Annotation of a Provider: the versions whose programs are on this machine, JSON of version -> checksum."""


DEFINED = "trimtab.dev/definitions"
"""Annotation of a Provider: the mark of the definitions of its kinds (`definitions.py`)."""


def versions_of(provider: Provider | None) -> dict[str, str]:
    """The versions of a provider that are on this machine: version -> checksum."""
    raw = provider.metadata.annotations.get(VERSIONS, "") if provider is not None else ""
    try:
        return json.decode(raw, type=dict[str, str]) if raw else {}
    except MsgspecError:
        return {}


class SecretKey(Model):
    name: Name
    key: Name


class ProviderRef(Model):
    name: Name = "default"


class Ephemeral(Model):
    """A value that is had anew each time it is needed and is kept nowhere: a field of an ephemeral resource of a provider."""

    type: Name
    """The ephemeral resource, by the provider's name: `vault_token`."""
    field: Name
    """What of it is taken, by the provider's name: `client_token`."""
    config: dict[str, Any] = {}
    """Its configuration, by the provider's names."""
    secrets: dict[str, SecretKey] = {}
    """Fields of that which are in Secrets of this namespace."""
    provider_ref: ProviderRef | None = None
    """The credential that opens it. None: that of the object; a ProviderConfig has to name another one."""
    version: str = ""
    """Of an object: another one, and the field is sent again, with a new value."""


class ProviderConfigSpec(Model):
    provider: Name
    config: dict[str, Any] = {}
    """The provider's own configuration, by its names: `url`, `region`."""
    secrets: dict[str, SecretKey] = {}
    """Fields of it that are in Secrets of this namespace: `token: {name: linode, key: token}`."""
    ephemeral: dict[str, Ephemeral] = {}
    """Fields of it that are had from ephemeral resources of another provider, each time that a process is configured."""
    requests_per_second: Annotated[float, Meta(gt=0, le=1000)] = 2.0
    """Reads of resources that are made with this credential, at most."""
    removals_per_interval: Annotated[int, Meta(ge=0)] = 3
    """How many resources may be made anew because they are gone, or replaced, within ten minutes: a credential that lost its rights sees
    nothing anywhere, and must not make everything a second time."""


def secrets_of(spec: ProviderConfigSpec) -> set[str]:
    """The names of the Secrets that a credential is made of."""
    inner = [ref.name for one in spec.ephemeral.values() for ref in one.secrets.values()]
    return {*(ref.name for ref in spec.secrets.values()), *inner}


class MadeAnew(Model):
    """Something that was made anew, or was to be."""

    what: str
    """The uid of its object, and which of its lives ended."""
    at: str


class ProviderConfigStatus(Model):
    observed_generation: int = 0
    made_anew: list[MadeAnew] = []
    """What counts for removalsPerInterval: within the last ten minutes, or a little longer."""
    behind: str = ""
    """That its objects cannot be looked at in their intervals at requestsPerSecond, with the figures; empty while they can."""
    conditions: list[Condition] = []


@resource(
    "trimtab.dev/v1alpha1",
    "providerconfigs",
    columns=(
        ("Provider", "string", ".spec.provider"),
        ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status"),
        ("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ),
)
class ProviderConfig(Resource):
    """A credential of a provider, for the objects of its namespace."""

    spec: ProviderConfigSpec = field(default_factory=lambda: ProviderConfigSpec(provider="?"))
    status: ProviderConfigStatus = field(default_factory=ProviderConfigStatus)


TOLD_OF_CONFIG = ("status.madeAnew", "status.behind")
"""The fields of a ProviderConfig that the objects' reconcilers write."""


TimeOfDay = Annotated[str, Meta(pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$")]


class Maintenance(Model):
    """A window in which what exists may be changed."""

    days: list[Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]] = []
    """On which it opens; none named: on every one."""
    start: TimeOfDay = "00:00"
    end: TimeOfDay = "00:00"
    """Not after the start: on the day after."""
    time_zone: Name = "UTC"


class PolicySpec(Model):
    """What may be done without asking."""

    apply: Literal["auto", "onApproval", "never"] = "auto"
    """onApproval: the annotation trimtab.dev/approve has to hold the digest of `status.plan`."""
    replace: Literal["deny", "approve", "auto"] = "deny"
    """What happens to a change for which the resource has to be deleted and made anew."""
    delete: Literal["delete", "orphan", "deny"] = "delete"
    """What happens to the resource when the object is deleted. deny: the object stays."""
    adopt: Annotated[str, Meta(pattern="^(never|ifTagged|id:.+)$")] = "never"
    """never; id:NAME, to take over what exists under this name of the provider's own; or ifTagged: the object's uid is written into
    the resource's tags or labels, and what bears it is known again, whatever was lost."""
    maintenance: Annotated[list[Maintenance], Meta(max_length=16)] = []
    """When what exists may be changed or replaced; none: at any time. Making what is not there, and deleting, wait for none."""


class Connection(Model):
    """A Secret for whoever uses the resource."""

    secret_name: Name
    data: dict[str, str] = {}
    """Key -> template: `{{ kubeconfig | b64decode }}`. None: every sensitive field under its own name."""


class Source(Model):
    """A field of another object of a provider."""

    kind: Name
    name: Name
    field: Name
    """As in its `status.atProvider`: `id`, `network[0].address`."""
    api_version: str = ""
    """None: the same group as this object."""


class Reference(Model):
    """A field of forProvider that is another resource's output."""

    field: Name
    source: Source


class RestoreFrom(Model):
    """What brings back the data of a resource that had to be made anew."""

    job: dict[str, Any]
    """The spec of a Job. It runs once each time that the resource was made anew, never the first time, and the object is Ready only when
    it is complete. Its containers have the connection Secret as environment and under /run/trimtab/connection."""


class ManagedSpec(Model):
    provider_ref: ProviderRef = field(default_factory=ProviderRef)
    """The ProviderConfig, in this namespace, with whose credential it is kept."""
    for_provider: dict[str, Any] = {}
    init_provider: dict[str, Any] = {}
    policy: PolicySpec = field(default_factory=PolicySpec)
    interval: Duration = "1m"
    """How often it is looked whether it still is as it should be."""
    pause: bool = False
    """Nothing is looked at and nothing is done; what exists stays as it is."""
    ignore_changes: list[str] = []
    """Places of forProvider that others may change: `nodePool[*].count`."""
    references: Annotated[list[Reference], Meta(max_length=64)] = []
    """Fields of forProvider that are another resource's output: it is made after that, and deleted before it."""
    ephemeral: dict[str, Ephemeral] = {}
    """Write-only fields of forProvider whose value is had anew each time that it is sent."""
    connection: Connection | None = None
    restore_from: RestoreFrom | None = None


class PlanStatus(Model):
    action: Literal["none", "create", "update", "replace", "delete"] = "none"
    digest: str = ""
    changes: list[Change] = []


class ManagedStatus(Model):
    observed_generation: int = 0
    id: str = ""
    """What the provider calls it."""
    at_provider: dict[str, Any] = {}
    plan: PlanStatus = field(default_factory=PlanStatus)
    """What would be done now, or waits to be."""
    conditions: list[Condition] = []


class Managed(Resource):
    """A resource of a provider, whichever it is."""

    spec: ManagedSpec = field(default_factory=ManagedSpec)
    status: ManagedStatus = field(default_factory=ManagedStatus)


def managed_kind(provider: str, name: str) -> type[Managed]:
    """The struct of one resource of a provider: `linode_lke_cluster` -> LkeCluster in linode.tf.trimtab.dev/v1."""
    kind = naming.kind_name(provider, name)
    made: type[Managed] = type(kind, (Managed,), {"__module__": __name__, "__doc__": f"{name} of {provider}."})
    place = f"{naming.group(provider)}/{naming.VERSION}"
    return resource(place, naming.plural(kind), kind=kind)(made)
