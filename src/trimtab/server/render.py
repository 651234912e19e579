"""The forms in which objects go out: whole, as rows of a table, or their metadata alone; chosen by the `Accept` header.

Whole objects are the stored bytes. `Rendering` has one method for each place where objects stand: alone, in a list, in a
watch event.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from trimtab.api import JSON
from trimtab.server import errors
from trimtab.server.clock import Clock
from trimtab.server.http import Request
from trimtab.server.kinds import Kind
from trimtab.server.views import viewed, viewed_bytes
from trimtab.store import Record

if TYPE_CHECKING:
    from trimtab.server.tables import TableOptions

PIECE_MAX_BYTES = 1024 * 1024
"""Of objects that are encoded in one go: large ones are not collected to hundreds of megabytes."""

_encode = msgspec.json.Encoder().encode
ACCEPTED = "application/json"


class Rendering:
    """Whole objects."""

    content_type = "application/json"
    key: str = "json"
    """Names the form and its options, for caching."""

    step = 500
    """Objects that are encoded in one go, in about a millisecond."""

    def one(self, kind: Kind, record: Record) -> bytes:
        return viewed_bytes(kind, record)

    def made(self, kind: Kind, obj: JSON) -> bytes:
        """An object that is no record, such as a Scale."""
        return _encode(obj)

    def listed(self, kind: Kind, records: Sequence[Record], meta: JSON) -> bytes:
        return b"".join(self.pieces(kind, records, meta, len(records) or 1))

    def pieces(self, kind: Kind, records: Sequence[Record], meta: JSON, step: int) -> Iterator[bytes]:
        """A list in pieces of so many objects at most, encoded when they are asked for."""
        yield self._head(kind, meta)
        start = 0
        while start < len(records):
            end = start + 1
            size = len(records[start].value)
            while end < min(start + step, len(records)) and (size := size + len(records[end].value)) <= PIECE_MAX_BYTES:
                end += 1
            comma = b"," if start else b""
            yield comma + b",".join(self._items(kind, records[start:end]))
            start = end
        yield b"]}"

    def _head(self, kind: Kind, meta: JSON) -> bytes:
        return b'{"kind":"%b","apiVersion":"%b","metadata":%b,"items":[' % (
            kind.list_name.encode(),
            kind.api_version.encode(),
            _encode(meta),
        )

    def _items(self, kind: Kind, records: Sequence[Record]) -> list[bytes]:
        return [viewed_bytes(kind, record) for record in records]

    def event(self, kind: Kind, record: Record, revision: int, first: bool) -> bytes:
        """The object of a watch event; `first` in its watch; `revision` is that of the event."""
        return viewed_bytes(kind, record, revision)

    def bookmark(self, kind: Kind, meta: JSON) -> bytes:
        return _encode({"kind": kind.kind, "apiVersion": kind.api_version, "metadata": meta})


class PartialRendering(Rendering):
    """`PartialObjectMetadata`."""

    key = "partial"
    step = 50

    def one(self, kind: Kind, record: Record) -> bytes:
        return _encode(_partial(viewed(kind, record)))

    def _head(self, kind: Kind, meta: JSON) -> bytes:
        return b'{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":%b,"items":[' % _encode(
            meta
        )

    def _items(self, kind: Kind, records: Sequence[Record]) -> list[bytes]:
        return [_encode(_partial(viewed(kind, record))) for record in records]

    def event(self, kind: Kind, record: Record, revision: int, first: bool) -> bytes:
        return _encode(_partial(viewed(kind, record, revision)))

    def bookmark(self, kind: Kind, meta: JSON) -> bytes:
        return _encode(_partial({"metadata": meta}))


def _partial(obj: JSON) -> JSON:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


class TableRendering(Rendering):
    """A `Table` with the columns that kubectl prints."""

    step = 50

    def __init__(self, options: TableOptions) -> None:
        self._options = options
        self.key = f"table/{options.version}/{options.include}"

    def one(self, kind: Kind, record: Record) -> bytes:
        return self.made(kind, viewed(kind, record))

    def made(self, kind: Kind, obj: JSON) -> bytes:
        return self._table(kind, [obj], {"resourceVersion": obj["metadata"].get("resourceVersion", "")}, True)

    def _head(self, kind: Kind, meta: JSON) -> bytes:
        empty = self._table(kind, [], meta, True)
        return empty[: empty.rindex(b"]}")]

    def _items(self, kind: Kind, records: Sequence[Record]) -> list[bytes]:
        from trimtab.server.tables import rows

        return [_encode(row) for row in rows(kind, [viewed(kind, record) for record in records], self._options)]

    def event(self, kind: Kind, record: Record, revision: int, first: bool) -> bytes:
        return self._table(kind, [viewed(kind, record, revision)], {"resourceVersion": str(revision)}, first)

    def bookmark(self, kind: Kind, meta: JSON) -> bytes:
        bare = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": meta}
        return self._table(kind, [bare], {"resourceVersion": meta["resourceVersion"]}, False, bare=True)

    def _table(self, kind: Kind, objects: Sequence[JSON], meta: JSON, columns: bool, *, bare: bool = False) -> bytes:
        from trimtab.server.tables import table

        return _encode(table(kind, objects, meta, self._options, with_columns=columns, bare=bare))


WHOLE = Rendering()
PARTIAL = PartialRendering()


def rendering_of(request: Request, clock: Clock) -> Rendering:
    """The form that a request accepts; ages in tables are of the clock. Raises `StatusError` 406."""
    accept = request.headers.get("accept", "")
    if "as=" not in accept:
        if not accept or "json" in accept or "*/*" in accept or "application/*" in accept:
            return WHOLE
        raise errors.not_acceptable(ACCEPTED)
    return _chosen(accept, request.query.get("includeObject", "Metadata"), clock)


def _chosen(accept: str, include: str, clock: Clock) -> Rendering:
    for part in accept.split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        options = dict(parameter.partition("=")[::2] for parameter in parameters)
        if media not in ("application/json", "*/*", "application/*"):
            continue
        shape = options.get("as", "")
        if options.get("v", "v1") not in ("v1", "v1beta1"):
            continue
        if shape == "Table" and options.get("g") == "meta.k8s.io":
            from trimtab.server.tables import TableOptions

            return TableRendering(TableOptions(include, options.get("v", "v1"), clock.now))
        if shape in ("PartialObjectMetadata", "PartialObjectMetadataList"):
            return PARTIAL
        if not shape:
            return WHOLE
    raise errors.not_acceptable(ACCEPTED)
