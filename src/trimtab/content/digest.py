"""Digests: every byte in this package is known by the sha256 of it, written as OCI does, `sha256:<64 hex>`."""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from trimtab.content.errors import BadReference

Digest = NewType("Digest", str)

_FORM = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(data: bytes) -> Digest:
    """The digest of these bytes."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def parse_digest(text: str) -> Digest:
    """`text` as a digest. Only sha256 is accepted: it is the one algorithm that every registry speaks."""
    if not _FORM.fullmatch(text):
        raise BadReference(f"{text[:100]!r} is not a digest; expected sha256: and 64 hex digits")
    return Digest(text)


def hex_of(digest: Digest) -> str:
    """The 64 hex digits: the blob's file name. Checked, since it becomes a path."""
    return parse_digest(digest)[len("sha256:") :]
