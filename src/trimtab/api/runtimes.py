"""node.k8s.io: which container runtime a pod is run by."""

from __future__ import annotations

from trimtab.api.core import Toleration
from trimtab.api.resource import Model, Resource, resource


class Overhead(Model):
    pod_fixed: dict[str, str | int] = {}


class RuntimeScheduling(Model):
    node_selector: dict[str, str] = {}
    tolerations: list[Toleration] = []


@resource("node.k8s.io/v1", "runtimeclasses", namespaced=False, status=False)
class RuntimeClass(Resource):
    handler: str = ""
    overhead: Overhead | None = None
    scheduling: RuntimeScheduling | None = None
