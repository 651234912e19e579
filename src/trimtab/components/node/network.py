"""The pod network of one node: a bridge with the first address of the pod range, one veth a pod by the CNI plugins.

containerd calls the plugins; the agent only writes their configuration, keeps the bridge there (cluster DNS listens on it
before the first pod exists) and turns on forwarding. No iptables anywhere: translation is `services.py`'s, in nftables.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from dataclasses import dataclass
from pathlib import Path

from trimtab.components.node import machine
from trimtab.components.node.containerd import cni_directory
from trimtab.components.node.guard import guard, guard_table
from trimtab.runtime.settings import Settings


class CommandFailed(RuntimeError):
    """A program of the system refused; the text names it and its last line of complaint."""


async def run(*command: str, stdin: str | None = None) -> str:
    """Runs a program and returns its output.

    Raises:
        CommandFailed: it is missing or ended with an error.
    """
    path = machine.binary(command[0])
    if path is None:
        raise CommandFailed(f"{command[0]} is not installed")
    process = await asyncio.create_subprocess_exec(
        path,
        *command[1:],
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(stdin.encode() if stdin is not None else None)
    if process.returncode:
        complaint = err.decode(errors="replace").strip().splitlines()
        reason = complaint[0] if complaint else f"exit code {process.returncode}"
        raise CommandFailed(f"{' '.join(command[:6])}: {reason}")
    return out.decode(errors="replace")


@dataclass(frozen=True)
class PodNetwork:
    """Addresses that follow from the pod range."""

    cidr: ipaddress.IPv4Network

    @classmethod
    def of(cls, settings: Settings) -> PodNetwork:
        return cls(ipaddress.IPv4Network(settings.pod_cidr))

    @property
    def gateway(self) -> str:
        """The bridge's address: the pods' gateway and DNS server."""
        return str(self.cidr.network_address + 1)


def cni_config(settings: Settings) -> str:
    """The CNI network of this engine's pods, as JSON."""
    network = PodNetwork.of(settings)
    return json.dumps(
        {
            "cniVersion": "0.4.0",
            "name": settings.bridge,
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": settings.bridge,
                    "isGateway": True,
                    "ipMasq": False,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(ipam_directory(settings)),
                        "ranges": [[{"subnet": str(network.cidr), "gateway": network.gateway}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        },
        indent=2,
    )


def ipam_directory(settings: Settings) -> Path:
    """Which address belongs to which sandbox. Under the run directory: after a reboot no sandbox is left."""
    return settings.run_path("ipam")


async def up(settings: Settings) -> None:
    """Makes the bridge, its address, forwarding, the route to service addresses, and the CNI configuration. Idempotent.

    Raises:
        CommandFailed: naming what the system refused.
    """
    network = PodNetwork.of(settings)
    bridge = settings.bridge
    await run("nft", "-f", "-", stdin=guard(settings))
    if not Path("/sys/class/net", bridge).exists():
        try:
            await run("ip", "link", "add", bridge, "type", "bridge")
        except CommandFailed:
            if not Path("/sys/class/net", bridge).exists():  # else another service of this process was quicker
                raise
    await run("ip", "address", "replace", f"{network.gateway}/{network.cidr.prefixlen}", "dev", bridge)
    await run("ip", "link", "set", bridge, "up")
    # A node without a default route still needs one for the first look-up, before the address is translated.
    await run("ip", "route", "replace", settings.service_cidr, "dev", bridge)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    # Node ports on loopback: a connection from 127.0.0.1 leaves through the bridge. The guard keeps pods from using this.
    Path("/proc/sys/net/ipv4/conf", bridge, "route_localnet").write_text("1")
    if machine.bridge_filter():
        for family in ("iptables", "ip6tables"):
            Path("/sys/class/net", bridge, f"bridge/nf_call_{family}").write_text("1")
    directory = cni_directory(settings)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "10-pods.conflist"
    wanted = cni_config(settings)
    if not path.exists() or path.read_text() != wanted:
        scratch = directory / ".10-pods"
        scratch.write_text(wanted)
        scratch.rename(path)


async def down(settings: Settings) -> None:
    """Removes the bridge, what hangs on it, and its tables. Idempotent."""
    if Path("/sys/class/net", settings.bridge).exists():
        await run("ip", "link", "delete", settings.bridge)
    name = guard_table(settings)
    for family, table in (("ip", settings.nft_table), ("ip", name), ("ip6", name)):
        await run("nft", "-f", "-", stdin=f"add table {family} {table}\ndelete table {family} {table}\n")


def host_address() -> str:
    """The address that the host uses to the outside; the loopback address on a host without a route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only makes the kernel choose a source address
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
