"""Label and field selectors of a query, parsed once and matched against decoded objects.

Labels are read in `label_selectors.py`; the grammar of fields is `path=value, path!=value`. A kind only allows the fields that
Kubernetes lets one select by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from trimtab.api import JSON
from trimtab.api.labels import LabelSelector
from trimtab.server.errors import bad_request
from trimtab.server.kinds import Kind
from trimtab.server.label_selectors import LabelTerm, parse_labels
from trimtab.server.objects import at_path

_FIELDS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("", "Pod"): (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    ("", "Event"): (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
    ("events.k8s.io", "Event"): (
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "reason",
        "reportingController",
        "type",
    ),
    ("", "Node"): ("spec.unschedulable",),
    ("", "Namespace"): ("status.phase",),
    ("", "ReplicationController"): ("status.replicas",),
    ("", "Secret"): ("type",),
    ("", "Service"): ("spec.clusterIP", "spec.type"),
    ("apps", "ReplicaSet"): ("status.replicas",),
    ("batch", "Job"): ("status.successful",),
    ("certificates.k8s.io", "CertificateSigningRequest"): ("spec.signerName",),
}
_DEFAULTS = {"spec.unschedulable": "false", "spec.hostNetwork": "false"}


@dataclass(frozen=True, slots=True)
class FieldTerm:
    path: str
    value: str
    equal: bool

    def matches(self, obj: JSON) -> bool:
        return (self._found(obj) == self.value) is self.equal

    def _found(self, obj: JSON) -> str:
        found = _text(at_path(obj, self.path), self.path)
        return str(obj.get("reportingComponent") or "") if self.path == "source" and not found else found


def _text(value: Any, path: str) -> str:
    if value is None:
        return _DEFAULTS.get(path, "")
    if isinstance(value, bool):
        return "true" if value else "false"
    if path == "source" and isinstance(value, dict):
        return str(value.get("component", ""))
    return str(value)


@dataclass(frozen=True, slots=True)
class Selector:
    """Both selectors of a request. `name` is set when it asks for one object by name."""

    labels: tuple[LabelTerm, ...] = ()
    fields: tuple[FieldTerm, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.labels or self.fields)

    def matches(self, obj: JSON) -> bool:
        if self.labels:
            labels = obj["metadata"].get("labels") or {}
            if not all(term.matches(labels) for term in self.labels):
                return False
        return all(term.matches(obj) for term in self.fields)

    def exact(self, path: str) -> str | None:
        """The value that a field must equal, when the selector says so."""
        return next((term.value for term in self.fields if term.path == path and term.equal), None)


EVERYTHING = Selector()


def parse_selector(kind: Kind, labels: str | tuple[LabelTerm, ...], fields: str) -> Selector:
    """Raises `StatusError` 400 for text that is no selector and for fields that cannot be selected by."""
    if not labels and not fields:
        return EVERYTHING
    return Selector(parse_labels(labels) if isinstance(labels, str) else labels, _parse_fields(kind, fields))


def selectable_fields(kind: Kind) -> tuple[str, ...]:
    own = kind.selectable if kind.crd else _FIELDS.get((kind.group, kind.kind), ())
    return ("metadata.name", "metadata.namespace", *own)


def _parse_fields(kind: Kind, text: str) -> tuple[FieldTerm, ...]:
    terms: list[FieldTerm] = []
    allowed = selectable_fields(kind)
    for part in filter(None, text.split(",")):
        path, operator, value = _split(part)
        if not operator:
            raise bad_request(f'invalid field selector "{text}": "{part}" is not path=value or path!=value')
        if not path and not value:
            continue  # asks for nothing, so all are meant
        if path not in allowed:
            if kind.crd or allowed[2:]:
                raise bad_request(f"field label not supported: {path}")
            known = ", ".join(f'"{name}"' for name in allowed)
            raise bad_request(f'"{path}" is not a known field selector: only {known}')
        terms.append(FieldTerm(path, value, operator != "!="))
    return tuple(terms)


def _split(part: str) -> tuple[str, str, str]:
    for operator in ("!=", "==", "="):
        path, found, value = part.partition(operator)
        if found:
            return path.strip(), operator, value.strip()
    return part, "", ""


def selector_of(obj: JSON | None) -> LabelSelector | None:
    """A `LabelSelector` of an object, for `trimtab.api.selector`; None when there is none or it is not one."""
    if obj is None:
        return None
    try:
        return msgspec.convert(obj, LabelSelector)
    except msgspec.ValidationError:
        return None
