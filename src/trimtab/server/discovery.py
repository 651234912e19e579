"""Discovery: which groups, versions and resources there are; the version; OpenAPI.

kubectl asks for the aggregated form (two requests for everything) and caches it; older clients walk group by group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from trimtab.api import JSON
from trimtab.server import errors
from trimtab.server.builtin_kinds import BUILTIN_KINDS
from trimtab.server.custom import version_priority
from trimtab.server.http import Reply, Request, json_reply
from trimtab.server.kinds import Kind

if TYPE_CHECKING:
    from trimtab.server.server import ApiServer

AGGREGATED = ("v2", "v2beta1")
_GET_UPDATE = ("get", "patch", "update")


_OPENAPI_V2_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_OPENAPI_V2 = b"\n\x032.0\x12\x16\n\nKubernetes\x12\x08unversed"
"""A document that describes nothing, in protobuf. kubectl asks for it when version 3 has no such kind, and then says that there is no
such kind; without it, it only says that a download failed."""


def discovery_reply(server: ApiServer, request: Request, path: str) -> Reply:
    """Answers a path that is no resource. Raises `StatusError` 404."""
    if path == "/version":
        return json_reply(version_info())
    if path in ("/api", "/apis"):
        wanted = _aggregated_version(request)
        if wanted:
            return _aggregated(server, request, path, wanted)
        return json_reply(_core_versions() if path == "/api" else _group_list(server))
    if path.startswith("/openapi/v3"):
        from trimtab.server.openapi_paths import openapi_reply

        return openapi_reply(server, request, path)
    if path == "/openapi/v2":
        if "protobuf" not in request.headers.get("accept", ""):
            from trimtab.server.openapi_paths import openapi_v2_reply

            return openapi_v2_reply(server, request)
        return Reply(_OPENAPI_V2, content_type=_OPENAPI_V2_TYPE)
    if path == "/":
        return json_reply({"paths": _paths(server)})
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) == 2:
        return _resources(server, "", parts[1])
    if parts[0] == "apis" and len(parts) == 2:
        group = next((g for g in _groups(server) if g["name"] == parts[1]), None)
        if group is not None:
            return json_reply({"kind": "APIGroup", "apiVersion": "v1", **group})
    if parts[0] == "apis" and len(parts) == 3:
        return _resources(server, parts[1], parts[2])
    raise errors.no_such_path()


def version_info() -> JSON:
    """What `/version` says."""
    from trimtab import __version__
    from trimtab.server.schemas import kubernetes_version

    version = kubernetes_version()
    major, minor, _ = version.split(".", 2)
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"v{version}+trimtab.{__version__}",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "cpython",
        "platform": "linux/amd64",
    }


def _paths(server: ApiServer) -> list[str]:
    versions = [f"/apis/{v['groupVersion']}" for group in _groups(server) for v in group["versions"]]
    groups = [f"/apis/{group['name']}" for group in _groups(server)]
    return sorted(
        ["/api", "/api/v1", "/apis", *groups, *versions, "/livez", "/metrics", "/openapi/v3", "/readyz", "/version"]
    )


# The aggregated form


def _aggregated_version(request: Request) -> str:
    accept = request.headers.get("accept", "")
    if "APIGroupDiscoveryList" not in accept:
        return ""
    return next((version for version in AGGREGATED if f"v={version};" in accept), "")


def _aggregated(server: ApiServer, request: Request, path: str, version: str) -> Reply:
    items: list[JSON] = []
    for group, versions in _by_group(server).items():
        if (path == "/api") != (group == ""):
            continue
        items.append(
            {
                "metadata": {"name": group or None, "creationTimestamp": None},
                "versions": [
                    {"version": name, "resources": [_aggregated_resource(k) for k in kinds], "freshness": "Current"}
                    for name, kinds in versions
                ],
            }
        )
    body = msgspec.json.encode(
        {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": f"apidiscovery.k8s.io/{version}",
            "metadata": {},
            "items": items,
        }
    )
    etag = '"' + hashlib.sha256(body).hexdigest()[:32].upper() + '"'
    content_type = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
    if request.headers.get("if-none-match") == etag:
        return Reply(b"", 304, content_type, [("etag", etag)])
    return Reply(body, 200, content_type, [("etag", etag), ("vary", "accept")])


def _aggregated_resource(kind: Kind) -> JSON:
    out: JSON = {
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular_name,
        "verbs": list(kind.verbs),
    }
    if kind.short_names:
        out["shortNames"] = list(kind.short_names)
    if kind.categories:
        out["categories"] = list(kind.categories)
    subresources = [
        {
            "subresource": name,
            "responseKind": {"group": group, "version": version, "kind": body},
            "verbs": list(verbs),
        }
        for name, group, version, body, verbs in _subresources(kind)
    ]
    if subresources:
        out["subresources"] = subresources
    return out


def _subresources(kind: Kind) -> list[tuple[str, str, str, str, tuple[str, ...]]]:
    """(name, group, version, kind of the body, verbs) of a kind's subresources."""
    found = [(name, *_body_kind(kind, body), verbs) for name, body, verbs in kind.subresources]
    if kind.scale is not None:
        found.append(("scale", "autoscaling", "v1", "Scale", _GET_UPDATE))
    if kind.status:
        found.append(("status", kind.group, kind.version, kind.kind, _GET_UPDATE))
    return sorted(found)


def _body_kind(kind: Kind, body: str) -> tuple[str, str, str]:
    group = {"Eviction": "policy", "TokenRequest": "authentication.k8s.io"}.get(body, kind.group)
    return group, "v1", body


# The old form


def _by_group(server: ApiServer) -> dict[str, list[tuple[str, list[Kind]]]]:
    """Group -> its versions, preferred first, with their kinds. Built-in groups come first."""
    groups: dict[str, dict[str, list[Kind]]] = {}
    for kind in server.registry:
        groups.setdefault(kind.group, {}).setdefault(kind.version, []).append(kind)
    builtin = {kind.group for kind in BUILTIN_KINDS}
    ordered = sorted(groups, key=lambda group: (group not in builtin, group))
    return {
        group: [(version, groups[group][version]) for version in sorted(groups[group], key=version_priority)]
        for group in ordered
    }


def _core_versions() -> JSON:
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def _groups(server: ApiServer) -> list[JSON]:
    found = []
    for group, versions in _by_group(server).items():
        if group:
            named = [{"groupVersion": f"{group}/{version}", "version": version} for version, _ in versions]
            found.append({"name": group, "versions": named, "preferredVersion": named[0]})
    return found


def _group_list(server: ApiServer) -> JSON:
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": _groups(server)}


def _resources(server: ApiServer, group: str, version: str) -> Reply:
    kinds = [kind for kind in server.registry if kind.group == group and kind.version == version]
    if not kinds:
        raise errors.no_such_path()
    return json_reply(
        {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": kinds[0].api_version,
            "resources": list(_resource_lines(kinds)),
        }
    )


def _resource_lines(kinds: Iterable[Kind]) -> Iterable[JSON]:
    for kind in kinds:
        line: JSON = {
            "name": kind.plural,
            "singularName": kind.singular_name,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": list(kind.verbs),
        }
        if kind.short_names:
            line["shortNames"] = list(kind.short_names)
        if kind.categories:
            line["categories"] = list(kind.categories)
        yield line
        for name, group, version, body, verbs in _subresources(kind):
            sub: JSON = {
                "name": f"{kind.plural}/{name}",
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": body,
                "verbs": list(verbs),
            }
            if (group, version) != (kind.group, kind.version):
                sub |= {"group": group, "version": version}
            yield sub
