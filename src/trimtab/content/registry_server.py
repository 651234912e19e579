"""The store as a read-only registry: what containerd (or any OCI client) needs to pull the images that were built here.

An ASGI app for the distribution specification's pull side: `/v2/`, manifests by tag or digest, blobs with ranges, tag
lists, referrers. There is no write route. A repository `NAME` is the store's `trimtab.local/NAME`; a client that mirrors
another registry says so with `?ns=HOST`, as containerd does.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from trimtab.content import oci
from trimtab.content.digest import Digest, parse_digest
from trimtab.content.errors import BadReference, ContentError
from trimtab.content.spec import LOCAL_REGISTRY
from trimtab.content.store import CHUNK_BYTES, ContentStore

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_ROUTE = re.compile(
    r"/v2/(?P<name>[a-z0-9][a-z0-9._/-]{0,254})/(?P<what>manifests|blobs|tags|referrers)/(?P<reference>[A-Za-z0-9_:.-]{1,128})"
)
_RANGE = re.compile(r"bytes=(?P<first>\d{1,18})-(?P<last>\d{0,18})")
_BLOB_TYPE = "application/octet-stream"


class _Refusal(Exception):
    """An error answer, with the distribution specification's error code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Answer(msgspec.Struct):
    """A status, headers, and a body: bytes, or a range of a blob."""

    headers: dict[str, str]
    body: bytes = b""
    status: int = 200
    blob: Digest | None = None
    first: int = 0
    length: int = 0


def registry_app(store: ContentStore) -> App:
    """The ASGI application that serves this store."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            answer = _answer(store, scope)
        except _Refusal as refusal:
            answer = _error(refusal.status, refusal.code, refusal.message)
        except BadReference as error:
            answer = _error(400, "NAME_INVALID", str(error))
        except ContentError as error:
            answer = _error(500, "UNKNOWN", str(error))
        await _send(store, answer, send, with_body=scope["method"] != "HEAD")

    return app


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _answer(store: ContentStore, scope: Scope) -> _Answer:
    if scope["method"] not in ("GET", "HEAD"):
        raise _Refusal(405, "UNSUPPORTED", "this registry is read-only; images come from trimtab's builds")
    path = scope["path"]
    if path in ("/v2/", "/v2"):
        return _json({})
    match = _ROUTE.fullmatch(path)
    if match is None:
        raise _Refusal(404, "NAME_UNKNOWN", f"nothing is served at {path[:200]}")
    name, reference = match["name"], match["reference"]
    query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
    registry = query.get("ns", LOCAL_REGISTRY)
    if match["what"] == "manifests":
        return _manifest(store, f"{registry}/{name}", reference)
    if match["what"] == "blobs":
        return _blob(store, parse_digest(reference), _header(scope, b"range"))
    if match["what"] == "tags" and reference == "list":
        prefix = f"{registry}/{name}:"
        return _json({"name": name, "tags": [tag[len(prefix) :] for tag in store.tags(prefix)]})
    if match["what"] == "referrers":
        return _referrers(store, parse_digest(reference), query.get("artifactType", ""))
    raise _Refusal(404, "NAME_UNKNOWN", f"nothing is served at {path[:200]}")


def _manifest(store: ContentStore, name: str, reference: str) -> _Answer:
    digest = parse_digest(reference) if ":" in reference else store.resolve(f"{name}:{reference}")
    if digest is None or not store.has(digest):
        raise _Refusal(404, "MANIFEST_UNKNOWN", f"{name} has no manifest {reference}; build or pull it first")
    data = store.read(digest)
    document = oci.decode_any(data, digest)
    kind = document.media_type or (oci.INDEX if isinstance(document, oci.Index) else oci.MANIFEST)
    return _Answer({"content-type": kind, "docker-content-digest": digest}, data)


def _blob(store: ContentStore, digest: Digest, wanted: str) -> _Answer:
    if not store.has(digest):
        raise _Refusal(404, "BLOB_UNKNOWN", f"there is no blob {digest} here")
    size = store.size(digest)
    headers = {"content-type": _BLOB_TYPE, "docker-content-digest": digest, "accept-ranges": "bytes"}
    match = _RANGE.fullmatch(wanted)
    if match is None:
        return _Answer(headers, blob=digest, length=size)
    first, last = int(match["first"]), min(int(match["last"] or size - 1), size - 1)
    if first >= size or last < first:
        raise _Refusal(416, "BLOB_UNKNOWN", f"the range {wanted} is outside of the blob's {size} bytes")
    headers["content-range"] = f"bytes {first}-{last}/{size}"
    return _Answer(headers, status=206, blob=digest, first=first, length=last - first + 1)


def _referrers(store: ContentStore, subject: Digest, artifact_type: str) -> _Answer:
    found: list[oci.Descriptor] = []
    for digest in store.referrers(subject):
        document = oci.read_any(store, digest) if store.has(digest) else None
        if isinstance(document, oci.Manifest):
            kind = document.artifact_type or document.config.media_type
            if not artifact_type or kind == artifact_type:
                found.append(
                    oci.Descriptor(
                        media_type=document.media_type,
                        digest=digest,
                        size=store.size(digest),
                        artifact_type=kind,
                        annotations=document.annotations,
                    )
                )
    body = oci.encode(oci.Index(schema_version=2, media_type=oci.INDEX, manifests=found))
    headers = {"content-type": oci.INDEX}
    if artifact_type:
        headers["oci-filters-applied"] = "artifactType"
    return _Answer(headers, body)


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _json(value: object, status: int = 200) -> _Answer:
    return _Answer({"content-type": "application/json"}, msgspec.json.encode(value), status)


def _error(status: int, code: str, message: str) -> _Answer:
    return _json({"errors": [{"code": code, "message": message}]}, status)


async def _send(store: ContentStore, answer: _Answer, send: Send, *, with_body: bool) -> None:
    length = answer.length if answer.blob is not None else len(answer.body)
    headers = answer.headers | {"content-length": str(length), "docker-distribution-api-version": "registry/2.0"}
    encoded = [(key.encode(), value.encode("latin-1", "replace")) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
    if answer.blob is None or not with_body:
        await send({"type": "http.response.body", "body": answer.body if with_body else b""})
        return
    left = length
    with store.open(answer.blob) as file:
        file.seek(answer.first)
        while left:
            chunk = await asyncio.to_thread(file.read, min(CHUNK_BYTES, left))
            if not chunk:
                break  # cut short on disk: the client sees fewer bytes than announced, and refuses them
            left -= len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
