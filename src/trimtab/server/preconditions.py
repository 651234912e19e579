"""What a write says of the object that stands there already, and whether it is so: its uid, its version, its finalizers."""

from __future__ import annotations

from typing import Any

from trimtab.api import JSON
from trimtab.server import errors
from trimtab.server.bodies import Options
from trimtab.server.errors import Cause
from trimtab.server.kinds import Kind
from trimtab.server.problems import immutable


def check_versioned(kind: Kind, obj: JSON) -> None:
    """Of kinds whose updates have to name a version. Raises `StatusError` 422."""
    if kind.needs_version and not obj["metadata"].get("resourceVersion"):
        text = "Invalid value: 0: must be specified for an update"
        errors.raise_problems(kind.kind, kind.group, obj, [Cause("metadata.resourceVersion", text)])


def check_uid(kind: Kind, name: str, asked: Any, old_meta: JSON, options: Options) -> None:
    """asked: the uid that the write names, if any. Raises `StatusError` 409, of a patch 422."""
    if asked and asked != old_meta.get("uid"):
        if options.patch:
            errors.raise_problems(
                kind.kind, kind.group, {"metadata": old_meta}, list(immutable("metadata.uid", asked, ""))
            )
        why = f"Precondition failed: UID in precondition: {asked}, UID in object meta: {old_meta.get('uid')}"
        raise errors.conflict(kind.plural, kind.group, name, why)


def check_precondition(kind: Kind, name: str, meta: JSON, old_meta: JSON, options: Options) -> None:
    """meta: the uid and the version that the write names, if any. Raises `StatusError` 409, of a patch's uid 422."""
    check_uid(kind, name, meta.get("uid"), old_meta, options)
    version = meta.get("resourceVersion")
    if version and version != old_meta["resourceVersion"]:
        raise errors.conflict(kind.plural, kind.group, name, errors.MODIFIED)


def refuse_new_finalizers(kind: Kind, meta: JSON, old_meta: JSON) -> None:
    """What is being deleted waits for nobody else. Raises `StatusError` 422."""
    if not old_meta.get("deletionTimestamp"):
        return
    added = sorted(set(meta.get("finalizers") or ()) - set(old_meta.get("finalizers") or ()))
    if added:
        text = (
            "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers "
            + "[]string{"
            + ", ".join(f'"{name}"' for name in added)
            + "}"
        )
        errors.raise_problems(
            kind.kind, kind.group, {"metadata": meta}, [Cause("metadata.finalizers", text, "FieldValueForbidden")]
        )
