"""The untyped half of the client: JSON and bytes in and out, for any kind the server has.

A call becomes a `Request`, the transport's answer becomes bytes or an `ApiError`. The typed `Client` and the informers stand
on this; the CLI uses it directly, finding kinds by discovery (`WireClient.discover`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from trimtab.api import JSON, ResourceType
from trimtab.client.errors import ApiError, error_from
from trimtab.client.transport import Request, Response, Transport

PatchType = Literal["merge", "json", "strategic"]
PATCH_CONTENT_TYPES: Mapping[PatchType, str] = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}
APPLY = "application/apply-patch+yaml"
"""JSON is YAML, so an apply's body is JSON under this name."""

WATCH_LINE_BYTES_MAX = 32 * 1024 * 1024
"""Above what an API server stores in one object; a longer line is a broken stream."""


class _WatchLine(msgspec.Struct):
    type: str
    object: msgspec.Raw


_watch_line = msgspec.json.Decoder(_WatchLine)


@dataclass(frozen=True, slots=True)
class RawEvent:
    """One line of a watch: ADDED, MODIFIED, DELETED or BOOKMARK, and the object's bytes."""

    type: str
    object: bytes


def encode(body: Any) -> bytes:
    """JSON bytes of wire values; the same values always give the same bytes."""
    return msgspec.json.encode(body, order="sorted")


class WireClient:
    """All of the API's verbs on paths and JSON. `on_warning` is given the server's `Warning` texts."""

    def __init__(
        self, transport: Transport, *, agent: str = "trimtab", on_warning: Callable[[str], None] | None = None
    ) -> None:
        self.transport = transport
        self.on_warning = on_warning
        self._headers = {"accept": "application/json", "user-agent": agent}

    async def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        content_type: str = "application/json",
        *,
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
    ) -> Response:
        """One request.

        Raises:
            ApiError: the server refused (HTTP status >= 400).
            ConnectionError: the server was not reached; whether the request was carried out is unknown.
        """
        request = Request(
            method,
            path,
            query or {},
            body,
            content_type,
            {**self._headers, **headers} if headers else self._headers,
            stream,
        )
        response = await self.transport.send(request)
        if response.status >= 400:
            text = response.body
            if stream and not text:
                text = b"".join([chunk async for chunk in response.chunks()])
            await response.close()
            raise error_from(response.status, text, response.headers)
        if self.on_warning is not None and (warning := response.headers.get("warning")):
            for said in warning_texts(warning):
                self.on_warning(said)
        return response

    async def read(self, path: str, query: Mapping[str, str] | None = None, *, accept: str = "") -> JSON:
        """GET of any path, decoded."""
        headers = {"accept": accept} if accept else None
        response = await self.send("GET", path, query, headers=headers)
        decoded: JSON = msgspec.json.decode(response.body)
        return decoded

    async def get(self, kind: ResourceType, name: str, namespace: str | None = None) -> JSON | None:
        """One object, or None."""
        try:
            return await self.read(kind.path(namespace, name))
        except ApiError as err:
            if err.status == 404:
                return None
            raise

    async def list(
        self,
        kind: ResourceType,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        chunk: int = 500,
    ) -> JSON:
        """The whole list, read in chunks: a `...List` object with `metadata.resourceVersion` and `items`, whose items
        carry `apiVersion` and `kind`."""
        query = selectors(labels, fields) | {"limit": str(chunk)}
        whole = await self.read(kind.path(namespace), query)
        items: Any = whole.setdefault("items", [])
        while token := whole["metadata"].get("continue"):
            page = await self.read(kind.path(namespace), query | {"continue": token})
            items.extend(page.get("items") or ())
            whole["metadata"] = page["metadata"]
        for item in items:
            item.setdefault("apiVersion", kind.api_version)
            item.setdefault("kind", kind.kind)
        return whole

    async def create(self, kind: ResourceType, obj: JSON, *, manager: str, dry_run: bool = False) -> JSON:
        meta = obj.get("metadata", {})
        response = await self.send(
            "POST", kind.path(meta.get("namespace")), _write_query(manager, dry_run), msgspec.json.encode(obj)
        )
        return _decoded(response)

    async def replace(self, kind: ResourceType, obj: JSON, *, manager: str, subresource: str | None = None) -> JSON:
        """PUT; with a resourceVersion in it, refused with `Conflict` when somebody wrote since."""
        meta = obj["metadata"]
        path = kind.path(meta.get("namespace"), meta["name"], subresource)
        return _decoded(await self.send("PUT", path, _write_query(manager), msgspec.json.encode(obj)))

    async def apply(
        self,
        kind: ResourceType,
        obj: JSON,
        *,
        manager: str,
        force: bool = True,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> JSON:
        """Server-side apply: `obj` holds every field that `manager` wants; what it wanted before and no longer does is
        removed."""
        body = encode(obj)
        meta = obj["metadata"]
        return msgspec.json.decode(
            await self.apply_bytes(
                kind,
                meta["name"],
                meta.get("namespace"),
                body,
                manager=manager,
                force=force,
                subresource=subresource,
                dry_run=dry_run,
            ),
            type=dict[str, Any],
        )

    async def apply_bytes(
        self,
        kind: ResourceType,
        name: str,
        namespace: str | None,
        body: bytes,
        *,
        manager: str,
        force: bool = True,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> bytes:
        query = _write_query(manager, dry_run)
        if force:
            query["force"] = "true"
        response = await self.send("PATCH", kind.path(namespace, name, subresource), query, body, APPLY)
        return response.body

    async def patch(
        self,
        kind: ResourceType,
        name: str,
        namespace: str | None,
        patch: Any,
        *,
        manager: str,
        type: PatchType = "merge",
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> JSON:
        """A merge patch (a document), a JSON patch (a list of operations) or a strategic merge patch (a document)."""
        path = kind.path(namespace, name, subresource)
        query = _write_query(manager, dry_run)
        return _decoded(await self.send("PATCH", path, query, msgspec.json.encode(patch), PATCH_CONTENT_TYPES[type]))

    async def delete(
        self,
        kind: ResourceType,
        name: str,
        namespace: str | None = None,
        *,
        uid: str = "",
        resource_version: str = "",
        grace_period_s: int | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] | None = None,
        dry_run: bool = False,
    ) -> JSON:
        """Asks for deletion; returns what the server says (the object while it still exists, else a Status).

        Raises:
            NotFound: there is none.
            Conflict: `uid` or `resource_version` is not that of the object.
        """
        options: JSON = {"apiVersion": "v1", "kind": "DeleteOptions"}
        preconditions = {k: v for k, v in (("uid", uid), ("resourceVersion", resource_version)) if v}
        if preconditions:
            options["preconditions"] = preconditions
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        if propagation:
            options["propagationPolicy"] = propagation
        query = {"dryRun": "All"} if dry_run else {}
        response = await self.send("DELETE", kind.path(namespace, name), query, msgspec.json.encode(options))
        return _decoded(response)

    async def watch(
        self,
        kind: ResourceType,
        namespace: str | None = None,
        *,
        resource_version: str = "",
        labels: str = "",
        fields: str = "",
        timeout_s: int | None = None,
        name: str = "",
    ) -> AsyncGenerator[RawEvent, None]:
        """Changes after `resource_version` (default: now, after every object as ADDED). Ends when the server ends it.

        Raises:
            Gone: the resource version is too old; list again.
        """
        query = selectors(labels, f"metadata.name={name}" if name else fields)
        query |= {"watch": "true", "allowWatchBookmarks": "true"}
        if resource_version:
            query["resourceVersion"] = resource_version
        if timeout_s is not None:
            query["timeoutSeconds"] = str(timeout_s)
        response = await self.send("GET", kind.path(namespace), query, stream=True)
        try:
            async with aclosing(lines(response.chunks())) as each:
                async for line in each:
                    event = _watch_line.decode(line)
                    if event.type == "ERROR":
                        raise error_from(0, bytes(event.object))
                    yield RawEvent(event.type, bytes(event.object))
        finally:
            await response.close()

    async def discover(self) -> Sequence[ResourceType]:
        """Every kind that the server has, in the server's preferred versions first, from its discovery documents."""
        found = []
        roots = [("/api/v1", "v1")]
        groups = await self.read("/apis")
        for group in groups.get("groups", ()):
            preferred = group.get("preferredVersion", {}).get("groupVersion")
            versions = [v["groupVersion"] for v in group["versions"]]
            versions.sort(key=lambda version: version != preferred)
            roots += [(f"/apis/{version}", version) for version in versions]
        for path, api_version in roots:
            document = await self.read(path)
            for entry in document.get("resources", ()):
                if "/" in entry["name"]:
                    continue
                found.append(
                    ResourceType(
                        api_version,
                        entry["kind"],
                        entry["name"],
                        namespaced=entry["namespaced"],
                        short_names=tuple(entry.get("shortNames", ())),
                        categories=tuple(entry.get("categories", ())),
                    )
                )
        return found

    async def close(self) -> None:
        await self.transport.close()


def selectors(labels: str, fields: str) -> dict[str, str]:
    query = {}
    if labels:
        query["labelSelector"] = labels
    if fields:
        query["fieldSelector"] = fields
    return query


def _write_query(manager: str, dry_run: bool = False) -> dict[str, str]:
    query = {"fieldManager": manager}
    if dry_run:
        query["dryRun"] = "All"
    return query


def _decoded(response: Response) -> JSON:
    decoded: JSON = msgspec.json.decode(response.body)
    return decoded


async def lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The non-empty lines of a stream that comes in pieces of any size. An unfinished last line is dropped: the stream
    broke in it."""
    pending = b""
    async for chunk in chunks:
        pending = pending + chunk if pending else chunk
        if b"\n" not in chunk:
            if len(pending) > WATCH_LINE_BYTES_MAX:
                raise ConnectionError(f"the API server sent a watch line of more than {WATCH_LINE_BYTES_MAX} bytes")
            continue
        *whole, pending = pending.split(b"\n")
        for line in whole:
            if line:
                yield line


def warning_texts(header: str) -> list[str]:
    """The quoted texts of a `Warning` header (RFC 7234, 5.5), which may hold several."""
    texts: list[str] = []
    rest = header
    while (start := rest.find('"')) >= 0:
        out: list[str] = []
        i = start + 1
        while i < len(rest) and rest[i] != '"':
            if rest[i] == "\\" and i + 1 < len(rest):
                i += 1
            out.append(rest[i])
            i += 1
        texts.append("".join(out))
        rest = rest[i + 1 :]
    return texts
