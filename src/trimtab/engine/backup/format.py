"""What stands in a backup: one sealed index with every file, and one open commit object, written last.

    trimtab-backup.json            whose backups these are
    pieces/ab/abcd...              age( zstd( up to 1 MiB of a file, or several small files ) )
    backups/ID.index               age( zstd( msgpack of `Index` ) )
    backups/ID.pieces              the names of the pieces it needs, 32 bytes each
    backups/ID.json                `Commit`: a backup without one does not exist

Names of pieces are HMAC-SHA-256 under a key that only the engine and the sealed indexes hold: equal content has one name,
and nobody can tell from a name what the content is.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

FORMAT = 1
"""Counts up whenever an older program would misread a backup."""
MARKER = "trimtab-backup.json"
BACKUPS = "backups/"
PIECES = "pieces/"
PIECE_BYTES = 1 << 20
NAME_BYTES = 32
HOLE = -1
"""In place of a piece's number: so many zero bytes, which are not stored."""


class Entry(msgspec.Struct, array_like=True):
    """One file, directory or link of a tree. `path` is relative to the tree; the tree itself is empty."""

    path: bytes
    kind: str
    """`d` directory, `f` file, `l` symbolic link, `h` another name of the file `target`, `p` named pipe."""
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    pieces: list[int] = []
    """Numbers in `Index.names`. A small file is a part of one piece, from `offset` on."""
    offset: int = 0
    target: bytes = b""
    xattrs: dict[str, bytes] = {}


class Index(msgspec.Struct):
    """Everything that a restore needs."""

    format: int
    data: str
    """The data directory of the engine; volumes name it in their paths."""
    key: bytes
    """Under which the pieces are named."""
    users: dict[str, tuple[int, int]]
    """Numeric ids of the engine's users, by role: they may be others on another machine."""
    names: list[bytes]
    trees: dict[str, list[Entry]]
    """By path below the data directory."""


class Part(msgspec.Struct):
    """One of the two objects beside the commit."""

    sha256: str
    bytes: int


class Commit(msgspec.Struct, kw_only=True, rename="camel"):
    """What can be told about a backup without its key."""

    format: int
    id: str
    created: datetime
    engine: str
    """The engine's id."""
    version: str
    """The program that wrote it."""
    store_format: int
    data_format: int
    recipients: list[str]
    index: Part
    pieces: Part
    files: int
    volumes: int
    bytes: int
    """Of all files, without their holes."""
    sent_bytes: int
    """What this backup added to the store."""
    seconds: float
    frozen_ms: float
    """How long pods stood still."""
    run: str = ""
    """The run of a schedule that made it, `NAME/TIME`."""


def data_bytes(entry: Entry) -> int:
    """What a file takes on disk: its size without its holes."""
    return min(entry.size, PIECE_BYTES * sum(piece != HOLE for piece in entry.pieces))


def backup_id(at: datetime, engine: str) -> str:
    """`20261121T074500Z-d46e14`: sorts by time."""
    return f"{at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{engine}"


def piece_object(name: bytes) -> str:
    text = name.hex()
    return f"{PIECES}{text[:2]}/{text}"
