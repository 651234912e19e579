"""Image references: `host/path:tag@sha256:...`, completed as every container tool completes them."""

from __future__ import annotations

import re

import msgspec

from trimtab.content.digest import Digest, parse_digest
from trimtab.content.errors import BadReference

# The grammar of the distribution project's `reference` package.
_PATH = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_PATH_LENGTH_MAX = 200


class Reference(msgspec.Struct, frozen=True):
    """A complete reference: the registry, the repository in it, and a tag or digest (both: the digest decides)."""

    registry: str
    repository: str
    tag: str = ""
    digest: Digest | None = None

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"

    @property
    def tagged(self) -> str:
        """The name under which the store tags it: the digest where the reference has one."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """`python:3.12` -> docker.io/library/python:3.12. Raises BadReference."""
    rest, at, digest_text = text.strip().partition("@")
    digest = parse_digest(digest_text) if at else None
    first, slash, remainder = rest.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        registry, path = first, remainder
    else:
        registry, path = "docker.io", rest
    path, _, tag = path.partition(":")
    if registry in ("docker.io", "index.docker.io"):
        registry = "docker.io"
        if path and "/" not in path:
            path = "library/" + path
    if not _HOST.fullmatch(registry):
        raise BadReference(f"{text!r}: {registry!r} is not a registry's host name")
    if not _PATH.fullmatch(path) or len(path) > _PATH_LENGTH_MAX:
        raise BadReference(f"{text!r} is not an image reference; expected [HOST/]NAME[:TAG][@sha256:...] in lower case")
    if tag and not _TAG.fullmatch(tag):
        raise BadReference(f"{text!r}: {tag!r} is not a tag")
    return Reference(registry, path, tag or ("" if digest else "latest"), digest)
