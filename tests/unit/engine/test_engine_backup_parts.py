"""Backups of an engine at rest: what comes back, what is sent twice, and every way in which a restore is refused."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pyrage
import pytest

from engine_at_rest import backup, identity, restore, say, stored, wait_a_second, write
from trimtab.engine import datadir
from trimtab.engine.backup import create as creating
from trimtab.engine.backup import keeping, keys, walk
from trimtab.engine.backup import restore as restoring
from trimtab.engine.backup.format import BACKUPS, FORMAT, MARKER, PIECES
from trimtab.engine.backup.objects import Directory, Objects
from trimtab.engine.backup.pieces import Sender, name_of
from trimtab.engine.errors import EngineError, NotFound
from trimtab.runtime.settings import Settings
from trimtab.store import FORMAT as STORE_FORMAT
from trimtab.store import Compacted, Store
from trimtab.store.sqlite_log import REVISIONS_AHEAD

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a backup reads what belongs to other users")

VOLUME = "node/volumes/pvc-1"


def tell(path: Path) -> object:
    """All that there is to know about a file."""
    status = path.lstat()
    kind = stat.S_IFMT(status.st_mode)
    content: object = None
    if stat.S_ISREG(kind):
        content = path.read_bytes()
    elif stat.S_ISLNK(kind):
        content = os.readlink(path)
    attributes = {
        name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
    }
    return (oct(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, status.st_nlink, attributes, content)


def picture(root: Path) -> dict[bytes, object]:
    return {os.fsencode(path.relative_to(root)): tell(path) for path in sorted(root.rglob("*"))}


# What comes back


def test_every_kind_of_file_comes_back_as_it_was(
    engine: Settings, volume: Path, place: Directory, tmp_path: Path
) -> None:
    (volume / "small").write_text("a")
    (volume / "empty").touch()
    (volume / "large").write_bytes(os.urandom((2 << 20) + 12345))
    with open(volume / "sparse", "wb") as file:
        file.seek(5 << 20)
        file.write(b"end")
    (volume / "deep" / "deeper").mkdir(parents=True)
    (volume / "deep" / "deeper" / "script").write_text("#!/bin/sh\n")
    os.chown(volume / "deep" / "deeper" / "script", 1234, 4321)
    (volume / "deep" / "deeper" / "script").chmod(0o4755)
    os.setxattr(volume / "deep" / "deeper" / "script", "user.colour", b"blue")
    (volume / "link").symlink_to("/etc/passwd")
    os.link(volume / "large", volume / "zz-other-name")
    os.mkfifo(volume / "pipe", 0o640)
    (volume / os.fsdecode(b"not-utf8-\xff")).write_text("b")
    os.chmod(volume / "deep", 0o2770)
    os.utime(volume / "deep", ns=(1, 1_000_000_000))
    before = picture(volume)

    commit = backup(engine, place)
    restored = restore(engine, place, tmp_path / "other")

    assert commit.bytes < 5 << 20  # holes do not count
    assert picture(restored.data_path(VOLUME)) == before
    assert (restored.data_path(VOLUME) / "sparse").stat().st_blocks * 512 < 1 << 20


def test_a_restored_engine_is_the_same_engine_elsewhere(engine: Settings, place: Directory, tmp_path: Path) -> None:
    volume = f'{{"spec":{{"local":{{"path":"{engine.data}/{VOLUME}"}}}}}}'.encode()
    write(
        engine,
        {
            "/core/persistentvolumes/pvc-1": volume,
            "/core/configmaps/default/told": b'"' + engine.data.encode() + b'/x"',
        },
    )
    commit = backup(engine, place)
    restored = restore(engine, place, tmp_path / "other")

    assert restored == msgspec.structs.replace(engine, data=str(tmp_path / "other"))
    for name in ("ca.crt", "ca.key", "admin.token", "apiserver.key"):
        ours, theirs = engine.data_path("pki", name), restored.data_path("pki", name)
        assert tell(ours) == tell(theirs)
    found = stored(restored)
    assert found["/core/configmaps/default/first"] == b'{"data":{"kept":"yes"}}'
    # Paths are changed where they are paths of volumes, and nowhere else.
    assert found["/core/persistentvolumes/pvc-1"] == volume.replace(engine.data.encode(), restored.data.encode())
    assert engine.data.encode() in found["/core/configmaps/default/told"]
    assert not (tmp_path / "other" / ".restoring").exists()
    assert (commit.files, commit.store_format) == (len(list(iterated(tmp_path / "other"))) - 1, STORE_FORMAT)  # .last


def iterated(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm", ".lock"))]


async def test_watches_from_before_a_restore_are_told_to_list_again(
    engine: Settings, place: Directory, tmp_path: Path
) -> None:
    backup(engine, place)
    restored = restore(engine, place, tmp_path / "other")

    store = await Store.open(restored.data_path("store", "store.sqlite"))

    # Also revisions that the old engine handed out after the backup are gone for good.
    with pytest.raises(Compacted):
        store.watch("", 1_000_000)
    assert store.revision > REVISIONS_AHEAD
    assert store.get("/core/configmaps/default/first") is not None
    await store.close()


def test_files_of_the_engines_users_get_their_ids_on_the_new_machine(
    engine: Settings, place: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(engine, place)
    uid, gid = datadir.ids_of(engine.user)
    monkeypatch.setattr(restoring.sources, "users", lambda settings: {"engine": (uid + 7, gid + 7)})

    restoring.restore(tmp_path / "other", place, keeping.LATEST, identity(engine), say)

    assert {(p.stat().st_uid, p.stat().st_gid) for p in (tmp_path / "other" / "pki").iterdir()} == {(uid + 7, gid + 7)}


# What is sent


def test_only_what_is_new_is_sent(engine: Settings, volume: Path, place: Directory) -> None:
    (volume / "large").write_bytes(os.urandom(8 << 20))
    first = backup(engine, place)
    with open(volume / "large", "r+b") as file:
        file.seek(3 << 20)
        file.write(b"one changed page")
    wait_a_second(first)

    second = backup(engine, place)

    assert first.sent_bytes > 8 << 20
    assert second.sent_bytes < 2 << 20
    assert len(place.list(PIECES)) == len(
        {name for commit in keeping.commits(place) for name in keeping.piece_names(place, commit)}
    )


def test_equal_files_are_kept_once_and_names_tell_nothing(
    engine: Settings, volume: Path, place: Directory, tmp_path: Path
) -> None:
    content = os.urandom(1 << 20)
    for name in ("a", "b", "c"):
        (volume / name).write_bytes(content)

    commit = backup(engine, place)

    assert commit.sent_bytes < 2 << 20

    assert hashlib.sha256(content).hexdigest() not in "\n".join(place.list(PIECES))


def test_a_file_that_is_written_while_it_is_read_is_whole(
    engine: Settings, volume: Path, place: Directory, tmp_path: Path
) -> None:
    """A writer that replaces all of a file at once, over and over: what is restored is one of its versions."""
    path = volume / "log"
    script = (
        "import sys, os, itertools\n"
        "for n in itertools.count():\n"
        "    new = sys.argv[1] + '.new'\n"
        "    open(new, 'wb').write(bytes([n % 256]) * 600_000)\n"
        "    os.replace(new, sys.argv[1])\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, str(path)])
    try:
        while not path.exists():
            time.sleep(0.01)
        backup(engine, place)
    finally:
        writer.kill()
        writer.wait()

    restored = restore(engine, place, tmp_path / "other")

    content = (restored.data_path(VOLUME) / "log").read_bytes()
    assert len(content) == 600_000
    assert len(set(content)) == 1


# Keys


def test_a_recipient_needs_no_identity_here(engine: Settings, volume: Path, place: Directory, tmp_path: Path) -> None:
    (volume / "data").write_text("for the recipient")
    elsewhere = pyrage.x25519.Identity.generate()

    first = backup(engine, place, str(elsewhere.to_public()))
    wait_a_second(first)
    second = backup(engine, place, str(elsewhere.to_public()))

    assert not (keys.directory(engine) / keys.IDENTITY).exists()
    assert second.sent_bytes < first.sent_bytes  # known pieces are known without a key
    restoring.restore(tmp_path / "other", place, keeping.LATEST, [elsewhere], say)
    assert (tmp_path / "other" / VOLUME / "data").read_text() == "for the recipient"


def test_the_first_backup_makes_a_key_and_says_so(engine: Settings, place: Directory) -> None:
    said: list[str] = []
    creating.create(engine, place, (), said.append)

    path = keys.directory(engine) / keys.IDENTITY
    assert said[0] == f"made the key {path}: keep a copy elsewhere, without it no backup can be restored"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().splitlines()[-1].startswith("AGE-SECRET-KEY-1")


def test_a_piece_opens_with_age_and_zstd_alone(engine: Settings, place: Directory) -> None:
    if shutil.which("age") is None or shutil.which("zstd") is None:
        pytest.skip("age or zstd is not installed: make setup-test")
    backup(engine, place)
    key = keys.directory(engine) / keys.IDENTITY
    name = next(name for name, stored in place.list(PIECES).items() if stored.size > 1000)

    opened = subprocess.run(["age", "-d", "-i", key, f"{place.where}/{name}"], capture_output=True, check=True)
    unpacked = subprocess.run(["zstd", "-dc"], input=opened.stdout, capture_output=True, check=True)

    assert name_of(keys.names_key(engine), unpacked.stdout).hex() == name.rpartition("/")[2]


@pytest.mark.parametrize("text", ["age1nonsense", "nobody"])
def test_a_recipient_that_is_none_is_named(engine: Settings, place: Directory, text: str) -> None:
    with pytest.raises(EngineError) as refused:
        backup(engine, place, text)

    assert str(refused.value) == f"{text!r} is no age recipient: give one like age1..., or an SSH public key"
    assert keeping.commits(place) == []


def test_a_file_without_a_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("# nothing\n")
    with pytest.raises(EngineError, match=r"/key holds no age key: its line begins with AGE-SECRET-KEY-1"):
        keys.identities(tmp_path / "key")
    with pytest.raises(EngineError, match=r"the key .*/absent cannot be read: No such file or directory"):
        keys.identities(tmp_path / "absent")


# Refusals: one line each, and nothing is touched


def refused(engine: Settings, place: Objects, target: Path) -> str:
    with pytest.raises(EngineError) as err:
        restore(engine, place, target)
    assert "\n" not in str(err.value)
    return str(err.value)


def test_a_wrong_key_opens_nothing(engine: Settings, place: Directory, tmp_path: Path) -> None:
    commit = backup(engine, place)
    other = tmp_path / "other"

    with pytest.raises(EngineError) as err:
        restoring.restore(other, place, keeping.LATEST, [pyrage.x25519.Identity.generate()], say)

    assert str(err.value) == f"the backup {commit.id} cannot be opened with this key: give the one that it was made for"
    assert not other.exists()


def test_a_missing_piece_is_named_before_anything_is_written(
    engine: Settings, place: Directory, tmp_path: Path
) -> None:
    backup(engine, place)
    name = sorted(place.list(PIECES))[0]
    place.delete([name])

    assert refused(engine, place, tmp_path / "other") == (
        f"{place.where}/{name} is missing: this backup cannot be restored; take another one"
    )
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("damage", ["flipped", "cut", "exchanged"])
def test_a_damaged_piece_is_named_and_the_target_left_as_it_was(
    engine: Settings, volume: Path, place: Directory, tmp_path: Path, damage: str
) -> None:
    (volume / "data").write_bytes(os.urandom(3 << 20))
    backup(engine, place)
    largest = sorted(place.list(PIECES).items(), key=lambda item: -item[1].size)
    name, other = largest[0][0], largest[1][0]
    sealed = place.get(name)
    if damage == "flipped":
        sealed = sealed[:-20] + bytes([sealed[-20] ^ 1]) + sealed[-19:]
    place.put(name, {"flipped": sealed, "cut": sealed[:1000], "exchanged": place.get(other)}[damage])
    target = tmp_path / "other"
    target.mkdir()

    text = refused(engine, place, target)

    assert text.startswith(f"{place.where}/{name} is damaged: ")
    assert list(target.iterdir()) == []
    with pytest.raises(EngineError, match="is damaged: "):
        keeping.verify(place, keeping.find(place, keeping.LATEST), identity(engine), say)


def test_a_damaged_index_is_named(engine: Settings, place: Directory, tmp_path: Path) -> None:
    commit = backup(engine, place)
    name = f"{BACKUPS}{commit.id}.index"
    place.put(name, place.get(name)[:-1])

    assert refused(engine, place, tmp_path / "other") == (
        f"{place.where}/{name} is damaged: this backup cannot be restored; take another one"
    )


@pytest.mark.parametrize(("field", "number"), [("storeFormat", STORE_FORMAT + 1), ("dataFormat", datadir.FORMAT + 1)])
def test_newer_data_is_refused(engine: Settings, place: Directory, tmp_path: Path, field: str, number: int) -> None:
    commit = backup(engine, place)
    name = f"{BACKUPS}{commit.id}.json"
    document = msgspec.json.decode(place.get(name)) | {field: number, "version": "9.0"}
    place.put(name, msgspec.json.encode(document))

    text = refused(engine, place, tmp_path / "other")

    assert text.startswith(f"the backup {commit.id} was written by a newer Trimtab (9.0, data format ")
    assert text.endswith("upgrade the program")
    assert not (tmp_path / "other").exists()


def test_a_newer_format_of_backups_is_refused(engine: Settings, place: Directory, tmp_path: Path) -> None:
    commit = backup(engine, place)
    name = f"{BACKUPS}{commit.id}.json"
    place.put(name, msgspec.json.encode({"format": FORMAT + 1}))

    assert refused(engine, place, tmp_path / "other") == (
        f"{place.where}/{name} was written by a newer Trimtab (backup format {FORMAT + 1}, this program knows {FORMAT}): "
        "upgrade the program"
    )


def test_a_directory_that_holds_something_is_not_taken(engine: Settings, place: Directory, tmp_path: Path) -> None:
    backup(engine, place)
    target = tmp_path / "other"
    target.mkdir()
    (target / "thesis.tex").touch()

    assert refused(engine, place, target) == f"{target} is not empty: give an empty directory as --data"
    assert refused(engine, place, Path(engine.data)) == (
        f"there is an engine at {engine.data}: restore into another --data, or remove it with "
        f"`trimtab --data {engine.data} uninstall --yes`"
    )
    assert [path.name for path in target.iterdir()] == ["thesis.tex"]


def test_an_index_that_leads_out_of_the_directory_is_refused(
    engine: Settings, place: Directory, tmp_path: Path
) -> None:
    from trimtab.engine.backup.format import Entry, Index

    entry = Entry(b"../../etc/cron.d/x", "f", 0o644, 0, 0, 0)
    with pytest.raises(EngineError, match=r"the backup is damaged: .* leads out of the data directory"):
        restoring._check_paths(Index(FORMAT, "/", b"", {}, [], {"node/volumes": [entry]}))


def test_a_restore_that_was_killed_can_be_repeated(
    engine: Settings, volume: Path, place: Directory, tmp_path: Path
) -> None:
    (volume / "data").write_text("kept")
    backup(engine, place)
    target = tmp_path / "other"
    (target / ".restoring" / "pki").mkdir(parents=True)
    (target / "store").mkdir()
    with pytest.raises(EngineError, match=r"a restore of .* was interrupted: run `trimtab restore` again"):
        datadir.create(target, {})

    restored = restore(engine, place, target)

    assert (restored.data_path(VOLUME) / "data").read_text() == "kept"
    assert not (target / ".restoring").exists()


def test_a_place_holds_the_backups_of_one_engine(engine: Settings, place: Directory) -> None:
    place.put(MARKER, msgspec.json.encode({"format": 1, "engine": "abcdef"}))
    with pytest.raises(EngineError) as err:
        backup(engine, place)
    assert str(err.value) == (
        f"{place.where} holds the backups of engine abcdef, this one is {engine.id}: give another directory or prefix"
    )


def test_a_place_inside_the_data_is_refused(engine: Settings) -> None:
    with pytest.raises(EngineError, match="lies in the data directory itself: give a place that survives it"):
        backup(engine, Directory(engine.data_path("backups")))


def test_an_unknown_backup_is_named(engine: Settings, place: Directory, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"holds no backup$"):
        keeping.find(place, keeping.LATEST)
    commit = backup(engine, place)
    with pytest.raises(NotFound, match=f"holds no backup nonsense: the latest is {commit.id}"):
        keeping.find(place, "nonsense")


def test_of_a_large_file_that_changes_only_the_changed_pieces_are_copied_aside(
    tmp_path: Path, engine: Settings
) -> None:
    """What pods wait for is the copy: it must not grow with the file."""
    root, aside = tmp_path / "tree", tmp_path / "aside"
    root.mkdir()
    aside.mkdir()
    content = bytearray(os.urandom(8 << 20))
    (root / "large").write_bytes(content)
    place = Directory(tmp_path / "backups")
    sender = Sender(place, bytes(32), [pyrage.x25519.Identity.generate().to_public()], set())
    before = walk.look(root, sender, {}, time.time_ns(), lambda: None)
    content[5 << 20] ^= 1
    (root / "large").write_bytes(content)

    tree, (copied,) = walk.look_again(root, aside, "", before, time.time_ns(), sender)

    assert copied.path.stat().st_blocks * 512 <= 1 << 20
    walk.send_copied([copied], sender)
    sender.finish()
    sender.close()
    assert [a == b for a, b in zip(before[b"large"].entry.pieces, tree[b"large"].entry.pieces, strict=True)] == [
        number != 5 for number in range(8)
    ]
    assert name_of(sender.key, bytes(content[5 << 20 : 6 << 20])) == sender.names[tree[b"large"].entry.pieces[5]]


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    engine: Settings, volume: Path, place: Directory, small_disk: Path
) -> None:
    (volume / "data").write_bytes(os.urandom(1 << 20))
    backup(engine, place)

    text = refused(engine, place, small_disk / "other")

    assert text.startswith(f"the disk of {small_disk}/other has 0 MiB free, the backup needs ")
    assert text.endswith(" MiB: give another --data")
    assert list(small_disk.iterdir()) == []
