"""Who gets which port of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trimtab.api import JSON, from_wire
from trimtab.api.core import Service
from trimtab.components.node.balancer import assign, listening

ADDRESS = "192.0.2.1"


def balanced(name: str, port: int, made: str, *, has: bool = False, protocol: str = "TCP", **spec: Any) -> Service:
    status: JSON = {"loadBalancer": {"ingress": [{"ip": ADDRESS}]}} if has else {}
    body = {"type": "LoadBalancer", "ports": [{"port": port, "protocol": protocol}], **spec}
    meta = {"name": name, "namespace": "shop", "creationTimestamp": f"2026-01-{made}T00:00:00Z"}
    return from_wire(Service, {"metadata": meta, "spec": body, "status": status})


def granted(services: list[Service], taken: frozenset[int] = frozenset()) -> set[str]:
    return {name for (_, name), (given, _) in assign(services, ADDRESS, taken).items() if given}


def test_the_eldest_gets_a_port_and_who_has_it_keeps_it() -> None:
    old, new = balanced("old", 80, "01"), balanced("new", 80, "02")
    assert granted([new, old]) == {"old"}
    assert granted([balanced("new", 80, "02", has=True), old]) == {"new"}
    assert granted([old, balanced("udp", 80, "03", protocol="UDP")]) == {"old", "udp"}
    problem = assign([new, old], ADDRESS, frozenset())["shop", "new"][1]
    assert problem == "port 80 is service shop/old's: choose another port, or use an Ingress"


def test_programs_of_the_machine_come_first() -> None:
    assert granted([balanced("web", 80, "01")], frozenset({80})) == set()
    assert granted([balanced("web", 80, "01", has=True)], frozenset({80})) == {"web"}, "it was there before"


def test_other_classes_and_types_are_others() -> None:
    assert (
        assign(
            [balanced("x", 80, "01", loadBalancerClass="a/b"), balanced("y", 80, "01", type="NodePort")],
            ADDRESS,
            frozenset(),
        )
        == {}
    )


def test_only_listeners_on_the_address_count(tmp_path: Path) -> None:
    table = tmp_path / "tcp"
    rows = ["010200C0:0050 00000000:0000 0A", "0100007F:0051 00000000:0000 0A", "00000000:0052 00000000:0000 0A"]
    table.write_text("head\n" + "".join(f" 0: {row} x\n" for row in [*rows, "010200C0:0053 010200C0:0054 01"]))
    assert listening(ADDRESS, [table]) == {0x50, 0x52}
