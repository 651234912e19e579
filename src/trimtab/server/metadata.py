"""The rules of `metadata`: which names and labels exist, what the server fills in, what a client may not change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from trimtab.api import JSON
from trimtab.server.errors import Cause
from trimtab.server.kinds import Kind

_LABEL_TEXT = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_LABEL_TEXT}(\.{_LABEL_TEXT})*")
_LABEL = re.compile(_LABEL_TEXT)
_LABEL_1035 = re.compile("[a-z]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED = re.compile("([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_SUBDOMAIN_PROBLEM = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    rf"'{_LABEL_TEXT}(\.{_LABEL_TEXT})*')"
)
_LABEL_PROBLEM = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    rf"an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL_TEXT}')"
)
_LABEL_1035_PROBLEM = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and "
    "end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_LABEL_NAMES = frozenset({"Namespace"})
_LABEL_1035_NAMES = frozenset({"Service"})
_PATH_NAMES = frozenset({"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"})

NAME_MAX = 253
LABEL_MAX = 63
ANNOTATIONS_MAX_BYTES = 256 * 1024
GENERATED_PREFIX_MAX = 58

PRESERVED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink")
"""What only the server writes: a client's value is replaced by the live one."""


def name_problem(kind: Kind, name: str) -> str | None:
    """What is wrong with an object's name, or None."""
    builtin = not kind.crd
    if builtin and kind.kind in _PATH_NAMES:
        if name in (".", "..") or "/" in name or "%" in name:
            return "may not be '.', '..' or contain '/' or '%'"
        return None
    if builtin and kind.kind in _LABEL_NAMES:
        pattern, limit, problem = _LABEL, LABEL_MAX, _LABEL_PROBLEM
    elif builtin and kind.kind in _LABEL_1035_NAMES:
        pattern, limit, problem = _LABEL_1035, LABEL_MAX, _LABEL_1035_PROBLEM
    else:
        pattern, limit, problem = _SUBDOMAIN, NAME_MAX, _SUBDOMAIN_PROBLEM
    if len(name) > limit:
        return f"must be no more than {limit} characters"
    return None if pattern.fullmatch(name) else problem


def qualified_name_problem(key: str) -> str | None:
    """What is wrong with a label's or annotation's key, or None."""
    prefix, slash, name = key.rpartition("/")
    if slash and not (_SUBDOMAIN.fullmatch(prefix) and len(prefix) <= NAME_MAX):
        return f"prefix part {_SUBDOMAIN_PROBLEM}"
    if not name:
        return "name part must be non-empty"
    if len(name) > LABEL_MAX:
        return f"name part must be no more than {LABEL_MAX} characters"
    if not _QUALIFIED.fullmatch(name):
        return (
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
            "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
            "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
        )
    return None


def label_value_problem(value: str) -> str | None:
    if len(value) > LABEL_MAX:
        return f"must be no more than {LABEL_MAX} characters"
    if value and not _QUALIFIED.fullmatch(value):
        return (
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
            "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
            "validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
        )
    return None


def metadata_problems(kind: Kind, meta: JSON) -> list[Cause]:
    """What is wrong with the metadata that a client wrote (types were checked by the schema)."""
    found: list[Cause] = []
    name = meta.get("name") or ""
    if not name:
        found.append(Cause("metadata.name", "Required value: name or generateName is required", "FieldValueRequired"))
    elif problem := name_problem(kind, name):
        found.append(_invalid("metadata.name", name, problem))
    found += labels_problems(meta.get("labels") or {}, "metadata.labels")
    annotations = meta.get("annotations") or {}
    for key in annotations:
        if problem := qualified_name_problem(key.lower()):
            found.append(_invalid("metadata.annotations", key, problem))
    if sum(len(key) + len(value) for key, value in annotations.items()) > ANNOTATIONS_MAX_BYTES:
        found.append(
            Cause(
                "metadata.annotations",
                f"Too long: may not be more than {ANNOTATIONS_MAX_BYTES} bytes",
                "FieldValueTooLong",
            )
        )
    for index, finalizer in enumerate(meta.get("finalizers") or ()):
        if problem := qualified_name_problem(finalizer):
            found.append(_invalid(f"metadata.finalizers[{index}]", finalizer, problem))
    found += _owner_problems(meta.get("ownerReferences") or [])
    return found


def labels_problems(labels: Mapping[str, str], path: str) -> list[Cause]:
    found: list[Cause] = []
    for key, value in labels.items():
        if problem := qualified_name_problem(key):
            found.append(_invalid(path, key, problem))
        if problem := label_value_problem(value):
            found.append(_invalid(path, value, problem))
    return found


def _owner_problems(references: list[JSON]) -> list[Cause]:
    found: list[Cause] = []
    controllers = 0
    for index, reference in enumerate(references):
        for key in ("apiVersion", "kind", "name", "uid"):
            if not reference.get(key):
                found.append(Cause(f"metadata.ownerReferences[{index}].{key}", "Required value", "FieldValueRequired"))
        controllers += bool(reference.get("controller"))
    if controllers > 1:
        found.append(
            Cause("metadata.ownerReferences", "Invalid value: only one reference can have controller set to true")
        )
    return found


def _invalid(path: str, value: str, problem: str) -> Cause:
    return Cause(path, f'Invalid value: "{value}": {problem}')


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
    if not new.get("generateName") and old.get("generateName"):
        new["generateName"] = old["generateName"]


_STATUS_ALONE = frozenset(
    {"CustomResourceDefinition", "VolumeAttachment", "FlowSchema", "PriorityLevelConfiguration", "ServiceCIDR"}
)


def status_metadata(kind: Kind, new: JSON, old: JSON, *, tracked: bool) -> JSON:
    """The metadata after a write of the status: custom kinds and a few others keep theirs, all else may have it changed
    on the way, as Kubernetes' strategies have it (only a pod's owners and a Deployment's labels stay).

    tracked: the managed fields of `new` are settled.
    """
    if kind.crd or kind.kind in _STATUS_ALONE:
        return {**old, "managedFields": new.get("managedFields")} if tracked else dict(old)
    meta = dict(new)
    carry_over(meta, old)
    kept = {"Pod": "ownerReferences", "Deployment": "labels"}.get(kind.kind)
    if kept in old:
        meta[kept] = old[kept]
    elif kept:
        meta.pop(kept, None)
    return meta


def immutable_problems(path: str, new: Any, old: Any) -> list[Cause]:
    """One cause when a field that may not change has changed."""
    if new == old:
        return []
    return [Cause(path, f"Invalid value: {_shown(new)}: field is immutable")]


def _shown(value: Any) -> str:
    """A value as Kubernetes shows it in its refusals."""
    return msgspec.json.encode(value, order="sorted").decode()
