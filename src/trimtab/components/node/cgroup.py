"""Reading and limiting groups of processes, in the words of cgroup version 1 and of version 2.

`machine.Cgroups` knows where a group is; here is what its files are called and mean. A group or a file that is not there
reads as zero: a pod may end between two looks.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from trimtab.components.node.machine import Cgroups

SYSTEMCTL_S = 5.0


def cpu_ns(groups: Cgroups, name: str, pod_uid: str = "") -> int:
    """The CPU time that a group has used so far."""
    if groups.version == 2:
        return _field(groups.directory("cpu", name, pod_uid), "cpu.stat", "usage_usec") * 1000
    return _number(groups.directory("cpuacct", name, pod_uid), "cpuacct.usage")


def working_set_bytes(groups: Cgroups, name: str, pod_uid: str = "") -> int:
    """The memory that a group uses, without file pages that nobody has looked at lately: what the kubelet ranks by."""
    directory = groups.directory("memory", name, pod_uid)
    if groups.version == 2:
        used, idle = _number(directory, "memory.current"), _field(directory, "memory.stat", "inactive_file")
    else:
        used = _number(directory, "memory.usage_in_bytes")
        idle = _field(directory, "memory.stat", "total_inactive_file")
    return max(0, used - idle)


def processes(groups: Cgroups, name: str, pod_uid: str = "") -> int:
    """How many processes and threads a group has."""
    return _number(groups.directory("pids", name, pod_uid), "pids.current")


def limit_processes(groups: Cgroups, name: str, pod_uid: str, most: int) -> bool:
    """Lets a group have so many processes and threads; False when there is no such group (yet), or no such controller."""
    directory = groups.directory("pids", name, pod_uid)
    if directory is None:
        return False
    try:
        if groups.driver == "systemd":
            # What is written past systemd lasts until it looks at the slice again.
            command = ["systemctl", "set-property", "--runtime", directory.name, f"TasksMax={most}"]
            return subprocess.run(command, capture_output=True, timeout=SYSTEMCTL_S, check=False).returncode == 0
        (directory / "pids.max").write_text(str(most))
    except (OSError, subprocess.TimeoutExpired):
        return False
    return True


def _number(directory: Path | None, file: str) -> int:
    text = _read(directory, file).strip()
    return int(text) if text.isdigit() else 0


def _field(directory: Path | None, file: str, name: str) -> int:
    for line in _read(directory, file).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _read(directory: Path | None, file: str) -> str:
    if directory is None:
        return ""
    try:
        return (directory / file).read_text()
    except OSError:
        return ""
