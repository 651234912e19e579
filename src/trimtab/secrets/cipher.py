"""One value of a SOPS file: `ENC[AES256_GCM,data:...,iv:...,tag:...,type:...]`, and the code over all of them.

A value is a str, int, float, bool, a `Moment` (a timestamp of YAML) or a `Comment`. What is authenticated with it is where it
stands: its keys joined by `:`, with one at the end; positions in lists do not count.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal

from trimtab.secrets.errors import SopsError

NONCE_LENGTH = 32
TAG_LENGTH = 16
KEY_LENGTH = 32
ONLY_ENCRYPTED = hashlib.sha256(b"sops").digest()
"""What the code over encrypted values alone begins with (fixed by SOPS), so that it is never that over all values."""

_FORM = re.compile(r"ENC\[AES256_GCM,data:(.*),iv:(.+),tag:(.+),type:(.+)\]", re.DOTALL)


class Comment(str):
    """The text of a comment, without its `#`."""

    __slots__ = ()


class Moment(str):
    """A timestamp as RFC 3339 writes it."""

    __slots__ = ()


Value = str | int | float | bool
Path = tuple[str, ...]


def is_encrypted(text: object) -> bool:
    return isinstance(text, str) and _FORM.fullmatch(text) is not None


def text_of(value: Value) -> str:
    """What is encrypted of a value, and goes into the code: the texts that SOPS makes of numbers and truth values."""
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, float):
        return _without_exponent(value)
    return str(value)


def _without_exponent(value: float) -> str:
    if value != value or value in (float("inf"), float("-inf")):
        return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"
    text = format(Decimal(repr(value)), "f")
    return text.removesuffix(".0") if "." in text else text


def type_of(value: Value) -> str:
    for kind, name in ((Comment, "comment"), (Moment, "time"), (bool, "bool"), (int, "int"), (float, "float")):
        if isinstance(value, kind):
            return name
    return "str"


def encrypt(value: Value, key: bytes, path: Path) -> str:
    """The encrypted form of a value; an empty text stays empty, as in SOPS."""
    text = text_of(value)
    return "" if isinstance(value, str) and not text else _sealed(text, type_of(value), key, _where(path))


def decrypt(text: str, key: bytes, path: Path) -> Value:
    """The value of an encrypted form.

    Raises:
        SopsError: it is no such form, or it does not belong to this key and place.
    """
    if not text:
        return ""
    if not is_encrypted(text):
        raise SopsError(f"{name(path)} is not encrypted, though the file's rules say that it is")
    return _typed(*_unsealed(text, key, _where(path), name(path)), name(path))


def encrypt_code(code: str, key: bytes, modified: str) -> str:
    """The encrypted form of the code over a file's values, bound to the time of its last change."""
    return _sealed(code, "str", key, modified.encode())


def decrypt_code(text: str, key: bytes, modified: str) -> str:
    """The code over a file's values. Raises `SopsError`."""
    return _unsealed(text, key, modified.encode(), "its authentication code")[0]


def _sealed(text: str, kind: str, key: bytes, where: bytes) -> str:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(NONCE_LENGTH)
    sealed = AESGCM(key).encrypt(nonce, text.encode(), where)
    data, tag = sealed[:-TAG_LENGTH], sealed[-TAG_LENGTH:]
    return f"ENC[AES256_GCM,data:{_b64(data)},iv:{_b64(nonce)},tag:{_b64(tag)},type:{kind}]"


def _unsealed(text: str, key: bytes, where: bytes, what: str) -> tuple[str, str]:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    match = _FORM.fullmatch(text)
    try:
        if match is None:
            raise binascii.Error
        data, nonce, tag = (base64.b64decode(part, validate=True) for part in match.groups()[:3])
    except binascii.Error:
        raise SopsError(f"{what}: the encrypted form is damaged; take it from git's history") from None
    try:
        return AESGCM(key).decrypt(nonce, data + tag, where).decode(), match[4]
    except (InvalidTag, ValueError):
        raise SopsError(
            f"{what} cannot be decrypted: it was changed, or moved here from elsewhere; take it from git's history"
        ) from None


def _typed(text: str, kind: str, what: str) -> Value:
    try:
        match kind:
            case "str" | "bytes":
                return text
            case "int":
                return int(text)
            case "float":
                return float(text)
            case "bool":
                return {"true": True, "false": False}[text.lower()]
            case "time":
                return Moment(text)
            case "comment":
                return Comment(text)
    except (ValueError, KeyError):
        raise SopsError(f"{what}: {kind} was said of it, and it is none") from None
    raise SopsError(f"{what} is of the type {kind!r}, which this version does not know")


def code(values: Iterable[Value], only_encrypted: bool = False) -> str:
    """The code over all values in their order (SHA-512, upper-case hex). Comments are not in it."""
    digest = hashlib.sha512(ONLY_ENCRYPTED if only_encrypted else b"")
    for value in values:
        digest.update(text_of(value).encode())
    return digest.hexdigest().upper()


def name(path: Sequence[str]) -> str:
    """A value's place as people write it: `registry.password`."""
    return ".".join(path) or "a comment"


def _where(path: Path) -> bytes:
    return (":".join(path) + ":").encode()


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
