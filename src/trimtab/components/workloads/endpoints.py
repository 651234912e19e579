"""Service -> EndpointSlices, and Endpoints, their older form: the addresses behind a service, and what each may be used for.

A pod appears once it has an address and goes when it is deleted from the API; in between its conditions say whether it
is ready for new requests, still serves, or is terminating. A proxy that watches them drains a terminating endpoint before
its process is told to stop. Rules: the EndpointSlice API (`discovery.k8s.io/v1`) and Kubernetes' `endpointslice/utils.go`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from trimtab.api import ObjectMeta
from trimtab.api.core import Endpoints, ObjectReference, Pod, Service, ServicePort
from trimtab.api.networking import SERVICE_NAME_LABEL, Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from trimtab.components.workloads import older_endpoints
from trimtab.components.workloads import pods as facts
from trimtab.components.workloads.names import safe_hash
from trimtab.runtime import Context, Desired, reconciler

MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
MANAGED_BY = "endpointslice-controller.k8s.io"
HEADLESS_LABEL = "service.kubernetes.io/headless"
ENDPOINTS_PER_SLICE = 100

Ports = tuple[tuple[str | None, int, str], ...]
"""Name, number at the pod, and protocol of each port, in the service's order."""


def resolve_ports(ports: Sequence[ServicePort], pod: Pod) -> Ports:
    """The service's ports as this pod has them; a port that it names but does not have is left out."""
    out = []
    for port in ports:
        number = _target(port, pod)
        if number is not None:
            out.append((port.name, number, port.protocol))
    return tuple(out)


def _target(port: ServicePort, pod: Pod) -> int | None:
    target = port.target_port if port.target_port not in (None, 0, "") else port.port
    if isinstance(target, int):
        return target
    for container in (*pod.spec.containers, *pod.spec.init_containers):
        for candidate in container.ports:
            if candidate.name == target and candidate.protocol == port.protocol:
                return candidate.container_port
    return None


def endpoint_of(pod: Pod, service: Service) -> Endpoint:
    """The endpoint of one pod that has an address."""
    serving = facts.ready(pod)
    terminating = facts.deleting(pod)
    own_name = pod.spec.hostname and pod.spec.subdomain == service.name
    return Endpoint(
        addresses=[pod.status.pod_ip],
        conditions=EndpointConditions(
            ready=bool(service.spec.publish_not_ready_addresses) or (serving and not terminating),
            serving=serving,
            terminating=terminating,
        ),
        hostname=pod.spec.hostname if own_name else None,
        node_name=pod.spec.node_name,
        target_ref=ObjectReference(kind="Pod", namespace=pod.namespace or "", name=pod.name, uid=pod.metadata.uid),
    )


def slices(service: Service, pods: Iterable[Pod]) -> list[EndpointSlice]:
    """The slices of a service: one address family and one set of port numbers each, at most 100 endpoints."""
    groups: dict[tuple[str, Ports], list[Endpoint]] = {}
    for pod in sorted(pods, key=lambda pod: pod.name):
        if not pod.status.pod_ip or facts.finished(pod):
            continue
        family = f"IPv{ipaddress.ip_address(pod.status.pod_ip).version}"
        ports = resolve_ports(service.spec.ports, pod)
        groups.setdefault((family, ports), []).append(endpoint_of(pod, service))
    parts = [
        (family, ports, endpoints[start : start + ENDPOINTS_PER_SLICE])
        for (family, ports), endpoints in sorted(groups.items(), key=lambda item: repr(item[0]))
        for start in range(0, len(endpoints), ENDPOINTS_PER_SLICE)
    ]
    # A service without endpoints has one empty slice: "nobody is there" is an answer, and clients wait for one.
    return [_slice(service, number, *part) for number, part in enumerate(parts or [("IPv4", (), [])])]


def _slice(service: Service, number: int, family: str, ports: Ports, endpoints: list[Endpoint]) -> EndpointSlice:
    """The slice of that number. Its name does not tell its ports, so that it stays when the last pod, which knows them, goes."""
    labels = {
        **service.metadata.labels,
        SERVICE_NAME_LABEL: service.name,
        MANAGED_BY_LABEL: MANAGED_BY,
    }
    if service.spec.cluster_ip == "None":
        labels[HEADLESS_LABEL] = ""
    suffix = safe_hash(f"{service.metadata.uid}/{family}/{number}".encode(), 5)
    return EndpointSlice(
        metadata=ObjectMeta(name=f"{service.name}-{suffix}", namespace=service.namespace, labels=labels),
        address_type=family,
        endpoints=endpoints,
        ports=[EndpointPort(name=name or "", port=number, protocol=protocol) for name, number, protocol in ports],
    )


@reconciler(Service, reads=[Pod], owns=[EndpointSlice, Endpoints], name="endpoints")
async def endpoints(subject: Service, ctx: Context) -> Desired:
    """Keeps a service's slices in step with its pods. A service without selector has its slices written by its user."""
    if not subject.spec.selector or subject.spec.type == "ExternalName":
        return Desired()
    pods = await ctx.list(Pod, subject.namespace, labels=subject.spec.selector)
    made = slices(subject, pods)
    there = await ctx.get(Endpoints, subject.name, subject.namespace)
    ours = there is None or there.metadata.uid in {obj.metadata.uid for obj in await ctx.owned(Endpoints)}
    return Desired(objects=[*made, older_endpoints.of(subject, made)] if ours else made)
