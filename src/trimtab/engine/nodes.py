"""The further nodes of this machine: their disks, adding and removing them, and taking one away with all that is in it.

    names (Settings.nodes) -> disk, machine file, one more process in the plan -> SIGUSR2 -> the supervisor starts or drops it

A node is gone when its process 1 has ended (`machine.py`): that is waited for before its disk is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trimtab.engine import datadir, draining, lifecycle, local, machine, planning, procfs, uplink
from trimtab.engine.errors import EngineError
from trimtab.engine.fencing import first_process
from trimtab.engine.plan import PLAN, read_json, write_json
from trimtab.runtime.settings import NODES_MAX, Settings, node_number

Say = Callable[[str], None]

DISK_BYTES = 20 << 30
"""How large a node's disk may grow; the file is sparse and takes what is written."""
SUPERVISOR_NAME = "trimtab-super"
END_S_MAX = 120.0
DEAD_S_MAX = 30.0


def names(count: int) -> tuple[str, ...]:
    """The further nodes of an engine with `count` nodes.

    Raises:
        EngineError: more than the network has room for.
    """
    if not 1 <= count <= NODES_MAX:
        raise EngineError(f"--nodes {count}: an engine has 1 to {NODES_MAX} nodes on one machine")
    return tuple(f"node-{number}" for number in range(2, count + 1))


def disk_image(settings: Settings, name: str) -> Path:
    return settings.data_path("nodes", f"{name}.img")


def disk_directory(settings: Settings, name: str) -> Path:
    return settings.data_path("nodes", name)


def ensure_disk(settings: Settings, name: str, say: Say) -> Path:
    """The node's disk: an ext4 file system in a file, or a plain directory where there are no loop devices."""
    image, directory = disk_image(settings, name), disk_directory(settings, name)
    if image.exists():
        return image
    if directory.is_dir():
        return directory
    settings.data_path("nodes").mkdir(mode=0o700, exist_ok=True)
    mkfs = shutil.which("mkfs.ext4")
    if mkfs is None or not Path("/dev/loop-control").exists():
        missing = "mkfs.ext4 is not installed" if mkfs is None else "there are no loop devices"
        say(f"{name}: {missing}, so its disk is the directory {directory}, without a size of its own")
        directory.mkdir(mode=0o700)
        return directory
    new = image.with_suffix(".new")
    with open(new, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.truncate(DISK_BYTES)
    argv = [mkfs, "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", str(new)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        new.unlink()
        raise EngineError(f"the disk of {name} could not be made: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    new.rename(image)
    return image


def prepare(settings: Settings, nodes: Iterable[str], say: Say) -> None:
    """Makes the disks and machine files of nodes.

    Raises:
        EngineError: a disk could not be made, or the engine's network has no room for more nodes.
    """
    from trimtab.components.node import containerd_command, containerd_config

    for name in nodes:
        if not settings.cluster_cidr:
            raise EngineError(
                "this engine's network has room for one node: `trimtab uninstall --yes`, then start it with --nodes"
            )
        disk = ensure_disk(settings, name, say)
        spec = planning.machine_spec(settings, name, disk, containerd_command(settings))
        spec["files"] = {"containerd.toml": containerd_config(settings.for_node(name))}
        write_json(str(planning.machine_file(settings, name)), spec)


def change(
    settings: Settings, wanted: Sequence[str], say: Say, *, drain_s: float | None = draining.DRAIN_S
) -> Settings:
    """Makes the running engine have these further nodes and no others; new ones are waited for, the others are drained
    first, for `drain_s` at most (None: not at all, their pods are only stopped in order). Returns the changed settings.

    Raises:
        EngineError: a node does not come up, cannot be drained or does not end.
    """
    began = time.monotonic()
    fresh = [name for name in wanted if name not in settings.nodes]
    gone = [name for name in settings.nodes if name not in wanted]
    for name in gone:
        hold(settings, name, on=False)
        if drain_s is not None:
            draining.drain(settings, name, say, drain_s)
    prepare(settings, fresh, say)
    changed = msgspec.structs.replace(settings, nodes=tuple(sorted(wanted, key=node_number)))
    datadir.save(changed)
    replan(changed)
    for name in gone:
        wait_for_end(settings, name, END_S_MAX)
        declare_dead(changed, name, say)
        forget(settings, name)
        say(f"{name} removed after {time.monotonic() - began:.1f} s, its disk with it")
    lifecycle.wait_for_nodes(changed, fresh, say, began)
    return changed


def replan(settings: Settings) -> None:
    """Tells the running supervisor which nodes there are."""
    run = datadir.supervisor_run(settings)
    plan: dict[str, Any] = read_json(str(run / PLAN)) or {}
    plan["processes"] = [p for p in plan["processes"] if not p["name"].startswith("node-")]
    plan["processes"] += [planning.machine_process(settings, name) for name in settings.nodes]
    for step in plan["stop"]:
        if "node" in step.get("stop", ()):
            step["stop"] = ["node", *settings.nodes]
    write_json(str(run / PLAN), plan)
    supervisor = lifecycle.supervisor_of(settings)
    handle = procfs.pidfd(supervisor) if supervisor is not None else None
    if handle is not None:
        signal.pidfd_send_signal(handle, signal.SIGUSR2)
        os.close(handle)


def renew(settings: Settings) -> None:
    """Has further nodes that went on running (`stop --keep-pods`, an upgrade) run the agents of this program. Their pods and
    containerd are not touched."""
    for name in settings.nodes:
        process = first_process(settings, name)
        spec: dict[str, Any] | None = read_json(str(planning.machine_file(settings, name)))
        inside = settings.node_run(name) / datadir.supervisor_run(settings).name / PLAN
        if process is None or spec is None or read_json(str(inside)) == spec["plan"]:
            continue
        write_json(str(inside), spec["plan"])
        for pid in procfs.children_of(process.pid):
            if procfs.command_name(pid) == SUPERVISOR_NAME:
                os.kill(pid, signal.SIGUSR2)


def wait_for_end(settings: Settings, name: str, timeout_s: float) -> None:
    """Waits until nothing of the node runs: the end of its process 1, which the kernel reports after all others'.

    Raises:
        EngineError: it did not end in time.
    """
    process = first_process(settings, name)
    handle = procfs.pidfd(process) if process is not None else None
    if handle is None:
        return
    try:
        if not lifecycle.has_ended(handle, timeout_s):
            raise EngineError(f"{name} did not end within {timeout_s:.0f} s: see {settings.data_path('log', name)}")
    finally:
        os.close(handle)


def kill(settings: Settings, name: str, say: Say) -> Settings:
    """As if the machine burned: every process of the node killed at once, its disk deleted.

    Raises:
        EngineError: there is no such node, or it does not end.
    """
    require(settings, name)
    began = time.monotonic()
    process = first_process(settings, name)
    handle = procfs.pidfd(process) if process is not None else None
    changed = msgspec.structs.replace(settings, nodes=tuple(n for n in settings.nodes if n != name))
    if handle is not None:
        # Held before the supervisor hears of it, so that it neither starts to stop nor is started again.
        signal.pidfd_send_signal(handle, signal.SIGSTOP)
    datadir.save(changed)
    replan(changed)
    if handle is not None:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)
    wait_for_end(settings, name, DEAD_S_MAX)
    # From here on this may be interrupted: without process and disk, the agent of the machine says what is left to say.
    remove_disk(settings, name)
    declare_dead(changed, name, say)
    forget(settings, name)
    say(f"{name} destroyed after {(time.monotonic() - began) * 1000:.0f} ms, its disk with it")
    return changed


def declare_dead(settings: Settings, name: str, say: Say) -> None:
    """Tells the API what is proven: nothing of the node runs, and the volumes on its disk are gone. Only for a node whose
    process 1 has ended."""
    from trimtab.components.workloads import DESTROYED, DIED_WITH, OUT_OF_SERVICE

    for volume in (local.get_json(settings.api_socket, "/api/v1/persistentvolumes") or {}).get("items", ()):
        if name in json.dumps(volume["spec"].get("nodeAffinity", {})).split('"'):
            path = f"/api/v1/persistentvolumes/{volume['metadata']['name']}"
            local.merge_patch(settings.api_socket, path, {"metadata": {"annotations": {DIED_WITH: name}}})
            say(f"volume {volume['metadata']['name']} died with {name}")
    path = f"/api/v1/nodes/{name}"
    node = local.get_json(settings.api_socket, path)
    if node is None:
        return
    taints = [t for t in node["spec"].get("taints", ()) if t["key"] != OUT_OF_SERVICE]
    taints.append({"key": OUT_OF_SERVICE, "value": DESTROYED, "effect": "NoExecute"})
    if local.merge_patch(settings.api_socket, path, {"spec": {"taints": taints}}) != 200:
        raise EngineError(
            f"{name} is gone, but the API could not be told: `kubectl taint node {name} {OUT_OF_SERVICE}={DESTROYED}:NoExecute`"
        )


def require(settings: Settings, name: str) -> None:
    """Raises EngineError when there is no further node of that name."""
    if name in settings.nodes:
        return
    if name == settings.node_name:
        raise EngineError(f"{name} is this machine itself and cannot be taken away: `trimtab stop` stops the engine")
    known = ", ".join(settings.nodes) or "none: `trimtab node add` makes one"
    raise EngineError(f"there is no node {name}; further nodes: {known}")


def forget(settings: Settings, name: str) -> None:
    """Removes what is left of a node that has ended: disk, run directory, cgroups, machine file."""
    from trimtab.components.node import remove_cgroups

    remove_disk(settings, name)
    remove_cgroups(settings.for_node(name))
    shutil.rmtree(settings.node_run(name), ignore_errors=True)
    Path(f"{settings.node_run(name)}.json").unlink(missing_ok=True)
    Path(f"{settings.node_run(name)}.lock").unlink(missing_ok=True)
    planning.machine_file(settings, name).unlink(missing_ok=True)


def remove_disk(settings: Settings, name: str) -> None:
    """Removes the disk of a node that has ended."""
    disk_image(settings, name).unlink(missing_ok=True)
    shutil.rmtree(disk_directory(settings, name), ignore_errors=True)


def partition(settings: Settings, name: str, *, on: bool) -> None:
    """Cuts a node off, or mends it: its network, and all that it could say by other ways, since its supervisor and agent
    are held meanwhile. Its pods run on.

    Raises:
        EngineError: there is no such node, or it has no network now.
    """
    require(settings, name)
    try:
        (uplink.cut if on else uplink.mend)(machine.run, settings.uplink(name))
    except machine.MachineFailed as err:
        raise EngineError(f"the network of {name} could not be changed: {err}") from None
    hold(settings, name, on=on)


def hold(settings: Settings, name: str, *, on: bool) -> None:
    """Stops the programs of a node where they are, or lets them go on; containerd and pods excepted."""
    process = first_process(settings, name)
    if process is None:
        return
    for pid in sorted(programs(process), reverse=not on):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP if on else signal.SIGCONT)


def programs(process: procfs.Identity) -> list[int]:
    """Guardian, supervisor and agent of the node with that process 1: what is in its mount namespace and not
    containerd's."""
    try:
        namespace = os.readlink(f"/proc/{process.pid}/ns/mnt")
    except OSError:
        return []  # it has just ended
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/ns/mnt") == namespace:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
                if b"containerd" not in words[0]:
                    found.append(int(entry))
        except OSError:
            continue
    return found


def report(settings: Settings) -> list[dict[str, Any]]:
    """Every node: name, state, pods' network, disk and memory of its processes."""
    rows: list[dict[str, Any]] = []
    known = {
        n["metadata"]["name"]: n for n in (local.get_json(settings.api_socket, "/api/v1/nodes") or {}).get("items", ())
    }
    for name in (settings.node_name, *settings.nodes):
        conditions = known.get(name, {}).get("status", {}).get("conditions", ())
        ready: dict[str, Any] = next((c for c in conditions if c["type"] == "Ready"), {})
        process = first_process(settings, name) if name in settings.nodes else None
        disk = disk_image(settings, name)
        rows.append(
            {
                "name": name,
                "ready": {"True": "Ready", "False": "NotReady"}.get(ready.get("status", ""), "Unknown"),
                "message": "" if ready.get("status") == "True" else ready.get("message", ""),
                "pods": settings.for_node(name).pod_cidr if name in settings.nodes else settings.pod_cidr,
                "address": settings.uplink(name)["node_ip"] if name in settings.nodes else settings.gateway,
                "pid": process.pid if process is not None else None,
                "disk_bytes": disk.stat().st_blocks * 512 if disk.exists() else None,
                "pss_bytes": memory_bytes(process) if process is not None else None,
            }
        )
    return rows


def memory_bytes(process: procfs.Identity) -> int:
    """What the node's own programs take, its pods left out: process 1, supervisor, agent and containerd (shared pages
    counted once)."""
    namespace = os.readlink(f"/proc/{process.pid}/ns/mnt")
    total = 0
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            if os.readlink(f"/proc/{entry}/ns/mnt") == namespace and b"containerd-shim" not in words[0]:
                total += procfs.pss_bytes(int(entry))
        except OSError:
            continue
    return total
