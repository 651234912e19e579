"""The objects that an engine itself puts into its API: the namespace of the platform, its CA, the components' CRDs, and what
its own processes may do.

    `trimtab start`: structs -> CRDs, roles -> RUN/supervisor/objects.json -> API server, before it says that it is ready

CRDs are made from source text, which takes parsers that an API server needs never again; so the starting command makes
them, and the server only applies them to itself. Namespaces and roles that every cluster has are the server's own.
"""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path

from trimtab.api import JSON, ObjectMeta, Resource, from_wire
from trimtab.api.cluster import ClusterRole, ClusterRoleBinding, CustomResourceDefinition
from trimtab.api.core import Endpoints, Namespace, Secret, Service
from trimtab.api.networking import SERVICE_NAME_LABEL, EndpointSlice
from trimtab.client import Client, Transport, WireClient
from trimtab.engine.datadir import supervisor_run
from trimtab.engine.plan import write_json
from trimtab.runtime.component import Component
from trimtab.runtime.settings import Settings

MANAGER = "trimtab-engine"
SYSTEM_NAMESPACE = "trimtab-system"
CA_SECRET = "engine-ca"
OBJECTS = "objects.json"
RETIRED = ("trimtab:compositions:edit",)
"""ClusterRoles that an earlier version made and nothing needs any more."""
_TYPES = {
    kind.resource_type.kind: kind.resource_type for kind in (CustomResourceDefinition, ClusterRole, ClusterRoleBinding)
}


def write_definitions(settings: Settings, components: Sequence[Component]) -> Path:
    """Writes the CRDs of all kinds that are not built in and the roles of the engine's processes, for the API server to
    apply; returns the file's path."""
    from trimtab.engine.access_roles import presets, roles
    from trimtab.runtime.crd import crd
    from trimtab.runtime.process import RUNTIME_KINDS

    kinds = dict.fromkeys([*RUNTIME_KINDS, *(kind for component in components for kind in component.kinds)])
    definitions = [crd(kind) for kind in kinds if not kind.resource_type.builtin]
    definitions += roles(components) + presets(components)
    path = supervisor_run(settings) / OBJECTS
    write_json(str(path), definitions, 0o644)
    return path


async def apply_objects(settings: Settings, transport: Transport) -> None:
    """Applies everything to the API. What is there already and as it should be stays untouched."""
    client = Client(transport)
    await client.apply(Namespace(metadata=ObjectMeta(name=SYSTEM_NAMESPACE)), manager=MANAGER)
    await client.apply(ca_secret(settings), manager=MANAGER)
    wire = WireClient(transport, agent=MANAGER)
    for kind, body in api_service(settings):
        named = {"apiVersion": kind.resource_type.api_version, "kind": kind.resource_type.kind, **body}
        await wire.apply(kind.resource_type, named, manager=MANAGER)
    definitions: list[JSON] = json.loads((supervisor_run(settings) / OBJECTS).read_bytes())
    for definition in definitions:
        await wire.apply(_TYPES[definition["kind"]], definition, manager=MANAGER)
    for name in RETIRED:
        if await wire.get(ClusterRole.resource_type, name) is not None:
            await wire.delete(ClusterRole.resource_type, name)


def api_service(settings: Settings) -> list[tuple[type[Resource], JSON]]:
    """Service `default/kubernetes` with its endpoint: how pods reach the API. The address is the bridge's, which is this
    machine for every pod, and nobody's for the world outside (the node agent's guard rules)."""
    address = settings.gateway
    labels = {"component": "apiserver", "provider": "kubernetes"}
    meta = {"name": "kubernetes", "namespace": "default"}
    port = {"name": "https", "port": settings.api_port, "protocol": "TCP"}
    service = {
        "metadata": {**meta, "labels": labels},
        "spec": {
            "clusterIP": str(ipaddress.IPv4Network(settings.service_cidr)[1]),
            "ports": [{"name": "https", "port": 443, "targetPort": settings.api_port, "protocol": "TCP"}],
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
    }
    endpoints = {"metadata": meta, "subsets": [{"addresses": [{"ip": address}], "ports": [port]}]}
    piece = {
        "metadata": {**meta, "labels": {SERVICE_NAME_LABEL: "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [port],
    }
    return [(Service, service), (Endpoints, endpoints), (EndpointSlice, piece)]


def ca_secret(settings: Settings) -> Secret:
    """The engine's CA as a Secret, for those who issue certificates."""
    folder = settings.data_path("pki")
    data = {
        "tls.crt": base64.b64encode((folder / "ca.crt").read_bytes()).decode(),
        "tls.key": base64.b64encode((folder / "ca.key").read_bytes()).decode(),
    }
    raw: JSON = {
        "metadata": {"name": CA_SECRET, "namespace": SYSTEM_NAMESPACE},
        "type": "kubernetes.io/tls",
        "data": data,
    }
    return from_wire(Secret, raw)
