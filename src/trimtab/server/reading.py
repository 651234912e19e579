"""Get and list: what stands in memory, written out.

A plain list joins the stored bytes; objects are parsed only when a selector has to look into them or a table is asked for. A
list in pieces names the revision of its first piece in the continue token, so that all pieces show the same moment.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice

import msgspec

from trimtab.api import JSON
from trimtab.server import errors
from trimtab.server.http import Reply, Request, Stream, nothing_more
from trimtab.server.kinds import Kind
from trimtab.server.label_selectors import parse_labels
from trimtab.server.list_options import check_list_options
from trimtab.server.render import WHOLE, Rendering
from trimtab.server.selectors import Selector, parse_selector
from trimtab.server.views import viewed
from trimtab.store import Compacted, Record, Store

WHOLE_MAX_BYTES = 1024 * 1024
"""A list of less is answered in one go, if it has few enough objects for its form."""


class _Token(msgspec.Struct):
    rv: int
    start: str
    v: str = "trimtab/v1"


class Page(msgspec.Struct):
    """One piece of a list: its records, the revision that it shows, and where the next one begins."""

    records: list[Record]
    revision: int
    token: str = ""
    remaining: int | None = None


def list_page(store: Store, kind: Kind, namespace: str, request: Request) -> Page:
    """The piece of a list that a request asks for.

    Raises:
        StatusError: 400 for a bad selector or token, 422 for options that do not go together, 410 when the token's revision is gone.
    """
    query = request.query
    limit = None if query.get("limit", "").startswith("-") else request.integer("limit") or None
    labels = parse_labels(query.get("labelSelector", ""))
    check_list_options(request)
    selector = parse_selector(kind, labels, query.get("fieldSelector", ""))
    token = query.get("continue", "")
    prefix = kind.prefix(namespace)
    if token:
        at = _parse_token(token, prefix)
        if at.rv > store.revision:
            raise errors.bad_request("continue key is not valid: it names a version that is yet to come")
        revision, start = at.rv or store.revision, at.start
    else:
        revision, start = _asked_revision(store, request), ""
    name = selector.exact("metadata.name")
    if name is not None and (namespace or not kind.namespaced) and revision == store.revision:
        found = store.get(kind.key(namespace, name))
        records = [found] if found is not None and found.key >= start else []
        return Page(list(_matching(kind, records, selector)), revision)
    try:
        return _page(store, kind, prefix, selector, start, limit, revision)
    except Compacted:
        if not token:
            raise errors.gone(f"The resourceVersion for the provided list is too old: {revision}") from None
        fresh = _make_token(0, start)
        err = errors.gone(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list "
            "without the continue parameter, or use the continue token in this response to retrieve the remainder of the results."
        )
        err.metadata = {"continue": fresh}
        raise err from None


def _page(
    store: Store, kind: Kind, prefix: str, selector: Selector, start: str, limit: int | None, revision: int
) -> Page:
    if limit is None:
        return Page(list(_matching(kind, store.list(prefix, start=start, revision=revision), selector)), revision)
    if not selector and revision == store.revision:
        records = store.list(prefix, start=start, limit=limit + 1)
        remaining = store.count(prefix, start=start) - limit
    else:
        every = store.list(prefix, start=start, revision=revision)
        records = list(islice(_matching(kind, every, selector), limit + 1))
        remaining = len(every) - limit
    if len(records) <= limit:
        return Page(records, revision)
    token = _make_token(revision, records[limit].key)
    return Page(records[:limit], revision, token, None if selector else remaining)


def _matching(kind: Kind, records: Iterable[Record], selector: Selector) -> Iterator[Record]:
    if not selector:
        return iter(records)
    return (record for record in records if selector.matches(viewed(kind, record)))


def _asked_revision(store: Store, request: Request) -> int:
    """The revision to list at: now, unless an exact one is asked for."""
    asked = request.integer("resourceVersion") or 0
    match = request.query.get("resourceVersionMatch", "")
    if asked > store.revision:
        raise errors.version_too_large(asked, store.revision)
    return asked if match == "Exact" and asked else store.revision


def _make_token(revision: int, start: str) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(_Token(revision, start))).decode().rstrip("=")


def _parse_token(text: str, prefix: str) -> _Token:
    try:
        token = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=_Token)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise errors.bad_request("continue key is not valid: use the token of the last answer, unchanged") from None
    if not token.start.startswith(prefix):
        raise errors.bad_request("continue key is not valid: it belongs to another list")
    return token


def list_answer(kind: Kind, page: Page, rendering: Rendering) -> Reply | Stream:
    """The answer to a list request. A long one is written piece by piece, so that others are served in between."""
    meta: JSON = {"resourceVersion": str(page.revision)}
    if page.token or (kind.crd and rendering is WHOLE):
        meta["continue"] = page.token
    if page.remaining is not None:
        meta["remainingItemCount"] = page.remaining
    warnings = [kind.warning] if kind.warning else []
    step = rendering.step
    if len(page.records) <= step and sum(len(record.value) for record in page.records) <= WHOLE_MAX_BYTES:
        return Reply(rendering.listed(kind, page.records, meta), warnings=warnings)
    pieces = rendering.pieces(kind, page.records, meta, step)

    async def run(write: Callable[[bytes], Awaitable[None]]) -> None:
        for piece in pieces:
            await write(piece)

    return Stream(nothing_more, warnings=warnings, begin=run)
