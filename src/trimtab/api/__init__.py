"""What an object is: metadata, references, conditions, typed kinds. Pure; no I/O.

Read `resource.py` first (what a kind is), then the kinds by group: `core.py`, `workloads.py`, `networking.py`,
`cluster.py`, `storage.py`.
"""

from trimtab.api import certificates, cluster, core, networking, runtimes, scheduling, storage, workloads
from trimtab.api.resource import (
    JSON,
    Condition,
    InvalidObject,
    Model,
    ObjectMeta,
    OwnerReference,
    Ref,
    Resource,
    ResourceType,
    ResourceVersion,
    Uid,
    all_kinds,
    from_wire,
    kind_of,
    resource,
    to_wire,
)

__all__ = [
    "JSON",
    "Condition",
    "InvalidObject",
    "Model",
    "ObjectMeta",
    "OwnerReference",
    "Ref",
    "Resource",
    "ResourceType",
    "ResourceVersion",
    "Uid",
    "all_kinds",
    "certificates",
    "cluster",
    "core",
    "from_wire",
    "kind_of",
    "networking",
    "resource",
    "runtimes",
    "scheduling",
    "storage",
    "to_wire",
    "workloads",
]
