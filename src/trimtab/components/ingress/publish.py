"""In which order documents reach the proxy, so that no request ever meets a half-changed configuration.

    endpoints and certificates first, then the clusters and listeners that name them;
    routes only when the proxy has every cluster that they name;
    a cluster leaves only when the proxy runs on routes that no longer name it, its endpoint file last of all.

`plan` is pure: the documents wished, the ones in place, what the proxy says. It is run again after each look at the
proxy until nothing is left to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trimtab.api import JSON
from trimtab.components.ingress import envoy_config as envoy
from trimtab.components.ingress.proxy import Refusal, Seen


@dataclass(frozen=True)
class Wished:
    """What the proxy should run on.

    clusters: name to whether its endpoints speak HTTP/2. endpoints: by cluster, also of clusters on their way out.
    secrets: by secret name. directory: where the documents lie, since they name each other by path.
    """

    directory: Path
    clusters: Mapping[str, bool]
    endpoints: Mapping[str, JSON]
    routes: Mapping[str, JSON]
    listeners: JSON
    secrets: Mapping[str, JSON]


@dataclass(frozen=True)
class Plan:
    """puts: documents by name, to be written in this order; then removes. waiting: names of documents that the proxy
    has yet to take in, or that wait for it."""

    puts: dict[str, JSON]
    removes: tuple[str, ...]
    waiting: tuple[str, ...]


def plan(wished: Wished, in_place: Mapping[str, JSON], seen: Seen | None, refused: Mapping[str, Refusal]) -> Plan:
    """The next documents to write. `seen` is None while the proxy does not answer: then nothing is taken away and no
    route changes."""
    puts: dict[str, JSON] = {}
    waiting: list[str] = []

    def put(name: str, doc: JSON) -> None:
        if not _same(in_place.get(name), doc) and not _refused(refused, name, doc):
            puts[name] = doc

    old_clusters = envoy.clusters_of(in_place.get(envoy.CLUSTERS))
    kept = _still_in_use(in_place, seen, old_clusters)
    clusters = {**{name: http2 for name, http2 in old_clusters.items() if name in kept}, **wished.clusters}
    for cluster in sorted(clusters):
        if cluster in wished.endpoints:
            put(envoy.endpoint_file_name(cluster), wished.endpoints[cluster])
    for secret, doc in sorted(wished.secrets.items()):
        put(envoy.secret_file_name(secret), doc)
    put(envoy.CLUSTERS, envoy.cluster_file(clusters, wished.directory))
    for name, doc in wished.routes.items():
        if _same(in_place.get(name), doc) or _refused(refused, name, doc):
            continue
        missing = [c for c in envoy.clusters_in(doc) if seen is None or c not in seen.hosts]
        if seen is None or (missing and envoy.CLUSTERS not in refused):
            waiting.append(name)
        elif not missing:
            put(name, doc)
    put(envoy.LISTENERS, wished.listeners)
    waiting += [
        name
        for name in _awaited(in_place)
        if name not in puts and not _confirmed(in_place, seen, name) and not _refused(refused, name, in_place[name])
    ]
    return Plan(puts, _leaving(in_place, seen, puts), tuple(dict.fromkeys([*puts, *waiting])))


def _same(old: JSON | None, new: JSON) -> bool:
    return old is not None and bool(old["version_info"] == new["version_info"])


def _refused(refused: Mapping[str, Refusal], name: str, doc: JSON) -> bool:
    return name in refused and refused[name].version == doc["version_info"]


def _confirmed(in_place: Mapping[str, JSON], seen: Seen | None, name: str) -> bool:
    """The proxy runs on the document that is in place."""
    doc = in_place.get(name)
    return doc is not None and seen is not None and seen.accepted.get(name) == doc["version_info"]


def _awaited(in_place: Mapping[str, JSON]) -> list[str]:
    """The documents in place that the proxy reads: those that another one in place refers to."""
    listeners = in_place.get(envoy.LISTENERS)
    secrets = envoy.secrets_in(listeners)
    names = [envoy.LISTENERS, envoy.CLUSTERS, envoy.ROUTES_HTTP]
    if envoy.has_https(listeners):
        names.append(envoy.ROUTES_HTTPS)
    names += [envoy.endpoint_file_name(cluster) for cluster in envoy.clusters_of(in_place.get(envoy.CLUSTERS))]
    names += [envoy.secret_file_name(secret) for secret in sorted(secrets)]
    return [name for name in names if name in in_place]


def _still_in_use(in_place: Mapping[str, JSON], seen: Seen | None, clusters: Mapping[str, bool]) -> set[str]:
    """The clusters that must stay because requests may still be routed to them."""
    routes = [name for name in _awaited(in_place) if name.startswith("rds.")]
    if not all(_confirmed(in_place, seen, name) for name in routes):
        return set(clusters)
    return {cluster for name in routes for cluster in envoy.clusters_in(in_place[name])}


def _leaving(in_place: Mapping[str, JSON], seen: Seen | None, puts: Mapping[str, JSON]) -> tuple[str, ...]:
    """Endpoint and secret files that the proxy has forgotten."""
    out: list[str] = []
    for owner, folder, used in (
        (envoy.CLUSTERS, "eds/", map(envoy.endpoint_file_name, envoy.clusters_of(in_place.get(envoy.CLUSTERS)))),
        (envoy.LISTENERS, "sds/", map(envoy.secret_file_name, envoy.secrets_in(in_place.get(envoy.LISTENERS)))),
    ):
        if owner not in puts and _confirmed(in_place, seen, owner):
            names = set(used)
            out += [name for name in in_place if name.startswith(folder) and name not in names and name not in puts]
    return tuple(sorted(out))
