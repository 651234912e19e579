"""From a backup to the data directory of an empty machine.

    commit, key, every piece there? --> DATA/.restoring/... , each piece checked --> databases and settings made to fit
        --> renamed into DATA, engine.json last: until then there is no engine here, and the restore can be repeated

Nothing is written before all that can be refused has been. The directory is closed to all but root while it is filled, and no
link is followed: links are made last.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from trimtab.engine import accounts, datadir, lifecycle, nodes
from trimtab.engine.backup import keeping, sources
from trimtab.engine.backup.format import HOLE, PIECE_BYTES, Commit, Entry, Index
from trimtab.engine.backup.objects import Objects
from trimtab.engine.backup.pieces import Receiver
from trimtab.engine.errors import EngineError
from trimtab.runtime.settings import Settings

Say = Callable[[str], None]

ROOM_FACTOR = 1.02
"""Free space that a restore asks for, over the size of the files."""
BUSY_S = 30.0
"""So long a disk may stay busy after it was filled."""
NAMED_PATHS = ("/core/persistentvolumes/", "/trimtab.dev/effects/")
"""Keys of the objects in which paths of the data directory stand."""
_OWNED = dict.fromkeys(("store", "journal", "pki", "content", "pipelines", "profiles"), "engine")


def restore(data: Path, objects: Objects, wanted: str, identities: Sequence[Any], say: Say) -> Commit:
    """Makes the engine of a backup at `data`, which must be empty or not exist; it is not started. Returns the backup.

    Raises:
        EngineError: one line; nothing at `data` was touched, or what a restore had begun is removed again.
    """
    lifecycle.require_root("trimtab restore")
    commit = keeping.find(objects, wanted)
    require_known(commit)
    _require_empty(data)
    index = keeping.index_of(objects, commit, identities)
    keeping.require_pieces(objects, index.names)
    _check_paths(index)
    settings = _settings(objects, index, identities, data)
    lifecycle.refuse_copy(settings)
    existed = data.exists()
    _require_room(data, commit)
    new = data / sources.RESTORING
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o755)
        _remove_remains(data)
        new.mkdir(mode=0o700)
        with Receiver(objects, index.key, identities, _order(index)) as receiver:
            _fill(new, index, receiver, settings, say)
        _make_fit(new, index, settings)
        _move(new, data)
    except BaseException as err:
        if (new / datadir.SETTINGS).exists() or not (data / datadir.SETTINGS).exists():
            _remove_remains(data)
            if not existed:
                data.rmdir()
        if isinstance(err, OSError):
            err.filename = os.fsdecode(err.filename) if isinstance(err.filename, bytes) else err.filename
            raise datadir.disk_error(data, err) from None
        raise
    return commit


def require_known(commit: Commit) -> None:
    """Raises EngineError when the data is of a newer program."""
    from trimtab.store import FORMAT as STORE_FORMAT

    if commit.store_format > STORE_FORMAT or commit.data_format > datadir.FORMAT:
        raise EngineError(
            f"the backup {commit.id} was written by a newer Trimtab ({commit.version}, data format {commit.data_format}, store "
            f"format {commit.store_format}; this program knows {datadir.FORMAT} and {STORE_FORMAT}): upgrade the program"
        )


def _require_empty(data: Path) -> None:
    if data.exists() and not data.is_dir():
        raise EngineError(f"{data} is a file: give a directory as --data")
    if (data / datadir.SETTINGS).exists():
        raise EngineError(
            f"there is an engine at {data}: restore into another --data, or remove it with `trimtab --data {data} uninstall --yes`"
        )
    half = (data / sources.RESTORING).is_dir()
    if data.is_dir() and not half and any(entry.name != "lost+found" for entry in data.iterdir()):
        raise EngineError(f"{data} is not empty: give an empty directory as --data")


def _remove_remains(data: Path) -> None:
    """Removes what a restore that was interrupted has left; only of a directory in which one had begun."""
    if (data / sources.RESTORING).is_dir():
        for entry in data.iterdir():
            if entry.name not in (sources.RESTORING, "lost+found"):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        shutil.rmtree(data / sources.RESTORING)


def _check_paths(index: Index) -> None:
    """Raises EngineError when a path leads out of the data directory: such an index is none of ours."""
    for tree, entries in index.trees.items():
        for entry in entries:
            parts = [*os.fsencode(tree).split(b"/"), *entry.path.split(b"/")]
            if (
                any(part in (b"..", b".") or b"\0" in part for part in parts)
                or entry.path.startswith(b"/")
                or tree.startswith("/")
            ):
                raise EngineError(f"the backup is damaged: {entry.path!r} leads out of the data directory")
            if any(piece != HOLE and not 0 <= piece < len(index.names) for piece in entry.pieces):
                raise EngineError(f"the backup is damaged: {entry.path!r} names a piece that there is not")


def _settings(objects: Objects, index: Index, identities: Sequence[Any], data: Path) -> Settings:
    """The engine's settings from the backup, with their new place."""
    for entry in index.trees.get("", ()):
        if entry.path == datadir.SETTINGS.encode():
            with Receiver(objects, index.key, identities) as receiver:
                raw = receiver.get(index.names[entry.pieces[0]])
            try:
                return msgspec.structs.replace(msgspec.json.decode(raw, type=Settings), data=str(data))
            except msgspec.MsgspecError as err:
                raise EngineError(f"the backup's {datadir.SETTINGS} is damaged: {err}") from None
    raise EngineError(f"the backup holds no {datadir.SETTINGS}: take another one")


def _require_room(data: Path, commit: Commit) -> None:
    place = data
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < commit.bytes * ROOM_FACTOR:
        raise EngineError(
            f"the disk of {data} has {free / (1 << 20):.0f} MiB free, the backup needs {commit.bytes / (1 << 20):.0f} MiB: give another --data"
        )


# Files


def _fill(new: Path, index: Index, receiver: Receiver, settings: Settings, say: Say) -> None:
    for tree, entries in index.trees.items():
        parts = tree.split("/")
        if parts[0] == "nodes" and len(parts) > 2:
            with _node_disk(new, settings, parts[1], say) as disk:
                _fill_tree(disk.joinpath(*parts[2:]), entries, index, receiver, None)
        else:
            (new / tree).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _fill_tree(new / tree if tree else new, entries, index, receiver, _ids(tree, index, settings))


def _order(index: Index) -> Iterator[bytes]:
    """The pieces in the order in which `_fill` asks for them."""
    for entries in index.trees.values():
        last = HOLE
        for entry in entries:
            for piece in entry.pieces if entry.kind == "f" else ():
                if piece not in (HOLE, last):
                    last = piece
                    yield index.names[piece]


def _ids(tree: str, index: Index, settings: Settings) -> dict[int, int] | None:
    """Which numeric ids become which: those of the engine's users may differ between machines; those in volumes are the pods'."""
    if tree.split("/")[0] not in _OWNED:
        return None
    for name in (settings.user, settings.proxy_user, settings.web_user):
        accounts.ensure_user(name)
    now = sources.users(settings)
    return {
        old: new for role in now if role in index.users for old, new in zip(index.users[role], now[role], strict=True)
    }


def _fill_tree(
    root: Path, entries: Sequence[Entry], index: Index, receiver: Receiver, ids: dict[int, int] | None
) -> None:
    top = os.fsencode(root)
    last: tuple[int, bytes] = (HOLE, b"")
    links: list[Entry] = []
    directories: list[Entry] = []
    for entry in entries:
        path = os.path.join(top, entry.path) if entry.path else top
        if entry.kind == "d":
            os.makedirs(path, 0o700, exist_ok=True)
            directories.append(entry)
        elif entry.kind == "f":
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)  # those of single files are in no tree
            last = _write_file(path, entry, index, receiver, last)
            _finish(path, entry, ids)
        elif entry.kind == "p":
            os.mkfifo(path, 0o600)
            _finish(path, entry, ids)
        else:
            links.append(entry)
    for entry in links:
        path = os.path.join(top, entry.path)
        if entry.kind == "h":
            os.link(os.path.join(top, entry.target), path, follow_symlinks=False)
        else:
            os.symlink(entry.target, path)
            _finish(path, entry, ids)
    for entry in reversed(directories):
        _finish(os.path.join(top, entry.path) if entry.path else top, entry, ids)


def _write_file(
    path: bytes, entry: Entry, index: Index, receiver: Receiver, last: tuple[int, bytes]
) -> tuple[int, bytes]:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        shared = len(entry.pieces) == 1
        for number, piece in enumerate(entry.pieces):
            if piece == HOLE:
                continue
            if last[0] != piece:
                last = (piece, receiver.get(index.names[piece]))
            data = last[1][entry.offset : entry.offset + entry.size] if shared else last[1]
            _write_all(handle, data, number * PIECE_BYTES)
        os.ftruncate(handle, entry.size)
    finally:
        os.close(handle)
    return last


def _write_all(handle: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(handle, view, offset)
        view, offset = view[count:], offset + count


def _finish(path: bytes, entry: Entry, ids: dict[int, int] | None) -> None:
    """Owner, mode, attributes and time, in this order: a change of owner takes setuid bits away."""
    uid, gid = entry.uid, entry.gid
    if ids is not None:
        uid, gid = ids.get(uid, uid), ids.get(gid, gid)
    os.chown(path, uid, gid, follow_symlinks=False)
    if entry.kind != "l":
        os.chmod(path, entry.mode)
        for name, value in entry.xattrs.items():
            try:
                os.setxattr(path, name, value, follow_symlinks=False)
            except OSError:
                continue  # a file system or kernel that has no such attributes
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)


@contextmanager
def _node_disk(new: Path, settings: Settings, name: str, say: Say) -> Iterator[Path]:
    """The disk of a further node, mounted while it is filled."""
    disk = nodes.ensure_disk(msgspec.structs.replace(settings, data=str(new)), name, say)
    if disk.is_dir():
        yield disk
        return
    point = new / "nodes" / f"{name}.mnt"
    point.mkdir(mode=0o700)
    done = subprocess.run(["mount", "-o", "loop", str(disk), str(point)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EngineError(f"the disk of {name} cannot be mounted: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    try:
        yield point
    finally:
        _unmount(point)
        point.rmdir()


def _unmount(point: Path) -> None:
    """Not lazily: the disk is used as soon as this returns. Who looks at all that is mounted keeps it busy for a moment.
    Raises EngineError: it stays busy."""
    until = time.monotonic() + BUSY_S
    while (done := subprocess.run(["umount", str(point)], capture_output=True, text=True, check=False)).returncode != 0:
        if time.monotonic() > until:
            raise EngineError(f"{point} cannot be unmounted: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        time.sleep(0.1)


# What must fit the new place


def _make_fit(new: Path, index: Index, settings: Settings) -> None:
    """Databases from their copies' directory to their place; paths in objects; settings."""
    from trimtab.store import begin_anew

    (new / "node").mkdir(mode=0o700, exist_ok=True)
    old, now = f"{index.data}/".encode(), f"{settings.data}/".encode()
    pattern = re.compile(rb'(?<=")' + re.escape(old))

    def change(key: str, value: bytes) -> bytes | None:
        if old == now or not key.startswith(NAMED_PATHS) or not pattern.search(value):
            return None
        return pattern.sub(lambda _: now, value)

    store = new / sources.STORE[0] / sources.STORE[1]
    begin_anew(store, change)
    uid, gid = sources.users(settings)["engine"]
    for path in store.parent.iterdir():
        os.chown(path, uid, gid)
    document = msgspec.to_builtins(settings)
    text = msgspec.json.format(msgspec.json.encode({"format": datadir.FORMAT, **document})) + b"\n"
    (new / datadir.SETTINGS).write_bytes(text)
    (new / datadir.SETTINGS).chmod(0o644)


def _move(new: Path, data: Path) -> None:
    """Moves everything into its place, the settings last: with them there is an engine."""
    _sync(new)
    for entry in sorted(new.iterdir()):
        if entry.name != datadir.SETTINGS:
            entry.rename(data / entry.name)
    shutil.copy2(new / datadir.SETTINGS, data / f"{datadir.SETTINGS}.last")
    _sync(data)
    (new / datadir.SETTINGS).rename(data / datadir.SETTINGS)
    new.rmdir()
    _sync(data)


def _sync(path: Path) -> None:
    from trimtab.engine.backup import walk

    walk.sync(path)
