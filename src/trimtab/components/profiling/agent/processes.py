"""Whose samples are. The BPF program tells of a process at its first sample: pid, name, executable, the names of its cgroups, all known even
if it has ended by the time that this is read. What a container belongs to, whoever starts containers knows (`Provider`)."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

PROCESSES_MAX = 16384
"""Those whose samples came last are kept."""

Provider = Callable[[str], dict[str, str] | None]
"""From a container's id to its labels: namespace, pod, container, app, image."""

_CONTAINER = re.compile(r"(?:^|[-:/])([0-9a-f]{64})(?:\.scope)?$")
"""containerd's own cgroups are named by the container's id; under systemd it is `cri-containerd-ID.scope` (also docker-, crio-)."""


class Process(msgspec.Struct):
    """One run of one program."""

    pid: int
    name: str
    executable: str
    container: str
    """The id; empty: it is in none."""


def text_of(path: str) -> str:
    """A path as the kernel tells it, as text: names of files are bytes."""
    return os.fsencode(path).decode("utf-8", "replace").removesuffix(" (deleted)")


def container_of(cgroups: list[str]) -> str:
    """The id of the container that a process in these cgroups (innermost first) is in; empty: in none."""
    for name in cgroups:
        found = _CONTAINER.search(name)
        if found:
            return found[1]
    return ""


class Processes:
    """All processes that samples were taken of lately."""

    def __init__(self, provider: Provider, node: str) -> None:
        self._provider, self._node = provider, node
        self._known: OrderedDict[int, Process] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def on_node(self, name: str) -> None:
        """The label `node` of what comes from now on."""
        self._node = name

    def seen(self, event: Any, path_of: Callable[[bytes], str]) -> Process:
        """Takes an event of the program; `path_of`: the path of a file by its key, for processes that have ended."""
        pid = int(event["tgid"])
        try:
            executable = text_of(os.readlink(f"/proc/{pid}/exe"))
        except OSError:
            executable = path_of(event["executable"].tobytes())
        process = Process(
            pid=pid,
            name=event["comm"].decode("utf-8", "replace"),
            executable=executable,
            container=container_of([name.decode("utf-8", "replace") for name in event["cgroups"].tolist()]),
        )
        self._known[int(event["process"])] = process
        if len(self._known) > PROCESSES_MAX:
            self._known.popitem(last=False)
        return process

    def get(self, number: int) -> Process | None:
        """By the number in a stack."""
        return self._known.get(number)

    def labels(self, number: int, pid: int, thread: str) -> dict[str, str]:
        """Of samples of a thread. A process that nothing is known of (its event was lost) has its pid."""
        process = self._known.get(number)
        labels = {"node": self._node, "pid": str(pid), "thread": thread}
        if process is None:
            labels["process"] = thread
        else:
            self._known.move_to_end(number)
            labels["process"] = process.name
            labels["executable"] = process.executable
            if process.container:
                labels["container"] = process.container[:12]
                labels.update(self._provider(process.container) or {})
        return {name: value for name, value in labels.items() if value}
