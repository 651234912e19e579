"""Services, EndpointSlices and Pods in; for each backend of the route table, who should serve and who should drain.

The slices say which addresses belong to a service and on which port. Whether an address serves is read from its pod
itself, one hop earlier than the slice could tell: it enters when the pod's containers are ready, although the pod is not
Ready while its readiness gate waits for this component; it drains from the moment the pod is being deleted or leaves the
service; it is out at once when the containers are not ready any more. Addresses without a pod (slices written by hand)
go by the slice's own conditions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trimtab.api.core import Pod, Service, ServicePort
from trimtab.api.networking import SERVICE_NAME_LABEL, Endpoint, EndpointSlice
from trimtab.components.ingress.attached import announced, containers_ready
from trimtab.components.ingress.endpoints import Address, Want, Wanted, Written
from trimtab.components.ingress.routes import Backend

GRACE_S = 30
"""Kubernetes' default `terminationGracePeriodSeconds`."""
DRAIN_SHARE = 0.8
"""Of the grace period at most so much goes to the drain; the rest is the app's, between SIGTERM and SIGKILL."""

H2C = frozenset({"kubernetes.io/h2c", "h2c", "grpc"})
"""Values of a service port's `appProtocol` that mean HTTP/2 without TLS."""


@dataclass(frozen=True)
class Upstream:
    """A backend as the proxy should know it.

    claimed: by `pod_key`, the pods that should serve; those not announced yet (see `attached`) are not in `wanted`.
    problem: (reason, message) when nothing can ever serve it as declared.
    """

    backend: Backend
    http2: bool
    wanted: dict[Address, Wanted]
    claimed: frozenset[str] = frozenset()
    problem: tuple[str, str] | None = None


def upstream(
    backend: Backend,
    service: Service | None,
    slices: Iterable[EndpointSlice],
    pods: Mapping[tuple[str, str], Pod],
    written: Mapping[Address, Written],
) -> Upstream:
    """What should serve `backend`, given what its endpoint file says now.

    `slices` are those of the service, `pods` all pods by namespace and name.
    """
    if service is None:
        gone = ("ServiceMissing", f"{backend.service_ref} does not exist; create it or change the backend")
        return Upstream(backend, False, _left_over({}, written, pods), problem=gone)
    port = service_port(service, backend.port)
    if port is None:
        names = ", ".join(f"{p.name or p.port}" for p in service.spec.ports) or "none"
        text = f"{backend.service_ref} has no port {backend.port} (it has {names}); change the backend"
        return Upstream(backend, False, _left_over({}, written, pods), problem=("PortMissing", text))
    if service.spec.type == "ExternalName":
        text = f"{backend.service_ref} is of type ExternalName, which has no endpoints; name a service that has"
        return Upstream(backend, False, _left_over({}, written, pods), problem=("BackendUnsupported", text))
    wanted: dict[Address, Wanted] = {}
    for slice_ in slices:
        number = next((p.port for p in slice_.ports if (p.name or "") == (port.name or "") and p.port), None)
        if number is None or slice_.address_type == "FQDN":
            continue
        for endpoint in slice_.endpoints:
            want = _want(endpoint, slice_, pods, bool(service.spec.publish_not_ready_addresses))
            for ip in endpoint.addresses[:1]:
                address = f"[{ip}]:{number}" if ":" in ip else f"{ip}:{number}"
                if want and (address not in wanted or want.want is Want.SERVE):
                    wanted[address] = want
    claimed = frozenset(want.pod for want in wanted.values() if want.pod and want.want is not Want.DRAIN)
    wanted = {address: want for address, want in wanted.items() if want.want is not Want.ANNOUNCE}
    return Upstream(backend, port.app_protocol in H2C, _left_over(wanted, written, pods, claimed), claimed)


def service_port(service: Service, port: str) -> ServicePort | None:
    """The service's port of that name or number."""
    return next((p for p in service.spec.ports if port in (p.name, str(p.port))), None)


def service_of(slice_: EndpointSlice) -> tuple[str, str]:
    """Namespace and name of the service that a slice belongs to."""
    return slice_.namespace or "", slice_.metadata.labels.get(SERVICE_NAME_LABEL, "")


def pod_key(pod: Pod) -> str:
    """`namespace/name/uid`, as it stands in the endpoint files."""
    return f"{pod.namespace}/{pod.name}/{pod.metadata.uid}"


def drain_limit_s(pod: Pod) -> float:
    """How long the drain of a pod's endpoint may take."""
    grace = pod.metadata.deletion_grace_period_seconds
    if grace is None:
        grace = pod.spec.termination_grace_period_seconds
    return DRAIN_SHARE * (GRACE_S if grace is None else grace)


def _pod_wants(pod: Pod, not_ready_too: bool) -> Wanted | None:
    if not containers_ready(pod) and not not_ready_too:
        return None
    want = Want.DRAIN if pod.metadata.deletion_timestamp else Want.SERVE if announced(pod) else Want.ANNOUNCE
    return Wanted(want, drain_limit_s(pod), pod_key(pod))


def _want(
    endpoint: Endpoint, slice_: EndpointSlice, pods: Mapping[tuple[str, str], Pod], not_ready_too: bool
) -> Wanted | None:
    target = endpoint.target_ref
    if target and target.kind == "Pod":
        pod = pods.get((target.namespace or slice_.namespace or "", target.name))
        if pod is None or (target.uid and target.uid != pod.metadata.uid):
            return None
        return _pod_wants(pod, not_ready_too)
    conditions = endpoint.conditions
    if conditions.terminating:
        return Wanted(Want.DRAIN, DRAIN_SHARE * GRACE_S) if conditions.serving is not False else None
    return Wanted(Want.SERVE, DRAIN_SHARE * GRACE_S) if conditions.ready is not False or not_ready_too else None


def _left_over(
    wanted: dict[Address, Wanted],
    written: Mapping[Address, Written],
    pods: Mapping[tuple[str, str], Pod],
    claimed: frozenset[str] = frozenset(),
) -> dict[Address, Wanted]:
    """Adds a drain for each written address that no slice names any more, unless its pod is gone or not ready."""
    for address, before in written.items():
        if address in wanted or before.pod in claimed:
            continue
        if not before.pod:
            wanted[address] = Wanted(Want.DRAIN, DRAIN_SHARE * GRACE_S)
            continue
        namespace, name, uid = before.pod.split("/")
        pod = pods.get((namespace, name))
        if pod and pod.metadata.uid == uid and containers_ready(pod):
            wanted[address] = Wanted(Want.DRAIN, drain_limit_s(pod), before.pod)
    return wanted
