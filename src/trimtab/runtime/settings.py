"""Where one engine keeps its things and what it listens on: the same value in every process of the engine.

The engine writes it to `DATA/engine.json` at the first start and passes it to each process; components read it and never
guess a path. On a real cluster only the fields that make sense there are set.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import msgspec

NODES_MAX = 15
"""A cluster's range has sixteen /24: one a node, and one for the wires between them."""


def node_number(name: str) -> int:
    """2 for `node-2`."""
    return int(name.rpartition("-")[2])


class Settings(msgspec.Struct, kw_only=True, frozen=True):
    """One engine. Paths are absolute. Ports are on loopback unless `listen` says otherwise."""

    id: str
    """Six hex digits, chosen at the first start: names bridge, nft table, cgroup and run directory of this engine."""
    data: str
    """The data directory (`--data`)."""
    run: str
    """The run directory, `/run/trimtab/<id>`: sockets and pid files; gone after a reboot. Root's, but for `user/` and
    `proxy/`, where the unprivileged processes put their sockets."""
    api_port: int = 6443
    http_port: int = 80
    https_port: int = 443
    web_port: int = 8080
    admission_port: int = 0
    """Where the API server of a cluster that is not ours asks about writes; 0: a free port."""
    listen: str = "127.0.0.1"
    """The address that API, web and ingress listen on. Beyond loopback only when asked."""
    node_name: str = "node-1"
    pod_cidr: str = "10.244.0.0/24"
    """The pods of this node."""
    cluster_cidr: str = ""
    """The pods of all nodes and the wires between them; empty: there is one node, and `pod_cidr` is all."""
    nodes: tuple[str, ...] = ()
    """The further nodes of this machine: `node-2`, `node-3` ..."""
    node_lease_s: int = 40
    """A node that was not heard of for so long counts as silent (Kubernetes' node-monitor-grace-period)."""
    service_cidr: str = "10.96.0.0/16"
    cluster_domain: str = "cluster.local"
    proxy_protocol: bool = False
    """Connections to the ingress begin with a PROXY header (v1 or v2) of a load balancer that stands before it."""
    node_config: dict[str, Any] = {}
    """How nodes guard memory, disk and process ids: the part of a KubeletConfiguration that the user gave."""
    user: str = "trimtab"
    """The user that the API server and the controllers run as; see `proxy_user` and `web_user` for the rest."""

    def data_path(self, *parts: str) -> Path:
        """`DATA/parts`: store, pki, content, journal and proxy belong to `user`; log and node to root."""
        return Path(self.data, *parts)

    def run_path(self, *parts: str) -> Path:
        return Path(self.run, *parts)

    @property
    def proxy_user(self) -> str:
        """The user that Envoy runs as: it reads its own configuration and reaches no other part of the engine."""
        return f"{self.user}-proxy"

    @property
    def web_user(self) -> str:
        """The user that the dashboard runs as: it reads the journal, and the API by the rights of its role."""
        return f"{self.user}-web"

    @property
    def api_socket(self) -> Path:
        """The API's unix socket. The kernel says which user connects: root and `user` are trusted and may name their
        actor by the standard `Impersonate-User` header, `web_user` has its role, nobody else is let in."""
        return self.run_path("user", "api.sock")

    @property
    def containerd_socket(self) -> Path:
        return self.run_path("containerd.sock")

    @property
    def envoy_admin_socket(self) -> Path:
        """Envoy's admin interface, a unix socket for Envoy and `user`."""
        return self.run_path("proxy", "admin.sock")

    @property
    def node_socket(self) -> Path:
        """The node agent's streaming endpoint (logs, exec, attach, port-forward) for the API server."""
        return self.run_path("node.sock")

    @property
    def gateway(self) -> str:
        """The bridge's address: the pods' gateway and DNS server, and where they reach the API."""
        return str(ipaddress.IPv4Network(self.pod_cidr)[1])

    @property
    def reachable(self) -> bool:
        """Whether others than this machine and its pods may reach what the engine offers."""
        return not ipaddress.ip_address(self.listen).is_loopback

    @property
    def cluster(self) -> str:
        """The range of everything that is a pod or a node of this engine."""
        return self.cluster_cidr or self.pod_cidr

    def for_node(self, name: str) -> Settings:
        """These settings as the agent of a further node sees them: its own name and pods. Paths stay: in its mount
        namespace they lead to its own disk and run directory."""
        return msgspec.structs.replace(self, node_name=name, pod_cidr=self._piece(node_number(name) - 1))

    def _piece(self, number: int) -> str:
        """The n-th /24 of the cluster's range. The last one is for the wires between nodes."""
        whole = ipaddress.IPv4Network(self.cluster_cidr)
        return str(ipaddress.IPv4Network((int(whole.network_address) + (number << 8), 24)))

    def uplink(self, name: str) -> dict[str, str]:
        """Names and addresses of the wire between this machine and a further node."""
        number = node_number(name)
        wires = int(ipaddress.IPv4Network(self._piece(NODES_MAX))[0])
        return {
            "host_if": f"{self.bridge}-n{number}",
            "node_if": f"{self.bridge}-up",
            "host_ip": str(ipaddress.IPv4Address(wires + 4 * number + 1)),
            "node_ip": str(ipaddress.IPv4Address(wires + 4 * number + 2)),
            "pods": self._piece(number - 1),
        }

    def node_run(self, name: str) -> Path:
        """The run directory of a further node, as this machine sees it."""
        return self.run_path("nodes", name)

    def node_socket_of(self, name: str) -> Path:
        """The streaming endpoint of a node's agent, as this machine sees it."""
        return self.node_run(name) / self.node_socket.name if name in self.nodes else self.node_socket

    @property
    def bridge(self) -> str:
        return f"tt-{self.id}"

    @property
    def nft_table(self) -> str:
        return f"trimtab-{self.id}"

    @property
    def first_node(self) -> bool:
        """Whether these are the settings of the node that is the machine itself, not of one that shares it."""
        return not self.cluster_cidr or self.pod_cidr == self._piece(0)

    @property
    def cgroup(self) -> str:
        """The parent cgroup of all pods, relative to each controller's root."""
        return f"/trimtab-{self.id}" if self.first_node else f"/trimtab-{self.id}-{self.node_name}"

    @property
    def image_registry(self) -> str:
        """The registry name of images that this engine built: `trimtab.local/NAME@sha256:...`. Served, read-only, by the
        node agent from the content store to containerd alone."""
        return "trimtab.local"
