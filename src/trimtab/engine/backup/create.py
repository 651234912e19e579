"""A backup, from the first look to the commit.

    1  pods run     volumes, keys, content: what is new is sent (most of the work)
    2  databases    copies of store and journal
    3  pods stand   what changed in the volumes since 1 is copied aside: milliseconds
    4  pods run     copies, databases and new content are sent; index; all on disk; every piece is there?; commit

The store is copied before the volumes stand still, never after: a Job that the store calls done has its data in the volumes.
A backup that ends anywhere before the commit leaves pieces that the next one uses, or that retention removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

import trimtab
from trimtab.engine import datadir, lifecycle
from trimtab.engine.backup import freeze, keeping, keys, sources, walk
from trimtab.engine.backup.format import (
    BACKUPS,
    FORMAT,
    MARKER,
    PIECES,
    Commit,
    Entry,
    Index,
    Part,
    backup_id,
    data_bytes,
)
from trimtab.engine.backup.objects import Missing, Objects
from trimtab.engine.backup.pieces import Sender, seal
from trimtab.engine.errors import EngineError
from trimtab.runtime.settings import Settings

Say = Callable[[str], None]

PROGRESS_S = 2.0
RUNS_LOOKED_AT = 10
CACHE = "seen.msgpack"
"""What the last backup read: files that look the same are not read again."""


class _Cache(msgspec.Struct):
    key: bytes
    names: list[bytes]
    trees: dict[str, list[tuple[Entry, walk.Signature]]]


@dataclass
class _Progress:
    """Tells every few seconds how far it is."""

    say: Say
    sender: Sender
    began: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self.told >= PROGRESS_S:
            self.told = now
            read, sent = self.sender.read_bytes / (1 << 20), self.sender.sent_bytes / (1 << 20)
            self.say(f"read {read:.0f} MiB, sent {sent:.0f} MiB after {now - self.began:.0f} s")


def known_pieces(objects: Objects) -> set[bytes]:
    """The names of all pieces in the store."""
    found = set()
    for name in objects.list(PIECES):
        with contextlib.suppress(ValueError):
            found.add(bytes.fromhex(name.rpartition("/")[2]))
    return found


def check_owner(objects: Objects, settings: Settings) -> bool:
    """Whether the store has backups already.

    Raises:
        EngineError: it holds those of another engine, or of a newer program.
    """
    try:
        marker = msgspec.json.decode(objects.get(MARKER))
    except Missing:
        return False
    except msgspec.MsgspecError:
        raise EngineError(f"{objects.where}/{MARKER} is damaged: give another directory or prefix") from None
    if marker.get("format", FORMAT) > FORMAT:
        raise EngineError(f"{objects.where} was written by a newer Trimtab: upgrade the program, or give another place")
    if marker.get("engine") != settings.id:
        raise EngineError(
            f"{objects.where} holds the backups of engine {marker.get('engine')}, this one is {settings.id}: "
            "give another directory or prefix"
        )
    return True


def create(settings: Settings, objects: Objects, given: Sequence[str], say: Say, run: str = "") -> Commit:
    """Makes a backup. `given`: age recipients; none: the engine's own identity. `run`: which run of a schedule this is; one
    that was committed already is returned as it is.

    Raises:
        EngineError: one line; the store then lists no new backup.
    """
    lifecycle.require_root("trimtab backup")
    began, created = time.monotonic(), datetime.now(UTC)
    if _inside(objects.where, settings.data):
        raise EngineError(f"{objects.where} lies in the data directory itself: give a place that survives it")
    with _alone(settings):
        for name in sources.unreachable(settings):
            raise EngineError(f"{name} does not run, so its volumes cannot be read: `trimtab start`, then back up")
        if not check_owner(objects, settings):
            objects.put(MARKER, msgspec.json.encode({"format": FORMAT, "engine": settings.id}))
        if run and (done := _made(objects, run)) is not None:
            return done
        recipients, made = keys.recipients(settings, given)
        if made:
            path = keys.directory(settings) / keys.IDENTITY
            say(f"made the key {path}: keep a copy elsewhere, without it no backup can be restored")
        sender = Sender(
            objects, keys.names_key(settings), [keys.recipient(text) for text in recipients], known_pieces(objects)
        )
        try:
            work = _Work(settings, objects, sender, say)
            trees, frozen_ms = work.gather()
            index, files, size = _index(settings, sender, trees)
            name, created = _free_id(objects, created, settings.id)
            return _commit(
                settings, objects, sender, index, recipients,
                id=name, created=created, files=files, bytes=size,
                volumes=_volumes(trees), frozen_ms=frozen_ms, seconds=lambda: time.monotonic() - began, run=run,
            )  # fmt: skip
        finally:
            sender.close()


def _made(objects: Objects, run: str) -> Commit | None:
    """The backup of a run. Only the latest are looked at: a run is asked for again soon, or never."""
    return next((commit for commit in keeping.newest(objects, RUNS_LOOKED_AT) if commit.run == run), None)


def _inside(where: str, data: str) -> bool:
    return "://" not in where and Path(where).resolve().is_relative_to(Path(data).resolve())


@contextlib.contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """One backup at a time of an engine."""
    handle = os.open(keys.directory(settings) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EngineError("another backup of this engine is being made: wait until it is done") from None
        yield
    finally:
        os.close(handle)


def alone(settings: Settings) -> contextlib.AbstractContextManager[None]:
    """Keeps backups of this engine away (for retention).

    Raises:
        EngineError: one is being made.
    """
    return _alone(settings)


class _Work:
    """Reading and sending everything."""

    def __init__(self, settings: Settings, objects: Objects, sender: Sender, say: Say) -> None:
        self.settings = settings
        self.sender = sender
        self.say = say
        self.progress = _Progress(say, sender)
        self.began_ns = time.time_ns()
        self.cache = self._load_cache()
        self.aside = keys.directory(settings) / sources.STAGING

    def gather(self) -> tuple[dict[str, walk.Tree], float]:
        """Every tree by its name, all of it sent; and for how long pods stood still."""
        walk.sync(Path(self.settings.data))
        changing = list(sources.volumes(self.settings))
        for source in changing:
            walk.sync(source.path)
        others = list(sources.others(self.settings))
        trees = {source.name: self._look(source, self.cache.get(source.name, {})) for source in (*changing, *others)}
        self.sender.finish()
        shutil.rmtree(self.aside, ignore_errors=True)
        self.aside.mkdir(mode=0o700)
        try:
            copies = sources.copy_databases(self.settings)
            copied, frozen_ms = self._look_again(trees)
            walk.send_copied(copied, self.sender)
            for source in others:  # objects in the store may name images that came meanwhile
                trees[source.name] = self._look(source, trees[source.name])
            for source in copies:
                trees[source.name] = self._look(source, {})
        finally:
            sources.drop_copies(self.settings)
            shutil.rmtree(self.aside, ignore_errors=True)
        trees[""] = self._files(sources.key_files(self.settings))
        self.sender.finish()
        self._save_cache({source.name: trees[source.name] for source in (*changing, *others)})
        return trees, frozen_ms

    def _look(self, source: sources.Source, before: walk.Tree) -> walk.Tree:
        try:
            return walk.look(source.path, self.sender, before, self.began_ns, self.progress, source.without)
        except OSError as err:
            raise EngineError(f"{source.path} cannot be read: {err.strerror}") from None

    def _look_again(self, trees: dict[str, walk.Tree]) -> tuple[list[walk.Copied], float]:
        copied: list[walk.Copied] = []
        pods = freeze.writers(self.settings)
        with freeze.frozen(pods) as told:
            for mounted in sources.attached(self.settings):
                walk.sync(mounted)
            for number, source in enumerate(sources.volumes(self.settings)):
                before = trees.get(source.name, {})
                try:
                    tree, changed = walk.look_again(
                        source.path, self.aside, f"{number}-", before, self.began_ns, self.sender
                    )
                except OSError as err:
                    raise EngineError(f"{source.path} could not be copied: {err.strerror}") from None
                trees[source.name] = tree
                copied += changed
        if pods:
            noun = "pod" if len(pods) == 1 else "pods"
            self.say(
                f"{len(pods)} {noun} with volumes stood still for {told.ms:.0f} ms; {len(copied)} files changed meanwhile"
            )
        return copied, told.ms

    def _files(self, paths: Sequence[Path]) -> walk.Tree:
        tree: walk.Tree = {}
        for path in paths:
            name = os.fsencode(os.path.relpath(path, self.settings.data))
            status = path.lstat()
            entry = Entry(name, "f", status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime_ns)
            data = path.read_bytes()
            entry.size, entry.pieces = len(data), [self.sender.add(data)]
            tree[name] = walk.Seen(entry, (0, 0, 0, 0))
        return tree

    # The cache

    def _load_cache(self) -> dict[str, walk.Tree]:
        try:
            cache = msgspec.msgpack.decode((keys.directory(self.settings) / CACHE).read_bytes(), type=_Cache)
        except (OSError, msgspec.MsgspecError):
            return {}
        if cache.key != hashlib.sha256(self.sender.key).digest():
            return {}
        out: dict[str, walk.Tree] = {}
        for name, rows in cache.trees.items():
            tree = out[name] = {}
            for entry, signature in rows:
                wanted = [cache.names[n] for n in entry.pieces if n >= 0]
                if all(piece in self.sender.known for piece in wanted):
                    entry.pieces = [self.sender.number(cache.names[n]) if n >= 0 else n for n in entry.pieces]
                    tree[entry.path] = walk.Seen(entry, signature)
        return out

    def _save_cache(self, trees: dict[str, walk.Tree]) -> None:
        rows = {name: [(seen.entry, seen.signature) for seen in tree.values()] for name, tree in trees.items()}
        data = msgspec.msgpack.encode(_Cache(hashlib.sha256(self.sender.key).digest(), self.sender.names, rows))
        path = keys.directory(self.settings) / CACHE
        temporary = path.with_suffix(".new")
        temporary.write_bytes(data)
        temporary.replace(path)


def _index(settings: Settings, sender: Sender, trees: dict[str, walk.Tree]) -> tuple[Index, int, int]:
    """The index with only the pieces that it needs; how many files, and their bytes."""
    numbers: dict[int, int] = {}
    names: list[bytes] = []
    files = size = 0
    entries: dict[str, list[Entry]] = {}
    for tree_name, tree in trees.items():
        rows = entries[tree_name] = []
        for seen in tree.values():
            entry = msgspec.structs.replace(seen.entry, pieces=[])
            for piece in seen.entry.pieces:
                if piece >= 0 and piece not in numbers:
                    numbers[piece] = len(names)
                    names.append(sender.names[piece])
                entry.pieces.append(numbers.get(piece, piece))
            rows.append(entry)
            files += entry.kind == "f"
            size += data_bytes(entry)
    return Index(FORMAT, settings.data, sender.key, sources.users(settings), names, entries), files, size


def _volumes(trees: dict[str, walk.Tree]) -> int:
    """How many: directories on the nodes' disks, and images of movable ones."""
    own = [
        (name, path, seen.entry.kind)
        for name, tree in trees.items()
        if name.rpartition("/")[2] == sources.VOLUMES
        for path, seen in tree.items()
        if path and b"/" not in path
    ]
    images = [path for name, path, kind in own if name == sources.VOLUMES and kind == "f" and path.endswith(b".img")]
    return len(images) + sum(1 for name, _, kind in own if name != sources.VOLUMES and kind == "d")


def _free_id(objects: Objects, at: datetime, engine: str) -> tuple[str, datetime]:
    """A name that no backup has yet, and its time: the next second's where one of the same second is there."""
    while f"{BACKUPS}{(wanted := backup_id(at, engine))}.json" in objects.list(BACKUPS):
        at += timedelta(seconds=1)
    return wanted, at


def _commit(
    settings: Settings,
    objects: Objects,
    sender: Sender,
    index: Index,
    recipients: list[str],
    *,
    id: str,
    created: datetime,
    files: int,
    bytes: int,
    volumes: int,
    frozen_ms: float,
    seconds: Callable[[], float],
    run: str,
) -> Commit:
    """Index, then the list of pieces, then, once all of it is on disk and every piece is seen there, the commit."""
    from trimtab.store import FORMAT as STORE_FORMAT

    sealed = seal(msgspec.msgpack.encode(index), [keys.recipient(text) for text in recipients])
    pieces = b"".join(index.names)
    objects.put(f"{BACKUPS}{id}.index", sealed)
    objects.put(f"{BACKUPS}{id}.pieces", pieces)
    objects.flush()
    lost = set(index.names) - known_pieces(objects)
    if lost:
        raise EngineError(f"{objects.where}: {len(lost)} pieces are gone that this backup needs: try again")
    commit = Commit(
        format=FORMAT,
        id=id,
        created=created,
        engine=settings.id,
        version=trimtab.__version__,
        store_format=STORE_FORMAT,
        data_format=datadir.FORMAT,
        recipients=recipients,
        index=Part(hashlib.sha256(sealed).hexdigest(), len(sealed)),
        pieces=Part(hashlib.sha256(pieces).hexdigest(), len(pieces)),
        files=files,
        volumes=volumes,
        bytes=bytes,
        sent_bytes=sender.sent_bytes + len(sealed) + len(pieces),
        seconds=round(seconds(), 3),
        frozen_ms=frozen_ms,
        run=run,
    )
    objects.put(f"{BACKUPS}{id}.json", msgspec.json.format(msgspec.json.encode(commit)) + b"\n")
    objects.flush()
    return commit
