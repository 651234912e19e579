"""One further node of this machine: processes, mounts and networks of its own, on a disk of its own.

    supervisor -> keeper (outside) --fork--> process 1 (inside) = guardian -> supervisor -> containerd, node agent
                     |  the host's end of the uplink             '- DATA/node is the node's disk, RUN its run directory

Everything of a node lives in one process namespace. When its process 1 ends, the kernel first ends every other process
in it, then takes network and mounts away with the last of them. So the end of process 1 (a pidfd that becomes readable) is
*proof*: from then on nothing of this node can write anywhere. `RUN/nodes/NAME.json` says which process that is.

The same paths mean the node's own things inside: its agent and containerd know nothing of all this. Only the standard
library, as in the supervisor.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys

from trimtab.confinement import calls
from trimtab.engine import uplink
from trimtab.engine.plan import PIDS, PLAN, write_json
from trimtab.engine.procfs import boot_id, identity
from trimtab.engine.supervisor import AlreadyRunning, lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PRIVATE = ("/run/containerd", "/var/lib/cni")
"""Where containerd's shims and the CNI plugins keep files whatever they are told: memory that ends with the node."""


class MachineFailed(RuntimeError):
    """A node could not be set up; the text names the step."""


def command(spec: str) -> list[str]:
    """The command line of a node's keeper. `spec`: the path of its JSON file (`planning.machine_spec`)."""
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    boot = f"import sys; sys.path.insert(0, {source!r}); from trimtab.engine.machine import main; main()"
    return [sys.executable, "-I", "-S", "-c", boot, spec]


def run(*argv: str) -> None:
    """Runs a program of the system.

    Raises:
        MachineFailed: it ended with an error, which it has printed.
    """
    pid = os.posix_spawnp(argv[0], argv, os.environ)
    if status := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise MachineFailed(f"`{' '.join(argv)}` ended with exit status {status}")


def keep(spec: dict[str, Any]) -> int:
    """Starts the node and stays until it has ended, all of it; returns its exit status."""
    calls.name_process("trimtab-machine")
    keeper_lock = lock(f"{spec['own_run']}.lock")
    _clear_run(spec)
    calls.own_process_namespace()
    inside_read, inside_write = os.pipe()
    outside_read, outside_write = os.pipe()
    child = os.fork()
    if child == 0:
        for unused in (inside_read, outside_write, keeper_lock):
            os.close(unused)
        _be_machine(spec, inside_write, outside_read)
    os.close(inside_write)
    os.close(outside_read)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    me = identity(child)
    assert me is not None
    write_json(f"{spec['own_run']}.json", {"pid": me.pid, "start": me.start, "boot": boot_id()}, 0o644)
    try:
        if os.read(inside_read, 1) == b".":
            # What is run from here is born into the node's process namespace, too: it knows the machine as process 1.
            uplink.outside(run, spec["uplink"], 1)
            os.write(outside_write, b".")
    except MachineFailed as err:
        print(f"trimtab: {spec['name']}: {err}", file=sys.stderr, flush=True)
    os.close(outside_write)  # without the byte the machine gives up
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _clear_run(spec: dict[str, Any]) -> None:
    """A machine that starts finds nothing of its former life in memory, but its plan."""
    own_run = spec["own_run"]
    shutil.rmtree(own_run, ignore_errors=True)
    for name in ("", "health", "user", "proxy", "supervisor", f"supervisor/{PIDS}", "cgroup"):
        os.makedirs(os.path.join(own_run, name), 0o755, exist_ok=True)
    os.makedirs(spec["plan"]["log_dir"], 0o751, exist_ok=True)
    write_json(os.path.join(own_run, "supervisor", PLAN), spec["plan"])


def _be_machine(spec: dict[str, Any], ready: int, go: int) -> None:
    """Process 1 of the node. Never returns."""
    status = 1
    try:
        calls.die_with_parent()
        calls.unshare(calls.NEWNS | calls.NEWNET, "mounts, network")
        os.write(ready, b".")
        if os.read(go, 1) != b".":
            raise MachineFailed("it got no network")
        uplink.inside(run, spec["uplink"])
        _mount_own(spec)
        os.close(ready)
        os.close(go)
        from trimtab.engine.guardian import guard

        status = guard(os.path.join(spec["run"], "supervisor"))
    except BaseException as err:
        print(f"trimtab: {spec['name']} could not be started: {err}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _mount_own(spec: dict[str, Any]) -> None:
    """The node's own disk, run directory, /proc and /sys, each at its usual path."""
    own_run, shared = spec["own_run"], spec["run"]
    run("mount", "--make-rprivate", "/")
    # Copies of the pods' file systems and volumes of the machine itself must not live on here when they are unmounted there.
    calls.forget_mounts([shared, spec["mount"]])
    if spec["disk"].endswith(".img"):
        run("mount", "-o", "loop,noatime", spec["disk"], spec["mount"])
    else:
        run("mount", "--bind", spec["disk"], spec["mount"])
    for name in ("user", "proxy"):
        run("mount", "--bind", os.path.join(shared, name), os.path.join(own_run, name))
    for name in ("containerd", "registries", "cni"):
        os.makedirs(os.path.join(spec["mount"], name), 0o711, exist_ok=True)
    for name, text in spec["files"].items():
        with open(os.path.join(spec["mount"], name), "w", encoding="utf-8") as file:
            file.write(text)
    # /sys must show the node's own interfaces, and still the machine's cgroups below it.
    run("mount", "--rbind", "/sys/fs/cgroup", os.path.join(own_run, "cgroup"))
    run("mount", "-t", "sysfs", "sysfs", "/sys")
    run("mount", "--move", os.path.join(own_run, "cgroup"), "/sys/fs/cgroup")
    run("mount", "--rbind", own_run, shared)
    run("mount", "-t", "proc", "proc", "/proc")
    for path in PRIVATE:
        os.makedirs(path, exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", "mode=0711,size=16m", "tmpfs", path)


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        spec = json.load(file)
    try:
        sys.exit(keep(spec))
    except AlreadyRunning:
        print(f"trimtab: {spec['name']} runs already", file=sys.stderr, flush=True)
        sys.exit(1)
