"""Objects of any built-in kind, made at random from its published schema: what every field holds has the right type, and nothing
else about it is likely. A reader of such an object may rely on its schema, and on no more.

A seed makes an object, not Hypothesis' own choices: hundreds of fields are drawn in a millisecond.
"""

from __future__ import annotations

import random
from typing import Any

from hypothesis import strategies as st

from trimtab.server.builtin_kinds import BUILTIN_KINDS
from trimtab.server.kinds import Kind
from trimtab.server.schemas import builtin
from trimtab.server.structural import Node

JSON = dict[str, Any]

DEPTH_MAX = 9
QUANTITIES = ("0", "1", "100m", "1Gi", "-1", "1e3", "12E", "0.5", "1k", 3, "99999999999999999999")
NUMBERS = (0, 1, -1, 2, 3, 80, 100, 443, 65536, 1 << 31, 1 << 53, (1 << 63) - 1)
TIMES = ("2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-11-21T10:00:00.000001Z")
TEXTS = (
    "", "a", "a", "b", "app", "fuzz", "x" * 300, "A_b.c-9", "..", "a/b", "a b", "é", "\u0000", "\n", "-", "0", "-1", "true", "10%", "100%", "%",
    "999999999999999999999%", "not a time", "$patch", "True", "False", "Unknown", "Resource", "ContainerResource", "Pods", "Object", "External",
    "Utilization", "Value", "AverageValue", "Ready", "Running", "Failed", "Complete", "RollingUpdate", "Recreate", "OnDelete", "TCP", "SCTP",
    "10.0.0.1", "fd00::1", "999.0.0.1", "10.0.0.0/8", "fd00::/300", "In", "Exists", "NotIn", "DoesNotExist", "Gt", "ConfigMap", "Pod", "v1", "apps/v1",
    "LoadBalancer", "ExternalName", "ClusterIP", "NodePort", "None", "ReadWriteOnce", "Immediate", "Always", "Never", "OnFailure", "default",
    "Allow", "NoExecute", "Burstable", "BestEffort", "Container", "PersistentVolumeClaim", "cpu", "memory", "pods", "requests.storage", "limits.cpu",
    "requests.nvidia.com/gpu", "kubernetes.io/dockerconfigjson", "* * * * *", "@daily", "Europe/Berlin", "Prefix", "Exact", "Indexed", "IPv4", "IPv6",
    "[", "(a+)+$", "self.a", "e30=", "*", "system:masters", *TIMES,
)  # fmt: skip
KINDS = tuple(kind for kind in BUILTIN_KINDS if builtin(kind.api_version, kind.kind) is not None)


def typed(rng: random.Random, node: Node, depth: int = 0) -> Any:
    """A value of a node's type."""
    match node.kind:
        case "object":
            return _object(rng, node, depth)
        case "array":
            if node.items is None or depth >= DEPTH_MAX:
                return []
            return [typed(rng, node.items, depth + 1) for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))]
        case "string":
            return rng.choice(TEXTS)
        case "boolean":
            return rng.random() < 0.5
        case "integer" | "number":
            return rng.choice(NUMBERS)
        case "intstr":
            return rng.choice(NUMBERS if rng.random() < 0.5 else TEXTS)
        case "quantity":
            return rng.choice(QUANTITIES)
        case _:
            return rng.choice((None, 1, "x", {}, {"a": [1]}, []))


def _object(rng: random.Random, node: Node, depth: int) -> JSON:
    made: JSON = {}
    if node.values is not None and depth < DEPTH_MAX:
        for _ in range(rng.randrange(3)):
            made[rng.choice(TEXTS)] = typed(rng, node.values, depth + 1)
    likely = rng.choice((0.05, 0.3, 0.9)) if depth < 5 else 0.1
    for name, child in node.fields.items():
        if (depth < DEPTH_MAX and rng.random() < likely) or (name in node.required and rng.random() < 0.97):
            made[name] = typed(rng, child, depth + 1)
    return made


def object_of(kind: Kind, seed: int) -> JSON:
    """An object of a kind, named `fuzz`; its metadata has nothing unlikely, for what the server makes of that is tried elsewhere."""
    rng = random.Random(seed)
    schema = builtin(kind.api_version, kind.kind)
    assert schema is not None
    made: JSON = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": "fuzz"}}
    for name, child in schema.root.fields.items():
        if name not in made and (name in schema.root.required or rng.random() < 0.85):
            made[name] = typed(rng, child, 1)
    if rng.random() < 0.3:
        made["metadata"]["labels"] = {rng.choice(("a", "app", "node-role.kubernetes.io/x")): rng.choice(("", "b"))}
    return made


def objects_of(*kinds: Kind) -> st.SearchStrategy[tuple[Kind, JSON]]:
    """A kind of these, and an object of it."""
    seeds = st.integers(0, (1 << 48) - 1)
    return st.tuples(st.sampled_from(kinds or KINDS), seeds).map(lambda case: (case[0], object_of(*case)))
