"""Rules of services and policies as text, and what of it a change touches."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from trimtab.api import JSON, from_wire
from trimtab.api.core import Namespace, Pod, Service
from trimtab.api.networking import EndpointSlice
from trimtab.api.policies import NetworkPolicy
from trimtab.components.node.guard import guard
from trimtab.components.node.nft import Chain, Set, Table, delta, replacement
from trimtab.components.node.policies import addresses, policy_table
from trimtab.components.node.policy_admission import check_policy
from trimtab.components.node.rules import Backend, Place, frontends, service_table
from trimtab.runtime import Denied
from trimtab.runtime.settings import Settings

PLACE = Place("node-1", "tt-x", "10.0.0.0/24", "10.0.0.0/24")


def service(name: str = "web", status: JSON | None = None, **spec: Any) -> Service:
    body = {"clusterIP": "10.96.0.9", "ports": [{"port": 80, "name": "http", "nodePort": 30080}], **spec}
    meta = {"name": name, "namespace": "shop"}
    return from_wire(Service, {"metadata": meta, "spec": body, "status": status or {}})


def endpoints(*where: tuple[str, str]) -> EndpointSlice:
    listed = [{"addresses": [ip], "nodeName": node, "conditions": {"ready": True}} for ip, node in where]
    meta = {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}}
    return from_wire(EndpointSlice, {"metadata": meta, "endpoints": listed, "ports": [{"name": "http", "port": 8080}]})


HERE, THERE = ("10.0.0.3", "node-1"), ("10.0.1.4", "node-2")


def table(one: Service, *where: tuple[str, str]) -> Table:
    return service_table(PLACE, frontends([one], [endpoints(*where)], "node-1"))


def test_a_node_port_leads_where_the_external_traffic_policy_says() -> None:
    made = table(service(type="NodePort"), HERE, THERE)
    assert made.sets["nodeports"].elements == {"tcp . 30080": "goto svc-10-96-0-9-tcp-80"}
    assert "10.0.1.4 . 8080" in made.chains["svc-10-96-0-9-tcp-80"].rules[0]
    assert made.sets["remote"].elements == {"10.0.1.4": ""}, "answers from another node come back through us"
    local = table(service(type="NodePort", externalTrafficPolicy="Local"), HERE, THERE)
    assert local.sets["nodeports"].elements == {"tcp . 30080": "goto ext-10-96-0-9-tcp-80"}
    assert local.chains["ext-10-96-0-9-tcp-80"].rules[0].startswith("meta l4proto tcp dnat to 10.0.0.3:8080")
    assert "10.0.1.4 . 8080" in local.chains["svc-10-96-0-9-tcp-80"].rules[0]
    nobody = table(service(type="NodePort", externalTrafficPolicy="Local"), THERE)
    assert nobody.sets["nodeports"].elements == {}


def test_the_internal_traffic_policy_local_keeps_to_this_node() -> None:
    made = table(service(internalTrafficPolicy="Local"), THERE)
    assert made.sets["unserved"].elements == {"10.96.0.9 . tcp . 80": ""}
    made = table(service(internalTrafficPolicy="Local"), HERE, THERE)
    assert "10.0.1.4" not in made.chains["svc-10-96-0-9-tcp-80"].rules[0]


def test_external_addresses_and_load_balancers_with_their_sources() -> None:
    status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    made = table(
        service(
            type="LoadBalancer", externalIPs=["198.51.100.7"], loadBalancerSourceRanges=["10.0.0.0/8"], status=status
        ),
        HERE,
    )
    assert made.sets["services"].elements == {
        "10.96.0.9 . tcp . 80": "goto svc-10-96-0-9-tcp-80",
        "198.51.100.7 . tcp . 80": "goto svc-10-96-0-9-tcp-80",
        "192.0.2.1 . tcp . 80": "goto lb-10-96-0-9-tcp-80",
    }
    assert made.chains["lb-10-96-0-9-tcp-80"].rules[0] == "ip saddr != { 10.0.0.0/8 } drop"


def test_sources_that_overlap_or_are_nonsense_harm_nobody_else() -> None:
    balanced = service(type="LoadBalancer", loadBalancerSourceRanges=["10.1.0.0/16", " 10.0.0.1/8", "fd00::/8"])
    [front] = frontends([balanced], [])
    assert front.sources == ("10.0.0.0/8", "255.255.255.255/32")


def test_affinity_keeps_each_endpoints_clients_in_a_set_that_changes_do_not_touch() -> None:
    sticky = service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}})
    before, after = table(sticky, HERE), table(sticky, HERE, ("10.0.0.4", "node-1"))
    clients = "svc-10-96-0-9-tcp-80-10-0-0-3-8080-clients"
    assert "timeout 60s" in before.sets[clients].traits
    text = delta("t", before, after)
    assert text is not None
    assert f"set ip t {clients} " not in text
    assert f"flush chain ip t {clients.removesuffix('-clients')}\n" not in text


def test_outsiders_are_let_in_only_where_the_engine_listens_beyond_loopback() -> None:
    closed = 'iifname != "tt-x*" return'
    assert closed in service_table(PLACE, []).chains["prerouting"].rules
    opened = Place("node-1", "tt-x", "10.0.0.0/24", "10.0.0.0/24", reachable=True)
    assert closed not in service_table(opened, []).chains["prerouting"].rules


# Deltas


def test_a_delta_names_only_what_differs() -> None:
    old = Table({"a": Set("ipv4_addr", {"10.0.0.1": "", "10.0.0.2": ""})}, {"c": Chain(("accept",))})
    new = Table({"a": Set("ipv4_addr", {"10.0.0.2": "", "10.0.0.3": ""})}, {"c": Chain(("accept",)), "d": Chain(())})
    assert delta("t", old, old) == ""
    assert delta("t", old, new) == (
        "add chain ip t d\ndelete element ip t a { 10.0.0.1 }\nadd element ip t a { 10.0.0.3 }\n"
    )
    assert delta("t", new, old) == (
        "delete element ip t a { 10.0.0.3 }\nflush chain ip t d\nadd element ip t a { 10.0.0.1 }\ndelete chain ip t d\n"
    )
    assert delta("t", old, Table({"a": Set("inet_service")}, {})) is None, "another type: only a replacement can"


def listing(name: str) -> str:
    return subprocess.run(["nft", "list", "table", "ip", name], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="nft needs root")
def test_the_kernel_has_the_same_table_by_deltas_as_by_replacements(in_own_network: None) -> None:
    services = [
        service(clusterIP="10.96.0.1", type="NodePort"),
        service(clusterIP="10.96.0.2", sessionAffinity="ClientIP"),
        service(clusterIP="10.96.0.3", type="LoadBalancer", externalIPs=["198.51.100.7"]),
        service(clusterIP="10.96.0.4", ports=[{"port": 9, "name": "http", "protocol": p} for p in ("UDP", "SCTP")]),
    ]
    states = []
    for chosen, where in (
        (services, (HERE, THERE)),
        (services[:2], (HERE,)),
        (services[1:], ()),
        ([], ()),
        (services, (THERE, ("10.0.0.7", "node-1"))),
    ):
        fronts = frontends(chosen, [endpoints(*where)], "node-1")
        states.append(service_table(PLACE, fronts) | policies_of(ALLOW, DENY))
    before = states[0]
    nft(replacement("t", before))
    for state in states[1:]:
        text = delta("t", before, state)
        assert text
        nft(text)
        by_delta = sorted(listing("t").splitlines())
        nft(replacement("t", state))
        assert by_delta == sorted(listing("t").splitlines())
        before = state


def nft(text: str) -> None:
    done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="nft needs root")
def test_the_guard_can_be_put_there_again_and_again(in_own_network: None) -> None:
    settings = Settings(id="abcdef", data="/d", run="/r")
    for _ in range(2):
        nft(guard(settings))
    rules = listing("trimtab-abcdef-guard")
    assert 'iifname "tt-abcdef*" ip daddr 127.0.0.0/8 drop' in rules
    assert 'iifname != "lo" iifname != "tt-abcdef*" ip daddr 10.244.0.1 drop' in rules
    assert 'iifname != "tt-abcdef*" ip daddr 10.244.0.0/24 ct state new drop' in rules
    nft(guard(Settings(id="abcdef", data="/d", run="/r", listen="192.0.2.1")))
    rules = listing("trimtab-abcdef-guard")
    assert "ct state new" not in rules, "asked to serve others"
    assert "ip daddr 10.244.0.1 drop" in rules, "but never on the gateway"


# Policies


def pod(name: str, ip: str, namespace: str = "shop", node: str = "node-1", **labels: str) -> Pod:
    ports = [{"name": "web", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]
    meta = {"name": name, "namespace": namespace, "labels": labels, "uid": name}
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "i", "ports": ports}]}
    return from_wire(Pod, {"metadata": meta, "spec": spec, "status": {"podIP": ip, "phase": "Running"}})


def policy(name: str, **spec: Any) -> NetworkPolicy:
    return from_wire(NetworkPolicy, {"metadata": {"name": name, "namespace": "shop"}, "spec": spec})


PODS = [
    pod("web", "10.0.0.3", app="web"),
    pod("api", "10.0.0.4", app="api"),
    pod("other", "10.0.0.5", namespace="other", app="api"),
    pod("far", "10.0.1.6", node="node-2", app="web"),
]
NAMESPACES = [
    from_wire(Namespace, {"metadata": {"name": name, "labels": {"team": name}}}) for name in ("shop", "other")
]
DENY = policy("deny", podSelector={}, policyTypes=["Ingress", "Egress"])
ALLOW = policy(
    "allow",
    podSelector={"matchLabels": {"app": "web"}},
    ingress=[
        {
            "from": [
                {"podSelector": {"matchLabels": {"app": "api"}}},
                {"namespaceSelector": {"matchLabels": {"team": "other"}}},
                {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.64/26"]}},
            ],
            "ports": [{"port": 80, "endPort": 90}, {"port": "dns", "protocol": "UDP"}, {"protocol": "SCTP"}],
        }
    ],
    egress=[{}],
)


def policies_of(*policies: NetworkPolicy, claims: dict[str, str] | None = None) -> Table:
    return policy_table(policies, addresses(PODS, claims or {}, "node-1"), NAMESPACES)


def test_only_pods_of_this_node_are_held_to_policies() -> None:
    made = policies_of(DENY)
    assert set(made.sets["ingress-pods"].elements) == {"10.0.0.3", "10.0.0.4"}
    assert set(made.sets["egress-pods"].elements) == {"10.0.0.3", "10.0.0.4"}
    [verdict] = set(made.sets["ingress-pods"].elements.values())
    assert made.chains[verdict.removeprefix("goto ")].rules[-1] == "drop"


def test_a_policy_lets_through_each_peer_on_each_port() -> None:
    made = policies_of(ALLOW)
    verdict = made.sets["ingress-pods"].elements["10.0.0.3"].removeprefix("goto ")
    jump, drop = made.chains[verdict].rules
    assert drop == "drop"
    rules = made.chains[jump.removeprefix("jump ")].rules
    assert len(rules) == 9
    by_set = {name: set(one.elements) for name, one in made.sets.items()}
    peers = [rule.split()[2].removeprefix("@") for rule in rules if rule.startswith("ip saddr @")]
    assert [by_set[name] for name in dict.fromkeys(peers)] == [{"10.0.0.4"}, {"10.0.0.5"}]
    assert "ip saddr 192.0.2.0/24 ip saddr != { 192.0.2.64/26 } tcp dport 80-90 accept" in rules
    named = next(rule.split("@")[-1].split()[0] for rule in rules if "th dport @" in rule)
    assert by_set[named] == {f"{p.status.pod_ip} . udp . 53" for p in PODS}
    egress = made.sets["egress-pods"].elements["10.0.0.3"].removeprefix("goto ")
    assert made.chains[made.chains[egress].rules[0].removeprefix("jump ")].rules == ("accept",)
    assert "10.0.0.4" not in made.sets["ingress-pods"].elements


def test_a_policy_without_types_governs_egress_only_when_it_has_such_rules() -> None:
    assert policies_of(policy("p", podSelector={})).sets["egress-pods"].elements == {}
    assert policies_of(policy("p", podSelector={}, egress=[{}])).sets["egress-pods"].elements


def test_an_address_just_given_out_belongs_to_nobody_else() -> None:
    made = policies_of(ALLOW, claims={"web": "10.0.0.4"})
    assert set(made.sets["ingress-pods"].elements) == {"10.0.0.4"}, "web, which is there now"
    peers = [one.elements for name, one in made.sets.items() if name.startswith("peers-")]
    assert {} in peers, "api's status is out of date, so nobody is let in as api"


def test_backends_sort() -> None:
    [front] = frontends([service()], [endpoints(THERE, HERE)])
    assert front.backends == (Backend("10.0.0.3", 8080), Backend("10.0.1.4", 8080))


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ({"cidr": "10.0.0.0"}, "spec.ingress[0].from[0].ipBlock.cidr: '10.0.0.0' is no address range; write one like"),
        ({"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}, "11.0.0.0/16 is not within 10.0.0.0/8; leave it out"),
    ],
)
def test_bad_blocks_are_refused(block: JSON, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.components.node.machine.bridge_filter", lambda: True)
    with pytest.raises(Denied) as refused:
        check_policy({"spec": {"ingress": [{"from": [{"ipBlock": block}]}]}}, None)
    assert problem in f"{refused.value.field}: {refused.value.message}"


@pytest.mark.parametrize(
    ("port", "problem"),
    [
        (
            {"port": 80, "endPort": 70},
            "spec.egress[0].ports[0].endPort: 70 needs a number as port that is not above it",
        ),
        ({"port": "web", "endPort": 70}, "spec.egress[0].ports[0].endPort: 70 needs a number as port"),
        ({"port": 70000}, "spec.egress[0].ports[0].port: 70000 is no port"),
        ({"protocol": "ICMP"}, 'spec.egress[0].ports[0].protocol: ICMP is not supported; use "TCP", "UDP" or "SCTP"'),
    ],
)
def test_bad_ports_are_refused(port: JSON, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.components.node.machine.bridge_filter", lambda: True)
    with pytest.raises(Denied) as refused:
        check_policy({"spec": {"egress": [{"ports": [port]}]}}, None)
    assert str(refused.value).startswith(problem)


def test_policies_that_cannot_be_enforced_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.components.node.machine.bridge_filter", lambda: False)
    with pytest.raises(Denied, match="load the module br_netfilter"):
        check_policy({"spec": {}}, None)
