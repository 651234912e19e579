"""A picture of this machine, taken without any help of the engine's own code: what is mounted, linked, listened on, kept.

Two pictures are compared by `difference`: what came and what went in between.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

FILE_ROOTS = ("/run", "/etc", "/var/lib", "/var/log", "/var/cache", "/opt", "/usr/local/bin", "/dev")
SYSCTLS = ("net.bridge.bridge-nf-call-iptables", "fs.inotify.max_user_instances")
_RUN = Path("/run/trimtab")
_OF_THE_TEST_RUN = re.compile(r"file /(dev/pts/|dev/shm/|var/lib/dpkg/|var/cache/debconf/|run/user/|run/shm/)")


def picture() -> set[str]:
    """Everything that an engine might leave behind, one line each."""
    return set(_everything())


def difference(before: set[str], after: set[str], own: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """What came, and which mounts, links, routes, rules and settings went; sorted. own: what the engine's traces are
    recognized by where other engines come and go meanwhile; where it is the only one, everything counts."""
    engines = {line.split("/")[3] for line in before | after if line.startswith(f"file {_RUN}/")}
    shared = bool(engines.difference(own))

    def counts(line: str) -> bool:
        return any(mark in line for mark in own) if shared else not _OF_THE_TEST_RUN.match(line)

    went = {line for line in before - after if line.startswith(("mount", "ip", "nft", "sysctl"))}
    return sorted(filter(counts, after - before)), sorted(filter(counts, went))


def _everything() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        yield f"mount {fields[4]} {fields[fields.index('-') + 1]}"
    for command in (
        ["ip", "-brief", "link"],
        ["ip", "netns"],
        ["ip", "rule"],
        ["ip", "route", "show", "table", "all"],
        ["nft", "list", "ruleset"],
        ["losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"],
        ["ss", "-Htuln", "-o", "state", "listening"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        for line in done.stdout.splitlines():
            words = re.sub(r"(packets|bytes) \d+|@if\d+", "", line).split()
            yield f"{command[0]} {command[-1] if command[0] == 'ip' else ''} {' '.join(words)}"
    for name in SYSCTLS:
        path = Path("/proc/sys", *name.split("."))
        if path.exists():
            yield f"sysctl {name} = {path.read_text().strip()}"
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if len(fields) == 8 and fields[7].startswith("/"):
            yield f"unix socket {fields[7]}"
    for base, folders, _ in os.walk("/sys/fs/cgroup"):
        yield from (f"cgroup {base}/{name}" for name in folders)
    for root in FILE_ROOTS:
        for base, folders, files in os.walk(root):
            yield from (f"file {base}/{name}" for name in (*folders, *files))
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                line = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if re.search(r"trimtab|containerd|envoy|runc|conmon", line) and "pytest" not in line:
                yield f"process {entry} {line.strip()}"
