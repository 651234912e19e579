"""Server-side apply: who owns which field, and what follows from that.

A write arrives either as a configuration to `apply` (the manager says what it wants; what it wanted before and no longer
mentions is removed unless somebody else holds it; a field that another manager holds with another value is a conflict)
or as a finished object for `track_update` (whoever wrote it takes over every field that changed). Both rewrite
`metadata.managedFields` and nothing else of the bookkeeping. The set algebra is in `fieldset.py`, the walks over values
in `merge.py`.

Rules and texts follow the documentation of server-side apply
(https://kubernetes.io/docs/reference/using-api/server-side-apply/) and k8s.io/apimachinery `managedfields`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from trimtab.server.fieldset import (
    LEAF,
    Fields,
    canonical,
    difference_roots,
    in_order,
    intersection_roots,
    paths,
    union_roots,
)
from trimtab.server.merge import ApplyInvalid, compare, field_set, merge, prune_stale
from trimtab.server.metadata import STATUS_ALONE, STATUS_KEEPS
from trimtab.server.structural import JSON, Schema

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
UPDATE_MANAGERS_MAX = 10
"""Entries of operation Update beyond this are merged into one, so that an object cannot grow without bound."""
_ANCIENT = "ancient-changes"
_BEFORE_FIRST_APPLY = "before-first-apply"

_STRIPPED: Fields = {
    "f:apiVersion": {},
    "f:kind": {},
    "f:metadata": {
        ".": {},
        "f:name": {},
        "f:namespace": {},
        "f:creationTimestamp": {},
        "f:selfLink": {},
        "f:uid": {},
        "f:clusterName": {},
        "f:generation": {},
        "f:managedFields": {},
        "f:resourceVersion": {},
    },
}
"""Fields that nobody can own."""
_IDENTITY: Fields = {"f:metadata": {"f:name": LEAF}}
"""What every applied configuration holds: who gives up all else of an object's metadata still leaves the object its name."""

Key = tuple[str, str, str, str]
"""Who an entry belongs to: (manager, operation, apiVersion of an Update or "", subresource)."""


class ApplyConflict(Exception):
    """Other managers hold fields that the configuration sets to another value.

    `conflicts` is a list of (manager as kubectl prints it, path); the text is the one kubectl knows.
    """

    def __init__(self, conflicts: Sequence[tuple[str, str]]) -> None:
        self.conflicts = list(conflicts)
        super().__init__(_conflict_text(self.conflicts))

    def causes(self) -> list[JSON]:
        """The causes of the Status answer, one a conflict."""
        return [
            {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": path}
            for manager, path in self.conflicts
        ]


def _conflict_text(conflicts: list[tuple[str, str]]) -> str:
    if len(conflicts) == 1:
        manager, path = conflicts[0]
        return f"Apply failed with 1 conflict: conflict with {manager}: {path}"
    lines: list[str] = []
    for manager in sorted({manager for manager, _ in conflicts}):
        lines.append(f"conflicts with {manager}:")
        lines.extend(f"- {path}" for who, path in conflicts if who == manager)
    return f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(lines)


# --- managed fields as they stand in an object --------------------------------------------------------------------


class _Managed:
    """The entries of one object by owner. Untouched entries are handed back as they came."""

    __slots__ = ("entries",)

    def __init__(self, entries: dict[Key, JSON]) -> None:
        self.entries = entries

    @classmethod
    def of(cls, obj: JSON | None, *, foreign: bool = False) -> _Managed | None:
        """The entries of an object; None when there are none, or when a client wrote ones that cannot be read."""
        listed = obj.get("metadata", {}).get("managedFields") if obj else None
        if not listed:
            return None
        entries: dict[Key, JSON] = {}
        try:
            for entry in listed:
                operation = entry["operation"]
                version = entry["apiVersion"]
                if foreign:
                    if operation not in ("Apply", "Update") or not version or entry.get("fieldsType") != "FieldsV1":
                        return None
                    entry = {**entry, "fieldsV1": canonical(entry.get("fieldsV1") or {})}
                key = (
                    entry.get("manager", ""),
                    operation,
                    "" if operation == "Apply" else version,
                    entry.get("subresource", ""),
                )
                entries[key] = entry
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return cls(entries)

    def fields(self, key: Key) -> Fields:
        entry = self.entries.get(key)
        found: Fields = entry["fieldsV1"] if entry else {}
        return found

    def put(self, key: Key, fields: Fields, version: str, time: str | None) -> None:
        """Sets what an owner holds; an owner of nothing goes. `time` None keeps the entry's own."""
        if not fields:
            self.entries.pop(key, None)
            return
        before = self.entries.get(key)
        if before is not None and time is None and before["apiVersion"] == version and before["fieldsV1"] is fields:
            return
        entry: JSON = {"manager": key[0], "operation": key[1], "apiVersion": version}
        moment = time if time is not None else (before or {}).get("time")
        if moment is not None:
            entry["time"] = moment
        entry["fieldsType"] = "FieldsV1"
        entry["fieldsV1"] = in_order(fields)
        if key[3]:
            entry["subresource"] = key[3]
        self.entries[key] = entry

    def give_up(self, taken: Fields, removed: Fields, keeper: Key | None) -> None:
        """Everyone but `keeper` loses the fields that were taken over or removed."""
        for key, entry in list(self.entries.items()):
            if key == keeper:
                continue
            fields = entry["fieldsV1"]
            left = difference_roots(fields, taken) if taken else fields
            if removed:
                left = difference_roots(left, removed)
            if left is not fields and left != fields:
                self.put(key, left, entry["apiVersion"], None)

    def listed(self) -> list[JSON]:
        """The entries in the order in which the API shows them."""
        return sorted(
            self.entries.values(),
            key=lambda e: (
                e["operation"],
                e.get("time", ""),
                e.get("manager", ""),
                e["apiVersion"],
                e.get("subresource", ""),
            ),
        )

    def cap(self) -> None:
        """Merges the oldest Update entries of a version into one while there are too many."""
        updaters = [key for key in self.entries if key[1] == "Update"]
        excess = len(updaters) - UPDATE_MANAGERS_MAX
        if excess <= 0:
            return
        updaters.sort(key=lambda key: (self.entries[key].get("time", ""), key))
        first: dict[str, Key] = {}
        for key in updaters:
            if excess <= 0:
                return
            version = key[2]
            bucket: Key = (_ANCIENT, "Update", version, "")
            oldest = first.setdefault(version, key)
            if oldest == key:
                continue
            if bucket not in self.entries:
                self.put(bucket, self.entries.pop(oldest)["fieldsV1"], version, None)
            entry = self.entries.pop(key)
            self.put(bucket, union_roots(entry["fieldsV1"], self.fields(bucket)), version, entry.get("time"))
            excess -= 1


def _with_managed(obj: JSON, managed: _Managed) -> JSON:
    """The object with these entries: a new top and a new metadata, all else shared."""
    meta = dict(obj.get("metadata") or {})
    if managed.entries:
        meta["managedFields"] = managed.listed()
    else:
        meta.pop("managedFields", None)
    return {**obj, "metadata": meta}


def _without_managed(obj: JSON) -> JSON:
    meta = obj.get("metadata")
    if not meta or "managedFields" not in meta:
        return obj
    return {**obj, "metadata": {key: value for key, value in meta.items() if key != "managedFields"}}


def _own_part(fields: Fields, schema: Schema, subresource: str) -> Fields:
    """What of a set a write through this (sub)resource can own."""
    if subresource == "status":
        if not schema.builtin or schema.kind in STATUS_ALONE:
            return {"f:status": fields["f:status"]} if "f:status" in fields else {}
        fields = {key: value for key, value in fields.items() if key != "f:spec"}
        kept = {f"f:{STATUS_KEEPS[schema.kind]}": LEAF} if schema.kind in STATUS_KEEPS else {}
        return difference_roots(fields, {**_STRIPPED, "f:metadata": {**_STRIPPED["f:metadata"], **kept}})
    if schema.status_subresource and "f:status" in fields:
        fields = {key: value for key, value in fields.items() if key != "f:status"}
    return difference_roots(fields, _STRIPPED)


# --- apply --------------------------------------------------------------------------------------------------------


def apply(
    live: JSON | None,
    patch: JSON,
    *,
    manager: str,
    force: bool = False,
    schema: Schema,
    now: str,
    subresource: str = "",
) -> JSON:
    """The object after `manager` applies `patch`; `live` None creates it.

    Equal to `live` (times included) when the configuration changes nothing. The result shares branches with both
    arguments, and neither is changed; drop them before changing the result in place. What a (sub)resource does not
    write (`status` through the object, everything else through `status`) stays as it is in `live`.

    Args:
        now: the time of this write in RFC 3339, whole seconds, UTC.

    Raises:
        ApplyConflict: another manager holds a field with another value, and `force` is not set.
        ApplyInvalid: the configuration has an unknown field, a duplicate list item or managedFields.
    """
    if patch.get("metadata", {}).get("managedFields") is not None:
        raise ApplyInvalid(".metadata.managedFields", "must not be set in an applied configuration")
    manager = manager or "unknown"
    version = patch.get("apiVersion", schema.api_version)
    config = _config(patch, schema, subresource)
    managed = _Managed.of(live)
    if managed is None:
        managed = _Managed({})
        if live:
            existing, _ = compare(schema.root, {}, _without_managed(live))
            owned = _own_part(existing, schema, "")
            managed.put((_BEFORE_FIRST_APPLY, "Update", version, ""), owned, version, now)
    before = _without_managed(live) if live else {}
    try:
        result = _apply(before, config, managed, manager, force, schema, version, subresource, now)
    except ApplyConflict:
        if (
            manager != "kubectl"
            or live is None
            or not _only_last_applied(live, config, managed, schema, version, subresource)
        ):
            raise
        result = _apply(before, config, managed, manager, True, schema, version, subresource, now)
    if manager == "kubectl":
        _refresh_last_applied(result, patch)
    return result


def _apply(
    before: JSON,
    config: JSON,
    managed: _Managed,
    manager: str,
    force: bool,
    schema: Schema,
    version: str,
    subresource: str,
    now: str,
) -> JSON:
    me: Key = (manager, "Apply", "", subresource)
    managed = _Managed(dict(managed.entries))
    mine = _own_part(field_set(schema.root, config), schema, subresource)
    last = managed.fields(me)
    after = merge(schema.root, before, config)
    managed.put(me, mine, version, None)
    stale = difference_roots(last, mine) if last else last
    if stale:
        held = [_IDENTITY, *(entry["fieldsV1"] for entry in managed.entries.values())]
        after = prune_stale(schema.root, after, stale, held)
    if after is not before:
        changed, removed = compare(schema.root, before, after)
        if not force:
            _refuse_conflicts(managed, me, changed)
        managed.give_up(changed, removed, me)
        if changed or removed:
            managed.put(me, mine, version, now)
    return _with_managed(after, managed)


def _config(patch: JSON, schema: Schema, subresource: str) -> JSON:
    """The part of the configuration that this (sub)resource writes."""
    if subresource == "status":
        if not schema.builtin or schema.kind in STATUS_ALONE:
            return {key: patch[key] for key in ("apiVersion", "kind", "status") if key in patch}
        patch = {key: value for key, value in patch.items() if key != "spec"}
        kept = STATUS_KEEPS.get(schema.kind)
        if kept in (patch.get("metadata") or {}):
            patch["metadata"] = {key: value for key, value in patch["metadata"].items() if key != kept}
    elif schema.status_subresource and "status" in patch:
        patch = {key: value for key, value in patch.items() if key != "status"}
    meta = patch.get("metadata")
    if meta and "creationTimestamp" in meta:
        # Clients write the zero time as null; it never means anything.
        meta = {key: value for key, value in meta.items() if key != "creationTimestamp"}
        patch = {**patch, "metadata": meta}
    return patch


def _conflicts(managed: _Managed, me: Key, changed: Fields) -> list[tuple[Key, Fields]]:
    if not changed:
        return []
    found = [(key, intersection_roots(e["fieldsV1"], changed)) for key, e in managed.entries.items() if key != me]
    return [(key, shared) for key, shared in found if shared]


def _refuse_conflicts(managed: _Managed, me: Key, changed: Fields) -> None:
    found = _conflicts(managed, me, changed)
    if found:
        raise ApplyConflict([(_printed(key), path) for key, shared in sorted(found) for path in paths(shared)])


def _printed(key: Key) -> str:
    """An owner as kubectl prints it: `"kubectl-client-side-apply" using apps/v1`."""
    name, operation, version, subresource = key
    text = json.dumps(name, ensure_ascii=False)
    if subresource:
        text += f' with subresource "{subresource}"'
    return f"{text} using {version}" if operation == "Update" else text


# --- from client-side to server-side apply ------------------------------------------------------------------------


def _only_last_applied(
    live: JSON, config: JSON, managed: _Managed, schema: Schema, version: str, subresource: str
) -> bool:
    """Whether kubectl conflicts only over fields that its own client-side apply wrote and nobody changed since.

    Raises:
        ApplyConflict: naming the conflicts that remain.
    """
    text = live.get("metadata", {}).get("annotations", {}).get(LAST_APPLIED)
    if not text:
        return False
    try:
        written = json.loads(text)
        if written.get("apiVersion") != version:
            return False
        allowed = field_set(schema.root, written)
    except (ValueError, AttributeError):
        return False
    changed, removed = compare(schema.root, written, _without_managed(live))
    allowed = difference_roots(difference_roots(allowed, changed), removed)
    me: Key = ("kubectl", "Apply", "", subresource)
    after = merge(schema.root, _without_managed(live), config)
    differing, _ = compare(schema.root, _without_managed(live), after)
    left = [(key, difference_roots(shared, allowed)) for key, shared in _conflicts(managed, me, differing)]
    remaining = [(_printed(key), path) for key, shared in sorted(left) for path in paths(shared)]
    if remaining:
        raise ApplyConflict(remaining)
    return True


def _refresh_last_applied(obj: JSON, patch: JSON) -> None:
    """Keeps kubectl's annotation true, where there is one, when the same kubectl applies on the server."""
    annotations = obj["metadata"].get("annotations")
    if not annotations or not annotations.get(LAST_APPLIED):
        return
    config = dict(patch)
    meta = dict(config.get("metadata", {}))
    if LAST_APPLIED in meta.get("annotations", {}):
        meta["annotations"] = {k: v for k, v in meta["annotations"].items() if k != LAST_APPLIED}
    config["metadata"] = meta
    text = json.dumps(config, separators=(",", ":"), ensure_ascii=False, sort_keys=True) + "\n"
    if annotations[LAST_APPLIED] != text:
        obj["metadata"]["annotations"] = {**annotations, LAST_APPLIED: text}


# --- create, update, patch ----------------------------------------------------------------------------------------


def track_update(
    old: JSON | None,
    new: JSON,
    *,
    manager: str,
    schema: Schema,
    now: str,
    subresource: str = "",
    operation: str = "Update",
) -> None:
    """Records in `new.metadata.managedFields`, in place, that `manager` wrote `new` over `old` (None: created it).

    A client may write managedFields itself: an empty list stops tracking, unreadable ones are ignored. Through a
    subresource they are always ignored. Fields that are unchanged keep their owners and times.
    """
    meta = new.setdefault("metadata", {})
    written = meta.pop("managedFields", None)
    before = _Managed.of(old)
    managed = before
    if not subresource and written is not None and written != (old or {}).get("metadata", {}).get("managedFields"):
        if written in ([], [{}]):
            managed = None
            before = _Managed({})
        else:
            managed = _Managed.of({"metadata": {"managedFields": written}}, foreign=True) or before
    if managed is None:
        if old is not None:
            return
        managed = _Managed({})
    version = new.get("apiVersion", schema.api_version)
    changed, removed = compare(schema.root, _without_managed(old) if old else {}, new)
    if changed or removed:
        managed = _Managed(dict(managed.entries))
        managed.give_up(changed, removed, None)
        mine = _own_part(changed, schema, subresource) if changed else changed
        if mine:
            key: Key = (manager or "unknown", operation, "" if operation == "Apply" else version, subresource)
            managed.put(key, union_roots(mine, managed.fields(key)), version, now)
            managed.cap()
    if managed.entries:
        meta["managedFields"] = managed.listed()
