"""Names of the cluster, and answers that are kept ready."""

from __future__ import annotations

import ipaddress
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from trimtab.api import from_wire
from trimtab.api.core import Service
from trimtab.api.networking import EndpointSlice
from trimtab.components.node.answers import KEPT_MAX, TTL_S_MAX, Answers, lifetimes
from trimtab.components.node.names import Record, Zone, resolve

PORTS = [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]


def service(name: str, **spec: Any) -> Service:
    meta = {"name": name, "namespace": "shop"}
    return from_wire(Service, {"metadata": meta, "spec": {"clusterIP": "10.96.0.9", "ports": PORTS, **spec}})


EACH = from_wire(
    EndpointSlice,
    {
        "metadata": {"name": "each-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "each"}},
        "endpoints": [
            {"addresses": ["10.0.0.3"], "hostname": "each-0"},
            {"addresses": ["10.0.0.4"]},
            {"addresses": ["10.0.0.5"], "conditions": {"ready": False}},
        ],
        "ports": [{"name": "http", "port": 8080}],
    },
)
SERVICES = [
    service("web"),
    service("each", clusterIP="None"),
    service("out", type="ExternalName", externalName="x.org"),
]
ZONE = Zone(
    "cluster.local",
    lambda name, namespace: next((s for s in SERVICES if (s.name, s.namespace) == (name, namespace)), None),
    lambda namespace: [EACH] if namespace in (None, "shop") else [],
    lambda: SERVICES,
    (ipaddress.IPv4Network("10.96.0.0/16"), ipaddress.IPv4Network("10.0.0.0/24")),
)


def ask(name: str, kind: str) -> list[str] | None:
    """The data of the records of a type; None: there is no such name."""
    found = resolve(name, ZONE)
    assert found is not None, "not of this cluster"
    return sorted(r.data for r in found.records if r.type == kind) if found.exists else None


def test_service_records() -> None:
    own = "web.shop.svc.cluster.local."
    assert ask("_http._tcp.web.shop.svc.cluster.local", "SRV") == [f"0 100 80 {own}"]
    assert ask("_dns._udp.web.shop.svc.cluster.local", "SRV") == [f"0 100 53 {own}"]
    assert ask("_dns._tcp.web.shop.svc.cluster.local", "SRV") is None
    assert ask("web.shop.svc.cluster.local", "SRV") == [f"0 100 53 {own}", f"0 100 80 {own}"]
    each = "each.shop.svc.cluster.local."
    assert ask("_http._tcp.each.shop.svc.cluster.local", "SRV") == [
        f"0 100 8080 10-0-0-4.{each}",
        f"0 100 8080 each-0.{each}",
    ]
    found = resolve("_http._tcp.each.shop.svc.cluster.local", ZONE)
    assert found is not None
    assert Record("A", "10.0.0.3", "each-0.each.shop.svc.cluster.local") in found.extra
    assert ask("_none._tcp.each.shop.svc.cluster.local", "SRV") is None


def test_endpoints_of_headless_services_have_names() -> None:
    assert ask("each-0.each.shop.svc.cluster.local", "A") == ["10.0.0.3"]
    assert ask("10-0-0-4.each.shop.svc.cluster.local", "A") == ["10.0.0.4"]
    assert ask("10-0-0-5.each.shop.svc.cluster.local", "A") is None, "not ready"
    assert ask("each-0.web.shop.svc.cluster.local", "A") is None


def test_addresses_have_names() -> None:
    assert ask("9.0.96.10.in-addr.arpa", "PTR") == ["web.shop.svc.cluster.local."]
    assert ask("3.0.0.10.in-addr.arpa", "PTR") == ["each-0.each.shop.svc.cluster.local."]
    assert ask("9.0.0.10.in-addr.arpa", "PTR") is None
    assert resolve("8.8.8.8.in-addr.arpa", ZONE) is None, "others' addresses are asked for elsewhere"
    assert resolve("0.10.in-addr.arpa", ZONE) is None


def test_names_of_pods_and_of_the_schema() -> None:
    assert ask("10-0-0-7.shop.pod.cluster.local", "A") == ["10.0.0.7"]
    assert ask("8-8-8-8.shop.pod.cluster.local", "A") is None
    assert ask("dns-version.cluster.local", "TXT") == ['"1.1.0"']
    for name in ("cluster.local", "svc.cluster.local", "shop.svc.cluster.local", "web.shop.svc.cluster.local"):
        assert ask(name, "AAAA") == [], f"{name} is there, but has no such record"
    for name in ("web.shop.cluster.local", "a.b.web.shop.svc.cluster.local", "no.shop.svc.cluster.local"):
        assert ask(name, "A") is None


# Ready answers


def exchange(*answers: tuple[str, int, str, str], authority: str = "", rcode: str = "NOERROR") -> tuple[bytes, bytes]:
    query = dns.message.make_query("x.org.", "A", use_edns=0)
    response = dns.message.make_response(query)
    response.set_rcode(dns.rcode.from_text(rcode))
    for name, ttl, kind, data in answers:
        response.answer.append(dns.rrset.from_text(name, ttl, "IN", kind, data))
    if authority:
        response.authority.append(dns.rrset.from_text("org.", 900, "IN", "SOA", authority))
    return query.to_wire(), response.to_wire()


def test_a_kept_answer_ages_and_ends() -> None:
    kept = Answers()
    query, answer = exchange(("x.org.", 20, "CNAME", "y.org."), ("y.org.", 8, "A", "192.0.2.1"))
    kept.keep(query, answer, 100.0)
    other = b"\x12\x34" + query[2:]
    assert kept.get(other, 100.5) == b"\x12\x34" + answer[2:]
    aged = kept.get(other, 103.2)
    assert aged is not None
    assert [rrset.ttl for rrset in dns.message.from_wire(aged).answer] == [17, 5]
    assert kept.get(query, 108.0) is None, "no longer than the shortest TTL"
    query, answer = exchange(("x.org.", 3600, "A", "192.0.2.1"))
    kept.keep(query, answer, 100.0)
    assert kept.get(query, 100.0 + TTL_S_MAX) is None


def test_what_does_not_exist_is_kept_as_its_soa_says() -> None:
    _, answer = exchange(authority="a. b. 1 2 3 4 7", rcode="NXDOMAIN")
    lasting = lifetimes(answer)
    assert lasting is not None
    assert lasting[0] == 7


def test_failures_cut_answers_and_nonsense_are_not_kept() -> None:
    _, failed = exchange(("x.org.", 20, "A", "192.0.2.1"), rcode="SERVFAIL")
    _, good = exchange(("x.org.", 20, "A", "192.0.2.1"))
    cut = bytearray(good)
    cut[2] |= dns.flags.TC >> 8
    _, fleeting = exchange(("x.org.", 0, "A", "192.0.2.1"))
    _, empty = exchange()
    for answer in (failed, bytes(cut), fleeting, empty, b"", good[:-3], good[:20], b"\xff" * 40):
        assert lifetimes(answer) is None


def test_the_number_of_kept_answers_is_bounded() -> None:
    kept = Answers()
    _, answer = exchange(("x.org.", 20, "A", "192.0.2.1"))
    for number in range(KEPT_MAX + 10):
        kept.keep(b"xx%d" % number, answer, 0.0)
    assert len(kept) == KEPT_MAX
    assert kept.get(b"xx0", 1.0) is None
