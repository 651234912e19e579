"""Services beside a step: containers of its own, in its network namespace, each under its name at an address of loopback.

    with_service("db", service(...)) -> 127.0.1.1 db in /etc/hosts of the step and of all its services

All of them share one namespace with nothing but loopback in it (every address of 127.0.0.0/8 is there at once), so a step and
another never see each other's. Two services of a step cannot listen on one port of all addresses; one of them has to name its own.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.ci.runs.ports import EngineFault
from trimtab.ci.sandbox.container import Container

if TYPE_CHECKING:
    from trimtab.ci.sandbox.plan import Service

READY_S = 60.0
"""How long a service may take until it is ready."""
SERVICES_MAX = 200


def addresses(names: list[str]) -> dict[str, str]:
    """An address of loopback for each service."""
    if len(names) > SERVICES_MAX:
        raise EngineFault(f"a step with {len(names)} services; there may be {SERVICES_MAX}")
    return {name: f"127.0.1.{number}" for number, name in enumerate(names, 1)}


def write_hosts(path: Path, services: Mapping[str, str]) -> None:
    """The `/etc/hosts` of a step and its services."""
    lines = ["127.0.0.1\tlocalhost step", "::1\tlocalhost", *(f"{ip}\t{name}" for name, ip in services.items())]
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o644)


def service(container: Container, host: str, ready: str, output: int, ready_s: float = READY_S) -> Service:
    """How the launcher is to start a service, and see that it is ready: `:PORT`, or a command in it that ends well."""
    action = container.job.action
    argv = command_of(container.name, action, container.root.entrypoint, container.root.cmd)
    call, env = container.wrap(argv)
    port = re.fullmatch(r":(\d{1,5})", ready)
    probe: list[str] = []
    if not port and ready:
        probe, _ = container.wrap(_shell_words(ready))
    cwd = action.get("cwd", "")
    assert not cwd or cwd.startswith("/")
    return {
        "name": container.name,
        "argv": call,
        "env": env,
        "output": output,
        "host": host,
        "port": int(port[1]) if port else 0,
        "ready": probe,
        "ready_s": ready_s,
        "stop": container.root.stop_signal,
    }


def command_of(name: str, action: Mapping[str, Any], entrypoint: Sequence[str], cmd: Sequence[str]) -> list[str]:
    """What a service starts: its last `run`, or its entrypoint with its arguments, where the step says none the image's.

    Raises `EngineFault` when that is nothing.
    """
    runs = action.get("runs", [])
    if runs:
        return list(runs[-1]["argv"])
    own = action.get("entrypoint")
    words = [*(own or entrypoint), *(action.get("cmd") or (() if own else cmd))]
    if not words:
        raise EngineFault(f"service {name}: its image starts nothing; say .entrypoint(...) or .run(...) for it")
    return words


def _shell_words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as err:
        raise EngineFault(f"ready={text!r} is no command: {err}") from None
