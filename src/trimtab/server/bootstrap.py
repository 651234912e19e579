"""What every cluster has from its first moment: namespaces, roles, bindings, the range of services. Written once, in one commit; never overwritten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

from trimtab.api import JSON
from trimtab.server.builtin_kinds import BUILTIN_KINDS, MEASURED, METRICS, PRIORITY_CLASSES, RBAC, REVIEWS
from trimtab.server.clock import new_uid, timestamp
from trimtab.server.objects import decode, encode
from trimtab.server.tokens import CONFIGURATION_PATH, KEYS_PATH
from trimtab.store import ABSENT, Put

if TYPE_CHECKING:
    from trimtab.server.server import ApiServer

NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
_ISSUER_DISCOVERY = "system:service-account-issuer-discovery"
_READ = ["get", "list", "watch"]
_WRITE = ["create", "delete", "deletecollection", "patch", "update"]
_KEPT_FROM_EDITORS = frozenset({"roles", "rolebindings", "resourcequotas", "limitranges", "namespaces"})
_KEPT_FROM_VIEWERS = frozenset({"secrets"})
_DISCOVERY = [
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/livez/*",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/readyz/*",
    "/version",
    "/version/",
]


async def bootstrap(server: ApiServer) -> None:
    """Creates what is missing, and gives the roles that stand what a newer version of us grants besides."""
    now = timestamp(server.clock)
    puts = []
    for key, obj in (*_objects(), _service_range(server.settings.service_cidr, now)):
        record = server.store.get(key)
        if record is not None:
            if obj["kind"] == "ClusterRole" and (wider := _widened(decode(record), obj)) is not None:
                puts.append(Put(key, encode(wider), record.revision))
        else:
            uid = obj["metadata"].get("uid") or new_uid(server.clock)
            meta = {**obj["metadata"], "uid": uid, "creationTimestamp": now}
            puts.append(Put(key, encode({**obj, "metadata": meta}), ABSENT))
    if puts:
        await server.store.write(puts)


def _widened(live: JSON, wanted: JSON) -> JSON | None:
    """The role with the rules and the labels that it lacks, in place of those that they include; None when it lacks none, or
    its owner wants no updates, by Kubernetes' own annotation. What somebody added stays."""
    meta = live["metadata"]
    if (meta.get("annotations") or {}).get(AUTOUPDATE) == "false":
        return None
    rules = live.get("rules") or []
    lacking = [rule for rule in wanted["rules"] if not any(_includes(has, rule) for has in rules)]
    labels = {**(meta.get("labels") or {}), **wanted["metadata"]["labels"]}
    if not lacking and labels == meta.get("labels"):
        return None
    rules = [has for has in rules if not any(_includes(rule, has) for rule in lacking)] + lacking
    return {**live, "metadata": {**meta, "labels": labels}, "rules": rules}


def _includes(wide: JSON, narrow: JSON) -> bool:
    """Whether one rule grants all that another does."""
    if wide.get("resourceNames") and wide["resourceNames"] != narrow.get("resourceNames"):
        return False
    return all(
        "*" in (wide.get(part) or ()) or set(narrow.get(part) or ()) <= set(wide.get(part) or ())
        for part in ("verbs", "apiGroups", "resources", "nonResourceURLs")
    )


def _objects() -> Iterator[tuple[str, JSON]]:
    for name in NAMESPACES:
        yield (
            f"/core/namespaces/{name}",
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
                "spec": {"finalizers": ["kubernetes"]},
                "status": {"phase": "Active"},
            },
        )
    for name, value in (("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)):
        yield (
            f"{PRIORITY_CLASSES}{name}",
            {
                "apiVersion": "scheduling.k8s.io/v1",
                "kind": "PriorityClass",
                "metadata": {"name": name, "generation": 1, "uid": str(uuid5(NAMESPACE_URL, name))},
                "value": value,
                "preemptionPolicy": "PreemptLowerPriority",
                "description": "For pods without which the cluster does not work.",
            },
        )
    everything: list[JSON] = [
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ]
    yield _role("cluster-admin", everything)
    yield _role("admin", [], aggregates="admin")
    yield _role("edit", [], aggregates="edit", aggregates_to="admin")
    yield _role("view", [], aggregates="view", aggregates_to="edit")
    for level, verbs, kept in (
        ("admin", _READ + _WRITE, {"namespaces"}),
        ("edit", _READ + _WRITE, _KEPT_FROM_EDITORS),
        ("view", _READ, _KEPT_FROM_EDITORS | _KEPT_FROM_VIEWERS),
    ):
        yield _role(f"system:aggregate-to-{level}", list(_namespaced_rules(verbs, kept)), aggregates_to=level)
    reading: JSON = {"apiGroups": [METRICS], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}
    yield _role("system:aggregated-metrics-reader", [reading], aggregates_to="view")
    yield _role("system:discovery", [{"nonResourceURLs": _DISCOVERY, "verbs": ["get"]}])
    yield _role(
        "system:public-info-viewer",
        [{"nonResourceURLs": ["/healthz", "/livez", "/readyz", "/version", "/version/"], "verbs": ["get"]}],
    )
    yield _role(
        "system:basic-user",
        [
            {
                "apiGroups": ["authorization.k8s.io"],
                "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                "verbs": ["create"],
            },
            {"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"]},
        ],
    )
    published = [CONFIGURATION_PATH, f"{CONFIGURATION_PATH}/", KEYS_PATH, f"{KEYS_PATH}/"]
    yield _role(_ISSUER_DISCOVERY, [{"nonResourceURLs": published, "verbs": ["get"]}])
    yield _binding(_ISSUER_DISCOVERY, ["system:serviceaccounts"])
    yield _binding("cluster-admin", ["system:masters"])
    yield _binding("system:discovery", ["system:authenticated"])
    yield _binding("system:basic-user", ["system:authenticated"])
    yield _binding("system:public-info-viewer", ["system:authenticated", "system:unauthenticated"])


def _service_range(cidr: str, now: str) -> tuple[str, JSON]:
    """The range of which services get their addresses, as an object that says so; the setting is what counts."""
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "",
        "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": now,
    }
    return (
        "/networking.k8s.io/servicecidrs/kubernetes",
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": [cidr]},
            "status": {"conditions": [ready]},
        },
    )


def _namespaced_rules(verbs: list[str], kept: set[str] | frozenset[str]) -> Iterator[JSON]:
    groups: dict[str, list[str]] = {}
    for kind in BUILTIN_KINDS:
        if not kind.namespaced or kind.plural in kept or kind.kind in REVIEWS | MEASURED:
            continue
        if kind.stored_version:
            continue  # another version of a kind that is named already
        names = groups.setdefault(kind.group, [])
        names.append(kind.plural)
        if kind.scale is not None:
            names.append(f"{kind.plural}/scale")
        left_out = ("binding",) if verbs != _READ else ("binding", "proxy")  # what a pod serves is more than its object
        names += [f"{kind.plural}/{name}" for name, _, _ in kind.subresources if name not in left_out]
    for group, resources in groups.items():
        yield {"apiGroups": [group], "resources": resources, "verbs": verbs}
    yield {"apiGroups": [""], "resources": ["namespaces"], "verbs": _READ}


def _role(name: str, rules: list[JSON], *, aggregates: str = "", aggregates_to: str = "") -> tuple[str, JSON]:
    labels = {"kubernetes.io/bootstrapping": "rbac-defaults"}
    obj: JSON = {
        "apiVersion": f"{RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": labels},
        "rules": rules,
    }
    if aggregates_to:
        labels[f"rbac.authorization.k8s.io/aggregate-to-{aggregates_to}"] = "true"
    if aggregates:
        selector = {"matchLabels": {f"rbac.authorization.k8s.io/aggregate-to-{aggregates}": "true"}}
        obj["aggregationRule"] = {"clusterRoleSelectors": [selector]}
    return f"/{RBAC}/clusterroles/{name}", obj


def _binding(role: str, groups: list[str]) -> tuple[str, JSON]:
    return (
        f"/{RBAC}/clusterrolebindings/{role}",
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": role, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": RBAC, "kind": "Group", "name": group} for group in groups],
        },
    )
