"""What /proc tells about a process: who it is beyond its reusable pid, what it uses, what it listens on.

A pid alone may have been given to another process since it was written down. `Identity` is the pair of pid and start
time (in clock ticks since boot), which no other process ever has until the next boot; `pidfd` opens a handle on exactly
that process. Only the standard library, and little of it: the supervisor imports this module and stays small.
"""

from __future__ import annotations

import os

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Identity:
    """One process, for as long as the machine is up: pid and start time in clock ticks."""

    __slots__ = ("pid", "start")

    def __init__(self, pid: int, start: int) -> None:
        self.pid = pid
        self.start = start

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and (self.pid, self.start) == (other.pid, other.start)

    def __hash__(self) -> int:
        return hash((self.pid, self.start))

    def __repr__(self) -> str:
        return f"{self.pid}@{self.start}"


def boot_id() -> str:
    """Identifies this boot of the machine, so that pids written before a reboot are not believed."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third (state) on, or None where there is no such process.

    The second field is the command in parentheses and may itself hold blanks and parentheses, hence the last ")".
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def identity(pid: int) -> Identity | None:
    """The identity of a running process; None where there is none or it is a zombie."""
    fields = stat_fields(pid)
    if fields is None or fields[0] in "ZX":
        return None
    return Identity(pid, int(fields[19]))


def alive(process: Identity) -> bool:
    """Whether exactly this process still runs."""
    return identity(process.pid) == process


def exit_status(pid: int) -> int | None:
    """The wait status of a process that has ended and was not reaped yet; None when there is none to read. As root, also
    of processes that are not our children."""
    fields = stat_fields(pid)
    return int(fields[49]) if fields is not None and fields[0] == "Z" else None


def pidfd(process: Identity) -> int | None:
    """A handle (close-on-exec) on exactly this process, readable once it has ended; None when it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return None
    if not alive(process):
        os.close(handle)
        return None
    return handle


def children_of(pid: int) -> list[int]:
    """The pids of all descendants, parents before children."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat_fields(int(entry))) is not None:
            parents.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    todo = [pid]
    while todo:
        for child in parents.get(todo.pop(0), ()):
            found.append(child)
            todo.append(child)
    return found


def rss_bytes(pid: int) -> int:
    """The resident memory of a process; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0


def pss_bytes(pid: int) -> int:
    """Resident memory with each shared page divided by the number of its users; 0 when gone or not permitted."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    return 0


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used since it started; 0 when it is gone."""
    fields = stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S if fields else 0.0


def running_s(pid: int) -> float:
    """Seconds that a process's threads, those that it has now, have run, to the nanosecond where the kernel counts so; 0 when it is gone."""
    total_ns = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                with open(f"/proc/{pid}/task/{thread}/schedstat", "rb") as file:
                    total_ns += int(file.read().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
    except OSError:
        return 0.0
    return total_ns / 1e9 or cpu_s(pid)


def age_s(process: Identity) -> float:
    """Seconds since the process started."""
    with open("/proc/uptime", encoding="ascii") as file:
        return float(file.read().split()[0]) - process.start / TICKS_PER_S


def command_name(pid: int) -> str:
    """The short name of a process, or "" when it is gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def listener_of(port: int) -> tuple[int, str] | None:
    """The pid and name of a process that listens on a TCP port; None where none does or /proc does not tell."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                rows = file.read().splitlines()[1:]
        except FileNotFoundError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            for handle in os.listdir(f"/proc/{entry}/fd"):
                if os.readlink(f"/proc/{entry}/fd/{handle}") in inodes:
                    return int(entry), command_name(int(entry))
        except OSError:
            continue
    return None
