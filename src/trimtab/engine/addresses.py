"""Choosing what an engine listens on and which networks it uses, so that it gets in nobody's way.

Networks are private ranges (RFC 1918, then RFC 6598) that overlap no route of this machine and no other engine's. They
follow from the engine's random id, so that two engines made while neither runs do not collide either. Ports are the
well-known ones where these are free at the first start; later an occupied port is an error that names who has it.
"""

from __future__ import annotations

import errno
import ipaddress
import random
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from trimtab.engine import procfs
from trimtab.engine.errors import EngineError

Network = ipaddress.IPv4Network

_POD_RANGES = ("10.64.0.0/10", "172.20.0.0/14", "192.168.128.0/17", "100.64.0.0/11")
_SERVICE_RANGES = ("10.128.0.0/9", "172.24.0.0/14", "192.168.0.0/17", "100.96.0.0/11")
POD_PREFIX, SERVICE_PREFIX = 20, 20
"""Sixteen ranges of 254 pods, the most that one node runs; 4,094 services."""
_TRIES_PER_RANGE = 64


def routed_networks(table: Path = Path("/proc/net/route")) -> list[Network]:
    """The IPv4 networks that this machine has routes to, the default route left out."""
    found = []
    for line in table.read_text().splitlines()[1:]:
        fields = line.split()
        address, mask = (_kernel_address(fields[i]) for i in (1, 7))
        if mask:
            found.append(Network((address, mask.bit_count())))
    return found


def _kernel_address(text: str) -> int:
    """The kernel prints an address in network order as one number of the machine's own byte order."""
    return int.from_bytes(int(text, 16).to_bytes(4, sys.byteorder), "big")


def choose_networks(seed: str, taken: Sequence[Network]) -> tuple[str, str]:
    """A network for the pods of all nodes and one for services (CIDR texts) that overlap nothing in `taken` nor each other.

    Raises:
        EngineError: every private range is routed somewhere.
    """
    dice = random.Random(seed)
    pods = _first_free(_candidates(dice, _POD_RANGES, POD_PREFIX), taken)
    services = _first_free(_candidates(dice, _SERVICE_RANGES, SERVICE_PREFIX), taken)
    if pods is None or services is None:
        raise EngineError(
            "no private network is free for pods and services: all of 10/8, 172.16/12, 192.168/16 and 100.64/10 are routed "
            "(see `ip route`)"
        )
    return str(pods), str(services)


def _candidates(dice: random.Random, ranges: Iterable[str], prefix: int) -> Iterator[Network]:
    for text in ranges:
        whole = Network(text)
        step = 1 << (32 - prefix)
        for _ in range(_TRIES_PER_RANGE):
            offset = dice.randrange(whole.num_addresses // step) * step
            yield Network((int(whole.network_address) + offset, prefix))


def _first_free(candidates: Iterable[Network], taken: Sequence[Network]) -> Network | None:
    return next((c for c in candidates if not any(c.overlaps(t) for t in taken)), None)


def port_is_free(address: str, port: int) -> bool:
    """Whether this machine could listen on the port now.

    Raises:
        EngineError: the address is not one of this machine, or the port needs root.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as err:
            if err.errno == errno.EADDRINUSE:
                return False
            if err.errno == errno.EADDRNOTAVAIL:
                raise EngineError(f"{address} is no address of this machine: give another --listen") from None
            raise EngineError(f"port {port} of {address} cannot be used: {err.strerror}") from None
    return True


def choose_port(address: str, preferred: int, avoid: set[int]) -> int:
    """The preferred port where free, else the next free one from 8000 above it (80: 8080, 443: 8443 ...)."""
    if preferred not in avoid and port_is_free(address, preferred):
        return preferred
    start = preferred + 8000 if preferred < 1024 else preferred + 1
    for port in range(start, start + 1000):
        if port not in avoid and port_is_free(address, port):
            return port
    raise EngineError(f"no free port was found from {start} to {start + 999}")


def require_port(address: str, port: int, flag: str, ours: set[int]) -> None:
    """Passes when the port is free or one of our own processes (`ours`, pids) has it.

    Raises:
        EngineError: one line with the port, who has it, and what to do.
    """
    if port_is_free(address, port):
        return
    owner = procfs.listener_of(port)
    if owner is not None and owner[0] in ours:
        return
    by = f" by {owner[1]} (pid {owner[0]})" if owner else ""
    raise EngineError(f"port {port} is in use{by}: stop that, or start with another {flag}")
