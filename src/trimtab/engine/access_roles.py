"""Who the engine's own processes are to its API, and what each may do there.

    uid of `trimtab`      -> system:trimtab:controllers   what the components' reconcilers declare (runtime/rbac.py)
    uid of `trimtab-web`  -> system:trimtab:web           get, list and watch what components work on; no Secrets
    root                  -> system:masters               the command line, the supervisor, the node agent

The roles are made from the declarations at every start, so a component that declares less may do less. Root could read the
administrator's token anyway; the node agent says who it is (`system:node:NAME`) for the record only.
"""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.api import JSON
from trimtab.engine.privileges import ids_of
from trimtab.runtime.component import Component
from trimtab.runtime.settings import Settings
from trimtab.server.authentication import AUTHENTICATED, User

CONTROLLERS = "system:trimtab:controllers"
WEB = "system:trimtab:web"
_RBAC = "rbac.authorization.k8s.io"
_AGGREGATE = f"{_RBAC}/aggregate-to-"
_TO_DEPLOY = "trimtab.dev/aggregate-to-deploy"
_SIGNS: list[JSON] = [
    {
        "apiGroups": ["certificates.k8s.io"],
        "resources": ["signers"],
        "resourceNames": ["kubernetes.io/*"],
        "verbs": ["sign"],
    }
]
"""What no declaration tells: whose CertificateSigningRequests `workloads` signs."""
_COMPOSED = "trimtab:compositions"
_TO_COMPOSED = "trimtab.dev/aggregate-to-compositions"
"""On the roles with which an administrator grants what a CompositeDefinition needs (`trimtab composition render`)."""
BESIDE = "trimtab:controllers"
"""The ClusterRole of `trimtab run`: what its components declare, and what is granted with each enabled provider and each definition."""
_TO_BESIDE = "trimtab.dev/aggregate-to-controllers"
_PREPARED: list[JSON] = [
    {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
    {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["get"]},
]
"""What no declaration tells: whoever starts it looks whether the cluster is prepared."""
_READ = ["get", "list", "watch"]
_WRITE = ["create", "update", "patch", "delete", "deletecollection"]


def peers(settings: Settings) -> dict[int, User]:
    """The identities of the unprivileged processes by uid, for the API's unix socket."""
    found = {}
    for account, name in ((settings.user, CONTROLLERS), (settings.web_user, WEB)):
        found[ids_of(account)[0]] = User(name, (name, AUTHENTICATED))
    return found


def presets(components: Sequence[Component]) -> list[JSON]:
    """The ClusterRoles behind `trimtab token --role`, beside `view`, `admin` and `cluster-admin` that every cluster has.

    What components add to the API joins `view`, `edit` and `admin`, as a well-behaved operator's kinds do. `trimtab:deploy`
    is for a pipeline: it reads what `view` reads, changes what an application is made of, writes Secrets without reading
    them, and opens no shell. What guards a cluster (`Component.guards`) is changed by `cluster-admin` alone. (Who may create pods may let them use any Secret of their namespace: keep apart what must be.)
    """
    own: dict[str, list[str]] = {}
    open_to_change: dict[str, list[str]] = {}
    guards = {kind for component in components for kind in component.guards}
    for kind in (kind for component in components for kind in component.kinds):
        place = kind.resource_type
        if not place.builtin:
            own.setdefault(place.group, []).append(place.plural)
            if kind not in guards:
                open_to_change.setdefault(place.group, []).append(place.plural)
    shown = [_rule([group], plurals, _READ) for group, plurals in own.items()] + [
        _rule([""], ["nodes", "namespaces", "persistentvolumes"], _READ),
        _rule(["storage.k8s.io"], ["storageclasses"], _READ),
        _rule(["scheduling.k8s.io"], ["priorityclasses"], _READ),
        _rule(["networking.k8s.io"], ["ingressclasses"], _READ),
        _rule(["apiextensions.k8s.io"], ["customresourcedefinitions"], _READ),
        _rule(["metrics.k8s.io"], ["nodes", "pods"], _READ),
    ]
    endpoints: dict[str, list[str]] = {}
    for endpoint in (endpoint for component in components for endpoint in component.endpoints):
        place = endpoint.kind.resource_type
        endpoints.setdefault(place.group, []).append(f"{place.plural}/{endpoint.subresource}")
    shown += [_rule([group], names, ["get"]) for group, names in endpoints.items()]
    changed = [_rule([group], plurals, _WRITE) for group, plurals in open_to_change.items()]
    changed += [_rule([group], names, ["create", "get"]) for group, names in endpoints.items()]
    shipped = [
        *changed,
        _rule([""], ["configmaps", "services", "persistentvolumeclaims", "pods", "replicationcontrollers"], _WRITE),
        _rule([""], ["pods/eviction"], ["create"]),
        _rule([""], ["secrets"], ["create", "update", "patch", "delete"]),
        _rule(["apps"], ["deployments", "statefulsets", "daemonsets", "replicasets"], _WRITE),
        _rule(["apps"], ["deployments/scale", "statefulsets/scale", "replicasets/scale"], ["update", "patch"]),
        _rule(["batch"], ["jobs", "cronjobs"], _WRITE),
        _rule(["autoscaling"], ["horizontalpodautoscalers"], _WRITE),
        _rule(["networking.k8s.io"], ["ingresses", "networkpolicies"], _WRITE),
        _rule(["policy"], ["poddisruptionbudgets"], _WRITE),
    ]
    return [
        _cluster_role("trimtab:aggregate-to-view", shown, [f"{_AGGREGATE}view"]),
        _cluster_role("trimtab:aggregate-to-edit", changed, [f"{_AGGREGATE}edit", f"{_AGGREGATE}admin"]),
        _cluster_role("trimtab:aggregate-to-deploy", shipped, [_TO_DEPLOY]),
        _cluster_role("trimtab:deploy", None, gathers=[f"{_AGGREGATE}view", _TO_DEPLOY]),
    ]


def beside(components: Sequence[Component]) -> list[JSON]:
    """The ClusterRoles of a cluster that is not ours: those by which who views, edits and administers a namespace may do so with the objects
    of these components' kinds, and that of `trimtab run`, for an administrator to bind to its user. Nothing else of its roles changes."""
    from trimtab.runtime.rbac import as_json
    from trimtab.runtime.rbac import rules as declared

    guards = {kind for component in components for kind in component.guards}
    kinds = [kind for component in components for kind in component.kinds if not kind.resource_type.builtin]
    kinds = [kind for kind in kinds if kind.resource_type.namespaced and kind not in guards]
    groups: dict[str, list[str]] = {}
    for kind in kinds:
        groups.setdefault(kind.resource_type.group, []).append(kind.resource_type.plural)
    shown = [_rule([group], plurals, _READ) for group, plurals in groups.items()]
    changed = [_rule([group], plurals, [*_READ, *_WRITE]) for group, plurals in groups.items()]
    return [
        _cluster_role("trimtab:aggregate-to-view", shown, [f"{_AGGREGATE}view"]),
        _cluster_role("trimtab:aggregate-to-edit", changed, [f"{_AGGREGATE}edit", f"{_AGGREGATE}admin"]),
        _cluster_role(
            f"{BESIDE}:components", [*as_json(declared(components, "controllers")), *_PREPARED], [_TO_BESIDE]
        ),
        _cluster_role(BESIDE, None, gathers=[_TO_BESIDE, _TO_COMPOSED]),
    ]


def _rule(groups: list[str], resources: list[str], verbs: list[str]) -> JSON:
    return {"apiGroups": groups, "resources": resources, "verbs": verbs}


def _cluster_role(name: str, rules: list[JSON] | None, labels: Sequence[str] = (), gathers: Sequence[str] = ()) -> JSON:
    role: JSON = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": dict.fromkeys(labels, "true")},
    }
    if rules is not None:
        role["rules"] = rules
    if gathers:
        role["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {label: "true"}} for label in gathers]}
    return role


def roles(components: Sequence[Component]) -> list[JSON]:
    """The ClusterRoles of these identities, and their bindings, as manifests."""
    from trimtab.api.core import Secret
    from trimtab.runtime.rbac import as_json, reader_rules, rules

    found: list[JSON] = []
    for name, granted in (
        (CONTROLLERS, rules(components, "controllers")),
        (WEB, reader_rules(components, hidden=[Secret])),
    ):
        found.append(
            {
                "apiVersion": f"{_RBAC}/v1",
                "kind": "ClusterRole",
                "metadata": {"name": name},
                "rules": as_json(granted) + (_SIGNS if name == CONTROLLERS else []),
            }
        )
        found.append(_binding(name, name))
    # What is in them comes from administrators alone: rules of their own they have none (an earlier version's controllers wrote some).
    found += [_cluster_role(_COMPOSED, [], gathers=[_TO_COMPOSED])]
    found += [_cluster_role(f"{_COMPOSED}:view", [], gathers=[f"{_TO_COMPOSED}-view"])]
    return [*found, _binding(_COMPOSED, CONTROLLERS), _binding(f"{_COMPOSED}:view", WEB)]


def _binding(role: str, user: str) -> JSON:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": role},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": _RBAC, "kind": "User", "name": user}],
    }
