"""Who can write to an image now? Asked of the kernel alone, by a program that knows nothing of the one under test.

    python3 volume_observer.py IMAGE          until its standard input is closed; then one line of JSON

Looks every 10 ms at all loop devices (/sys/block): more than one over the image is a violation. Every 100 ms at the mount tables of all
processes: for each that has the device mounted, the namespace of processes directly below the machine's that it lives in, which is its
node. Two of them is a violation.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import sys
import time

LOOK_MS = 10
TABLES_EVERY_S = 0.1
NS_GET_PARENT = 0xB702


def loops_over(image: str) -> list[str]:
    found = []
    for name in os.listdir("/sys/block"):
        try:
            with open(f"/sys/block/{name}/loop/backing_file") as file:
                backing = file.read().strip()
        except OSError:
            continue
        if backing.removesuffix(" (deleted)") == image:
            found.append(name)
    return found


def node_of(pid: str) -> str | None:
    """The topmost namespace of processes below our own that a process is in; "machine" when it is in ours."""
    own = os.stat("/proc/self/ns/pid").st_ino
    handle = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)
    last = "machine"
    try:
        while (inode := os.fstat(handle).st_ino) != own:
            last = f"pid:[{inode}]"
            parent = fcntl.ioctl(handle, NS_GET_PARENT)
            os.close(handle)
            handle = parent
    finally:
        os.close(handle)
    return last


def holders(device: str) -> dict[str, str]:
    """By node: a process that has the device mounted."""
    with open(f"/sys/block/{device}/dev") as file:
        number = file.read().strip()
    found: dict[str, str] = {}
    seen: set[str] = set()
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            namespace = os.readlink(f"/proc/{pid}/ns/mnt") + os.readlink(f"/proc/{pid}/ns/pid")
            if namespace in seen:
                continue
            seen.add(namespace)
            with open(f"/proc/{pid}/mountinfo") as file:
                mounted = any(line.split(" ", 3)[2] == number for line in file)
            if mounted and (node := node_of(pid)) is not None:
                found[node] = pid
        except OSError:
            continue
    return found


def main() -> None:
    image = sys.argv[1]
    violations: list[str] = []
    looks = tables = 0
    nodes: set[str] = set()
    tables_at = 0.0
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    print("ready", flush=True)
    while not poll.poll(LOOK_MS):
        devices = loops_over(image)
        looks += 1
        if len(devices) > 1:
            violations.append(f"{time.time():.3f}: {sorted(devices)} are all over {image}")
        if devices and time.monotonic() >= tables_at:
            tables_at = time.monotonic() + TABLES_EVERY_S
            try:
                having = holders(devices[0])
            except OSError:
                continue  # it went meanwhile
            tables += 1
            nodes |= having.keys()
            if len(having) > 1:
                violations.append(f"{time.time():.3f}: {devices[0]} is mounted in {having}")
    print(json.dumps({"violations": violations, "looks": looks, "tables": tables, "nodes": sorted(nodes)}), flush=True)


if __name__ == "__main__":
    main()
