"""NetworkPolicy of `networking.k8s.io/v1`: which pods may talk to which."""

from __future__ import annotations

from msgspec import field

from trimtab.api.labels import LabelSelector
from trimtab.api.resource import Model, Resource, resource


class IPBlock(Model):
    cidr: str
    except_: list[str] = field(default=[], name="except")


class NetworkPolicyPeer(Model):
    """An address block, or pods by their labels and those of their namespace (left out: the policy's own)."""

    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: IPBlock | None = None


class NetworkPolicyPort(Model):
    """Left out: every port. `port` may be the name of a container's port."""

    protocol: str | None = None
    port: int | str | None = None
    end_port: int | None = None


class NetworkPolicyIngressRule(Model):
    from_: list[NetworkPolicyPeer] = field(default=[], name="from")
    ports: list[NetworkPolicyPort] = []


class NetworkPolicyEgressRule(Model):
    to: list[NetworkPolicyPeer] = []
    ports: list[NetworkPolicyPort] = []


class NetworkPolicySpec(Model):
    pod_selector: LabelSelector = field(default_factory=LabelSelector)
    ingress: list[NetworkPolicyIngressRule] = []
    egress: list[NetworkPolicyEgressRule] = []
    policy_types: list[str] = []


@resource("networking.k8s.io/v1", "networkpolicies", short_names=("netpol",), status=False)
class NetworkPolicy(Resource):
    spec: NetworkPolicySpec = field(default_factory=NetworkPolicySpec)
