"""Entering the state in which a failed step was left: at once, or days later.

    uppers/RUN-NUMBER/kept.json -> the same containers on the same upper directories -> services started again -> a shell in it

What a service has written is kept with the step, so a database comes back with its data. An image without a shell is entered by a
static busybox, which is mounted below `/dev` and so changes nothing of the state. What is done in a shell stays in the state.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from trimtab.ci.cache.blobs import Blobs, Lost
from trimtab.ci.runs.ports import EngineFault
from trimtab.ci.sandbox.container import Container, installed
from trimtab.ci.sandbox.kept import Kept
from trimtab.ci.sandbox.limits import Limits
from trimtab.ci.sandbox.plan import Plan, Process
from trimtab.ci.sandbox.rootfs import MAKING, find
from trimtab.ci.sandbox.services import service
from trimtab.ci.sandbox.space import lease
from trimtab.ci.sandbox.steps import Launched, containers, restore_volumes, service_directory, tail

BUSYBOX = Path("/bin/busybox")
TOOLS = "/dev/trimtab"
PATIENCE_S = 30.0
"""How long a shell's services may take; it opens without one that is not ready then."""
SHELLS = ("/bin/bash", "/bin/sh")


def enter(
    state: Path,
    kept: Kept,
    argv: Sequence[str] = (),
    *,
    secrets: Mapping[str, str] | None = None,
    user: str | None = None,
    tell: Callable[[str], None] = print,
) -> int:
    """Runs `argv`, or a shell, in the state of a failed step, on the terminal (or whatever stands in for it) of this process.

    Returns its exit status. secrets: what the record does not have. tell: takes a line about a service that does not come.
    """
    installed()
    held = lease(kept.directory, wait=False)
    if held is None:
        raise EngineFault(f"{kept.run}/{kept.step} is entered already; leave the other shell first")
    try:
        job = replace(kept.job, secrets=dict(secrets or {}))
        try:
            step, beside, where = containers(state, Blobs(str(state)), job)
        except Lost as err:
            raise EngineFault(
                f"{kept.run}/{kept.step}: {err}; its state cannot be entered any more, run it again"
            ) from None
        restore_volumes(state, Blobs(str(state)), (step, *beside.values()))
        logs: list[int] = []
        try:
            services = []
            for name, one in beside.items():
                log = service_directory(job, name) / "service.log"
                logs.append(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
                ready = job.services[name].action.get("ready", "")
                services.append(service(one, where[name], ready, logs[-1], PATIENCE_S))
            plan: Plan = {
                "directory": str(state),
                "socket": -1,
                "network": not step.network,
                "overlays": [one.overlay for one in (step, *beside.values())],
                "services": services,
                "runs": [_process(state, step, kept, argv, user)],
                "limits": Limits().resources(),
                "patient": True,
                "orderly": True,
            }
            launched = Launched(plan, (*logs, held.descriptor), kept.directory / "launcher.log", terminal=True)
        finally:
            for descriptor in logs:
                os.close(descriptor)
        return _wait(launched, kept, tell)
    finally:
        held.release()


def _wait(launched: Launched, kept: Kept, tell: Callable[[str], None]) -> int:
    code = 0
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: it is the shell's to hear
    try:
        while (event := launched.event()) is not None:
            if event[0] == "ended":
                code = event[2] if event[2] >= 0 else 128 - event[2]
            elif event[0] == "service" and event[2] != "ready":
                lines = tail(service_directory(kept.job, event[1]) / "service.log")
                tell(f"service {event[1]} is not ready{': ' + lines[-1] if lines else ''}")
    finally:
        signal.signal(signal.SIGINT, before)
        launched.close()
    return code


def _process(state: Path, step: Container, kept: Kept, argv: Sequence[str], user: str | None) -> Process:
    """The shell, where, as whom and with what the command was that failed."""
    runs = kept.job.action["runs"]
    run = runs[kept.failed_run if kept.failed_run is not None else len(runs) - 1]
    tools = busybox(state)
    mounts = ("--ro-bind", str(tools), TOOLS) if tools is not None else ()
    command = list(argv) or _shell(step, tools)
    call, env = step.wrap(
        command, cwd=run.get("cwd"), user=user or run.get("user"), env=run.get("env"), terminal=True, also=mounts
    )
    if tools is not None:
        env["PATH"] = f"{env['PATH']}:{TOOLS}"
    if not argv:
        env.setdefault("PS1", f"{kept.step}:\\w\\$ ")
    if "TERM" in os.environ:
        env.setdefault("TERM", os.environ["TERM"])
    return {"name": "shell", "argv": call, "env": env, "output": -1}


def _shell(step: Container, tools: Path | None) -> list[str]:
    upper = step.at.parent / "upper"
    for shell in SHELLS:
        if find([upper, *step.lowers], shell) is not None:
            return [shell]
    if tools is None:
        raise EngineFault("the image has no shell, and this machine no static busybox; install busybox-static")
    return [f"{TOOLS}/sh"]


def busybox(state: Path) -> Path | None:
    """A directory with a static busybox and a link for each of its commands; None where it is not installed."""
    if not BUSYBOX.exists():
        return None
    made = state / "tools"
    if made.is_dir():
        return made
    held = lease(state / MAKING / os.urandom(8).hex())
    assert held is not None
    try:
        at = held.directory / "tools"
        at.mkdir(mode=0o755)
        (at / "busybox").write_bytes(BUSYBOX.read_bytes())
        (at / "busybox").chmod(0o755)
        applets = subprocess.run([str(BUSYBOX), "--list"], check=True, capture_output=True, text=True, env={}).stdout
        for applet in applets.split():
            if applet != "busybox":
                (at / applet).symlink_to("busybox")
        with suppress(OSError):
            at.rename(made)
    finally:
        held.remove()
    return made
