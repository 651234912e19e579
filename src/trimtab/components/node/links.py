"""Where services are, as environment variables: how a client in a pod finds the API, and what `enableServiceLinks` asks for.

    Service kubernetes -> KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT ...     every container has them
    Service redis      -> REDIS_SERVICE_HOST, REDIS_PORT_6379_TCP ...              of the pod's namespace

The names are the kubelet's, which has those of Docker's links.
"""

from __future__ import annotations

from collections.abc import Iterable

from trimtab.api.core import Pod, Service

API_NAMESPACE, API_NAME = "default", "kubernetes"


def service_links(pod: Pod, services: Iterable[Service]) -> dict[str, str]:
    """The variables that a pod's containers get of these services."""
    out: dict[str, str] = {}
    own: dict[str, str] = {}
    for service in services:
        if service.spec.cluster_ip in (None, "", "None") or service.spec.type == "ExternalName":
            continue
        if service.namespace == pod.namespace and pod.spec.enable_service_links is not False:
            own |= _variables(service)
        elif (service.namespace, service.name) == (API_NAMESPACE, API_NAME):
            out |= _variables(service)
    return out | own


def _variables(service: Service) -> dict[str, str]:
    prefix = _name(service.name)
    ip, ports = str(service.spec.cluster_ip), service.spec.ports
    out = {f"{prefix}_SERVICE_HOST": ip}
    for number, port in enumerate(ports):
        protocol = port.protocol or "TCP"
        url = f"{protocol.lower()}://{ip}:{port.port}"
        if number == 0:
            out[f"{prefix}_SERVICE_PORT"] = str(port.port)
            out[f"{prefix}_PORT"] = url
        if port.name:
            out[f"{prefix}_SERVICE_PORT_{_name(port.name)}"] = str(port.port)
        link = f"{prefix}_PORT_{port.port}_{protocol.upper()}"
        out |= {
            link: url,
            f"{link}_PROTO": protocol.lower(),
            f"{link}_PORT": str(port.port),
            f"{link}_ADDR": ip,
        }
    return out


def _name(name: str) -> str:
    return name.upper().replace("-", "_")
