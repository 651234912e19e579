"""What the machine must have for pods to run, each with the one line that gets it. Run by `trimtab check`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from trimtab.components.node import machine
from trimtab.runtime import Need

CNI_BINARIES = ("bridge", "host-local", "loopback")
CONTROLLERS_V1 = ("cpu", "cpuset", "memory", "pids", "devices", "freezer")
CONTROLLERS_V2 = ("cpu", "cpuset", "memory", "pids")


def root() -> str | None:
    if os.geteuid() != 0:
        return "the node agent and containerd must run as root: run the command with sudo"
    if not machine.has_capability(machine.CAP_SYS_ADMIN) or not machine.has_capability(machine.CAP_NET_ADMIN):
        return "root lacks CAP_SYS_ADMIN or CAP_NET_ADMIN here: run on a machine or in a privileged container"
    return None


def _program(name: str, package: str) -> str | None:
    return None if machine.binary(name) else f"{name} is not installed: apt-get install {package}"


def containerd() -> str | None:
    return _program("containerd", "containerd")


def runc() -> str | None:
    return _program("runc", "runc")


def nft() -> str | None:
    missing = _program("nft", "nftables")
    if missing or os.geteuid() != 0:
        return missing
    done = subprocess.run([machine.binary("nft") or "nft", "list", "tables"], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        return f"the kernel has no nf_tables ({reason}): use Debian's kernel, or load the module nf_tables"
    return None


def ip() -> str | None:
    return _program("ip", "iproute2")


def cni() -> str | None:
    missing = [name for name in CNI_BINARIES if not (machine.CNI_PLUGINS / name).exists()]
    if missing:
        what = ", ".join(missing)
        return f"the CNI plugins {what} are not in {machine.CNI_PLUGINS}: apt-get install containernetworking-plugins"
    return None


def cgroup_controllers() -> str | None:
    groups = machine.cgroups()
    if groups.version == 2:
        present = (machine.CGROUPS / "cgroup.controllers").read_text().split()
        missing = [name for name in CONTROLLERS_V2 if name not in present]
    else:
        missing = [name for name in CONTROLLERS_V1 if not (machine.CGROUPS / name).is_dir()]
    if missing:
        return f"the cgroup controllers {', '.join(missing)} are off: turn them on at the kernel's command line (cgroup_enable=)"
    return None


def overlay() -> str | None:
    if "overlay" in Path("/proc/filesystems").read_text().split():
        return None
    if os.geteuid() == 0 and (modprobe := machine.binary("modprobe")):
        subprocess.run([modprobe, "overlay"], capture_output=True)
        if "overlay" in Path("/proc/filesystems").read_text().split():
            return None
    return "the kernel has no overlay file system: load the module overlay (modprobe overlay)"


NEEDS = (
    Need("root", root),
    Need("containerd", containerd),
    Need("runc", runc),
    Need("CNI plugins", cni),
    Need("nftables", nft),
    Need("iproute2", ip),
    Need("cgroups", cgroup_controllers),
    Need("overlay file system", overlay),
)
