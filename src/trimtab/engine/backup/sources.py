"""Which trees of the data directory are backed up: all that nobody else could make again.

    store, journal         copies of the databases, made by the user that owns them
    pki, content, backup   as they are
    node/volumes           the volumes of the first node; nodes/NAME/volumes: those on the disks of further nodes
    volumes                images of movable volumes
    engine.json            the settings

Left out is what a start makes anew: containerd's images and containers, the pods' directories, Envoy's configuration, logs.
What a later version puts into the data directory is in the backup unless it is named here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trimtab.engine import accounts, datadir, fencing, nodes, planning
from trimtab.engine.backup import keys
from trimtab.engine.processes import JOURNAL
from trimtab.engine.programs import PROGRAMS
from trimtab.runtime.settings import Settings

STORE = ("store", "store.sqlite")
VOLUMES = "volumes"
ATTACHED = "attached"
NOT_OF_DATA = frozenset({"log", "proxy", "node", "nodes", "store", "journal", PROGRAMS, VOLUMES, keys.DIRECTORY})
NOT_OF_NODE = frozenset({"containerd", "pods", "registries", "cni", ATTACHED})
WITHOUT = {
    "content": frozenset({b"ingest", b"locks", b"buildah"}),
    "pipelines": frozenset({b"ci", b"work", b"hooks"}),
    "profiles": frozenset({b"unwind"}),
}
"""What is made again when it is needed."""
COPY = "backup.sqlite"
STAGING = "staging"
RESTORING = ".restoring"


@dataclass(frozen=True)
class Source:
    """A tree to be backed up. `name`: where it belongs, below the data directory."""

    name: str
    path: Path
    changing: bool = False
    """Pods write to it: it is looked at once more while they stand still."""
    without: frozenset[bytes] = frozenset()
    """Directories in it whose content is left out."""


def volumes(settings: Settings) -> Iterator[Source]:
    """The directories with persistent volumes, whatever else lies beside them on a node's disk, and the images of movable ones."""
    if (images := settings.data_path(VOLUMES)).is_dir():
        yield Source(VOLUMES, images, changing=True)
    for entry in _directories(settings.data_path("node"), NOT_OF_NODE):
        yield Source(f"node/{entry.name}", entry, changing=True)
    for name in settings.nodes:
        disk = _disk(settings, name)
        if disk.is_dir():
            for entry in _directories(disk, NOT_OF_NODE | {"lost+found"}):
                yield Source(f"nodes/{name}/{entry.name}", entry, changing=True)


def _disk(settings: Settings, name: str) -> Path:
    """A further node's disk: as the node itself sees it while it runs."""
    process = fencing.first_process(settings, name)
    if process is None:
        return nodes.disk_directory(settings, name)
    return Path(f"/proc/{process.pid}/root{settings.data_path('node')}")


def attached(settings: Settings) -> list[Path]:
    """Where movable volumes are mounted now: what their file systems hold back must be in the images before these are read."""
    found = []
    for disk in (settings.data_path("node"), *(_disk(settings, name) for name in settings.nodes)):
        found += _directories(disk / ATTACHED, frozenset())
    return found


def others(settings: Settings) -> Iterator[Source]:
    """The rest, but for databases."""
    for entry in _directories(Path(settings.data), NOT_OF_DATA):
        yield Source(entry.name, entry, without=WITHOUT.get(entry.name, frozenset()))


def _directories(parent: Path, without: frozenset[str]) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(
        entry
        for entry in parent.iterdir()
        if entry.is_dir() and not entry.is_symlink() and entry.name not in without and not entry.name.startswith(".")
    )


def unreachable(settings: Settings) -> list[str]:
    """Further nodes that do not run and whose disk is an image: their volumes cannot be read."""
    return [
        name
        for name in settings.nodes
        if fencing.first_process(settings, name) is None and not nodes.disk_directory(settings, name).is_dir()
    ]


def copy_databases(settings: Settings) -> list[Source]:
    """Copies store and journal beside themselves, consistently and while they are written to; returns the copies' directories.
    The copies must be removed afterwards (`drop_copies`)."""
    from trimtab.store import copy_log

    def copy() -> None:
        for database in (STORE, JOURNAL):
            source = settings.data_path(*database)
            if source.exists():
                target = source.parent / COPY
                target.mkdir(mode=0o700, exist_ok=True)
                copy_log(source, target / source.name)

    readable = planning.program_directories()
    accounts.as_user(settings.user, readable, [settings.data], copy)
    parents = [settings.data_path(database[0]) for database in (STORE, JOURNAL)]
    return [Source(parent.name, parent / COPY) for parent in parents if (parent / COPY).is_dir()]


def drop_copies(settings: Settings) -> None:
    """Removes what `copy_databases` made. Idempotent."""

    def drop() -> None:
        import shutil

        for database in (STORE, JOURNAL):
            shutil.rmtree(settings.data_path(database[0], COPY), ignore_errors=True)

    accounts.as_user(settings.user, [], [settings.data], drop)


def users(settings: Settings) -> dict[str, tuple[int, int]]:
    """The numeric ids of the engine's users, by role."""
    from trimtab.engine.privileges import ids_of

    roles = {"engine": settings.user, "proxy": settings.proxy_user, "web": settings.web_user}
    return {role: ids_of(name) for role, name in roles.items()}


def key_files(settings: Settings) -> list[Path]:
    """The files beside the trees: settings and the keys of the backups themselves."""
    wanted = [
        settings.data_path(datadir.SETTINGS),
        *(keys.directory(settings) / n for n in (keys.IDENTITY, keys.NAMES_KEY)),
    ]
    return [path for path in wanted if os.path.exists(path)]
