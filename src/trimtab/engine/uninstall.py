"""`trimtab uninstall`: the engine goes without a trace. Without `--yes`, everything but the data goes, and the plan for
the data is printed.

    unit disabled -> processes stopped -> pods, networks, mounts, cgroups removed -> run directory -> (--yes) data directory
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from trimtab.components.profiling import lock
from trimtab.engine import datadir, lifecycle, planning, systemd
from trimtab.engine.backup import keys
from trimtab.engine.errors import EngineError, NotRunning
from trimtab.runtime.settings import Settings

Say = Callable[[str], None]

LOOPS_GO_S = 30.0
"""So long a loop device may take to go after its last mount."""
DELETED_STOP_S = 10
"""What pods get to end in when their volumes are deleted a moment later."""


def uninstall(data: Path, *, delete_data: bool, say: Say, timeout_s: int | None = None) -> None:
    """Removes the engine at `data`. Can be repeated after it failed half-way. `timeout_s`: what pods get to end in, where
    that is not to follow from what is deleted.

    Raises:
        EngineError: something could not be stopped or removed; what is left is named.
    """
    lifecycle.require_root("trimtab uninstall")
    if systemd.disable(data):
        say("disabled the systemd unit")
    try:
        settings = datadir.load(data)
    except NotRunning:
        say(f"no engine at {data}")
        return
    key = keys.path_of_identity(settings)
    if delete_data:
        with_key = ", and with it the key of its backups, which nobody can open without a copy" if key else ""
        say(f"deleting the engine at {data}{with_key}")
    limit_s = DELETED_STOP_S if delete_data else planning.STOP_PODS_S
    if timeout_s is not None:
        limit_s = timeout_s
    lifecycle.stop(settings, keep_pods=False, say=say, timeout_s=limit_s)
    remove_from_machine(settings)
    shutil.rmtree(settings.run, ignore_errors=True)
    with contextlib.suppress(OSError):  # other engines have theirs there
        datadir.RUN_ROOT.rmdir()
    say("removed networks, mounts, cgroups and the run directory")
    if not datadir.RUN_ROOT.exists():
        lock.forget()
        if lock.forget_recorded(lock.RECORDED):
            say(f"removed {lock.RECORDED}, what recordings of profiles kept")
    if delete_data:
        delete(data)
        say(f"deleted {data}")
        return
    if key:
        say(f"{key} opens the backups of this engine: keep a copy elsewhere before you delete it")
    say(
        f"{data} stays ({_size_text(data)}): objects, volumes, images, journal. Delete it with `trimtab --data {data} uninstall --yes`"
    )


def remove_from_machine(settings: Settings) -> None:
    """Removes what the node component made outside of the data directory."""
    from trimtab.components.node import cleanup, remove_cgroups

    cleanup(settings)
    for name in settings.nodes:
        remove_cgroups(settings.for_node(name))


def delete(data: Path) -> None:
    """Deletes the data directory. Refuses while something is mounted below it: deleting would reach into that.

    Raises:
        EngineError: a mount or a loop device is left, or a file cannot be deleted.
    """
    if mounts := mounts_below(data):
        raise EngineError(f"{mounts[0]} is still mounted: umount it, then repeat this")
    if devices := _loops_left(data):
        name, file = devices[0]
        raise EngineError(
            f"/dev/{name} still uses {file}: end what has it mounted (`grep -l {name} /proc/*/mounts`), then repeat this"
        )
    # The settings go last: until then, a repeated uninstall knows what it is about.
    try:
        for entry in sorted(data.iterdir(), key=lambda path: path.name.startswith(datadir.SETTINGS)):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        data.rmdir()
    except OSError as err:
        raise EngineError(f"{err.filename} cannot be deleted: {err.strerror}") from None


def _loops_left(data: Path) -> list[tuple[str, str]]:
    """The loop devices that stay, `loops_below`. The kernel clears one when what was written is on the disk, and whoever looks at all
    devices of the machine (another engine, for one) keeps it for that moment."""
    until = time.monotonic() + LOOPS_GO_S
    while (devices := loops_below(data)) and time.monotonic() < until:
        time.sleep(0.1)
    return devices


def loops_below(directory: Path) -> list[tuple[str, str]]:
    """The loop devices over files below a directory: name and file. They go with their last mount, in whichever
    namespace that is."""
    found = []
    for path in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        with contextlib.suppress(OSError):
            if (file := path.read_text().strip()).startswith(f"{str(directory).rstrip('/')}/"):
                found.append((path.parts[3], file))
    return found


def mounts_below(directory: Path) -> list[str]:
    """The mount points below a directory."""
    prefix = str(directory).rstrip("/") + "/"
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return sorted(point for point in points if point.startswith(prefix))


def _size_text(directory: Path) -> str:
    total = 0
    for root, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
            except OSError:
                continue
    return f"{total / (1 << 20):.0f} MiB"
