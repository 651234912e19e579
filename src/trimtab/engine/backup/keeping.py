"""What a store holds: list, verify, delete, and retention.

A piece goes when no backup names it any more. The names stand open beside each commit, so deleting needs no key. A piece
that was written in the last hour stays: it may belong to a backup that is not committed yet.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from trimtab.engine.backup.format import BACKUPS, FORMAT, MARKER, NAME_BYTES, PIECES, Commit, Index, Part, piece_object
from trimtab.engine.backup.objects import Missing, Objects
from trimtab.engine.backup.pieces import UNPACKED_BYTES_MAX, Receiver, unseal
from trimtab.engine.errors import EngineError, NotFound

Say = Callable[[str], None]

YOUNG_S = 3600.0
LATEST = "latest"


def commits(objects: Objects) -> list[Commit]:
    """Every backup, oldest first.

    Raises:
        EngineError: a commit object cannot be read, or is of a newer program.
    """
    return [_commit(objects, f"{BACKUPS}{id}.json") for id in _ids(objects)]


def require_place(objects: Objects) -> None:
    """Raises NotFound where no backup was ever made: the target is misspelt, or not mounted."""
    try:
        objects.get(MARKER)
    except Missing:
        raise NotFound(f"{objects.where} holds no backup, and never did: is it the right place, and mounted?") from None


def newest(objects: Objects, count: int) -> list[Commit]:
    """The last backups, newest first."""
    return [_commit(objects, f"{BACKUPS}{id}.json") for id in reversed(_ids(objects)[-count:])]


def _ids(objects: Objects) -> list[str]:
    return sorted(n.removeprefix(BACKUPS).removesuffix(".json") for n in objects.list(BACKUPS) if n.endswith(".json"))


def _commit(objects: Objects, name: str) -> Commit:
    raw = objects.get(name)
    try:
        document = msgspec.json.decode(raw)
        if isinstance(document, dict) and document.get("format", FORMAT) > FORMAT:
            raise EngineError(
                f"{objects.where}/{name} was written by a newer Trimtab (backup format {document['format']}, this program "
                f"knows {FORMAT}): upgrade the program"
            )
        return msgspec.convert(document, Commit)
    except msgspec.MsgspecError as err:
        raise EngineError(
            f"{objects.where}/{name} is damaged ({err}): delete this backup, or take another one"
        ) from None


def find(objects: Objects, wanted: str) -> Commit:
    """The backup with that id, or the latest.

    Raises:
        NotFound: there is none.
    """
    return _commit(objects, f"{BACKUPS}{require(objects, wanted)}.json")


def require(objects: Objects, wanted: str) -> str:
    """The id of the backup that is meant: it may be damaged.

    Raises:
        NotFound: there is none.
    """
    ids = _ids(objects)
    if not ids:
        raise NotFound(f"{objects.where} holds no backup")
    if wanted == LATEST:
        return ids[-1]
    if wanted not in ids:
        raise NotFound(f"{objects.where} holds no backup {wanted}: the latest is {ids[-1]}")
    return wanted


def piece_names(objects: Objects, commit: Commit) -> list[bytes]:
    """The names of all pieces that a backup needs."""
    raw = _part(objects, f"{BACKUPS}{commit.id}.pieces", commit.pieces)
    return [raw[start : start + NAME_BYTES] for start in range(0, len(raw), NAME_BYTES)]


def index_of(objects: Objects, commit: Commit, identities: Sequence[Any]) -> Index:
    """The index, opened.

    Raises:
        EngineError: the key does not fit, or it is damaged.
    """
    name = f"{BACKUPS}{commit.id}.index"
    sealed = _part(objects, name, commit.index)
    label = f"the backup {commit.id}"
    try:
        return msgspec.msgpack.decode(unseal(sealed, identities, label, UNPACKED_BYTES_MAX), type=Index)
    except msgspec.MsgspecError as err:
        raise EngineError(f"{objects.where}/{name} is damaged: {err}") from None


def _part(objects: Objects, name: str, part: Part) -> bytes:
    try:
        raw = objects.get(name)
    except Missing:
        raise EngineError(
            f"{objects.where}/{name} is missing: this backup cannot be restored; take another one"
        ) from None
    if hashlib.sha256(raw).hexdigest() != part.sha256:
        raise EngineError(f"{objects.where}/{name} is damaged: this backup cannot be restored; take another one")
    return raw


def require_pieces(objects: Objects, names: Sequence[bytes]) -> int:
    """Checks that every piece is there; returns their size in the store.

    Raises:
        EngineError: some are missing.
    """
    there = objects.list(PIECES)
    missing = [name for name in names if piece_object(name) not in there]
    if missing:
        raise EngineError(
            f"{objects.where}/{piece_object(missing[0])} is missing"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
            + ": this backup cannot be restored; take another one"
        )
    return sum(there[piece_object(name)].size for name in names)


def verify(objects: Objects, commit: Commit, identities: Sequence[Any], say: Say) -> int:
    """Checks that a backup can be restored: with a key, every byte of it; without, that all of it is there. Returns how many
    pieces it has.

    Raises:
        EngineError: what is wrong with it.
    """
    names = piece_names(objects, commit)
    require_pieces(objects, names)
    if not identities:
        _part(objects, f"{BACKUPS}{commit.id}.index", commit.index)
        return len(names)
    index = index_of(objects, commit, identities)
    if set(index.names) != set(names):
        raise EngineError(
            f"{objects.where}: index and pieces of {commit.id} do not belong together: take another backup"
        )
    told = time.monotonic()
    with Receiver(objects, index.key, identities, names) as receiver:
        for number, name in enumerate(names):
            receiver.get(name)
            if time.monotonic() - told > 2.0:
                told = time.monotonic()
                say(f"verified {number + 1} of {len(names)} pieces")
    return len(names)


def delete(objects: Objects, ids: Sequence[str]) -> int:
    """Deletes backups, then the pieces that none of the others needs; returns how many bytes that freed.

    Raises:
        EngineError: another backup's list of pieces cannot be read: nothing is deleted then.
    """
    needed: set[bytes] = set()
    own: set[bytes] = set()
    for id in _ids(objects):
        name = f"{BACKUPS}{id}.json"
        if id in ids:
            own |= _names_if_any(objects, name)
        else:
            needed |= set(piece_names(objects, _commit(objects, name)))
    there = objects.list(BACKUPS)
    # The commit goes first: what is half deleted is no backup any more.
    objects.delete([f"{BACKUPS}{id}.json" for id in ids])
    objects.delete([n for n in there if n.removeprefix(BACKUPS).rpartition(".")[0] in ids and not n.endswith(".json")])
    young = time.time() - YOUNG_S
    wanted, deleted = {piece_object(name) for name in needed}, {piece_object(name) for name in own}
    doomed = {
        name: stored.size
        for name, stored in objects.list(PIECES).items()
        if name not in wanted and (name in deleted or stored.modified_s < young)
    }
    objects.delete(doomed)
    return sum(doomed.values())


def _names_if_any(objects: Objects, name: str) -> set[bytes]:
    """The pieces of a backup that is to be deleted: a damaged one can be deleted, too."""
    try:
        return set(piece_names(objects, _commit(objects, name)))
    except EngineError:
        return set()


def expired(found: Sequence[Commit], keep: int) -> list[str]:
    """The ids of the backups beyond the newest `keep`."""
    ids = [commit.id for commit in sorted(found, key=lambda commit: commit.created)]
    return ids[: max(0, len(ids) - keep)]
