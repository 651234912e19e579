"""Cluster addresses and node ports of Services, given out by the server in the write that needs them.

What is taken is read from the Services that live, plus what was just given to writes on their way; there is no second book
that could disagree with the first.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_address

import msgspec

from trimtab.api import JSON
from trimtab.server.clock import Clock
from trimtab.server.errors import Cause
from trimtab.store import Record, Store

NODE_PORTS = range(30_000, 32_768)
RESERVED_ADDRESSES = 16
"""The first addresses of the range are for fixed ones (the API, DNS); only an explicit request gets one."""
SERVICES = "/core/services/"
HEADLESS = "None"
MALFORMED = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"


class _Port(msgspec.Struct, rename="camel"):
    node_port: int = 0


class _Spec(msgspec.Struct, rename="camel"):
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    ports: list[_Port] = []


class _Service(msgspec.Struct):
    spec: _Spec = msgspec.field(default_factory=_Spec)


_decode = msgspec.json.Decoder(_Service).decode


class ServiceAllocator:
    """Fills `clusterIP`, `clusterIPs`, `nodePort` of Services."""

    def __init__(self, store: Store, cidr: str, clock: Clock) -> None:
        self._store = store
        self._network = IPv4Network(cidr)
        self._clock = clock
        self._on_their_way: dict[str, JSON] = {}

    def allocate(self, key: str, spec: JSON, old: JSON | None) -> list[Cause]:
        """Completes the spec in place; what is wrong with addresses and ports that it asks for.

        The choice stands until `settled` is called for the key.
        """
        kind = spec.get("type", "ClusterIP")
        if kind == "ExternalName":
            for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                spec.pop(name, None)
            if spec.get("internalTrafficPolicy") in ("Cluster", (old or {}).get("internalTrafficPolicy")):
                spec.pop("internalTrafficPolicy", None)
            return []
        if old is not None and old.get("type") != "ExternalName":
            for name in ("clusterIP", "clusterIPs"):
                if not spec.get(name) and old.get(name):
                    spec[name] = old[name]
            if spec.get("clusterIP") != old.get("clusterIP") and old.get("clusterIP"):
                return [Cause("spec.clusterIPs[0]", f'Invalid value: ["{spec.get("clusterIP")}"]: field is immutable')]
            _keep_node_ports(spec, old)
        if problems := _families(spec):
            return problems
        addresses, ports = self._taken(key)
        problems = self._address(spec, addresses) + self._node_ports(spec, kind, ports)
        if not problems:
            self._on_their_way[key] = spec
        return problems

    def settled(self, key: str) -> None:
        """The write of a Service was committed or refused."""
        self._on_their_way.pop(key, None)

    def _taken(self, key: str) -> tuple[set[str], set[int]]:
        addresses: set[str] = set()
        ports: set[int] = set()
        for record in self._store.list(SERVICES):
            if record.key != key:
                spec = _spec_of(record)
                addresses.add(spec.cluster_ip)
                ports.update(port.node_port for port in spec.ports)
        for other, pending in self._on_their_way.items():
            if other != key:
                addresses.add(pending.get("clusterIP", ""))
                ports.update(port.get("nodePort", 0) for port in pending.get("ports") or ())
        return addresses, ports

    def _address(self, spec: JSON, taken: set[str]) -> list[Cause]:
        asked = spec.get("clusterIP") or (spec.get("clusterIPs") or [""])[0]
        if not asked:
            asked = self._free_address(taken)
            if not asked:
                return [Cause("spec.clusterIPs", f"Invalid value: [], no free address is left in {self._network}")]
        elif asked != HEADLESS:
            if problem := self._address_problem(asked, taken):
                if problem is MALFORMED:
                    return [Cause("spec.clusterIPs[0]", f'Invalid value: "{asked}": {problem}')]
                return [Cause("spec.clusterIPs", f'Invalid value: ["{asked}"]: {problem}')]
        spec["clusterIP"] = asked
        spec["clusterIPs"] = [asked]
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        return []

    def _address_problem(self, asked: str, taken: set[str]) -> str | None:
        try:
            address = ip_address(asked)
        except ValueError:
            return MALFORMED
        if address not in self._network:
            return f"the provided IP is not in the valid range: the range of valid IPs is {self._network}"
        return "provided IP is already allocated" if asked in taken else None

    def _free_address(self, taken: set[str]) -> str:
        first, size = int(self._network.network_address), self._network.num_addresses
        reserved = min(RESERVED_ADDRESSES, size // 4)
        usable = size - reserved - 1
        start = self._clock.random.randrange(usable)
        for step in range(usable):
            address = str(IPv4Address(first + reserved + (start + step) % usable))
            if address not in taken:
                return address
        return ""

    def _node_ports(self, spec: JSON, kind: str, taken: set[int]) -> list[Cause]:
        problems: list[Cause] = []
        wanted = kind in ("NodePort", "LoadBalancer")
        for index, port in enumerate(spec.get("ports") or ()):
            asked = port.get("nodePort")
            if not wanted:
                port.pop("nodePort", None)
            elif asked:
                if asked in taken:
                    problems.append(
                        Cause(
                            f"spec.ports[{index}].nodePort",
                            f"Invalid value: {asked}: provided port is already allocated",
                        )
                    )
                elif asked not in NODE_PORTS:
                    problems.append(
                        Cause(
                            f"spec.ports[{index}].nodePort",
                            f"Invalid value: {asked}: provided port is not in the valid range. The range of valid "
                            f"ports is {NODE_PORTS.start}-{NODE_PORTS.stop - 1}",
                        )
                    )
            else:
                start = self._clock.random.randrange(len(NODE_PORTS))
                free = next(
                    (
                        p
                        for step in range(len(NODE_PORTS))
                        if (p := NODE_PORTS[(start + step) % len(NODE_PORTS)]) not in taken
                    ),
                    0,
                )
                port["nodePort"] = free
            taken.add(port.get("nodePort", 0))
        return problems


def _families(spec: JSON) -> list[Cause]:
    """What asks for IPv6, which pods do not have here. Texts as Kubernetes' on a cluster of one family."""
    problems = [
        Cause(
            f"spec.ipFamilies[{index}]",
            f'Invalid value: "{family}": not configured on this cluster, whose pods have IPv4 addresses only; leave it out',
        )
        for index, family in enumerate(spec.get("ipFamilies") or ())
        if family != "IPv4"
    ]
    if spec.get("ipFamilyPolicy") == "RequireDualStack":
        problems.append(
            Cause(
                "spec.ipFamilyPolicy",
                'Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services; use '
                '"PreferDualStack", or leave it out',
            )
        )
    return problems


def _spec_of(record: Record) -> _Spec:
    return _decode(record.value).spec


def _keep_node_ports(spec: JSON, old: JSON) -> None:
    """A port that the update does not mention keeps its node port."""
    before = {(p.get("protocol"), p.get("port")): p.get("nodePort") for p in old.get("ports") or ()}
    for port in spec.get("ports") or ():
        kept = before.get((port.get("protocol"), port.get("port")))
        if kept and not port.get("nodePort"):
            port["nodePort"] = kept
