"""Who may do what: RBAC over the roles and bindings in the store.

Members of `system:masters` may do everything. For everyone else all bindings that name them, cluster-wide and in the
namespace, are gone through; rules are read again only when a role or binding changed. What no rule allows is forbidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from trimtab.api.labels import LabelSelector
from trimtab.api.selector import selects
from trimtab.server import errors
from trimtab.server.authentication import MASTERS, User
from trimtab.store import Compacted, Store, StoreClosed

PREFIX = "/rbac.authorization.k8s.io/"


class Rule(msgspec.Struct, rename="camel", frozen=True):
    verbs: tuple[str, ...] = ()
    api_groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    resource_names: tuple[str, ...] = ()
    non_resource_urls: tuple[str, ...] = msgspec.field(default=(), name="nonResourceURLs")


class _Aggregation(msgspec.Struct, rename="camel"):
    cluster_role_selectors: list[LabelSelector] = []


class _RoleMeta(msgspec.Struct):
    name: str
    labels: dict[str, str] = {}


class _Role(msgspec.Struct, rename="camel"):
    metadata: _RoleMeta
    rules: tuple[Rule, ...] | None = ()
    aggregation_rule: _Aggregation | None = None


class _Subject(msgspec.Struct):
    kind: str
    name: str
    namespace: str = ""


class _RoleRef(msgspec.Struct):
    kind: str
    name: str


class _Binding(msgspec.Struct, rename="camel"):
    role_ref: _RoleRef
    subjects: tuple[_Subject, ...] | None = ()


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is asked to be done. `path` alone is set for paths that are no resources."""

    verb: str
    group: str = ""
    resource: str = ""
    """With its subresource: `pods/log`."""
    namespace: str = ""
    name: str = ""
    path: str = ""


class Authorizer:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._watch = store.watch(PREFIX, store.revision)
        self._stale = True
        self._cluster: list[tuple[_Binding, tuple[Rule, ...]]] = []
        self._by_namespace: dict[str, list[tuple[_Binding, tuple[Rule, ...]]]] = {}

    def allows(self, user: User, asked: Attributes) -> bool:
        if MASTERS in user.groups:
            return True
        return any(_covers(rule, asked) for rule in self.rules(user, asked.namespace))

    def require(self, user: User, asked: Attributes) -> None:
        """Raises `StatusError` 403 for what the user may not do."""
        if self.allows(user, asked):
            return
        if asked.path:
            raise errors.StatusError(
                403, "Forbidden", f'forbidden: User "{user.name}" cannot {asked.verb} path "{asked.path}"'
            )
        where = f' in the namespace "{asked.namespace}"' if asked.namespace else " at the cluster scope"
        raise errors.forbidden(
            asked.resource.partition("/")[0],
            asked.group,
            asked.name,
            f'User "{user.name}" cannot {asked.verb} resource "{asked.resource}" in API group "{asked.group}"{where}',
        )

    def rules(self, user: User, namespace: str) -> Iterator[Rule]:
        """The rules that bind a user, cluster-wide and in a namespace."""
        if MASTERS in user.groups:
            yield Rule(verbs=("*",), api_groups=("*",), resources=("*",))
            yield Rule(verbs=("*",), non_resource_urls=("*",))
            return
        self._refresh()
        granted = [("", one) for one in self._cluster]
        granted += [(namespace, one) for one in self._by_namespace.get(namespace, ())]
        for own, (binding, rules) in granted:
            if any(_names(subject, user, own) for subject in binding.subjects or ()):
                yield from rules

    def covers(self, user: User, wanted: Iterable[Rule], namespace: str) -> bool:
        """Whether a user holds all that some rules would grant (nobody may give away more than they have)."""
        held = list(self.rules(user, namespace))
        for rule in wanted:
            for verb in rule.verbs:
                for path in rule.non_resource_urls:
                    if not any(_covers(own, Attributes(verb, path=path)) for own in held):
                        return False
                for group in rule.api_groups:
                    for resource in rule.resources:
                        for name in rule.resource_names or ("",):
                            asked = Attributes(verb, group, resource, namespace, name)
                            if not any(_covers(own, asked) for own in held):
                                return False
        return True

    def role_rules(self, kind: str, namespace: str, name: str) -> tuple[Rule, ...]:
        """The rules of a Role or ClusterRole; none when it does not exist."""
        collection = "clusterroles" if kind == "ClusterRole" else f"roles/{namespace}"
        record = self._store.get(f"{PREFIX}{collection}/{name}")
        if record is None:
            return ()
        role = msgspec.json.decode(record.value, type=_Role)
        rules = role.rules or ()
        if role.aggregation_rule is not None:
            rules += tuple(self._aggregated(role.aggregation_rule, {name}))
        return rules

    def _aggregated(self, aggregation: _Aggregation, seen: set[str]) -> Iterator[Rule]:
        """What is aggregated may aggregate, too: `edit` has what `view` is given. `seen`: names of roles, for circles."""
        for record in self._store.list(f"{PREFIX}clusterroles/"):
            role = msgspec.json.decode(record.value, type=_Role)
            if role.metadata.name in seen:
                continue
            if any(selects(selector, role.metadata.labels) for selector in aggregation.cluster_role_selectors):
                seen.add(role.metadata.name)
                yield from role.rules or ()
                if role.aggregation_rule is not None:
                    yield from self._aggregated(role.aggregation_rule, seen)

    def _refresh(self) -> None:
        try:
            self._stale = bool(self._watch.take()) or self._stale
        except Compacted:
            self._watch.close()
            self._watch = self._store.watch(PREFIX, self._store.revision)
            self._stale = True
        except StoreClosed:
            return
        if not self._stale:
            return
        self._cluster = []
        self._by_namespace = {}
        for record in self._store.list(f"{PREFIX}clusterrolebindings/"):
            binding = msgspec.json.decode(record.value, type=_Binding)
            self._cluster.append((binding, self.role_rules(binding.role_ref.kind, "", binding.role_ref.name)))
        for record in self._store.list(f"{PREFIX}rolebindings/"):
            namespace = record.key.split("/")[3]
            binding = msgspec.json.decode(record.value, type=_Binding)
            rules = self.role_rules(binding.role_ref.kind, namespace, binding.role_ref.name)
            self._by_namespace.setdefault(namespace, []).append((binding, rules))
        self._stale = False


def _names(subject: _Subject, user: User, namespace: str) -> bool:
    """Whether a subject of a binding in `namespace` is the user; a ServiceAccount without a namespace is one of the binding's own."""
    match subject.kind:
        case "User":
            return subject.name == user.name
        case "Group":
            return subject.name in user.groups
        case "ServiceAccount":
            return user.name == f"system:serviceaccount:{subject.namespace or namespace}:{subject.name}"
        case _:
            return False


def _covers(rule: Rule, asked: Attributes) -> bool:
    if asked.verb not in rule.verbs and "*" not in rule.verbs:
        return False
    if asked.path:
        return any(
            path in ("*", asked.path) or (path.endswith("*") and asked.path.startswith(path[:-1]))
            for path in rule.non_resource_urls
        )
    if asked.group not in rule.api_groups and "*" not in rule.api_groups:
        return False
    if rule.resource_names and asked.name not in rule.resource_names:
        return False
    _, slash, subresource = asked.resource.partition("/")
    return any(
        resource in ("*", asked.resource) or (slash and resource == f"*/{subresource}") for resource in rule.resources
    )
