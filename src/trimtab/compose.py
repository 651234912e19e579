"""What the Python file of a composition imports: `from trimtab.compose import Claim, Composed, Observed, definition`.

    @definition(group="acme.example")
    def compose(xr: Claim[Lab], observed: Observed) -> Composed: ...

A claim comes in with its fields typed, what exists because of it by name with its status; the objects that should exist go out. Only
the standard library: this is all of Trimtab that there is where compositions run (`components/infrastructure/composition`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

S = TypeVar("S")
F = TypeVar("F")
C = TypeVar("C", bound=Callable[..., Any])

NAME_MAX = 253


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What a field may be, beside its type: `Annotated[int, Limit(ge=1, le=20), "How many hosts."]`. A text is the field's description."""

    ge: float | None = None
    le: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    """A regular expression, as the API understands it."""
    immutable: bool = False
    """Once given it stays."""


# What comes in


@dataclass(frozen=True)
class Claim(Generic[S]):
    """An object of the API that is being composed. spec: its fields."""

    name: str
    namespace: str
    spec: S
    uid: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def named(self, name: str) -> str:
        """How the object of that name in `Composed` is called in the namespace: `lab` + `net` -> `lab-net`."""
        return f"{self.name}-{name}"


@dataclass(frozen=True)
class Child:
    """An object of the composite as it was last seen."""

    name: str
    exists: bool = False
    ready: bool = False
    message: str = ""
    """Why it is not ready."""
    kind: str = ""
    status: Mapping[str, Any] = field(default_factory=dict)

    def at(self, path: str, default: Any = None) -> Any:
        """A field of its status: `atProvider.id`, `conditions[0].reason`; `default` while it is not there."""
        found: Any = self.status
        for part in path.replace("[", ".").replace("]", "").split("."):
            if isinstance(found, Mapping) and part in found:
                found = found[part]
            elif isinstance(found, list) and part.isdigit() and int(part) < len(found):
                found = found[int(part)]
            else:
                return default
        return default if found is None else found


class Observed(Mapping[str, Child]):
    """What there is, by the names that `compose` gave. A name that is not there yet is a `Child` that does not exist."""

    def __init__(self, children: Mapping[str, Child]) -> None:
        self._children = dict(children)

    def __getitem__(self, name: str) -> Child:
        return self._children.get(name) or Child(name)

    def __contains__(self, name: object) -> bool:
        return name in self._children

    def __iter__(self) -> Iterator[str]:
        return iter(self._children)

    def __len__(self) -> int:
        return len(self._children)


# What goes out


@dataclass(kw_only=True)
class Resource:
    """An object that should exist. name: unique among those of the claim; the object is called `CLAIM-NAME`.

    after: others that it needs, where no field says so. It is deleted before them.
    """

    name: str = field(kw_only=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    after: Sequence[Resource | str] = ()

    def place(self) -> tuple[str, str]:
        """(apiVersion, kind)."""
        raise TypeError(f"{type(self).__name__} is no kind: use Manifest, or the stubs of a provider")

    def body(self, xr: Claim[Any]) -> dict[str, Any]:
        """All of the object but apiVersion, kind and metadata."""
        return {}


@dataclass(kw_only=True)
class Manifest(Resource):
    """An object of any kind that has a namespace, by its fields: `Manifest("config", "v1", "ConfigMap", {"data": {...}})`."""

    api_version: str = field(kw_only=False)
    kind: str = field(kw_only=False)
    fields: Mapping[str, Any] = field(kw_only=False)

    def place(self) -> tuple[str, str]:
        return self.api_version, self.kind

    def body(self, xr: Claim[Any]) -> dict[str, Any]:
        return dict(self.fields)


@dataclass(frozen=True)
class Output:
    """A field of another resource's `status.atProvider`, which is filled in when it is known."""

    resource: Resource
    field: str


@dataclass(kw_only=True)
class Policy:
    """What may be done to a provider's resource without asking."""

    apply: Literal["auto", "onApproval", "never"] = "auto"
    replace: Literal["deny", "approve", "auto"] = "deny"
    delete: Literal["delete", "orphan", "deny"] = "delete"
    adopt: str = "never"


@dataclass(kw_only=True)
class Managed(Resource, Generic[F]):
    """A resource of a provider. The stubs that `trimtab provider stubs NAME` writes have a class of each enabled kind.

    connection: key -> template, of a Secret for whoever uses it; the Secret is called `CLAIM-NAME-connection`.
    """

    API_VERSION: ClassVar[str] = ""
    KIND: ClassVar[str] = ""
    fields: F = field(kw_only=False)
    initially: Mapping[str, Any] = field(default_factory=dict)
    """Fields that only making it needs."""
    provider: str = "default"
    """Its ProviderConfig."""
    policy: Policy = field(default_factory=Policy)
    interval: str = ""
    ignore_changes: Sequence[str] = ()
    connection: Mapping[str, str] | None = None
    restore: Mapping[str, Any] | None = None
    """The spec of a Job that brings back what was in it, each time that it was made anew."""
    ephemeral: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Write-only fields whose value is had anew each time, as `spec.ephemeral` has them."""

    def place(self) -> tuple[str, str]:
        return self.API_VERSION, self.KIND

    def output(self, name: str) -> Any:
        """What will be its field `name`, to be given to a field of another; in a list such elements are the last."""
        return Output(self, name)

    def body(self, xr: Claim[Any]) -> dict[str, Any]:
        given = plain(self.fields)
        references = []
        for place, value in _outputs(given, ""):
            api_version, kind = value.resource.place()
            source = {"kind": kind, "name": xr.named(value.resource.name), "field": value.field}
            if api_version != self.API_VERSION:
                source["apiVersion"] = api_version
            references.append({"field": place, "source": source})
        given = _without_outputs(given)
        spec: dict[str, Any] = {"providerRef": {"name": self.provider}, "forProvider": given}
        spec |= {"policy": policy} if (policy := _changed(self.policy)) else {}
        spec |= {"initProvider": dict(self.initially)} if self.initially else {}
        spec |= {"ephemeral": plain(dict(self.ephemeral))} if self.ephemeral else {}
        spec |= {"interval": self.interval} if self.interval else {}
        spec |= {"ignoreChanges": list(self.ignore_changes)} if self.ignore_changes else {}
        spec |= {"references": references} if references else {}
        if self.connection is not None:
            spec["connection"] = {"secretName": self.secret_name(xr), "data": dict(self.connection)}
        if self.restore is not None:
            spec["restoreFrom"] = {"job": plain(self.restore)}
        return {"spec": spec}

    def secret_name(self, xr: Claim[Any]) -> str:
        """Its connection Secret."""
        return f"{xr.named(self.name)}-connection"


@dataclass(frozen=True, kw_only=True)
class Inside:
    """A field of one of the manifests, as it is in the cluster: `Inside(kind="App", name="shop", field="status.url")`."""

    kind: str
    name: str
    field: str


@dataclass(kw_only=True)
class ClusterManifests(Resource):
    """Objects inside of another cluster, reached by the kubeconfig in `cluster`'s connection Secret."""

    API_VERSION: ClassVar[str] = "trimtab.dev/v1alpha1"
    KIND: ClassVar[str] = "ClusterManifests"
    cluster: Managed[Any] = field(kw_only=False)
    manifests: Sequence[Mapping[str, Any]] = field(kw_only=False)
    key: str = "kubeconfig"
    """Of the Secret."""
    secrets: Sequence[str] = ()
    """Secrets of the claim's namespace that are to be in there, too, under the same name: the function never sees what is in them."""
    outputs: Mapping[str, Inside] = field(default_factory=dict)
    """What is to be known of what is in there: `observed[...].at("outputs.KEY")`."""
    interval: str = ""
    deletion: Literal["prune", "leave"] = "prune"
    """What becomes of what is in there when it is deleted."""

    def place(self) -> tuple[str, str]:
        return self.API_VERSION, self.KIND

    def body(self, xr: Claim[Any]) -> dict[str, Any]:
        if self.cluster.connection is None or self.key not in self.cluster.connection:
            raise ValueError(
                f"{self.name}: {self.cluster.name} has no connection with the key {self.key}: give it connection={{...}}"
            )
        kubeconfig = {"name": self.cluster.secret_name(xr), "key": self.key}
        spec: dict[str, Any] = {"kubeconfig": kubeconfig, "manifests": [dict(one) for one in self.manifests]}
        spec |= {"secrets": [{"name": one} for one in self.secrets]} if self.secrets else {}
        spec |= {"outputs": plain(self.outputs)} if self.outputs else {}
        spec |= {"interval": self.interval} if self.interval else {}
        return {"spec": spec | ({"deletion": self.deletion} if self.deletion != "prune" else {})}


@dataclass
class Status:
    """Fields of the claim's status: an instance of the class that `definition(status=...)` names, or a mapping."""

    fields: Any


@dataclass
class Waiting:
    """More is to come, and what for: the claim is not ready until `compose` no longer says so."""

    message: str


Composed = list[Resource | Status | Waiting]


# The definition


@dataclass(frozen=True)
class Kind:
    """A kind of objects that claims are composed of. plural: as its API calls them, where that is not the regular form."""

    api_version: str
    kind: str
    plural: str = ""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """What `definition` said of a function."""

    group: str
    kind: str = ""
    version: str = "v1alpha1"
    plural: str = ""
    short_names: tuple[str, ...] = ()
    status: type | None = None
    connection: Mapping[str, str] = field(default_factory=dict)
    composes: tuple[type[Resource] | Kind, ...] | None = None


def definition(
    *,
    group: str,
    kind: str = "",
    version: str = "v1alpha1",
    plural: str = "",
    short_names: tuple[str, ...] = (),
    status: type | None = None,
    connection: Mapping[str, str] | None = None,
    composes: Sequence[type[Resource] | Kind] | None = None,
) -> Callable[[C], C]:
    """Says of a `compose` function which API it is behind; the fields are those of the class `X` in its `xr: Claim[X]`.

    kind: the name of that class, unless given. connection: key -> template over the connection Secrets and the status of what it is
    composed of: `{{ cluster.kubeconfig }}`, `{{ net.status.atProvider.id }}`. composes: the kinds of all that it may return, which an
    administrator allows it: `[Network, Server, Kind("v1", "ConfigMap")]`; unless given, the stubs that its file imports.
    """

    def decorate(function: C) -> C:
        said = Definition(
            group=group,
            kind=kind,
            version=version,
            plural=plural,
            short_names=tuple(short_names),
            status=status,
            connection=dict(connection or {}),
            composes=None if composes is None else tuple(composes),
        )
        function.__trimtab__ = said  # type: ignore[attr-defined]
        return function

    return decorate


# From Python's names to the API's


def camel(name: str) -> str:
    """`ssh_key_ids` -> `sshKeyIds`; `from_` -> `from`."""
    first, *rest = [part for part in name.split("_") if part] or [name]
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


@dataclass(kw_only=True)
class SecretKey:
    """A key of a Secret in the claim's namespace, for a field that is a secret."""

    name: str
    key: str


class Fields:
    """Base of the stubs' field classes. NAMES: fields whose name in the API is another than their own in camelCase."""

    NAMES: ClassVar[Mapping[str, str]] = {}


def plain(value: Any) -> Any:
    """The value as JSON has it: what is None is left out, names in camelCase. `Output`s stay."""
    names = getattr(value, "__struct_fields__", None) or getattr(value, "__dataclass_fields__", None)
    if names is not None and not isinstance(value, (type, Output)):
        other: Mapping[str, str] = getattr(value, "NAMES", {})
        found = {other.get(name) or camel(name): getattr(value, name) for name in names}
        return {name: plain(inner) for name, inner in found.items() if inner is not None}
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    return value.value if hasattr(value, "_value_") else value


def _outputs(value: Any, place: str) -> Iterator[tuple[str, Output]]:
    """The outputs within what is given, with their places. Raises `ValueError`: in a list something comes after one."""
    if isinstance(value, Output):
        yield place, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            step = name if name.isidentifier() else f"[{json.dumps(name)}]"
            yield from _outputs(inner, f"{place}.{step}" if place and step == name else f"{place}{step}")
    elif isinstance(value, list):
        referred = [isinstance(inner, Output) for inner in value]
        if referred != sorted(referred):
            raise ValueError(f"{place}: outputs of other resources have to be the last of a list")
        for i, inner in enumerate(value):
            yield from _outputs(inner, f"{place}[{i}]")


def _without_outputs(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_outputs(inner) for name, inner in value.items() if not isinstance(inner, Output)}
    if isinstance(value, list):
        return [_without_outputs(inner) for inner in value if not isinstance(inner, Output)]
    return value


def _changed(policy: Policy) -> dict[str, Any]:
    usual = plain(Policy())
    return {name: value for name, value in plain(policy).items() if value != usual[name]}


__all__ = [
    "Child",
    "Claim",
    "ClusterManifests",
    "Composed",
    "Definition",
    "Fields",
    "Inside",
    "Kind",
    "Limit",
    "Managed",
    "Manifest",
    "Observed",
    "Output",
    "Policy",
    "Resource",
    "SecretKey",
    "Status",
    "Waiting",
    "definition",
]
