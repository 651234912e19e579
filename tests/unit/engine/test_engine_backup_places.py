"""What a place for backups holds and forgets, pods that stand still, and an S3 store."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from engine_at_rest import S3_SERVER, backup, identity, restore, s3_server, say, wait_a_second
from trimtab.engine import uninstall
from trimtab.engine.backup import freeze, keeping, walk
from trimtab.engine.backup.format import BACKUPS
from trimtab.engine.backup.objects import Directory, open_objects
from trimtab.engine.errors import EngineError
from trimtab.runtime.settings import Settings

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a backup reads what belongs to other users")


# Retention


class Breaking:
    """A store that fails when the commit is due, as a power loss would."""

    def __init__(self, inner: Directory) -> None:
        self._inner = inner
        self.where = inner.where

    def put(self, name: str, data: bytes) -> None:
        if name.startswith(BACKUPS) and name.endswith(".json"):
            raise EngineError("lost")
        self._inner.put(name, data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def test_a_half_made_backup_is_none(engine: Settings, volume: Path, place: Directory) -> None:
    (volume / "data").write_bytes(os.urandom(2 << 20))
    with pytest.raises(EngineError, match="lost"):
        backup(engine, Breaking(place))  # type: ignore[arg-type]
    assert keeping.commits(place) == []

    commit = backup(engine, place)

    assert commit.sent_bytes < 1 << 20  # what the first one sent is used


def test_what_is_deleted_takes_its_pieces_and_leaves_those_of_others(
    engine: Settings, volume: Path, place: Directory, tmp_path: Path
) -> None:
    (volume / "kept").write_bytes(os.urandom(2 << 20))
    (volume / "gone").write_bytes(os.urandom(2 << 20))
    first = backup(engine, place)
    (volume / "gone").unlink()
    wait_a_second(first)
    second = backup(engine, place)

    assert keeping.expired(keeping.commits(place), 1) == [first.id]
    freed = keeping.delete(place, [first.id])

    assert 2 << 20 < freed < 3 << 20
    assert [commit.id for commit in keeping.commits(place)] == [second.id]
    assert not [name for name in place.list(BACKUPS) if first.id in name]
    restored = restore(engine, place, tmp_path / "other")
    assert (restored.data_path("node/volumes/pvc-1") / "kept").read_bytes() == (volume / "kept").read_bytes()


def test_a_damaged_backup_can_be_deleted(engine: Settings, place: Directory) -> None:
    commit = backup(engine, place)
    place.put(f"{BACKUPS}{commit.id}.json", b"{")
    with pytest.raises(EngineError, match=r"is damaged .*: delete this backup, or take another one"):
        keeping.commits(place)

    keeping.delete(place, [keeping.require(place, commit.id)])

    assert place.list(BACKUPS) == {}


# Standing still


def test_who_freezes_and_is_killed_leaves_nobody_frozen(tmp_path: Path) -> None:
    """Two files stand for cgroups: what counts is that a second process thaws when the first is gone."""
    group = tmp_path / "pod1"
    group.mkdir()
    control = group / "freezer.state"
    control.write_text("THAWED")
    script = (
        "import os, signal, sys; from pathlib import Path; from trimtab.engine.backup.freeze import frozen\n"
        "with frozen([Path(sys.argv[1])]): os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    subprocess.run([sys.executable, "-c", script, str(group)], check=False)

    deadline = time.monotonic() + 10
    while control.read_text() != "THAWED":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_nobody_stands_still_longer_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeze, "FREEZE_S_MAX", 0.05)
    control = tmp_path / "freezer.state"
    control.write_text("THAWED")

    def work() -> None:
        with freeze.frozen([tmp_path]):
            while control.read_text() != "THAWED":
                time.sleep(0.01)

    with pytest.raises(EngineError, match="the volumes change too much to be copied within"):
        work()


# S3


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    if not S3_SERVER.exists():
        pytest.skip("there is no S3 server here: make setup-test")
    with s3_server() as address:
        yield address


def bucket(address: str, name: str) -> dict[str, str]:
    """Makes a bucket; returns the environment that leads to it."""
    connection = HTTPConnection(address.removeprefix("http://"))
    connection.request("PUT", f"/{name}", headers={"Authorization": "AWS4-HMAC-SHA256 Credential=any/x/us-east-1/s3/x"})
    assert connection.getresponse().status == 200
    connection.close()
    return {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}


def test_an_s3_store_keeps_backups(engine: Settings, volume: Path, s3: str, tmp_path: Path) -> None:
    (volume / "data").write_bytes(os.urandom(3 << 20))
    place = open_objects("s3://vault/engines/one", bucket(s3, "vault"))
    first = backup(engine, place)
    wait_a_second(first)
    second = backup(engine, place)

    assert second.sent_bytes < 1 << 20
    assert keeping.verify(place, second, identity(engine), say) > 3
    keeping.delete(place, [first.id])
    restored = restore(engine, place, tmp_path / "other")
    assert (restored.data_path("node/volumes/pvc-1") / "data").read_bytes() == (volume / "data").read_bytes()


def test_what_an_s3_store_refuses_is_one_line(engine: Settings, s3: str) -> None:
    environment = bucket(s3, "there")
    for target, words in (("s3://nowhere/x", "s3://nowhere/x: "), ("s3:///x", "s3:///x: write s3://BUCKET/PREFIX")):
        with pytest.raises(EngineError) as err:
            backup(engine, open_objects(target, environment))
        assert str(err.value).startswith(words)
        assert "\n" not in str(err.value)
    with pytest.raises(EngineError) as err:
        open_objects("s3://there", {})
    assert str(err.value) == "s3://there: AWS_ACCESS_KEY_ID is not set: export the store's access key"
    with pytest.raises(EngineError, match=r"ftp://x: give a directory or s3://BUCKET/PREFIX"):
        open_objects("ftp://x")


def test_what_is_no_file_is_left_out_and_what_is_absurd_is_named(
    engine: Settings, volume: Path, place: Directory
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(volume / "socket"))
        os.mknod(volume / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        assert backup(engine, place).volumes == 1

    here = os.open(volume, os.O_RDONLY)
    for _ in range(walk.DEPTH_MAX + 2):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(EngineError) as err:
        backup(engine, place)
    assert str(err.value) == (
        f"a directory is nested deeper than {walk.DEPTH_MAX} levels, below {'/'.join(['pvc-1', *'d' * 50])[:100]}: "
        "it cannot be backed up; delete it, or move it up"
    )
    shutil.rmtree(volume)


def test_a_target_that_is_full_is_one_line_and_holds_no_backup(
    engine: Settings, volume: Path, small_disk: Path
) -> None:
    (volume / "data").write_bytes(os.urandom(2 << 20))
    place = Directory(small_disk / "vault")

    with pytest.raises(EngineError) as err:
        backup(engine, place)

    assert str(err.value).startswith(f"{small_disk}/vault/pieces/")
    assert str(err.value).endswith(" cannot be written: No space left on device")
    assert keeping.commits(place) == []
    (volume / "data").unlink()
    keeping.delete(place, [])  # nothing of the failed one is older than an hour: it stays, and may be used
    shutil.rmtree(small_disk / "vault")
    assert backup(engine, place).files > 3


def test_an_uninstall_says_that_the_key_goes_with_the_data(engine: Settings, place: Directory) -> None:
    backup(engine, place)
    said: list[str] = []

    uninstall.uninstall(Path(engine.data), delete_data=False, say=said.append)
    assert (
        f"{engine.data}/backup/identity.txt opens the backups of this engine: keep a copy elsewhere before you delete it"
        in said
    )

    said.clear()
    uninstall.uninstall(Path(engine.data), delete_data=True, say=said.append)
    assert said[0] == (
        f"deleting the engine at {engine.data}, and with it the key of its backups, which nobody can open without a copy"
    )
    assert said[-1] == f"deleted {engine.data}"


def test_a_place_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "vault" / "backups").mkdir(parents=True)
    (tmp_path / "vault").chmod(0o700)
    script = (
        "import os, sys\n"
        "from trimtab.engine.backup import keeping, objects\n"
        "from trimtab.engine.errors import EngineError\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "try: keeping.commits(objects.open_objects(sys.argv[1]))\n"
        "except EngineError as err: print(err)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "vault")], capture_output=True, text=True, check=True
    )

    assert done.stdout == f"{tmp_path}/vault/backups cannot be read: Permission denied\n"


def test_pieces_are_fetched_ahead_in_the_order_in_which_they_are_needed(
    engine: Settings, volume: Path, place: Directory, tmp_path: Path
) -> None:
    (volume / "data").write_bytes(os.urandom(20 << 20))
    backup(engine, place)
    at_once = Counting(place)

    restore(engine, at_once, tmp_path / "other")  # type: ignore[arg-type]

    assert at_once.most > 2
    assert (tmp_path / "other" / "node/volumes/pvc-1/data").read_bytes() == (volume / "data").read_bytes()


class Counting:
    """A store that is far away, and counts how many requests it has at a time."""

    def __init__(self, inner: Directory) -> None:
        self._inner = inner
        self._now = 0
        self._lock = threading.Lock()
        self.most = 0
        self.where = inner.where

    def get(self, name: str) -> bytes:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.005)
        with self._lock:
            self._now -= 1
        return self._inner.get(name)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)
