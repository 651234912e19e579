"""The typed client: kinds in, structs out, the same for the embedded engine and a real cluster.

A struct is a view of an object, so writing is server-side apply of what we mean (`apply`), `create`, or a `patch`; there is
no PUT of a whole typed object. `Client.wire` is the untyped twin.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import msgspec

from trimtab.api import Ref, Resource, ResourceType, from_wire, kind_of, to_wire
from trimtab.client.errors import ApiError
from trimtab.client.transport import Response, Transport
from trimtab.client.wire import PatchType, WireClient, encode, selectors

K = TypeVar("K", bound=Resource)

LIST_CHUNK = 500
"""Objects per page of a list, as client-go does: bounds what one answer holds in memory."""


@dataclass(frozen=True)
class Listing(Generic[K]):
    """The objects, and the resource version from which a watch continues."""

    items: list[K]
    resource_version: str


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[K]):
    """A change, or a BOOKMARK whose object has only a resource version."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: K
    raw: bytes


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _ListPage(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


_page_decoder = msgspec.json.Decoder(_ListPage)
_decoders: dict[type[Resource], msgspec.json.Decoder[Any]] = {}


def decode(kind: type[K], body: bytes) -> K:
    """The typed view of an object's bytes.

    Raises:
        InvalidObject: naming the field and what it should be.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        decoded: K = decoder.decode(body)
    except msgspec.ValidationError:
        return from_wire(kind, msgspec.json.decode(body))  # it may be nulls that were in the way
    return decoded


class Client:
    """One API server as one user. `close` also closes the transport."""

    def __init__(
        self, transport: Transport, *, agent: str = "trimtab", on_warning: Callable[[str], None] | None = None
    ) -> None:
        self.wire = WireClient(transport, agent=agent, on_warning=on_warning)

    @property
    def transport(self) -> Transport:
        return self.wire.transport

    async def get(self, kind: type[K], name: str, namespace: str | None = None) -> K | None:
        """One object, or None when there is none."""
        try:
            response = await self.wire.send("GET", kind.resource_type.path(namespace, name))
        except ApiError as err:
            if err.status == 404:
                return None
            raise
        return decode(kind, response.body)

    async def list(
        self, kind: type[K], namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> Listing[K]:
        """All objects (of one namespace) that match the selectors, read in chunks."""
        raw, version = await self.list_raw(kind.resource_type, namespace, labels=labels, fields=fields)
        return Listing([decode(kind, item) for item in raw], version)

    async def list_raw(
        self, kind: ResourceType, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> tuple[Sequence[bytes], str]:
        """Each object's bytes, and the list's resource version."""
        items: list[bytes] = []
        version = ""
        async for page, shown in self.pages(kind, namespace, labels=labels, fields=fields):
            items += [bytes(item) for item in page]
            version = shown
        return items, version

    async def pages(
        self, kind: ResourceType, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> AsyncGenerator[tuple[Sequence[msgspec.Raw], str], None]:
        """A list piece by piece: each object's bytes (of a buffer that all of a piece share), and the resource version."""
        query = selectors(labels, fields) | {"limit": str(LIST_CHUNK)}
        token = ""
        while True:
            page_query = query | {"continue": token} if token else query
            response = await self.wire.send("GET", kind.path(namespace), page_query)
            page = _page_decoder.decode(response.body)
            yield page.items or (), page.metadata.resource_version
            token = page.metadata.continue_
            if not token:
                return

    async def watch(
        self,
        kind: type[K],
        namespace: str | None = None,
        *,
        resource_version: str = "",
        labels: str = "",
        fields: str = "",
        timeout_s: int | None = None,
    ) -> AsyncGenerator[WatchEvent[K], None]:
        """Changes after `resource_version`; ends when the server ends it. Raises `Gone` when that is too old."""
        stream = self.wire.watch(
            kind.resource_type,
            namespace,
            resource_version=resource_version,
            labels=labels,
            fields=fields,
            timeout_s=timeout_s,
        )
        async with aclosing(stream) as events:
            async for event in events:
                yield WatchEvent(event.type, decode(kind, event.object), event.object)  # type: ignore[arg-type]

    async def apply(
        self,
        obj: K,
        *,
        manager: str,
        force: bool = True,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> K:
        """Server-side apply of all that the struct says; creates the object when there is none."""
        kind = type(obj)
        body = await self.wire.apply_bytes(
            kind.resource_type,
            obj.name,
            obj.namespace,
            encode(to_wire(obj)),
            manager=manager,
            force=force,
            subresource=subresource,
            dry_run=dry_run,
        )
        return decode(kind, body)

    async def create(self, obj: K, *, manager: str, dry_run: bool = False) -> K:
        """Raises `AlreadyExists` when the name is taken."""
        kind = type(obj)
        query = {"fieldManager": manager} | ({"dryRun": "All"} if dry_run else {})
        response = await self.wire.send("POST", kind.resource_type.path(obj.namespace), query, encode(to_wire(obj)))
        return decode(kind, response.body)

    async def patch(
        self,
        target: Ref | Resource,
        patch: Any,
        *,
        manager: str,
        type: PatchType = "merge",
        subresource: str | None = None,
    ) -> Any:
        """Patches one object; returns it as JSON."""
        ref = target.ref if isinstance(target, Resource) else target
        return await self.wire.patch(
            type_of(ref), ref.name, ref.namespace, patch, manager=manager, type=type, subresource=subresource
        )

    async def delete(
        self,
        target: Ref | Resource,
        *,
        uid: str = "",
        resource_version: str = "",
        grace_period_s: int | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] | None = None,
        missing_ok: bool = True,
    ) -> None:
        """Asks for deletion. Of a `Resource` that was read, only that very object (its uid) is deleted.

        Raises:
            NotFound: there is none, and not `missing_ok`.
            Conflict: the object is another one by now.
        """
        ref = target.ref if isinstance(target, Resource) else target
        if isinstance(target, Resource):
            uid = uid or target.metadata.uid
        try:
            await self.wire.delete(
                type_of(ref),
                ref.name,
                ref.namespace,
                uid=uid,
                resource_version=resource_version,
                grace_period_s=grace_period_s,
                propagation=propagation,
            )
        except ApiError as err:
            if not (missing_ok and err.status == 404):
                raise

    async def raw(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
    ) -> Response:
        """Any request; raises `ApiError` for a status >= 400."""
        return await self.wire.send(method, path, query, body, content_type, headers=headers, stream=stream)

    async def close(self) -> None:
        await self.wire.close()


def type_of(ref: Ref) -> ResourceType:
    """Where the kind of `ref` lives.

    Raises:
        LookupError: Trimtab has no struct of that kind; use the untyped client.
    """
    kind = kind_of(ref.api_version, ref.kind)
    if kind is None:
        raise LookupError(f"{ref}: no struct for {ref.api_version} {ref.kind}; use Client.wire with its ResourceType")
    return kind.resource_type
