"""A lab: a network and the hosts in it, as one object of an API of one's own.

trimtab composition test --package acme-lab==1.0.0 --function acme_lab:compose --xr lab.yaml
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from acme_lab.cloud import Network, NetworkFields, Server, ServerDisk, ServerFields
from trimtab.compose import Claim, Composed, Limit, Observed, Status, definition

DISK_GB = {"small": 20, "large": 100}


@dataclass
class Lab:
    """Some hosts in a network of their own."""

    region: Annotated[str, Limit(immutable=True), "Where; it stays."]
    hosts: Annotated[int, Limit(ge=1, le=20), "How many hosts."] = 1
    size: Literal["small", "large"] = "small"
    cidr: Annotated[str, Limit(pattern=r"^[0-9.]+/[0-9]+$"), "The network's addresses."] = "10.0.0.0/16"


@dataclass
class LabStatus:
    addresses: list[str]


@definition(
    group="acme.example",
    status=LabStatus,
    connection={"network": "{{ net.status.id }}", "first": "{{ host-0.address }}"},
)
def compose(xr: Claim[Lab], observed: Observed) -> Composed:
    """A network, then its hosts: each takes the network's id as soon as there is one, and goes before the network goes."""
    net = Network("net", NetworkFields(name=xr.named("net"), range=xr.spec.cidr))
    hosts = [
        Server(
            f"host-{number}",
            ServerFields(
                name=xr.named(f"host-{number}"),
                region=xr.spec.region,
                network=net.output("id"),
                disk=[ServerDisk(label="root", size=DISK_GB[xr.spec.size])],
            ),
            connection={"address": "{{ address }}"},
        )
        for number in range(xr.spec.hosts)
    ]
    addresses = [observed[host.name].at("atProvider.address") for host in hosts]
    return [net, *hosts, Status(LabStatus([str(one) for one in addresses if one]))]
