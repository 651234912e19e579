"""Host ports, resolvers, hosts files: what a pod may say about its place in the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trimtab.api import from_wire
from trimtab.api.core import Pod
from trimtab.components.node.configs import NodeFacts, Resolver, hosts_file, sandbox_config
from trimtab.components.node.environment import ConfigProblem
from trimtab.components.node.host_ports import HostPort, conflict, host_ports, listening
from trimtab.components.node.nft import Table
from trimtab.components.node.rules import Place, service_table

NODE = NodeFacts("/g", Resolver(("10.0.0.1",), ("corp",)), Resolver(("192.0.2.53",)), "cluster.local")
PLACE = Place("node-1", "tt-x", "10.0.0.0/24", "10.0.0.0/24")


def pod(name: str = "web", ip: str = "10.0.0.7", ports: Any = (), **spec: Any) -> Pod:
    body = {"nodeName": "node-1", "containers": [{"name": "c", "image": "i", "ports": list(ports)}], **spec}
    meta = {"name": name, "namespace": "shop", "uid": f"uid-{name}"}
    return from_wire(Pod, {"metadata": meta, "spec": body, "status": {"podIP": ip}})


EIGHTY = {"containerPort": 80, "hostPort": 8080}


# Host ports


def test_host_ports_are_those_of_this_nodes_living_pods_with_an_address() -> None:
    elsewhere = pod("far", ports=[EIGHTY])
    elsewhere.spec.node_name = "node-2"
    ended = pod("done", ports=[EIGHTY])
    ended.status.phase = "Succeeded"
    shares = pod("host", ports=[EIGHTY], hostNetwork=True)
    sidecar = {"name": "s", "image": "i", "restartPolicy": "Always", "ports": [{"containerPort": 1, "hostPort": 2}]}
    new = pod("new", ip="", initContainers=[sidecar])

    found = host_ports([pod(ports=[EIGHTY]), elsewhere, ended, shares, new], {"uid-new": "10.0.0.9"}, "node-1")

    assert found == (
        HostPort("0.0.0.0", "tcp", 2, "10.0.0.9", 1, "shop/new"),
        HostPort("0.0.0.0", "tcp", 8080, "10.0.0.7", 80, "shop/web"),
    )


def table(*ports: HostPort) -> Table:
    return service_table(PLACE, [], ports)


def test_a_host_port_is_an_element_and_a_chain() -> None:
    made = table(
        HostPort("0.0.0.0", "tcp", 8080, "10.0.0.7", 80, "shop/web"),
        HostPort("192.0.2.9", "udp", 53, "10.0.0.8", 5353, "shop/dns"),
    )

    assert made.sets["hostports"].elements == {"tcp . 8080": "goto host-0-0-0-0-tcp-8080"}
    assert made.sets["hostips"].elements == {"192.0.2.9 . udp . 53": "goto host-192-0-2-9-udp-53"}
    assert made.chains["host-192-0-2-9-udp-53"].rules == ('meta l4proto udp dnat to 10.0.0.8:5353 comment "shop/dns"',)
    assert set(made.sets["hairpin"].elements) == {"10.0.0.7 . 10.0.0.7", "10.0.0.8 . 10.0.0.8"}


@pytest.mark.parametrize(
    ("port", "text"),
    [
        (EIGHTY, "port 8080/TCP of this node is taken by pod shop/other"),
        ({**EIGHTY, "hostIP": "192.0.2.9"}, "port 8080/TCP of this node is taken by pod shop/other"),
        ({**EIGHTY, "protocol": "UDP"}, ""),
        ({"containerPort": 80, "hostPort": 8081}, ""),
        (
            {"containerPort": 80, "hostPort": 22},
            "a program of this machine listens on port 22/TCP: choose another hostPort, or use a Service",
        ),
        ({"containerPort": 80, "hostPort": 22, "hostIP": "192.0.2.9"}, ""),
        (
            {"containerPort": 80, "hostPort": 53, "protocol": "UDP"},
            "a program of this machine listens on port 53/UDP: choose another hostPort, or use a Service",
        ),
    ],
)
def test_who_has_a_port(port: dict[str, Any], text: str) -> None:
    programs = {"tcp": frozenset({("127.0.0.1", 22)}), "udp": frozenset({("0.0.0.0", 53)})}

    assert conflict(pod(ports=[port]), [pod("other", ports=[EIGHTY])], programs) == text


def test_a_pod_on_the_nodes_network_has_the_ports_it_names() -> None:
    other = pod("other", ports=[{"containerPort": 8080}], hostNetwork=True)

    assert conflict(pod(ports=[EIGHTY]), [other], {}) == "port 8080/TCP of this node is taken by pod shop/other"


def test_who_listens_is_read_from_the_kernel(tmp_path: Path) -> None:
    head = "  sl  local_address rem_address   st"
    (tmp_path / "tcp").write_text(f"{head}\n 0: 0100007F:0016 00000000:0000 0A\n 1: 0100007F:1234 0100007F:0016 01\n")
    (tmp_path / "tcp6").write_text(
        f"{head}\n 0: {'0' * 32}:01BB {'0' * 32}:0000 0A\n 1: {'0' * 31}1:0277 {'0' * 32}:0000 0A\n"
        f" 2: 0000000000000000FFFF00000100007F:0050 {'0' * 32}:0000 0A\n"
    )
    (tmp_path / "udp").write_text(f"{head}\n 0: 00000000:0035 00000000:0000 07\n 1: 00000000:0036 01020304:0035 07\n")

    assert listening(tmp_path) == {
        "tcp": frozenset({("127.0.0.1", 22), ("0.0.0.0", 443), ("127.0.0.1", 80)}),
        "udp": frozenset({("0.0.0.0", 53)}),
    }


# Names


def resolver(**spec: Any) -> dict[str, Any]:
    config: dict[str, Any] = sandbox_config(pod(**spec), 0, Path("/x"), NODE)["dns_config"]
    return config


CONFIG = {
    "nameservers": ["192.0.2.7", "10.0.0.1"],
    "searches": ["example.org", "corp"],
    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
}


def test_a_resolver_of_the_pods_own() -> None:
    assert resolver(dnsPolicy="None", dnsConfig=CONFIG) == {
        "servers": ("192.0.2.7", "10.0.0.1"),
        "searches": ("example.org", "corp"),
        "options": ("ndots:2", "edns0"),
    }


def test_what_a_pod_adds_to_the_clusters_resolver() -> None:
    assert resolver(dnsConfig=CONFIG) == {
        "servers": ("10.0.0.1", "192.0.2.7"),
        "searches": ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp", "example.org"),
        "options": ("ndots:2", "edns0"),
    }


@pytest.mark.parametrize(
    ("policy", "server"),
    [("ClusterFirst", "192.0.2.53"), ("ClusterFirstWithHostNet", "10.0.0.1"), ("Default", "192.0.2.53")],
)
def test_the_resolver_of_a_pod_on_the_nodes_network(policy: str, server: str) -> None:
    assert resolver(hostNetwork=True, dnsPolicy=policy)["servers"] == (server,)


ALIASES = [{"ip": "192.0.2.1", "hostnames": ["a", "b.c"]}]


def test_host_aliases_follow_what_is_there() -> None:
    own = hosts_file(pod(hostAliases=ALIASES), "10.0.0.7", "cluster.local", "127.0.0.1 machine\n")
    assert own.endswith("10.0.0.7\tweb\n\n# Entries added by HostAliases.\n192.0.2.1\ta\tb.c\n")
    assert own.startswith("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n")
    assert "machine" not in own
    shared = hosts_file(pod(hostNetwork=True, hostAliases=ALIASES), "192.0.2.5", "cluster.local", "127.0.0.1 machine")
    assert (
        shared
        == "# Kubernetes-managed hosts file (host network).\n127.0.0.1 machine\n\n# Entries added by HostAliases.\n192.0.2.1\ta\tb.c\n"
    )


def test_a_full_name_as_hostname_fits_the_kernel_or_is_named() -> None:
    named = pod(hostname="db-0", subdomain="db", setHostnameAsFQDN=True)
    assert sandbox_config(named, 0, Path("/x"), NODE)["hostname"] == "db-0.db.shop.svc.cluster.local"
    named.spec.subdomain = "d" * 60
    with pytest.raises(
        ConfigProblem, match=r"setHostnameAsFQDN: db-0\.d+\.shop.* has 88 characters, the kernel takes 64: choose"
    ):
        sandbox_config(named, 0, Path("/x"), NODE)
