"""The rules of `metadata`: which names and labels exist, what the server fills in, what a client may not change."""

from __future__ import annotations

import json
from typing import Any

from trimtab.api import JSON
from trimtab.server import names
from trimtab.server.errors import Cause
from trimtab.server.kinds import Kind
from trimtab.server.problems import immutable, invalid, invalids, labels, too_long

_LABEL_NAMES = frozenset({"Namespace", "Service", "StatefulSet"})
_FINALIZERS = frozenset({"kubernetes", "orphan", "foregroundDeletion"})
_LENIENT = frozenset({"apiextensions.k8s.io", "admissionregistration.k8s.io"})
"""Groups whose objects may have finalizers of any name."""
_PATH_NAMES = frozenset({"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "PodDisruptionBudget"})

ANNOTATIONS_MAX_BYTES = 256 * 1024
GENERATED_PREFIX_MAX = 58

PRESERVED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")
"""What only the server writes: a client's value is replaced by the live one."""


def name_problems(kind: Kind, name: str) -> list[str]:
    """What is wrong with an object's name."""
    builtin = not kind.crd
    if builtin and kind.kind in _PATH_NAMES:
        return names.path_segment(name)
    if builtin and kind.kind == "IPAddress":
        return names.ip_address(name)
    if builtin and kind.kind in _LABEL_NAMES:
        return names.dns_label(name)
    return names.dns_subdomain(name)


def metadata_problems(kind: Kind, meta: JSON) -> list[Cause]:
    """What is wrong with the metadata that a client wrote (types were checked by the schema)."""
    found: list[Cause] = []
    name = meta.get("name") or ""
    if not name:
        found.append(Cause("metadata.name", "Required value: name or generateName is required", "FieldValueRequired"))
    else:
        found += invalids("metadata.name", name, name_problems(kind, name))
    found += labels(meta.get("labels") or {}, "metadata.labels")
    annotations = meta.get("annotations") or {}
    for key in annotations:
        found += invalids("metadata.annotations", key, names.qualified_name(key.lower()))
    if sum(len(key) + len(value) for key, value in annotations.items()) > ANNOTATIONS_MAX_BYTES:
        found.append(too_long("metadata.annotations", ANNOTATIONS_MAX_BYTES))
    for index, finalizer in enumerate(meta.get("finalizers") or ()):
        found += invalids("metadata.finalizers", finalizer, names.qualified_name(finalizer))
        if "/" not in finalizer and finalizer not in _FINALIZERS and not kind.crd and kind.group not in _LENIENT:
            text = "name is neither a standard finalizer name nor is it fully qualified"
            found.append(invalid(f"metadata.finalizers[{index}]", finalizer, text))
    found += _owner_problems(meta.get("ownerReferences") or [])
    return found


def _owner_problems(references: list[JSON]) -> list[Cause]:
    path = "metadata.ownerReferences"
    found: list[Cause] = []
    controller = ""
    for reference in references:
        version = reference.get("apiVersion") or ""
        if not version.rpartition("/")[2]:
            found += invalids(f"{path}.apiVersion", version, ["version must not be empty"])
        if (version, reference.get("kind")) == ("v1", "Event"):
            found.append(
                Cause(path, f"Invalid value: {_shown(reference)}: /v1, Kind=Event is disallowed from being an owner")
            )
        for key in ("kind", "name", "uid"):
            if not reference.get(key):
                found += invalids(f"{path}.{key}", "", ["must not be empty"])
        if reference.get("controller"):
            this = f"{reference.get('kind')}/{reference.get('name')}"
            if controller:
                text = (
                    'Only one reference can have Controller set to true. Found "true" in references for '
                    f"{controller} and {this}"
                )
                shown = ",".join(map(_shown, references))
                found.append(Cause(path, f"Invalid value: [{shown}]: {text}"))
            controller = controller or this
    return found


def _shown(reference: JSON) -> str:
    """A reference in the order of Go's fields."""
    names = ("apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion")
    return json.dumps({name: reference[name] for name in names if name in reference}, separators=(",", ":"))


def carry_over(new: JSON, old: JSON) -> None:
    """Gives an updated object's metadata what only the server writes."""
    for key in PRESERVED:
        if key in old:
            new[key] = old[key]
        else:
            new.pop(key, None)
    new["name"] = old["name"]
    if "namespace" in old:
        new["namespace"] = old["namespace"]
    else:
        new.pop("namespace", None)
    new.pop("selfLink", None)
    if not new.get("generateName") and old.get("generateName"):
        new["generateName"] = old["generateName"]


TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"
"""Counts the changes of a DaemonSet's template, as the API before apps/v1 did in its spec."""
STATUS_KEEPS = {"Pod": "ownerReferences", "Deployment": "labels"}
"""What of its metadata a write of a built-in kind's status leaves alone."""
STATUS_ALONE = frozenset(
    {"CustomResourceDefinition", "VolumeAttachment", "FlowSchema", "PriorityLevelConfiguration", "ServiceCIDR"}
)


def status_metadata(kind: Kind, new: JSON, old: JSON, *, tracked: bool) -> JSON:
    """The metadata after a write of the status: custom kinds and a few others keep theirs, all else may have it changed
    on the way, as Kubernetes' strategies have it (only a pod's owners and a Deployment's labels stay).

    tracked: the managed fields of `new` are settled.
    """
    if kind.crd or kind.kind in STATUS_ALONE:
        return {**old, "managedFields": new.get("managedFields")} if tracked else dict(old)
    meta = dict(new)
    carry_over(meta, old)
    count = (old.get("annotations") or {}).get(TEMPLATE_GENERATION)
    if kind.kind == "DaemonSet" and count is not None:
        meta["annotations"] = {**(meta.get("annotations") or {}), TEMPLATE_GENERATION: count}
    kept = STATUS_KEEPS.get(kind.kind)
    if kept in old:
        meta[kept] = old[kept]
    elif kept:
        meta.pop(kept, None)
    return meta


def immutable_problems(path: str, new: Any, old: Any) -> list[Cause]:
    """One cause when a field that may not change has changed."""
    return list(immutable(path, new, old))
