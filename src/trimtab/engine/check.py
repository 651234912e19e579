"""`trimtab check`: what the machine must have, each missing thing with the one command or change that mends it.

the engine's own needs | every component's `needs` | conditions of the host that are only worth knowing ("note")
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trimtab.engine import addresses, datadir, lifecycle
from trimtab.engine.errors import EngineError, NotRunning

Level = Literal["ok", "note", "missing"]

DISK_FREE_BYTES_MIN = 1_000_000_000
"""Images and a database need about this much to begin with."""
SQLITE_MIN = (3, 35)
CAP_SYS_RESOURCE = 24


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `note`: the engine runs all the same."""

    name: str
    level: Level
    message: str = ""


Check = Callable[[], str | None]


def run(data: Path) -> list[Finding]:
    """All findings about this machine for the engine at `data`, its own first, then component by component."""
    found = [_finding(name, "missing", check) for name, check in _needs(data)]
    found += [_finding(name, "note", check) for name, check in _conditions()]
    found += list(_components())
    return found


def _finding(name: str, level: Level, check: Check) -> Finding:
    problem = check()
    return Finding(name, "ok") if problem is None else Finding(name, level, problem)


def _components() -> Iterator[Finding]:
    from trimtab.engine.registry import COMPONENTS

    for component in COMPONENTS:
        for need in component.needs:
            yield _finding(f"{component.name}: {need.name}", "note" if need.optional else "missing", need.check)


def _needs(data: Path) -> list[tuple[str, Check]]:
    return [
        ("root", root),
        ("Python 3.11", python),
        ("SQLite", sqlite),
        ("useradd", lambda: None if _program("useradd") else "apt-get install passwd"),
        ("data directory", lambda: data_directory(data)),
        ("disk space", lambda: disk_space(data)),
        ("ports", lambda: ports(data)),
        ("networks", networks),
    ]


def _conditions() -> list[tuple[str, Check]]:
    return [
        ("memory", memory),
        ("oom_score_adj", resource_capability),
        ("cgroups", cgroup_layout),
        ("package daemons", policy_rc_d),
        ("boot", systemd),
    ]


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin")


# The engine's own needs


def root() -> str | None:
    return None if os.geteuid() == 0 else "the engine runs containers and networks: run it with sudo"


def python() -> str | None:
    found = sys.version_info
    return None if found >= (3, 11) else f"this is {found[0]}.{found[1]}: apt-get install python3.11"


def sqlite() -> str | None:
    if sqlite3.sqlite_version_info >= SQLITE_MIN:
        return None
    return (
        f"SQLite {sqlite3.sqlite_version} is too old, {'.'.join(map(str, SQLITE_MIN))} is needed: use Debian's python3"
    )


def data_directory(data: Path) -> str | None:
    try:
        datadir.load(data)
    except NotRunning:
        pass
    except EngineError as err:
        return str(err)
    existing = _existing(data)
    return (
        None if os.access(existing, os.W_OK) else f"{existing} cannot be written: run as root, or give another --data"
    )


def disk_space(data: Path) -> str | None:
    free = shutil.disk_usage(_existing(data)).free
    if free >= DISK_FREE_BYTES_MIN:
        return None
    return f"{free / 1e9:.1f} GB are free at {data}, {DISK_FREE_BYTES_MIN / 1e9:.0f} GB are needed: free some, or give another --data"


def _existing(path: Path) -> Path:
    return next((p for p in (path, *path.parents) if p.is_dir()), Path("/"))


def ports(data: Path) -> str | None:
    """Of an engine that exists and does not run: whether its ports are free. A new one chooses free ports itself."""
    try:
        settings = datadir.load(data)
        if lifecycle.supervisor_of(settings) is None:
            ours = {p.pid for p in lifecycle.running_children(settings).values()}
            for name, (_, flag, _) in datadir.PORTS.items():
                addresses.require_port(settings.listen, getattr(settings, name), flag, ours)
    except NotRunning:
        return None
    except EngineError as err:
        return str(err)
    return None


def networks() -> str | None:
    try:
        addresses.choose_networks("check", addresses.routed_networks())
    except EngineError as err:
        return str(err)
    return None


# Conditions of the host that the engine copes with


def memory() -> str | None:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:") and (free_mib := int(line.split()[1]) // 1024) < 480:
            return f"{free_mib} MiB are available; the engine itself takes about 240 MiB"
    return None


def resource_capability() -> str | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:") and not int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1:
            return "no CAP_SYS_RESOURCE here: pods get no oom_score_adj below 0 and no limits above the inherited ones"
    return None


def cgroup_layout() -> str | None:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return None
    if (root / "unified" / "cgroup.controllers").exists():
        return "hybrid (v1 with an empty v2 beside it): runc works here, crun does not"
    if (root / "memory").exists():
        return None
    return (
        "no memory controller: pods run without memory limits; mount /sys/fs/cgroup, or boot with cgroup_enable=memory"
    )


def policy_rc_d() -> str | None:
    if Path("/usr/sbin/policy-rc.d").exists():
        return "policy-rc.d keeps packages from starting their daemons; the engine starts a containerd of its own"
    return None


def systemd() -> str | None:
    if Path("/run/systemd/system").is_dir():
        return None
    return "no systemd: `trimtab start --enable` cannot start the engine at boot"
