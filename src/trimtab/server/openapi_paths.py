"""Answers below `/openapi/v2` and `/openapi/v3`: the index, and the documents under their hash.

A hash is made of what the document is made of (the program's and Kubernetes' version, the kinds, the revisions of their
CRDs), not of the document itself, so that the index costs no document. The last few documents are kept encoded: kubectl
asks for one and then caches it by its hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from trimtab.api import JSON
from trimtab.server import errors, openapi
from trimtab.server.builtin_kinds import MEASURED
from trimtab.server.http import Reply, Request, json_reply
from trimtab.server.kinds import Kind

if TYPE_CHECKING:
    from trimtab.server.server import ApiServer

DOCUMENTS_KEPT = 2
"""Encoded documents kept in memory, each up to about 1 MB; kubectl caches them on its own disk."""

_kept: dict[tuple[str, str], bytes] = {}


def openapi_reply(server: ApiServer, request: Request, path: str) -> Reply:
    """Answers `/openapi/v3` and `/openapi/v3/<group version>`. Raises `StatusError` 404."""
    name = path.removeprefix("/openapi/v3").strip("/")
    groups: dict[str, list[Kind]] = {}
    for kind in server.registry:
        if kind.kind in MEASURED and not kind.crd:
            continue  # Kubernetes publishes no schema of them: they come from a server of their own there
        groups.setdefault(openapi.path_of(kind.group, kind.version), []).append(kind)
    if not name:
        return json_reply(openapi.index({key: _digest(server, kinds) for key, kinds in sorted(groups.items())}))
    kinds = groups.get(name)
    if kinds is None:
        raise errors.no_such_path()
    digest = _digest(server, kinds)
    etag = f'"{digest}"'
    headers = [("etag", etag), ("vary", "accept")]
    if request.query.get("hash") == digest:
        headers.append(("cache-control", "public, immutable"))
    if request.headers.get("if-none-match") == etag:
        return Reply(b"", 304, "application/json", headers)
    body = _kept_or(name, digest, lambda: openapi.document(kinds, lambda kind: _crd_schema(server, kind)))
    return Reply(body, 200, "application/json", headers)


def openapi_v2_reply(server: ApiServer, request: Request) -> Reply:
    """Answers `/openapi/v2` in JSON."""
    from trimtab.server.openapi_v2 import document

    kinds = [kind for kind in server.registry if kind.crd or kind.kind not in MEASURED]
    digest = _digest(server, kinds)
    etag = f'"{digest}"'
    headers = [("etag", etag), ("vary", "accept")]
    if request.headers.get("if-none-match") == etag:
        return Reply(b"", 304, "application/json", headers)
    body = _kept_or("v2", digest, lambda: document(kinds, lambda kind: _crd_schema(server, kind)))
    return Reply(body, 200, "application/json", headers)


def _digest(server: ApiServer, kinds: list[Kind]) -> str:
    from trimtab import __version__
    from trimtab.server.schemas import kubernetes_version

    parts = [__version__, kubernetes_version()]
    for kind in sorted(kinds, key=lambda k: k.plural):
        record = server.store.get(kind.crd) if kind.crd else None
        parts.append(f"{kind.kind}@{record.revision if record else 0}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest().upper()


def _kept_or(name: str, digest: str, make: Callable[[], JSON]) -> bytes:
    key = (name, digest)
    found = _kept.pop(key, None)
    if found is None:
        found = msgspec.json.encode(make())
        while len(_kept) >= DOCUMENTS_KEPT:
            del _kept[next(iter(_kept))]
    _kept[key] = found
    return found


def _crd_schema(server: ApiServer, kind: Kind) -> JSON | None:
    record = server.store.get(kind.crd)
    if record is None:
        return None
    versions = msgspec.json.decode(record.value)["spec"]["versions"]
    version: JSON = next((v for v in versions if v["name"] == kind.version), {})
    schema: JSON | None = (version.get("schema") or {}).get("openAPIV3Schema")
    return schema
