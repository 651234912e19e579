"""What need not be made twice: a cache entry names, by the hash of everything that went in, what came out.

An entry is a small JSON document in the store under the tag `cache/<kind>/<key>`: the recorded value, and descriptors of
the blobs it speaks of, so that the store's garbage collection keeps them. An entry whose blobs are gone or cut short is
no entry: the thing is made again, so damage heals itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from trimtab.content.digest import Digest, parse_digest
from trimtab.content.errors import ContentError
from trimtab.content.oci import Descriptor
from trimtab.content.store import ContentStore

T = TypeVar("T")

CACHE_TYPE = "application/vnd.trimtab.cache.v1+json"


class _Record(msgspec.Struct, frozen=True):
    mediaType: str
    value: msgspec.Raw
    blobs: list[Descriptor]


def key_of(*parts: Any) -> str:
    """A key from everything that decides the outcome, in any JSON-like form."""
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:40]


def recall(store: ContentStore, kind: str, key: str, type: type[T]) -> T | None:
    """What was recorded under this key, if all of it is still here."""
    name = f"cache/{kind}/{key}"
    try:
        digest = store.resolve(name)
        if digest is None:
            return None
        record = msgspec.json.decode(store.read(digest), type=_Record)
        for blob in record.blobs:
            if store.size(parse_digest(blob.digest)) != blob.size:
                store.delete(parse_digest(blob.digest))
                return None
        value = msgspec.json.decode(record.value, type=type)
    except (ContentError, msgspec.MsgspecError):
        return None
    store.touch(name)
    return value


def remember(store: ContentStore, kind: str, key: str, value: Any, blobs: Sequence[tuple[str, int]] = ()) -> Digest:
    """Records a value and the blobs (digest, size) that it speaks of."""
    record = _Record(
        mediaType=CACHE_TYPE,
        value=msgspec.Raw(msgspec.json.encode(value)),
        blobs=[Descriptor(media_type="application/octet-stream", digest=one, size=size) for one, size in blobs],
    )
    digest = store.put(msgspec.json.encode(record))
    store.tag(f"cache/{kind}/{key}", digest)
    return digest
