"""Endpoints, the form before EndpointSlices, in both directions."""

from __future__ import annotations

from typing import Any

from trimtab.api import ObjectMeta
from trimtab.api.core import Endpoints, Pod, PodIP, Service, ServicePort, ServiceSpec
from trimtab.components.workloads.endpoints import slices
from trimtab.components.workloads.older_endpoints import is_mirrored, mirrored, of
from workload_pods import make_pod


def service(selector: dict[str, str] | None = None, **spec: Any) -> Service:
    return Service(
        metadata=ObjectMeta(name="web", namespace="default", uid="s", labels={"team": "a"}),
        spec=ServiceSpec(selector=selector or {}, ports=[ServicePort(port=80)], **spec),
    )


def served(name: str, ip: str, **pod: Any) -> Pod:
    made = make_pod(name, **{"ready_for_s": 5, **pod})
    made.status.pod_ip = ip
    made.status.pod_ips = [PodIP(ip=ip)]
    return made


def written(**subset: Any) -> Endpoints:
    return Endpoints(metadata=ObjectMeta(name="web", namespace="default", uid="e", labels={"a": "b"}), subsets=[subset])


def test_pods_are_ready_or_not_and_gone_when_they_terminate() -> None:
    chosen = service({"app": "web"}, cluster_ip="None")
    pods = [
        served("a", "10.0.0.1"),
        served("b", "10.0.0.2", ready_for_s=None),
        served("c", "10.0.0.3", deleting=True),
    ]
    made = of(chosen, slices(chosen, pods))
    (subset,) = made.subsets
    assert [address["ip"] for address in subset["addresses"]] == ["10.0.0.1"]
    assert [address["ip"] for address in subset["notReadyAddresses"]] == ["10.0.0.2"]
    assert subset["addresses"][0]["targetRef"]["name"] == "a"
    assert made.metadata.name == "web"
    assert made.metadata.labels == {
        "team": "a",
        "endpointslice.kubernetes.io/skip-mirror": "true",
        "service.kubernetes.io/headless": "",
    }
    assert of(chosen, slices(chosen, [])).subsets == []


def test_of_many_pods_a_thousand_are_named_in_one_subset() -> None:
    chosen = service({"app": "web"})
    pods = [served(f"p{n}", f"10.0.{n // 250}.{n % 250 + 1}") for n in range(1200)]
    (subset,) = of(chosen, slices(chosen, pods)).subsets
    assert len(subset["addresses"]) == 1000


def test_what_somebody_wrote_becomes_a_slice_of_each_family() -> None:
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    found = mirrored(
        written(
            addresses=[{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}], notReadyAddresses=[{"ip": "192.0.2.2"}], ports=ports
        )
    )
    assert [slice_.address_type for slice_ in found] == ["IPv4", "IPv6"]
    assert [(e.addresses, e.conditions.ready) for e in found[0].endpoints] == [
        (["192.0.2.1"], True),
        (["192.0.2.2"], False),
    ]
    assert [(port.name, port.port) for port in found[0].ports] == [("http", 80)]
    assert found[0].metadata.labels == {
        "a": "b",
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
    }


def test_only_services_without_selector_have_their_endpoints_mirrored() -> None:
    mine = written(addresses=[{"ip": "192.0.2.1"}])
    assert is_mirrored(mine, [service()])
    assert not is_mirrored(mine, [service({"app": "web"})])
    assert not is_mirrored(mine, [])
    mine.metadata.annotations["control-plane.alpha.kubernetes.io/leader"] = "{}"
    assert not is_mirrored(mine, [service()])
    chosen = service({"app": "web"})
    assert not is_mirrored(of(chosen, slices(chosen, [])), [service()])
