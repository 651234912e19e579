"""The container runtimes that a node has: runc alone, which containerd uses for a pod that names no other."""

from __future__ import annotations

from trimtab.api.core import Pod
from trimtab.api.runtimes import RuntimeClass
from trimtab.components.node.environment import Lookup

RUNTIME = "runc"


async def runtime_missing(pod: Pod, get: Lookup) -> str:
    """Why the pod's runtime cannot be had, in containerd's words where it is about the handler; empty when it can."""
    name = pod.spec.runtime_class_name
    if not name:
        return ""
    found = await get(RuntimeClass, name)
    if found is None:
        return f'RuntimeClass "{name}" not found'
    return "" if found.handler == RUNTIME else f'no runtime for "{found.handler}" is configured'
