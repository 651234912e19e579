"""NetworkPolicies as nftables rules: from policies, pods and namespaces to sets and chains of the node's table. Pure.

    base chains      established: pass;  the pod's address -> its chain (verdict maps egress-pods, ingress-pods)
    in-*, out-*      one for each combination of policies that selects a pod: each policy in turn, then drop
    np-in-*, np-out-*    one a policy and direction: what it lets through
    peers-*, port-*  sets of pods' addresses by selector, and of named ports, so that a pod that comes or goes is an element

Egress and ingress are base chains of their own: what one lets through, the other still judges. They see what is forwarded,
after the translation of service addresses. Traffic between a node and its own pods (probes, cluster DNS, the ingress
proxy) is not forwarded, and is always allowed, as Kubernetes defines it.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from trimtab.api.core import Namespace, Pod
from trimtab.api.labels import LabelSelector
from trimtab.api.policies import NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort
from trimtab.api.selector import selects
from trimtab.components.node.nft import Chain, Set, Table

FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True)
class PodAddress:
    """What policies can say about a pod: where it is, and how it is selected."""

    ip: str
    namespace: str
    labels: Mapping[str, str]
    ports: tuple[tuple[str, str, int], ...]
    """Named ports: name, protocol (lower case), number."""
    here: bool
    """It runs on this node."""


def addresses(pods: Iterable[Pod], claims: Mapping[str, str], node: str) -> list[PodAddress]:
    """Every pod with an address of its own. claims: uid -> address that this node has just given out; they are newer than
    any status, so nobody else has such an address any more."""
    claimed = {ip: uid for uid, ip in claims.items()}
    out = []
    for pod in pods:
        uid = pod.metadata.uid
        ip = claims.get(uid) or pod.status.pod_ip
        if not ip or ":" in ip or pod.spec.host_network or claimed.get(ip, uid) != uid or pod.status.phase in FINISHED:
            continue
        ports = tuple(
            (port.name, port.protocol.lower(), port.container_port)
            for container in (*pod.spec.containers, *pod.spec.init_containers)
            for port in container.ports
            if port.name
        )
        out.append(PodAddress(ip, pod.namespace or "", pod.metadata.labels, ports, pod.spec.node_name == node))
    return out


def policy_table(
    policies: Sequence[NetworkPolicy], pods: Sequence[PodAddress], namespaces: Iterable[Namespace]
) -> Table:
    """The part of the node's table that enforces policies on the pods of this node."""
    book = _Book(pods, {n.name: n.metadata.labels for n in namespaces})
    for direction, way in (("Ingress", "in"), ("Egress", "out")):
        selected: dict[str, list[str]] = {}
        for policy in sorted(policies, key=lambda p: (p.namespace or "", p.name)):
            if direction not in _types(policy):
                continue
            chosen = [pod for pod in pods if pod.here and _selects(policy, pod)]
            if not chosen:
                continue
            name = f"np-{way}-{_hash(f'{policy.namespace}/{policy.name}')}"
            book.chains[name] = Chain(tuple(book.rules(policy, way)))
            for pod in chosen:
                selected.setdefault(pod.ip, []).append(name)
        verdicts = {}
        for ip, names in selected.items():
            combination = f"{way}-{_hash(' '.join(names))}"
            book.chains[combination] = Chain((*(f"jump {name}" for name in names), "drop"))
            verdicts[ip] = f"goto {combination}"
        book.sets[f"{direction.lower()}-pods"] = Set("ipv4_addr : verdict", verdicts)
    return Table(book.sets, book.chains | _frame())


def _frame() -> dict[str, Chain]:
    return {
        f"policy-{direction}": Chain(
            (
                "ct state established,related accept",
                "ip saddr . ip daddr @hairpin accept",  # nobody can be kept from itself
                f"ip {side} vmap @{direction}-pods",
            ),
            f"type filter hook forward priority {priority}; policy accept;",
        )
        for direction, side, priority in (("egress", "saddr", -12), ("ingress", "daddr", -11))
    }


def _types(policy: NetworkPolicy) -> Sequence[str]:
    """Which directions a policy governs; left out, ingress always and egress when it has such rules."""
    if policy.spec.policy_types:
        return policy.spec.policy_types
    return ("Ingress", "Egress") if policy.spec.egress else ("Ingress",)


def _selects(policy: NetworkPolicy, pod: PodAddress) -> bool:
    return pod.namespace == (policy.namespace or "") and selects(policy.spec.pod_selector, pod.labels)


class _Book:
    """The sets and chains of one table, while policies are written into it."""

    def __init__(self, pods: Sequence[PodAddress], namespaces: Mapping[str, Mapping[str, str]]) -> None:
        self.sets: dict[str, Set] = {}
        self.chains: dict[str, Chain] = {}
        self._pods = pods
        self._namespaces = namespaces

    def rules(self, policy: NetworkPolicy, way: str) -> Iterator[str]:
        """What one policy lets through in one direction."""
        side = "saddr" if way == "in" else "daddr"
        rules: list[tuple[list[NetworkPolicyPeer], list[NetworkPolicyPort]]]
        if way == "in":
            rules = [(rule.from_, rule.ports) for rule in policy.spec.ingress]
        else:
            rules = [(rule.to, rule.ports) for rule in policy.spec.egress]
        for peers, ports in rules:
            whos = [self._who(policy, peer, side) for peer in peers] if peers else [""]
            whats = [self._what(port) for port in ports] if ports else [""]
            for who in whos:
                if who is not None:
                    yield from (" ".join(part for part in (who, what, "accept") if part) for what in whats)

    def _who(self, policy: NetworkPolicy, peer: NetworkPolicyPeer, side: str) -> str | None:
        """The match of one peer; None where nobody here can match (an IPv6 block)."""
        if peer.ip_block is not None:
            block = ipaddress.ip_network(peer.ip_block.cidr, strict=False)
            if block.version != 4:
                return None
            match = f"ip {side} {block}" if block.prefixlen else ""
            holes = ipaddress.collapse_addresses(
                hole
                for text in peer.ip_block.except_
                if (hole := ipaddress.ip_network(text, strict=False)).version == 4
            )
            without = ", ".join(str(hole) for hole in holes)
            return f"{match} ip {side} != {{ {without} }}".strip() if without else match
        return f"ip {side} @{self._peers(policy.namespace or '', peer.pod_selector, peer.namespace_selector)}"

    def _peers(self, namespace: str, pods: LabelSelector | None, namespaces: LabelSelector | None) -> str:
        """The name of the set of pods that two selectors mean together."""
        scope = repr(namespaces) if namespaces is not None else f"only {namespace}"
        name = f"peers-{_hash(f'{scope} {pods!r}')}"
        if name not in self.sets:
            chosen = (
                pod.ip
                for pod in self._pods
                if (
                    pod.namespace == namespace
                    if namespaces is None
                    else selects(namespaces, self._namespaces.get(pod.namespace, {}))
                )
                and (pods is None or selects(pods, pod.labels))
            )
            self.sets[name] = Set("ipv4_addr", dict.fromkeys(sorted(chosen), ""))
        return name

    def _what(self, port: NetworkPolicyPort) -> str:
        """The match of protocol and port. A named port is whatever each pod calls so."""
        protocol = (port.protocol or "TCP").lower()
        if port.port is None:
            return f"meta l4proto {protocol}"
        if isinstance(port.port, str) and not port.port.isdigit():
            name = f"port-{_hash(f'{protocol} {port.port}')}"
            found = {
                f"{pod.ip} . {protocol} . {number}": ""
                for pod in self._pods
                for called, spoken, number in pod.ports
                if (called, spoken) == (port.port, protocol)
            }
            self.sets[name] = Set("ipv4_addr . inet_proto . inet_service", found)
            return f"ip daddr . meta l4proto . th dport @{name}"
        return f"{protocol} dport {port.port}" + (f"-{port.end_port}" if port.end_port is not None else "")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
