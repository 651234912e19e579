"""Pods that write to volumes stand still while the last changes of their volumes are copied.

Their cgroups are frozen by the kernel. A process that is frozen cannot thaw itself, so whoever freezes must not vanish: a
second process holds the other end of a pipe, and thaws when this one ends, however it does, or when the time is over.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trimtab.engine import local
from trimtab.engine.errors import EngineError
from trimtab.runtime.settings import Settings

FREEZE_S_MAX = 30.0
"""Longer than this nobody stands still: the backup fails instead."""
FROZEN_WITHIN_S = 5.0
_GUARD = """
import os, select, sys
sys.stdout.write("r"); sys.stdout.flush()
select.select([0], [], [], float(sys.argv[1]))
for path, word in zip(sys.argv[2::2], sys.argv[3::2]):
    try:
        with open(path, "w") as file:
            file.write(word)
    except OSError:
        pass
"""
_V1, _V2 = "freezer.state", "cgroup.freeze"


def writers(settings: Settings) -> list[Path]:
    """The cgroups of the pods that have a persistent volume; of all pods when the API does not say."""
    listed = local.get_json(settings.api_socket, "/api/v1/pods")
    uids = None if listed is None else {p["metadata"]["uid"] for p in listed["items"] if _has_volume(p)}
    found = []
    for name in (settings.node_name, *settings.nodes):
        own = settings if name == settings.node_name else settings.for_node(name)
        for group in _cgroups(own):
            for path in sorted(group.glob("*pod*")):
                uid = path.name.partition("pod")[2].removesuffix(".slice")
                if uids is None or uid in uids or uid.replace("_", "-") in uids:
                    found.append(path)
    return found


def _cgroups(settings: Settings) -> list[Path]:
    """A node's cgroup in the hierarchy that freezes: version 1's where there is one, also on a machine that has both."""
    from trimtab.components.node import pod_cgroups

    groups = pod_cgroups(settings)
    return [path for path in groups if (path / _V1).exists()] or [path for path in groups if (path / _V2).exists()]


def _has_volume(pod: dict[str, Any]) -> bool:
    return any("persistentVolumeClaim" in volume for volume in pod["spec"].get("volumes", ()))


class Frozen:
    """How long it took, once it is over."""

    ms = 0.0


@contextlib.contextmanager
def frozen(groups: Sequence[Path]) -> Iterator[Frozen]:
    """Within the block, no process of these cgroups runs.

    Raises:
        EngineError: they could not be frozen, or the block took longer than FREEZE_S_MAX (they run again then).
    """
    told = Frozen()
    if not groups:
        yield told
        return
    controls = [group / (_V1 if (group / _V1).exists() else _V2) for group in groups]
    thaw = [word for c in controls for word in (str(c), "THAWED" if c.name == _V1 else "0")]
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _GUARD, str(FREEZE_S_MAX), *thaw],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert guard.stdin is not None
    assert guard.stdout is not None
    try:
        guard.stdout.read(1)
        began = time.monotonic()
        try:
            for control in controls:
                _freeze(control, began + FROZEN_WITHIN_S)
            yield told
            if time.monotonic() - began >= FREEZE_S_MAX:
                raise EngineError(
                    f"the volumes change too much to be copied within {FREEZE_S_MAX:.0f} s: back up at a quieter time"
                )
        finally:
            guard.stdin.close()
            guard.wait()
            told.ms = round((time.monotonic() - began) * 1000, 1)
    finally:
        guard.stdout.close()


def _freeze(control: Path, deadline: float) -> None:
    """Freezes one cgroup and waits until all in it stand still. One that is gone has nobody to stop."""
    try:
        while True:
            control.write_text("FROZEN" if control.name == _V1 else "1")
            if control.name == _V1:
                if control.read_text().strip() == "FROZEN":
                    return
            elif "frozen 1" in control.with_name("cgroup.events").read_text():
                return
            if time.monotonic() > deadline:
                raise EngineError(
                    f"the processes of {control.parent.name} could not be stopped for the backup: try again"
                )
            time.sleep(0.001)
    except FileNotFoundError:
        return
