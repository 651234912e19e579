"""Containers that are added to a pod that runs, to look into it: the subresource `ephemeralcontainers`.

They are only ever added: nobody changes or removes one, and the node starts each once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trimtab.api import JSON
from trimtab.server.errors import Cause

SUBRESOURCE = "ephemeralcontainers"
FIELD = "ephemeralContainers"
_AT = f"spec.{FIELD}"
_NEVER = ("ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resources", "resizePolicy")
"""What promises something for a container's whole life, which these do not have."""


def with_ephemeral(old: JSON, wanted: JSON) -> JSON:
    """The pod `old` with the ephemeral containers, and the managed fields, of `wanted`."""
    spec = {key: value for key, value in old["spec"].items() if key != FIELD}
    asked = (wanted.get("spec") or {}).get(FIELD)
    if asked:
        spec[FIELD] = asked
    meta = dict(old["metadata"])
    if "managedFields" in wanted["metadata"]:
        meta["managedFields"] = wanted["metadata"]["managedFields"]
    return {**old, "metadata": meta, "spec": spec}


def ephemeral_problems(new: JSON, old: JSON) -> Iterator[Cause]:
    """What is wrong with the containers that were added, or with what became of the others."""
    before = {one["name"]: one for one in old["spec"].get(FIELD) or ()}
    now: dict[str, JSON] = {one.get("name") or "": one for one in new["spec"].get(FIELD) or ()}
    for name, one in before.items():
        if name not in now:
            yield _forbidden(_AT, f'existing ephemeral containers "{name}" may not be removed')
        elif now[name] != one:
            yield _forbidden(_AT, f'existing ephemeral containers "{name}" may not be changed')
    targets = {one["name"] for part in ("containers", "initContainers") for one in new["spec"].get(part) or ()}
    for index, one in enumerate(new["spec"].get(FIELD) or ()):
        if one.get("name") not in before:
            yield from _added(one, f"{_AT}[{index}]", targets)


def _added(container: JSON, at: str, targets: set[Any]) -> Iterator[Cause]:
    if not container.get("name"):
        yield Cause(f"{at}.name", "Required value", "FieldValueRequired")
    for field in _NEVER:
        if container.get(field):
            yield _forbidden(f"{at}.{field}", "cannot be set for an Ephemeral Container")
    target = container.get("targetContainerName")
    if target and target not in targets:
        yield Cause(f"{at}.targetContainerName", f'Not found: "{target}"', "FieldValueNotFound")
    for number, mount in enumerate(container.get("volumeMounts") or ()):
        for field in ("subPath", "subPathExpr"):
            if mount.get(field):
                yield _forbidden(f"{at}.volumeMounts[{number}].{field}", "cannot be set for an Ephemeral Container")


def _forbidden(at: str, why: str) -> Cause:
    return Cause(at, f"Forbidden: {why}", "FieldValueForbidden")
