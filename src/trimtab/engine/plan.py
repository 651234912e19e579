"""What the supervisor is told to run: a JSON file in the run directory, written by `trimtab start`.

    settings, components --(planning.py, with all imports)--> RUN/plan.json --(this module, stdlib)--> supervisor

The supervisor imports no component and no dependency; whatever it must know stands here as plain values. The same file
is read by a supervisor that takes over from a killed one.
"""

from __future__ import annotations

import errno
import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PLAN = "plan.json"
STATE = "state.json"
NOTIFY = "notify.sock"
PIDS = "pids"
STOP = "stop.json"
"""What `trimtab stop` asked for; read by the step that ends the pods."""
STOPPING = "stopping.json"
"""The pods that this step still waits for."""

LOG_SIZE_BYTES_MAX = 10_000_000
"""A log is rotated once it is larger; two old ones are kept, so that a process keeps at most about 30 MB of logs."""


class Probe:
    """How the supervisor sees that a process serves: it connects to a socket and, with a path, wants HTTP 200."""

    __slots__ = ("address", "path")

    def __init__(self, address: str | tuple[str, int], path: str | None) -> None:
        self.address = address
        """A unix socket's path, or host and port."""
        self.path = path


class Spec:
    """One process. `probe` None: the process says itself that it is ready (the sd_notify protocol)."""

    __slots__ = (
        "after",
        "ambient",
        "argv",
        "env",
        "health",
        "label",
        "lively",
        "name",
        "outlives",
        "probe",
        "serving",
        "stop_timeout_s",
        "user",
    )

    def __init__(self, raw: dict[str, Any]) -> None:
        self.name: str = raw["name"]
        self.argv: list[str] = raw["argv"]
        self.env: dict[str, str] = raw.get("env", {})
        self.user: str | None = raw.get("user")
        self.ambient: list[int] = raw.get("ambient", [])
        self.after: list[str] = raw.get("after", [])
        probe = raw.get("probe")
        self.probe = Probe(_address(probe["address"]), probe.get("path")) if probe else None
        self.health: str | None = raw.get("health")
        """A file that the process touches every few seconds while its event loop turns."""
        self.lively: bool = raw.get("lively", False)
        """Probed also when it is ready: what does not answer hangs."""
        self.label: str = raw.get("label", self.name)
        self.serving: str = raw.get("serving", "running")
        """What it does when it is well, for the journal: "running", "answering"."""
        self.outlives: bool = raw.get("outlives", False)
        """Kept running by `trimtab stop --keep-pods`."""
        self.stop_timeout_s: float = raw.get("stop_timeout_s", 10.0)


class Plan:
    """All of an engine, as the supervisor sees it."""

    __slots__ = (
        "data",
        "env",
        "hidden",
        "journal",
        "log_dir",
        "logs",
        "processes",
        "readable",
        "run",
        "stop",
        "user",
        "writable",
    )

    def __init__(self, raw: dict[str, Any]) -> None:
        self.run: str = raw["run"]
        self.data: str = raw["data"]
        self.user: str = raw["user"]
        self.log_dir: str = raw["log_dir"]
        self.env: dict[str, str] = raw["env"]
        self.processes = [Spec(process) for process in raw["processes"]]
        self.logs: list[str] = [*(spec.name for spec in self.processes), "supervisor"]
        """The names of all logs that are rotated."""
        self.journal: list[str] = raw.get("journal", [])
        """The command that appends journal entries, given as one JSON argument; empty: no journal."""
        self.stop: list[dict[str, Any]] = raw["stop"]
        """Steps in order: `{"stop": [names]}` or `{"run": argv, "timeout_s": n, "pods": true}`; the latter's `pods` marks
        steps that `--keep-pods` leaves out."""
        self.readable: list[str] = raw.get("readable", [])
        self.writable: list[str] = raw.get("writable", [])
        self.hidden: list[str] = raw.get("hidden", [])

    @classmethod
    def load(cls, run: str) -> Plan:
        with open(os.path.join(run, PLAN), encoding="utf-8") as file:
            return cls(json.load(file))


def _address(raw: Any) -> str | tuple[str, int]:
    return raw if isinstance(raw, str) else (raw[0], raw[1])


def write_json(path: str, value: Any, mode: int = 0o600) -> None:
    """Replaces a file atomically: a reader sees the old value or the new one, whatever happens in between.

    On a full disk it is overwritten where it stands, which needs no new block: the supervisor must be able to restart
    processes and to note which they are on a machine where nothing else can be written.
    """
    text = (json.dumps(value, indent=1) + "\n").encode()
    temporary = f"{path}.{os.getpid()}.new"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        _write_all(handle, text)
        os.replace(temporary, path)
    except OSError as err:
        os.unlink(temporary)
        if err.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _overwrite(path, text)
    finally:
        os.close(handle)


def _write_all(handle: int, text: bytes) -> None:
    while text:
        text = text[os.write(handle, text) :]


def _overwrite(path: str, text: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        _write_all(handle, text)
        os.ftruncate(handle, len(text))
    finally:
        os.close(handle)


def read_json(path: str) -> Any | None:
    """The value in a JSON file; None where there is no file, or it is not JSON."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
