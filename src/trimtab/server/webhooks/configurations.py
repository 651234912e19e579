"""The webhooks that the configurations in the store name, and which of them a write concerns.

The configurations are followed by a watch of the store that is read when somebody asks, so that an idle server does nothing. What
depends on the resource and the operation alone is decided once for each; labels are compared with each request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

from trimtab.api import JSON
from trimtab.api.selector import selects
from trimtab.server.kinds import Kind
from trimtab.server.selectors import selector_of
from trimtab.store import Compacted, Record, Store, StoreClosed

if TYPE_CHECKING:
    from trimtab.api.labels import LabelSelector
    from trimtab.server.registry import Registry
    from trimtab.server.webhooks.conditions import Conditions

GROUP = "admissionregistration.k8s.io"
PREFIX = f"/{GROUP}/"
MUTATING = f"{PREFIX}mutatingwebhookconfigurations/"
VALIDATING = f"{PREFIX}validatingwebhookconfigurations/"
EXEMPT = frozenset({"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"})
"""Kinds about which nobody is asked: a webhook that hangs could otherwise never be removed."""


class Service(msgspec.Struct, frozen=True):
    name: str
    namespace: str
    path: str = "/"
    port: int = 443


class ClientConfig(msgspec.Struct, frozen=True, rename={"ca_bundle": "caBundle"}):
    """Where a webhook is, and whose certificates it may show."""

    url: str = ""
    service: Service | None = None
    ca_bundle: bytes = b""


class _Rule(msgspec.Struct, rename="camel"):
    operations: tuple[str, ...] = ()
    api_groups: tuple[str, ...] = ()
    api_versions: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    scope: str = "*"

    def matches(self, kind: Kind, operation: str, subresource: str) -> bool:
        return (
            _holds(self.operations, operation)
            and _holds(self.api_groups, kind.group)
            and _holds(self.api_versions, kind.version)
            and (self.scope == "*" or (self.scope == "Namespaced") == kind.namespaced)
            and any(_matches_resource(resource, kind.plural, subresource) for resource in self.resources)
        )


def _holds(items: tuple[str, ...], item: str) -> bool:
    return "*" in items or item in items


def _matches_resource(pattern: str, plural: str, subresource: str) -> bool:
    resource, _, sub = pattern.partition("/")
    return resource in ("*", plural) and sub in ("*", subresource)


class _Condition(msgspec.Struct):
    expression: str


class _Hook(msgspec.Struct, rename="camel"):
    name: str
    client_config: ClientConfig
    rules: tuple[_Rule, ...] = ()
    failure_policy: str = "Fail"
    match_policy: str = "Equivalent"
    namespace_selector: JSON = {}
    object_selector: JSON = {}
    side_effects: str = ""
    timeout_seconds: int = 10
    admission_review_versions: tuple[str, ...] = ()
    reinvocation_policy: str = "Never"
    match_conditions: tuple[_Condition, ...] = ()


class _Meta(msgspec.Struct):
    name: str


class _Configuration(msgspec.Struct):
    metadata: _Meta
    webhooks: tuple[_Hook, ...] = ()


_decode = msgspec.json.Decoder(_Configuration).decode


class Hook:
    """One webhook of a configuration."""

    def __init__(self, configuration: str, spec: _Hook) -> None:
        self.configuration = configuration
        self.name = spec.name
        self.client = spec.client_config
        self.ignores_failures = spec.failure_policy == "Ignore"
        self.timeout_s = spec.timeout_seconds
        self.without_side_effects = spec.side_effects in ("None", "NoneOnDryRun")
        self.reinvoked = spec.reinvocation_policy == "IfNeeded"
        self.versions = spec.admission_review_versions
        self._equivalent = spec.match_policy == "Equivalent"
        self._rules = spec.rules
        self._namespaces = _selector(spec.namespace_selector)
        self._objects = _selector(spec.object_selector)
        self._expressions = [condition.expression for condition in spec.match_conditions]
        self._conditions: Conditions | None = None

    @property
    def conditions(self) -> Conditions | None:
        """What a request must be like, compiled when it is first wanted; None: like any."""
        if self._expressions and self._conditions is None:
            from trimtab.server.webhooks.conditions import Conditions

            self._conditions = Conditions(self._expressions)
        return self._conditions

    def called_as(self, kind: Kind, operation: str, subresource: str, equals: Callable[[], list[Kind]]) -> Kind | None:
        """The version of the resource in which the webhook wants to be asked about it; None: it does not."""
        if any(rule.matches(kind, operation, subresource) for rule in self._rules):
            return kind
        if self._equivalent:
            for rule in self._rules:
                for other in equals():
                    if other is not kind and rule.matches(other, operation, subresource):
                        return other
        return None

    def selects(self, namespace_labels: Callable[[], Mapping[str, str] | None], *objects: JSON | None) -> bool:
        """Whether its selectors choose a request. namespace_labels: None where the request is in no namespace."""
        if self._objects is not None and not any(_has_labels(obj, self._objects) for obj in objects):
            return False
        if self._namespaces is None:
            return True
        labels = namespace_labels()
        return labels is None or selects(self._namespaces, labels)


def _selector(selector: JSON) -> LabelSelector | None:
    """None for the selector that chooses everything."""
    return selector_of(selector) if selector.get("matchLabels") or selector.get("matchExpressions") else None


def _has_labels(obj: JSON | None, selector: LabelSelector) -> bool:
    labels = ((obj or {}).get("metadata") or {}).get("labels") or {}
    return obj is not None and selects(selector, labels)


class Concerned:
    """The webhooks that want to hear of one operation on one resource, each with the version in which it does."""

    __slots__ = ("mutating", "validating")

    def __init__(self, mutating: list[tuple[Hook, Kind]], validating: list[tuple[Hook, Kind]]) -> None:
        self.mutating = mutating
        self.validating = validating


class Configurations:
    """All webhooks, as the store has them now."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._watch = store.watch(PREFIX, store.revision)
        self._found: dict[tuple[Kind, str, str], Concerned | None] = {}
        self._generation = -1
        self._read()

    def _read(self) -> None:
        self._mutating = list(_hooks(self._store.list(MUTATING)))
        self._validating = list(_hooks(self._store.list(VALIDATING)))
        self._found.clear()

    def _refresh(self) -> None:
        try:
            if self._watch.take():
                self._read()
        except Compacted:
            self._watch.close()
            self._watch = self._store.watch(PREFIX, self._store.revision)
            self._read()
        except StoreClosed:
            return

    def concerned(self, kind: Kind, operation: str, subresource: str) -> Concerned | None:
        """Who wants to hear of it; None: nobody, which is known at once where nobody ever wants to hear of anything."""
        self._refresh()
        if not self._mutating and not self._validating:
            return None
        if kind.group == GROUP and kind.kind in EXEMPT:
            return None
        if self._generation != self._registry.generation:
            self._generation = self._registry.generation
            self._found.clear()
        key = (kind, operation, subresource)
        if key not in self._found:
            self._found[key] = self._search(kind, operation, subresource)
        return self._found[key]

    def _search(self, kind: Kind, operation: str, subresource: str) -> Concerned | None:
        def equals() -> list[Kind]:
            return [other for other in self._registry if other.collection == kind.collection]

        def wanting(hooks: list[Hook]) -> list[tuple[Hook, Kind]]:
            found = ((hook, hook.called_as(kind, operation, subresource, equals)) for hook in hooks)
            return [(hook, version) for hook, version in found if version is not None]

        mutating, validating = wanting(self._mutating), wanting(self._validating)
        return Concerned(mutating, validating) if mutating or validating else None


def _hooks(records: list[Record]) -> Iterator[Hook]:
    """In the order of the configurations' names, which is the order of keys, and in their own order in each."""
    for record in records:
        configuration = _decode(record.value)
        for spec in configuration.webhooks:
            yield Hook(configuration.metadata.name, spec)
