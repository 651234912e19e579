"""The addresses behind a service and what each may be used for."""

from __future__ import annotations

from typing import Any

from trimtab.api import ObjectMeta
from trimtab.api.core import Container, ContainerPort, Pod, PodIP, Service, ServicePort, ServiceSpec
from trimtab.components.workloads.endpoints import ENDPOINTS_PER_SLICE, slices
from workload_pods import make_pod


def make_service(*ports: ServicePort, **spec: Any) -> Service:
    return Service(
        metadata=ObjectMeta(name="web", namespace="default", uid="s", labels={"team": "a"}),
        spec=ServiceSpec(selector={"app": "web"}, ports=list(ports) or [ServicePort(port=80)], **spec),
    )


def served(name: str, ip: str = "10.0.0.1", **pod: Any) -> Pod:
    pod.setdefault("ready_for_s", 5)
    made = make_pod(name, **pod)
    made.status.pod_ip = ip
    made.status.pod_ips = [PodIP(ip=ip)]
    return made


def conditions(pod: Pod, **spec: Any) -> tuple[bool | None, bool | None, bool | None]:
    found = slices(make_service(**spec), [pod])[0].endpoints[0].conditions
    return found.ready, found.serving, found.terminating


def test_conditions_follow_the_pod() -> None:
    assert conditions(served("a")) == (True, True, False)
    assert conditions(served("a", ready_for_s=None)) == (False, False, False)
    assert conditions(served("a", deleting=True)) == (False, True, True)
    assert conditions(served("a", deleting=True, ready_for_s=None)) == (False, False, True)
    assert conditions(served("a", ready_for_s=None), publish_not_ready_addresses=True) == (True, False, False)


def test_without_address_or_after_its_end_a_pod_is_no_endpoint() -> None:
    [piece] = slices(make_service(), [make_pod("a"), served("b", phase="Succeeded")])
    assert piece.endpoints == []


def test_a_service_without_pods_has_an_empty_slice_with_labels() -> None:
    [piece] = slices(make_service(), [])
    assert piece.metadata.labels == {
        "team": "a",
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }


def test_a_headless_service_says_so_and_names_hosts() -> None:
    pod = served("db-0", hostname="db-0", subdomain="web")
    [piece] = slices(make_service(cluster_ip="None"), [pod])
    assert piece.metadata.labels["service.kubernetes.io/headless"] == ""
    assert piece.endpoints[0].hostname == "db-0"


def test_named_target_ports_are_looked_up_in_each_pod() -> None:
    service = make_service(ServicePort(port=80, name="http", target_port="web"), ServicePort(port=9, target_port=99))
    old = served("a", containers=[Container(name="c", ports=[ContainerPort(container_port=8000, name="web")])])
    new = served("b", containers=[Container(name="c", ports=[ContainerPort(container_port=9000, name="web")])])
    other = served("c")
    found = {
        tuple(port.port for port in piece.ports): [e.target_ref and e.target_ref.name for e in piece.endpoints]
        for piece in slices(service, [old, new, other])
    }
    assert found == {(8000, 99): ["a"], (9000, 99): ["b"], (99,): ["c"]}


def test_families_and_sizes_are_kept_apart() -> None:
    pods = [served(f"p{n:03}", f"10.0.{n // 200}.{n % 200}") for n in range(ENDPOINTS_PER_SLICE + 1)]
    found = slices(make_service(), [*pods, served("six", "fd00::1")])
    assert sorted((piece.address_type, len(piece.endpoints)) for piece in found) == [
        ("IPv4", 1),
        ("IPv4", 100),
        ("IPv6", 1),
    ]
    assert len({piece.name for piece in found}) == 3
