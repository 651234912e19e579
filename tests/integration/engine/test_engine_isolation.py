"""What a build may do: the code of strangers runs in it, so it tries what a thief would."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine_under_test import wait_for
from trimtab.content import ContentStore, ImageSpec, oci
from trimtab.content import build as image_of
from trimtab.engine import accounts, planning, procfs
from trimtab.engine.errors import EngineError
from trimtab.engine.isolation import SUBORDINATE_FIRST, isolated

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives up root")

Send = Callable[[Any], None]


@pytest.fixture
def engine_directory(tmp_path: Path) -> Path:
    """A data directory as an engine has it: keys and a content store of user trimtab, in a directory closed to others."""
    accounts.ensure_user("trimtab")
    owner = pwd.getpwnam("trimtab")
    tmp_path.chmod(0o700)
    data = tmp_path / "data"
    for name in ("pki", "content"):
        (data / name).mkdir(parents=True)
        os.chown(data / name, owner.pw_uid, owner.pw_gid)
    (data / "pki" / "ca.key").write_text("secret")
    os.chown(data / "pki" / "ca.key", owner.pw_uid, owner.pw_gid)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "ship.py").write_text("app = 1")
    return data


def build(data: Path, work: Callable[[Send], Any], *, own_users: bool = False, said: list[Any] | None = None) -> Any:
    return isolated(
        "trimtab",
        work,
        (said if said is not None else []).append,
        readable=[*planning.program_directories(), str(data.parent / "app")],
        writable=[str(data / "content")],
        concealed=[str(data)],
        own_users=own_users,
    )


def attempt(action: Callable[[], Any]) -> str:
    try:
        action()
    except OSError as err:
        return type(err).__name__
    return "done"


def test_a_build_works_with_its_own_and_sees_nothing_else_of_the_engine(engine_directory: Path) -> None:
    data = engine_directory
    said: list[Any] = []

    def work(send: Send) -> dict[str, Any]:
        (data / "content" / "made").write_text("by the build")
        send("half-way")
        status = Path("/proc/self/status").read_text()
        return {
            "uid": os.getresuid(),
            "read": (data.parent / "app" / "ship.py").read_text(),
            "engine": sorted(os.listdir(data)),
            "processes": [name for name in os.listdir("/proc") if name.isdigit()],
            "capabilities": [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff")],
            "source": attempt(lambda: (data.parent / "app" / "ship.py").write_text("changed")),
            "host": attempt(lambda: Path("/etc/trimtab-was-here").touch()),
        }

    seen = build(data, work, said=said)

    uid = pwd.getpwnam("trimtab").pw_uid
    assert said == ["half-way"]
    assert seen == {
        "uid": [uid] * 3,
        "read": "app = 1",
        "engine": ["content"],
        "processes": ["1"],
        "capabilities": [0],
        "source": "OSError",
        "host": "PermissionError",
    }
    assert (data / "content" / "made").stat().st_uid == uid


def test_root_in_a_dockerfile_is_nobody_outside(engine_directory: Path) -> None:
    data = engine_directory

    def work(_: Send) -> dict[str, Any]:
        made = data / "content" / "made"
        made.touch()
        served = data / "content" / "served"
        served.touch()
        os.chown(served, 33, 33)
        unmounted = subprocess.run(["umount", str(data)], capture_output=True, check=False).returncode
        return {
            "uid": os.getuid(),
            "engine": sorted(os.listdir(data)),
            "device": attempt(lambda: os.mknod(data / "content" / "disk", 0o060666, os.makedev(8, 0))),
            "shadow": attempt(lambda: Path("/etc/shadow").read_text()),
            "host": attempt(lambda: Path("/etc/trimtab-was-here").touch()),
            "uncovered": unmounted == 0 or os.path.exists(data / "pki"),
        }

    seen = build(data, work, own_users=True)

    assert seen == {
        "uid": 0,
        "engine": ["content"],
        "device": "PermissionError",
        "shadow": "PermissionError",
        "host": "PermissionError",
        "uncovered": False,
    }
    owners = {path.name: path.stat().st_uid for path in (data / "content").iterdir()}
    assert owners == {"made": pwd.getpwnam("trimtab").pw_uid, "served": SUBORDINATE_FIRST + 32}


@pytest.mark.skipif(shutil.which("buildah") is None, reason="no buildah on this machine")
def test_a_hostile_dockerfile_builds_and_gets_nothing(engine_directory: Path) -> None:
    data = engine_directory
    app = data.parent / "app"
    busybox = shutil.which("busybox")
    assert busybox is not None  # `make setup-test` installs the static one
    shutil.copy(busybox, app / "busybox")
    (app / "Dockerfile").write_text(
        "FROM scratch\nCOPY busybox /bin/busybox\n"
        'RUN ["/bin/busybox", "sh", "-c", "set -e; B=/bin/busybox; $B mkdir /found; '
        "$B touch /served; $B chown 33:33 /served; "
        "if $B mknod /disk b 8 0; then $B touch /found/device; fi; "
        f"if $B cat {data}/pki/ca.key; then $B touch /found/key; fi; "
        f"if $B chroot /proc/1/root $B cat {data}/pki/ca.key; then $B touch /found/outside; fi; "
        'if $B mount -t proc none /found; then $B touch /found/mounted; fi"]\n'
    )

    def work(_: Send) -> list[str]:
        store = ContentStore(data / "content")
        built = asyncio.run(image_of(ImageSpec(name="hostile", dockerfile="Dockerfile"), store, context=app))
        names: list[str] = []
        for layer in oci.image_manifest(store, built.digest)[1].layers:
            with store.open(layer.digest) as blob, tarfile.open(fileobj=blob, mode="r:*") as archive:
                names += archive.getnames()
        return sorted(names)

    names = build(data, work, own_users=True)

    assert [name for name in names if name.startswith("found/") or name == "disk"] == []
    assert "served" in names
    assert [path for path in (data / "content").rglob("*") if path.lstat().st_uid == 0] == []


def test_what_went_wrong_is_one_line(engine_directory: Path) -> None:
    def fail(_: Send) -> None:
        raise ValueError("requirements.txt, line 3:\nno such package")

    with pytest.raises(EngineError, match=r"^requirements.txt, line 3: no such package$"):
        build(engine_directory, fail)

    closed = engine_directory.parent / "app" / "secret.txt"
    closed.touch(mode=0o600)
    with pytest.raises(EngineError) as refused:
        build(engine_directory, lambda _: closed.read_text())
    folder = closed.parent
    assert str(refused.value) == f"{closed} cannot be read by user trimtab, which builds: chmod -R go+rX {folder}"

    with pytest.raises(EngineError, match="the build was killed"):
        build(engine_directory, lambda _: os._exit(9))


def test_a_killed_command_leaves_nothing_of_its_build_running(engine_directory: Path) -> None:
    data = engine_directory
    caller = os.fork()
    if caller == 0:
        try:

            def work(_: Send) -> None:
                tool = subprocess.Popen(["/bin/sleep", "300"], start_new_session=True)
                (data / "content" / "started").write_text(f"{tool.pid}")
                time.sleep(300)

            build(data, work)
        finally:
            os._exit(0)
    wait_for((data / "content" / "started").exists, 10, "the build's tool")
    family = children_of(caller)
    assert len(family) >= 3  # keeper, worker, tool

    os.kill(caller, signal.SIGKILL)
    os.waitpid(caller, 0)

    wait_for(lambda: not [pid for pid in family if procfs.identity(pid) is not None], 10, "the build's processes end")


def children_of(pid: int) -> list[int]:
    found = []
    for line in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(line), *children_of(int(line))]
    return found
