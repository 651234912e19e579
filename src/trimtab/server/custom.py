"""Custom kinds: what a CustomResourceDefinition makes of itself when it is written, and the kinds that it serves.

A CRD is established at once, in the same revision that creates it: nothing else has to agree on its names. What a definition must be
stands in `custom_checks.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from trimtab.api import JSON
from trimtab.server.kinds import Column, Kind, Scale
from trimtab.store import Record

if TYPE_CHECKING:
    from trimtab.server.schemas import Schema

_VERSION = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?")


def version_priority(version: str) -> tuple[int, int, int, str]:
    """Sorts `v2, v1, v1beta2, v1beta1, v1alpha1, zeta`: stable first, newest first, then by name."""
    found = _VERSION.fullmatch(version)
    if found is None:
        return (3, 0, 0, version)
    major, stage, minor = found.groups()
    return ({"alpha": 2, "beta": 1, None: 0}[stage], -int(major), -int(minor or 0), "")


class _Names(msgspec.Struct, rename="camel"):
    plural: str
    kind: str
    singular: str = ""
    list_kind: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()


class _ScalePaths(msgspec.Struct, rename="camel"):
    spec_replicas_path: str
    status_replicas_path: str
    label_selector_path: str = ""


class _Subresources(msgspec.Struct):
    status: JSON | None = None
    scale: _ScalePaths | None = None


class _Column(msgspec.Struct, rename="camel"):
    name: str
    type: str
    json_path: str
    format: str = ""
    description: str = ""
    priority: int = 0


class _SelectableField(msgspec.Struct, rename="camel"):
    json_path: str


class _Version(msgspec.Struct, rename="camel"):
    """A version without its schema, which is by far the largest part and is read when it is needed."""

    name: str
    served: bool = False
    storage: bool = False
    deprecated: bool = False
    deprecation_warning: str = ""
    subresources: _Subresources | None = None
    additional_printer_columns: tuple[_Column, ...] = ()
    selectable_fields: tuple[_SelectableField, ...] = ()


class _Spec(msgspec.Struct):
    group: str
    names: _Names
    scope: str
    versions: tuple[_Version, ...]


class _CrdMeta(msgspec.Struct, rename="camel"):
    deletion_timestamp: str | None = None


class _Crd(msgspec.Struct):
    spec: _Spec
    metadata: _CrdMeta


_decode_crd = msgspec.json.Decoder(_Crd).decode


def kinds_of_crd(record: Record, complete: Callable[[Kind, JSON], None] | None = None) -> tuple[Kind, ...]:
    """The kinds, one a served version, that an established CRD serves. complete: see `Kind`."""
    crd = _decode_crd(record.value)
    since = record.revision if b'"default":' in record.value else 0
    spec = crd.spec
    names = spec.names
    stored = next(version.name for version in spec.versions if version.storage)
    return tuple(
        Kind(
            group=spec.group,
            version=version.name,
            kind=names.kind,
            plural=names.plural,
            namespaced=spec.scope == "Namespaced",
            short_names=names.short_names,
            categories=names.categories,
            singular=names.singular or names.kind.lower(),
            list_kind=names.list_kind or names.kind + "List",
            status=version.subresources is not None and version.subresources.status is not None,
            scale=_scale(version.subresources),
            stored_version=stored,
            crd=record.key,
            columns=tuple(
                Column(c.name, c.type, c.json_path, c.format, c.description, c.priority)
                for c in version.additional_printer_columns
            ),
            selectable=tuple(field.json_path.lstrip(".") for field in version.selectable_fields),
            terminating=crd.metadata.deletion_timestamp is not None,
            warning=_deprecation(spec, version),
            defaults_since=since,
            complete=complete if since else None,
        )
        for version in spec.versions
        if version.served
    )


def _scale(subresources: _Subresources | None) -> Scale | None:
    if subresources is None or subresources.scale is None:
        return None
    paths = subresources.scale
    return Scale(
        paths.spec_replicas_path.lstrip("."),
        paths.status_replicas_path.lstrip("."),
        paths.label_selector_path.lstrip("."),
    )


def _deprecation(spec: _Spec, version: _Version) -> str:
    if not version.deprecated:
        return ""
    return version.deprecation_warning or f"{spec.group}/{version.name} {spec.names.kind} is deprecated"


def schema_of(kind: Kind, crd: Record) -> Schema:
    """The compiled schema of a custom kind."""
    from trimtab.server.schemas import compile_crd_schema

    spec = msgspec.json.decode(crd.value)["spec"]
    version = next(v for v in spec["versions"] if v["name"] == kind.version)
    return compile_crd_schema(
        (version.get("schema") or {}).get("openAPIV3Schema") or {},
        api_version=kind.api_version,
        kind=kind.kind,
        status_subresource=kind.status,
        preserve_unknown=bool(spec.get("preserveUnknownFields")),
    )


# What is written to a CRD by the server


def complete_names(crd: JSON) -> None:
    """Fills in the names that can be derived, and the conversion."""
    spec = crd.get("spec")
    names = spec.get("names") if isinstance(spec, dict) else None
    if isinstance(spec, dict) and isinstance(names, dict) and isinstance(names.get("kind"), str):
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", names["kind"] + "List")
        spec.setdefault("conversion", {"strategy": "None"})


def establish(crd: JSON, now: str) -> None:
    """Sets the status of a valid CRD: its names are accepted, it is served."""
    spec = crd["spec"]
    status = crd.setdefault("status", {})
    status["acceptedNames"] = spec["names"]
    stored = next(v["name"] for v in spec["versions"] if v.get("storage"))
    before = status.get("storedVersions") or []
    status["storedVersions"] = before if stored in before else [*before, stored]
    conditions = [c for c in status.get("conditions") or () if c.get("type") not in ("NamesAccepted", "Established")]
    for kind, reason, message in (
        ("NamesAccepted", "NoConflicts", "no conflicts found"),
        ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ):
        old = next(
            (c for c in status.get("conditions") or () if c.get("type") == kind and c.get("status") == "True"), None
        )
        conditions.append(
            old or {"type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message}
        )
    status["conditions"] = conditions
