"""The keys of an engine's backups: the age identity that opens them, and the key under which pieces are named.

    DATA/backup/identity.txt   made at the first backup that names no recipient; as `age-keygen` writes it
    DATA/backup/names.key      32 random bytes in hex

Both are in every backup, so that a restored engine goes on with them; the identity is of no use there without itself.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.engine.errors import EngineError
from trimtab.runtime.settings import Settings

DIRECTORY = "backup"
IDENTITY = "identity.txt"
NAMES_KEY = "names.key"


def directory(settings: Settings) -> Path:
    """Root's own directory for backups; made when there is none."""
    path = settings.data_path(DIRECTORY)
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def path_of_identity(settings: Settings) -> Path | None:
    """The engine's own key, if it has made one."""
    path = settings.data_path(DIRECTORY, IDENTITY)
    return path if path.exists() else None


def names_key(settings: Settings) -> bytes:
    """The key for the names of pieces; made at the first use. Without it, a backup sends everything anew."""
    path = directory(settings) / NAMES_KEY
    try:
        key = bytes.fromhex(path.read_text().strip())
        if len(key) == 32:
            return key
    except (FileNotFoundError, ValueError):
        pass
    key = secrets.token_bytes(32)
    _write(path, key.hex() + "\n")
    return key


def recipients(settings: Settings, given: Sequence[str]) -> tuple[list[str], bool]:
    """To whom a backup is sealed: those `given`, else the engine's own identity, which is made when there is none. Returns
    whether it was made just now.

    Raises:
        EngineError: one of them is no age recipient.
    """
    if given:
        for text in given:
            recipient(text)
        return list(given), False
    path = directory(settings) / IDENTITY
    made = not path.exists()
    if made:
        import pyrage

        identity = pyrage.x25519.Identity.generate()
        lines = [f"# created: {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", f"# public key: {identity.to_public()}"]
        _write(path, "\n".join([*lines, str(identity), ""]))
    return [str(identity.to_public()) for identity in identities(path)], made


def recipient(text: str) -> Any:
    """An age recipient (`age1...`) or an SSH public key.

    Raises:
        EngineError: it is neither.
    """
    import pyrage

    try:
        if text.startswith("ssh-"):
            return pyrage.ssh.Recipient.from_str(text)
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise EngineError(f"{text!r} is no age recipient: give one like age1..., or an SSH public key") from None


def identities(path: Path) -> list[Any]:
    """The keys of an identity file: of age (as `age-keygen` writes it) or of SSH, without passphrase.

    Raises:
        EngineError: it cannot be read, or holds none.
    """
    import pyrage

    try:
        raw = path.read_bytes()
    except OSError as err:
        raise EngineError(f"the key {path} cannot be read: {err.strerror}") from None
    if b"-----BEGIN" in raw:
        try:
            return [pyrage.ssh.Identity.from_buffer(raw)]
        except pyrage.IdentityError as err:
            raise EngineError(f"{path} holds no usable SSH key: {err}") from None
    found = []
    for line in raw.decode(errors="replace").splitlines():
        if (text := line.strip()) and not text.startswith("#"):
            try:
                found.append(pyrage.x25519.Identity.from_str(text))
            except pyrage.IdentityError:
                raise EngineError(f"{path} holds no age key: its line begins with AGE-SECRET-KEY-1") from None
    if not found:
        raise EngineError(f"{path} holds no age key: its line begins with AGE-SECRET-KEY-1")
    return found


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
