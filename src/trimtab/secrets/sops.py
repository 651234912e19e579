"""A SOPS file as a whole: read, changed, rotated, written.

    opened = sops.load(path)                 the key is found, every value decrypted, the code over all of them compared
    opened.value("registry.password")
    sops.save(path, opened.with_text(edited))

A changed file keeps the encrypted form of every value that did not change, so that git shows what did. Values are encrypted with
one key for the file; that key stands in it once for each recipient.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.secrets import cipher, documents
from trimtab.secrets.cipher import Comment, Value
from trimtab.secrets.documents import Document, Leaf, Metadata
from trimtab.secrets.errors import SopsError
from trimtab.secrets.recipients import Identities, Rules, identities, recipient

VERSION = "3.11.0"
"""Of SOPS, whose format files have that are made here."""
UNENCRYPTED_SUFFIX = "_unencrypted"
_SELECTORS = ("unencrypted_suffix", "encrypted_suffix", "unencrypted_regex", "encrypted_regex")
_NOT_KNOWN = ("unencrypted_comment_regex", "encrypted_comment_regex")
_OTHER_KEYS = ("kms", "gcp_kms", "azure_kv", "hc_vault", "pgp")


@dataclass(frozen=True)
class Opened:
    """A decrypted file. values: of its document's leaves, in order. Its text is never kept on disk in the clear."""

    format: str
    document: Document = field(repr=False)
    metadata: Metadata = field(repr=False)
    key: bytes = field(repr=False)
    values: Sequence[Value] = field(repr=False)

    @property
    def recipients(self) -> list[str]:
        """The age recipients who can read it."""
        return [str(entry["recipient"]) for entry in _age(self.metadata)]

    def tree(self) -> Any:
        """The data in the clear."""
        return self.document.tree(self.values)

    def value(self, key: str) -> str:
        """One value by its keys, joined by dots; positions in lists are numbers.

        Raises:
            SopsError: there is none, or several below it.
        """
        at: Any = self.tree()
        for step in split_key(key):
            at = _step(at, step, key)
        if isinstance(at, dict | list) or at is None:
            inside = f"; in it are {', '.join(sorted(at))}" if isinstance(at, dict) else ""
            raise SopsError(f"{key} is not one value{inside}")
        return cipher.text_of(at) if not isinstance(at, bool) else str(at).lower()

    def plain_text(self) -> str:
        """The file in the clear, for an editor."""
        if self.format == "binary":
            return str(self.values[0])
        return self.document.text(self.values, None)

    def with_text(self, text: str) -> str:
        """The encrypted file that says what an edited plain text does."""
        document = documents.read(text, self.format)
        if document.metadata is not None:
            raise SopsError(f"`{documents.METADATA}` is the key of SOPS' own part; rename it")
        return _written(document, [leaf.value for leaf in document.leaves], self.metadata, self.key, self)

    def rotated(self, recipients: Sequence[str] | None = None) -> str:
        """The file under a new key, every value encrypted anew, for other recipients if there are any.

        Raises:
            SopsError: it has master keys that are not age's, for which a new key cannot be made here.
        """
        other = [name for name in _OTHER_KEYS if self.metadata.get(name)]
        if other:
            raise SopsError(f"the file is for {other[0]} keys too, which only sops can rotate: sops rotate -i FILE")
        key = os.urandom(cipher.KEY_LENGTH)
        metadata = {**self.metadata, "age": _wrapped(key, recipients or self.recipients)}
        return _written(self.document, self.values, metadata, key, None)


def split_key(key: str) -> list[str]:
    """`a.b.0` or `["a"]["b"][0]` (as SOPS writes it) by steps."""
    if key.startswith("["):
        return [part.strip().strip("\"'") for part in key[1:].removesuffix("]").split("][")]
    return key.split(".")


def _step(at: Any, step: str, key: str) -> Any:
    if isinstance(at, list) and step.isdecimal() and int(step) < len(at):
        return at[int(step)]
    if isinstance(at, dict) and step in at:
        return at[step]
    has = f"; there are {', '.join(sorted(at))}" if isinstance(at, dict) and at else ""
    raise SopsError(f"there is no {key}: {step!r} is not there{has}")


def load(path: Path, env: Mapping[str, str] = os.environ) -> Opened:
    """Reads a file.

    Raises:
        SopsError: it cannot be read or decrypted; the text begins with its path.
    """
    try:
        return decrypt(path.read_text(), documents.format_of(path), identities(env))
    except SopsError as err:
        raise SopsError(f"{path}: {err}") from None
    except (OSError, UnicodeDecodeError) as err:
        raise SopsError(f"{path}: cannot be read: {getattr(err, 'strerror', None) or 'no text'}") from None


def decrypt(text: str, format: str, found: Identities) -> Opened:
    """Decrypts a text with one of these keys, and compares the code over it.

    Raises:
        SopsError: it is not encrypted, none of the keys fits, or it was changed without its key.
    """
    document = documents.read(text, format)
    metadata = document.metadata
    if metadata is None:
        raise SopsError("it is not encrypted; `trimtab secret encrypt` does that")
    _check(metadata)
    key = _key(metadata, found)
    values = [_opened(leaf, metadata, key) for leaf in document.leaves]
    opened = Opened(format, document, metadata, key, values)
    if not metadata.get("mac"):
        raise SopsError("it has no authentication code: anybody could have changed it; encrypt it anew")
    if cipher.decrypt_code(str(metadata["mac"]), key, _modified(metadata)) != _code(document.leaves, values, metadata):
        raise SopsError("its authentication code is wrong: it was changed without its key; take it from git's history")
    return opened


def encrypt(text: str, format: str, rules: Rules) -> str:
    """A new encrypted file of a plain text.

    Raises:
        SopsError: it is encrypted already, is no text of its format, or a recipient is none.
    """
    document = documents.read(text, format)
    if document.metadata is not None:
        raise SopsError("it is encrypted already; `trimtab secret edit` changes it")
    if not document.leaves and format != "binary":
        raise SopsError("there is nothing in it to encrypt")
    key = os.urandom(cipher.KEY_LENGTH)
    selection = dict(rules.selection) or {"unencrypted_suffix": UNENCRYPTED_SUFFIX}
    if not any(name in selection for name in _SELECTORS):
        selection["unencrypted_suffix"] = UNENCRYPTED_SUFFIX
    metadata: Metadata = {"age": _wrapped(key, rules.recipients), "lastmodified": "", "mac": "", **selection}
    metadata["version"] = VERSION
    return _written(document, [leaf.value for leaf in document.leaves], metadata, key, None)


def save(path: Path, text: str) -> None:
    """Writes a file whole or not at all; an old one keeps its mode. Raises `SopsError`."""
    try:
        mode = path.stat().st_mode & 0o7777 if path.exists() else 0o644
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), mode)
                os.replace(file.name, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(file.name)
                raise
    except OSError as err:
        raise SopsError(f"{path} cannot be written: {err.strerror}") from None


def _check(metadata: Metadata) -> None:
    for name in _NOT_KNOWN:
        if metadata.get(name):
            raise SopsError(f"it has {name}, which is not known here; use sops for it")
    groups = metadata.get("key_groups") or []
    if len(groups) > 1:
        raise SopsError("its key is split among groups (Shamir), which is not known here; use sops for it")
    if sum(bool(metadata.get(name)) for name in _SELECTORS) > 1:
        raise SopsError(f"its own part has more than one of {', '.join(_SELECTORS)}")


def _age(metadata: Metadata) -> list[Any]:
    groups = metadata.get("key_groups") or [metadata]
    entries = groups[0].get("age") or []
    return [entry for entry in entries if isinstance(entry, dict) and entry.get("recipient") and entry.get("enc")]


def _key(metadata: Metadata, found: Identities) -> bytes:
    import pyrage

    entries = _age(metadata)
    if not entries:
        raise SopsError("it has no age recipient, and only age keys are known here")
    if not found.keys:
        raise SopsError(
            "there is no age key to open it with; put yours into SOPS_AGE_KEY_FILE or ~/.config/sops/age/keys.txt"
        )
    for entry in entries:
        with contextlib.suppress(pyrage.DecryptError):
            key = pyrage.decrypt(str(entry["enc"]).encode(), list(found.keys))
            if len(key) == cipher.KEY_LENGTH:
                return bytes(key)
    names = ", ".join(str(entry["recipient"]) for entry in entries)
    raise SopsError(f"none of your age keys ({found}) opens it; it is for {names}")


def _wrapped(key: bytes, recipients: Sequence[str]) -> list[dict[str, str]]:
    import pyrage

    if not recipients:
        raise SopsError("a file needs at least one recipient")
    return [
        {"recipient": text, "enc": pyrage.encrypt(key, [recipient(text)], armored=True).decode()}
        for text in dict.fromkeys(recipients)
    ]


def _selected(leaf: Leaf, metadata: Metadata) -> bool:
    """Whether a value is to be encrypted, by the file's rule and the keys that it stands under."""
    if metadata.get("encrypted_suffix"):
        return any(key.endswith(metadata["encrypted_suffix"]) for key in leaf.path)
    if metadata.get("encrypted_regex"):
        return _matches(metadata["encrypted_regex"], leaf)
    if metadata.get("unencrypted_regex"):
        return not _matches(metadata["unencrypted_regex"], leaf)
    suffix = metadata.get("unencrypted_suffix") or UNENCRYPTED_SUFFIX
    return not any(key.endswith(suffix) for key in leaf.path)


def _matches(pattern: str, leaf: Leaf) -> bool:
    import re2

    try:
        return any(re2.search(pattern, key) for key in leaf.path)
    except re2.error as err:
        raise SopsError(f"the regular expression {pattern!r} of its rules: {err}") from None


def _opened(leaf: Leaf, metadata: Metadata, key: bytes) -> Value:
    if not _selected(leaf, metadata):
        return leaf.value
    if not isinstance(leaf.value, Comment):
        return cipher.decrypt(str(leaf.value), key, leaf.path)
    # Which mapping a comment belongs to is a matter of opinion; it is in one of those around it.
    for end in range(len(leaf.path), -1, -1):
        with contextlib.suppress(SopsError):
            return cipher.decrypt(leaf.value, key, leaf.path[:end])
    return leaf.value


def _code(leaves: Sequence[Leaf], values: Sequence[Value], metadata: Metadata) -> str:
    only = _truth(metadata.get("mac_only_encrypted"))
    counted = (
        value
        for leaf, value in zip(leaves, values, strict=True)
        if not isinstance(value, Comment) and (not only or _selected(leaf, metadata))
    )
    return cipher.code(counted, only)


def _truth(value: Any) -> bool:
    return value is True or value == "true"


def _modified(metadata: Metadata) -> str:
    return str(metadata.get("lastmodified") or "")


def _written(document: Document, values: Sequence[Value], metadata: Metadata, key: bytes, old: Opened | None) -> str:
    """The encrypted text of a document. What stood at the same place with the same value in `old` keeps its form."""
    known: dict[tuple[Any, ...], list[Value]] = defaultdict(list)
    if old is not None:
        for leaf, value in zip(old.document.leaves, old.values, strict=True):
            known[leaf.path, cipher.type_of(value), value].append(leaf.value)
    out: list[Value] = []
    for leaf, value in zip(document.leaves, values, strict=True):
        if not _selected(leaf, metadata):
            out.append(value)
            continue
        kept = known[leaf.path, cipher.type_of(value), value]
        out.append(kept.pop(0) if kept else cipher.encrypt(value, key, leaf.path))
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    code = cipher.encrypt_code(_code(document.leaves, values, metadata), key, now)
    changed: Metadata = {**metadata, "lastmodified": now, "mac": code}
    if "mac_only_encrypted" in changed:
        changed["mac_only_encrypted"] = _truth(changed["mac_only_encrypted"])
    return document.text(out, changed)
