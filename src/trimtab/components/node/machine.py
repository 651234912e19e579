"""What this machine offers, found by looking: cgroups, privileges, AppArmor, packages.

The same Debian packages behave differently on bare metal, in a VM and in a container; the agent looks and adapts instead
of asking its user to configure.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 12, 21, 24
CNI_PLUGINS = Path("/usr/lib/cni")
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cgroups:
    """version 1 (or hybrid, which runc treats as 1) or 2; driver is who makes the groups."""

    version: Literal[1, 2]
    driver: Literal["cgroupfs", "systemd"]
    root: Path = CGROUPS

    def parent(self, name: str, pod_uid: str) -> str:
        """The cgroup of one pod as CRI's `cgroup_parent`. `name` is the engine's (`/trimtab-<id>`)."""
        if self.driver == "systemd":
            return f"{name.strip('/')}-pod{pod_uid.replace('-', '_')}.slice"
        return f"{name}/pod{pod_uid}"

    def path(self, name: str, pod_uid: str = "") -> Path:
        """The engine's cgroup (or that of one of its pods) below the root of a hierarchy. systemd keeps the slice `a-b-c` in
        `a.slice/a-b.slice`."""
        group = self.parent(name, pod_uid) if pod_uid else name
        if self.driver == "cgroupfs":
            return Path(group.strip("/"))
        parts = group.strip("/").removesuffix(".slice").split("-")
        return Path(*(f"{'-'.join(parts[:end])}.slice" for end in range(1, len(parts) + 1)))

    def hierarchies(self) -> list[Path]:
        """The roots of all hierarchies: one with version 2, else one for each set of controllers."""
        return [self.root] if self.version == 2 else sorted(path for path in self.root.glob("*") if path.is_dir())

    def directories(self, name: str, pod_uid: str = "") -> list[Path]:
        """The engine's cgroup (or that of one of its pods) in every hierarchy, where it exists."""
        below = self.path(name, pod_uid)
        return [path for path in (hierarchy / below for hierarchy in self.hierarchies()) if path.is_dir()]

    def pods(self, name: str) -> set[str]:
        """The uids of the pods that have a cgroup, be it an empty one that a crash left."""
        slices = f"{name.strip('/')}-pod"
        found = set()
        for base in self.directories(name):
            for entry in base.iterdir():
                if self.driver == "systemd" and entry.name.startswith(slices):
                    found.add(entry.name.removeprefix(slices).removesuffix(".slice").replace("_", "-"))
                elif self.driver == "cgroupfs" and entry.name.startswith("pod") and entry.is_dir():
                    found.add(entry.name.removeprefix("pod"))
        return found

    def directory(self, controller: str, name: str, pod_uid: str = "") -> Path | None:
        """The cgroup in the hierarchy of one controller (memory, pids, cpuacct), where it exists."""
        hierarchy = self.root if self.version == 2 else self.root / controller
        path = hierarchy / self.path(name, pod_uid)
        return path if path.is_dir() else None


def look_at_cgroups(root: Path, systemd: bool) -> Cgroups:
    """The cgroup layout below `root` of a machine that systemd runs, or does not. On version 2 systemd owns the tree and
    makes the groups; on version 1 and on hybrid machines they are made directly, which systemd tolerates there."""
    version: Literal[1, 2] = 2 if (root / "cgroup.controllers").exists() else 1
    return Cgroups(version, "systemd" if systemd and version == 2 else "cgroupfs", root)


@cache
def cgroups() -> Cgroups:
    """The cgroup layout of this machine."""
    return look_at_cgroups(CGROUPS, Path("/run/systemd/system").is_dir())


@cache
def has_capability(number: int) -> bool:
    """True when this process has the capability in its effective set."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def apparmor() -> bool:
    """True when AppArmor is on and its loader is installed, so that containerd can confine containers with it."""
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    return enabled.exists() and enabled.read_text().startswith("Y") and shutil.which("apparmor_parser") is not None


def selinux() -> bool:
    """True when the machine labels processes and files with SELinux."""
    return Path("/sys/fs/selinux/enforce").exists()


def binary(name: str) -> str | None:
    """The path of a program, also in the places that only root's PATH has."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin")


def runs(architecture: str, emulators: Path = Path("/proc/sys/fs/binfmt_misc")) -> bool:
    """True when programs of an architecture (in OCI's words) run here: the machine's own, or one that an emulator is registered
    for. Of an unknown one nothing is known, so it may be tried."""
    from trimtab.content import oci

    if architecture in ("", oci.host_platform().architecture):
        return True
    emulated = {"amd64": "x86_64", "arm64": "aarch64", "386": "i386"}.get(architecture, architecture)
    return (emulators / f"qemu-{emulated}").exists()


def bridge_filter() -> bool:
    """True when the kernel shows bridged packets to the IP hooks (br_netfilter), so that a reply from a pod on the same
    bridge finds its way back through the address translation of a service."""
    return Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists()
