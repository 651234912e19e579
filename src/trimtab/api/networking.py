"""The kinds of `networking.k8s.io/v1` and `discovery.k8s.io/v1`."""

from __future__ import annotations

from msgspec import field

from trimtab.api.core import ObjectReference
from trimtab.api.resource import Model, Resource, resource


class ServiceBackendPort(Model):
    name: str | None = None
    number: int | None = None


class IngressServiceBackend(Model):
    name: str
    port: ServiceBackendPort = field(default_factory=ServiceBackendPort)


class IngressBackend(Model):
    service: IngressServiceBackend | None = None


class HTTPIngressPath(Model, omit_defaults=False):
    path_type: str = "Prefix"
    path: str = "/"
    backend: IngressBackend = field(default_factory=IngressBackend)


class HTTPIngressRule(Model):
    paths: list[HTTPIngressPath] = []


class IngressRule(Model):
    host: str | None = None
    http: HTTPIngressRule | None = None


class IngressTLS(Model):
    hosts: list[str] = []
    secret_name: str | None = None


class IngressSpec(Model):
    ingress_class_name: str | None = None
    default_backend: IngressBackend | None = None
    rules: list[IngressRule] = []
    tls: list[IngressTLS] = []


class IngressPortStatus(Model, omit_defaults=False):
    port: int
    protocol: str = "TCP"


class IngressLoadBalancerIngress(Model):
    ip: str | None = None
    hostname: str | None = None
    ports: list[IngressPortStatus] = []


class IngressLoadBalancerStatus(Model):
    ingress: list[IngressLoadBalancerIngress] = []


class IngressStatus(Model):
    load_balancer: IngressLoadBalancerStatus = field(default_factory=IngressLoadBalancerStatus)


@resource("networking.k8s.io/v1", "ingresses", short_names=("ing",))
class Ingress(Resource):
    spec: IngressSpec = field(default_factory=IngressSpec)
    status: IngressStatus = field(default_factory=IngressStatus)


class IngressClassSpec(Model):
    controller: str = ""


@resource("networking.k8s.io/v1", "ingressclasses", namespaced=False, status=False)
class IngressClass(Resource):
    spec: IngressClassSpec = field(default_factory=IngressClassSpec)


class EndpointConditions(Model):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Endpoint(Model):
    addresses: list[str] = []
    conditions: EndpointConditions = field(default_factory=EndpointConditions)
    hostname: str | None = None
    node_name: str | None = None
    target_ref: ObjectReference | None = None


class EndpointPort(Model):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


SERVICE_NAME_LABEL = "kubernetes.io/service-name"


@resource("discovery.k8s.io/v1", "endpointslices", status=False)
class EndpointSlice(Resource, omit_defaults=False):
    """Belongs to the service that its label `kubernetes.io/service-name` names."""

    address_type: str = "IPv4"
    endpoints: list[Endpoint] = []
    ports: list[EndpointPort] = []
