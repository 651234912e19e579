"""Endpoints, the form before EndpointSlices, in both directions: written beside the slices of a service that chooses its pods, and
made into slices where somebody wrote them for a service that chooses none.

Old clients read them, and write them: proxies, Prometheus, whoever gives an address of the outside a service's name. Rules:
Kubernetes' endpoint controller (`RepackSubsets`) and endpointslicemirroring controller.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from trimtab.api import ObjectMeta
from trimtab.api.core import Endpoints, Service
from trimtab.api.networking import SERVICE_NAME_LABEL, Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from trimtab.components.workloads.names import safe_hash
from trimtab.runtime import Context, Desired, reconciler

SKIP_LABEL = "endpointslice.kubernetes.io/skip-mirror"
MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
MIRRORING = "endpointslicemirroring-controller.k8s.io"
HEADLESS_LABEL = "service.kubernetes.io/headless"
LEADER_ANNOTATION = "control-plane.alpha.kubernetes.io/leader"
ADDRESSES_MAX = 1000
"""Of one Endpoints object, and of a mirrored subset, as in Kubernetes."""

Subset = dict[str, Any]


def of(service: Service, slices: Iterable[EndpointSlice]) -> Endpoints:
    """What a service's slices say, of its first address family."""
    subsets: list[Subset] = []
    left = ADDRESSES_MAX
    for slice_ in slices:
        if slice_.address_type != "IPv4" or not slice_.endpoints:
            continue
        ready = [_address(e) for e in slice_.endpoints if e.conditions.ready]
        waiting = [_address(e) for e in slice_.endpoints if not e.conditions.ready and not e.conditions.terminating]
        ready, waiting = ready[:left], waiting[: max(0, left - len(ready))]
        left -= len(ready) + len(waiting)
        ports = [{"name": p.name, "port": p.port, "protocol": p.protocol} for p in slice_.ports]
        subset = {"addresses": ready, "notReadyAddresses": waiting, "ports": ports}
        if ready or waiting:
            subsets.append({name: value for name, value in subset.items() if value})
    labels = {**service.metadata.labels, SKIP_LABEL: "true"}
    if service.spec.cluster_ip == "None":
        labels[HEADLESS_LABEL] = ""
    meta = ObjectMeta(name=service.name, namespace=service.namespace, labels=labels)
    return Endpoints(metadata=meta, subsets=_joined(subsets))


def _address(endpoint: Endpoint) -> dict[str, Any]:
    reference = endpoint.target_ref
    out: dict[str, Any] = {"ip": endpoint.addresses[0]}
    if endpoint.hostname:
        out["hostname"] = endpoint.hostname
    if endpoint.node_name:
        out["nodeName"] = endpoint.node_name
    if reference is not None:
        out["targetRef"] = {
            "kind": reference.kind,
            "namespace": reference.namespace,
            "name": reference.name,
            "uid": reference.uid,
        }
    return out


def _joined(subsets: Iterable[Subset]) -> list[Subset]:
    """Subsets with the same ports as one."""
    out: list[Subset] = []
    for subset in subsets:
        same = next((other for other in out if other.get("ports") == subset.get("ports")), None)
        if same is None:
            out.append(subset)
            continue
        for name in ("addresses", "notReadyAddresses"):
            if found := [*same.get(name, ()), *subset.get(name, ())]:
                same[name] = found
    return out


def mirrored(source: Endpoints) -> list[EndpointSlice]:
    """The slices of Endpoints that somebody wrote: one for each subset and address family."""
    labels = {name: value for name, value in source.metadata.labels.items() if name != HEADLESS_LABEL}
    labels |= {SERVICE_NAME_LABEL: source.name, MANAGED_BY_LABEL: MIRRORING}
    out = []
    for number, subset in enumerate(source.subsets):
        ports = [
            EndpointPort(name=p.get("name") or "", port=p.get("port"), protocol=p.get("protocol") or "TCP")
            for p in subset.get("ports") or ()
        ]
        for family, is_six in (("IPv4", False), ("IPv6", True)):
            found = [
                _endpoint(address, ready=name == "addresses")
                for name in ("addresses", "notReadyAddresses")
                for address in subset.get(name) or ()
                if (":" in address["ip"]) is is_six
            ]
            if found:
                suffix = safe_hash(f"{source.metadata.uid}/{number}/{family}".encode(), 5)
                meta = ObjectMeta(name=f"{source.name}-{suffix}", namespace=source.namespace, labels=labels)
                out.append(
                    EndpointSlice(metadata=meta, address_type=family, endpoints=found[:ADDRESSES_MAX], ports=ports)
                )
    return out


def _endpoint(address: dict[str, Any], *, ready: bool) -> Endpoint:
    return Endpoint(
        addresses=[address["ip"]],
        conditions=EndpointConditions(ready=ready),
        hostname=address.get("hostname"),
        node_name=address.get("nodeName"),
    )


def is_mirrored(source: Endpoints, services: Sequence[Service]) -> bool:
    """Whether slices are made of it: its service chooses no pods, and nobody says otherwise."""
    meta = source.metadata
    if meta.labels.get(SKIP_LABEL) == "true" or LEADER_ANNOTATION in meta.annotations:
        return False
    return any(service.name == source.name and not service.spec.selector for service in services)


@reconciler(Endpoints, reads=[Service], owns=[EndpointSlice], name="mirror")
async def mirror(subject: Endpoints, ctx: Context) -> Desired:
    """Keeps slices in step with Endpoints that somebody wrote."""
    service = await ctx.get(Service, subject.name, subject.namespace)
    services = [service] if service is not None else []
    return Desired(objects=mirrored(subject) if is_mirrored(subject, services) else [])
