"""The data directory of an engine: its settings on disk, and which directory belongs to whom.

    first start: DATA/engine.json <-- id, networks, ports         every start: read, checked, directories put right

`engine.json` is replaced atomically and has a copy beside it (`engine.json.last`), so that a damaged file can be put
back with one command. Data of a newer program is refused rather than misread.

Root's own files stand only in directories that nobody else may write: what an unprivileged process could replace, root
must never open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import Any

import msgspec

from trimtab.engine import addresses, procfs
from trimtab.engine.errors import EngineError, NotRunning
from trimtab.engine.plan import PIDS
from trimtab.engine.privileges import ids_of
from trimtab.runtime.settings import Settings

DEFAULT_DATA = Path("/var/lib/trimtab")
RUN_ROOT = Path("/run/trimtab")
SETTINGS = "engine.json"
FORMAT = 1
"""Counts up whenever an older program would misread the data directory."""
_SHARED = stat.S_ISGID | 0o750


def load(data: Path) -> Settings:
    """The settings of an existing engine.

    Raises:
        NotRunning: there is no engine here.
        EngineError: the file is damaged or of a newer program; says what to do.
    """
    path = data / SETTINGS
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise NotRunning(f"there is no engine at {data}: make one with `trimtab --data {data} start`") from None
    except NotADirectoryError:
        raise EngineError(f"{data} is a file: give a directory as --data") from None
    except PermissionError:
        raise EngineError(f"{path} cannot be read: run this as root") from None
    except OSError as err:
        raise EngineError(f"{path} cannot be read: {err.strerror}") from None
    try:
        document = msgspec.json.decode(raw)
        if not isinstance(document, dict):
            raise msgspec.ValidationError("it is no JSON object")
        if (found := document.get("format", FORMAT)) > FORMAT:
            raise EngineError(
                f"{data} was written by a newer Trimtab (data format {found}, this program knows {FORMAT}): "
                "upgrade the program, or give another --data"
            )
        settings = msgspec.convert(document, Settings)
    except (msgspec.MsgspecError, TypeError) as err:
        raise EngineError(
            f"{path} is damaged ({err}): put the last good copy back with `cp {path}.last {path}`"
        ) from None
    return msgspec.structs.replace(settings, data=str(data))


def refuse_newer_store(settings: Settings) -> None:
    """Raises EngineError when a newer program has migrated the store, before anything is started that would find out.

    SQLite keeps the number at byte 60 of the file (https://sqlite.org/fileformat.html); what is still in the log alone the
    API server sees when it opens it.
    """
    from trimtab.store import FORMAT

    path = settings.data_path("store", "store.sqlite")
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            header = file.read(64)
    except OSError:
        return
    found = int.from_bytes(header[60:64], "big")
    if header.startswith(b"SQLite format 3\0") and found > FORMAT:
        raise EngineError(
            f"{settings.data} was written by a newer Trimtab (store format {found}, this program knows {FORMAT}): upgrade the "
            "program, or bring an older backup back with `trimtab restore`"
        )


def save(settings: Settings) -> None:
    """Writes the settings durably: the new file is there whole, or the old one still is.

    Raises:
        EngineError: the disk is full or not writable.
    """
    path = settings.data_path(SETTINGS)
    text = msgspec.json.format(msgspec.json.encode({"format": FORMAT, **msgspec.to_builtins(settings)})) + b"\n"
    try:
        for name in (path.with_name(f"{SETTINGS}.last"), path):
            temporary = name.with_name(f"{name.name}.new")
            with open(temporary, "wb") as file:
                os.fchmod(file.fileno(), 0o644)  # every process of the engine reads it, whatever umask root has
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, name)
        handle = os.open(settings.data, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as err:
        path.with_name(f"{SETTINGS}.new").unlink(missing_ok=True)
        raise disk_error(Path(settings.data), err) from None


def disk_error(path: Path, err: OSError) -> EngineError:
    """One line for a failed write below `path`."""
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        return EngineError(f"the disk of {path} is full: free some space, or give another --data")
    if err.errno == errno.EROFS:
        return EngineError(f"{path} is on a read-only file system: give another --data")
    return EngineError(f"{err.filename or path} cannot be written: {err.strerror}")


def create(data: Path, chosen: dict[str, Any]) -> tuple[Settings, list[str]]:
    """Chooses the settings of a new engine and writes them. `chosen` are settings that the user named.

    Returns the settings and what the user should know about them (one line each).
    """
    if (data / ".restoring").is_dir():
        raise EngineError(f"a restore of {data} was interrupted: run `trimtab restore` again, or delete the directory")
    own = {"lost+found", *(f"{SETTINGS}{end}" for end in (".last", ".new", ".last.new"))}
    if data.is_dir() and any(entry.name not in own for entry in data.iterdir()):
        raise EngineError(f"{data} is not empty and holds no engine: give an empty directory as --data")
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o755)
    except OSError as err:
        raise disk_error(data, err) from None
    identifier = secrets.token_hex(3)
    while (RUN_ROOT / identifier).exists():
        identifier = secrets.token_hex(3)
    taken = [*addresses.routed_networks(), *networks_of_others()]
    pods, services = addresses.choose_networks(identifier, taken)
    listen = chosen.get("listen", "127.0.0.1")
    ports, notes = choose_ports(listen, chosen)
    first = str(next(addresses.Network(pods).subnets(new_prefix=24)))
    networks = {"cluster_cidr": pods, "pod_cidr": first, "service_cidr": services}
    values: dict[str, Any] = {**networks, **ports, **chosen}
    settings = Settings(id=identifier, data=str(data), run=str(RUN_ROOT / identifier), **values)
    save(settings)
    return settings, notes


PORTS = {
    "api_port": (6443, "--port", "the API"),
    "http_port": (80, "--http-port", "HTTP"),
    "https_port": (443, "--https-port", "HTTPS"),
    "web_port": (8080, "--web-port", "the dashboard"),
}
"""Setting, its default, the flag that sets it, and what it is for."""


def choose_ports(listen: str, chosen: dict[str, Any]) -> tuple[dict[str, int], list[str]]:
    """The default ports where they are free, else others, with a line that says so. Named ports are taken as they are."""
    ports: dict[str, int] = {}
    notes = []
    avoid = {chosen[name] for name in PORTS if name in chosen}
    for name, (default, flag, purpose) in PORTS.items():
        if name in chosen:
            continue
        port = addresses.choose_port(listen, default, avoid)
        if port != default:
            owner = procfs.listener_of(default)
            by = f" by {owner[1]} (pid {owner[0]})" if owner else ""
            notes.append(f"port {default} is in use{by}: {purpose} takes {port} (choose with {flag})")
        ports[name] = port
        avoid.add(port)
    return ports, notes


def data_of_others() -> list[str]:
    """The data directories of all engines that ran here since the boot."""
    return sorted(str(link.resolve().parent) for link in RUN_ROOT.glob(f"*/{SETTINGS}"))


def networks_of_others() -> list[addresses.Network]:
    """The networks of the engines that ran here since the boot."""
    found: list[addresses.Network] = []
    for directory in data_of_others():
        try:
            other = load(Path(directory))
        except (EngineError, OSError):
            continue
        found += [addresses.Network(other.cluster), addresses.Network(other.service_cidr)]
    return found


def supervisor_run(settings: Settings) -> Path:
    """Root's own run directory: plan, state, pid files, notify socket."""
    return settings.run_path("supervisor")


def prepare(settings: Settings) -> None:
    """Makes every directory of an engine, with its owner and mode; puts right what is wrong. As root.

    Raises:
        EngineError: the disk is full or not writable.
    """
    uid, gid = ids_of(settings.user)
    proxy_uid, proxy_gid = ids_of(settings.proxy_user)
    _, web_gid = ids_of(settings.web_user)
    try:
        _directory(Path(settings.data), 0o755, 0, 0)
        for name in ("store", "pki", "content", "pipelines", "profiles"):
            _directory(settings.data_path(name), 0o750, uid, gid)
        _drop_storage_of_root(settings.data_path("content", "buildah"))
        # What is made in these is of the directory's group, whoever makes it: one more user may read it, or use it.
        _directory(settings.data_path("journal"), _SHARED, uid, web_gid)
        _directory(settings.data_path("proxy"), _SHARED, uid, proxy_gid)
        _directory(settings.data_path("log"), 0o751, 0, gid)
        _directory(settings.data_path("log", "proxy"), _SHARED | stat.S_IWGRP, proxy_uid, gid)
        _directory(settings.data_path("node"), 0o700, 0, 0)
        _directory(RUN_ROOT, 0o755, 0, 0)
        _directory(settings.run_path(), 0o755, 0, 0)
        _directory(settings.run_path("user"), _SHARED, uid, web_gid)
        _directory(settings.run_path("proxy"), _SHARED, proxy_uid, gid)
        _directory(settings.run_path("health"), 0o755, 0, 0)
        _directory(settings.run_path("nodes"), 0o755, 0, 0)
        _directory(settings.data_path("nodes"), 0o700, 0, 0)
        _directory(settings.data_path("volumes"), 0o700, 0, 0)
        _file_of_user(settings.run_path("health", "controllers.json"), uid, gid)
        _directory(supervisor_run(settings), 0o755, 0, 0)
        _directory(supervisor_run(settings) / PIDS, 0o755, 0, 0)
        link = settings.run_path(SETTINGS)
        if not link.is_symlink() or link.readlink() != settings.data_path(SETTINGS):
            link.unlink(missing_ok=True)
            link.symlink_to(settings.data_path(SETTINGS))
    except OSError as err:
        raise disk_error(Path(settings.data), err) from None


def _drop_storage_of_root(path: Path) -> None:
    """Removes the layers that an earlier version built as root: a cache, which its user could not go on with."""
    with contextlib.suppress(FileNotFoundError):
        if any(entry.stat(follow_symlinks=False).st_uid == 0 for entry in os.scandir(path)):
            shutil.rmtree(path, ignore_errors=True)  # by directory handles: no link leads it elsewhere


def _file_of_user(path: Path, uid: int, gid: int) -> None:
    """A file that an unprivileged process opens itself: it may write the file, but not the directory, where root opens
    others."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o640)
    try:
        os.fchown(handle, uid, gid)
    finally:
        os.close(handle)


def _directory(path: Path, mode: int, uid: int, gid: int) -> None:
    path.mkdir(parents=True, exist_ok=True, mode=mode)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(handle)
        if (status.st_uid, status.st_gid) != (uid, gid):
            os.fchown(handle, uid, gid)
        if status.st_mode & 0o7777 != mode:
            os.fchmod(handle, mode)
    finally:
        os.close(handle)
