"""What the API is given for enabled kinds, by who enables them: an administrator.

Provider.spec.kinds --> CustomResourceDefinitions, roles and a binding of the provider's group
"""

from __future__ import annotations

from collections.abc import Iterable

from trimtab.api import JSON
from trimtab.components.infrastructure.definitions import definition_of
from trimtab.components.infrastructure.kinds import Provider
from trimtab.components.infrastructure.protocol.schema import ProviderSchema
from trimtab.components.infrastructure.schemas import naming

CONTROLLERS = "system:trimtab:controllers"
WEB = "system:trimtab:web"
TO_CONTROLLERS = "trimtab.dev/aggregate-to-controllers"
"""On a cluster that is not ours `trimtab run` is whoever its kubeconfig says; its role gathers what bears this."""
_RBAC = "rbac.authorization.k8s.io"
_PEOPLE = f"{_RBAC}/aggregate-to-"
_READ = ["get", "list", "watch"]
_WRITE = ["create", "update", "patch", "delete", "deletecollection"]


class NameClash(ValueError):
    """Two resources of a provider would be one kind: one line that names both."""


def added(provider: Provider, names: Iterable[str], schema: ProviderSchema) -> list[JSON]:
    """The definitions of resources that are enabled beside those that are, in order.

    Resources whose names differ in nothing but underscores have one name in the API. Neither is given another one: which of them that
    would be could change with every version of the provider, and with it the kind of objects that exist. Raises `NameClash`."""
    chosen = sorted(set(names))
    taken = {_plural(provider, name): name for name in provider.spec.kinds}
    for name in chosen:
        other = taken.setdefault(_plural(provider, name), name)
        if other != name:
            one = f"{_plural(provider, name)}.{naming.group(provider.name)}"
            raise NameClash(
                f"{other} and {name} would both be {one}, as their names differ in underscores alone: "
                + (
                    f"trimtab provider disable {provider.name} {other} first"
                    if other in provider.spec.kinds
                    else "enable one of the two"
                )
            )
    return [definition_of(provider, name, schema) for name in chosen]


def _plural(provider: Provider, name: str) -> str:
    return naming.plural(naming.kind_name(provider.name, name))


def definitions(provider: Provider, schema: ProviderSchema) -> list[JSON]:
    """The definitions of a provider's enabled kinds, in order. Raises `KeyError` of a kind that it has not."""
    if missing := [name for name in provider.spec.kinds if name not in schema.resources]:
        raise KeyError(missing[0])
    return [definition_of(provider, name, schema) for name in sorted(provider.spec.kinds)]


def roles(provider: Provider) -> list[JSON]:
    """What the controllers, the dashboard, and those who view and edit, may do with a provider's kinds: manifests."""
    group = naming.group(provider.name)
    name = f"trimtab:provider:{provider.name}"

    def role(suffix: str, verbs: list[str], resources: list[str], labels: list[str]) -> JSON:
        return {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": {
                "name": name + suffix,
                "labels": dict.fromkeys(labels, "true"),
            },
            "rules": [{"apiGroups": [group], "resources": resources, "verbs": verbs}],
        }

    def binding(suffix: str, user: str) -> JSON:
        return {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name + suffix},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": name + suffix},
            "subjects": [{"apiGroup": _RBAC, "kind": "User", "name": user}],
        }

    return [
        role("", ["get", "list", "watch", "patch", "update", "delete"], ["*"], [TO_CONTROLLERS]),
        role(":view", _READ, ["*"], [f"{_PEOPLE}view"]),
        role(":edit", [*_READ, *_WRITE], ["*"], [f"{_PEOPLE}edit", f"{_PEOPLE}admin"]),
        binding("", CONTROLLERS),
        binding(":view", WEB),
    ]
