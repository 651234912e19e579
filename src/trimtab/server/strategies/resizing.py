"""Other resources for the containers of a pod that runs: the subresource `resize`.

    what was sent -> with_resized (resources and resizePolicy alone) -> resize_problems -> stored; the node acts on it

Only cpu and memory change, none of them is taken away, and the pod's QoS class stays as it was. The texts are Kubernetes'.
"""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.api import JSON
from trimtab.server.errors import Cause
from trimtab.server.problems import forbidden

SUBRESOURCE = "resize"
_LISTS = ("containers", "initContainers")
_TAKEN = ("resources", "resizePolicy")
_RESIZED = ("cpu", "memory")
_ONLY = "only cpu and memory resources are mutable"


def with_resized(old: JSON, wanted: JSON) -> JSON:
    """The pod `old` with the containers' resources, and the managed fields, of `wanted`."""
    spec = dict(old["spec"])
    for name in _LISTS:
        asked = (wanted.get("spec") or {}).get(name) or []
        if _names(asked) != _names(spec.get(name) or []):
            spec[name] = asked  # which is refused
        elif asked:
            spec[name] = [
                {key: value for key, value in before.items() if key not in _TAKEN}
                | {key: new[key] for key in _TAKEN if key in new}
                for before, new in zip(spec[name], asked, strict=True)
            ]
    meta = dict(old["metadata"])
    if "managedFields" in wanted["metadata"]:
        meta["managedFields"] = wanted["metadata"]["managedFields"]
    return {**old, "metadata": meta, "spec": spec}


def resize_problems(new: JSON, old: JSON, was: str, becomes: str) -> list[Cause]:
    """What is wrong with a resize. was, becomes: the pod's QoS class before and after."""
    found: list[Cause] = []
    if was != becomes:
        text = "Pod QOS Class may not change as a result of resizing"
        found.append(Cause("spec", f'Invalid value: "{was}": {text}'))
    misplaced = list(_misplaced(new["spec"], old["spec"]))
    if misplaced:
        return found + misplaced
    for name in reversed(_LISTS):
        for index, before in enumerate(old["spec"].get(name) or ()):
            found += _removed(new["spec"][name][index], before, f"spec.{name}[{index}].resources")
    for index, before in enumerate(old["spec"].get("containers") or ()):
        if _fixed(new["spec"]["containers"][index]) != _fixed(before):
            found.append(forbidden("spec", _ONLY))
    for index, before in enumerate(old["spec"].get("initContainers") or ()):
        after = new["spec"]["initContainers"][index]
        if before.get("restartPolicy") != "Always":
            if after != before:
                found.append(forbidden("spec", "resources for non-sidecar init containers are immutable"))
        elif _fixed(after) != _fixed(before):
            text = "only cpu and memory resources for init or sidecar containers are mutable"
            found.append(forbidden(f"spec.initContainers[{index}]", text))
    return found


def _names(containers: list[JSON]) -> list[str]:
    return [one.get("name") or "" for one in containers]


def _misplaced(new: JSON, old: JSON) -> Iterator[Cause]:
    for name in _LISTS:
        before, after = _names(old.get(name) or []), _names(new.get(name) or [])
        if len(before) != len(after):
            yield forbidden(f"spec.{name}", f"{name} may not be added or removed on resize")
            continue
        for index, (was, now) in enumerate(zip(before, after, strict=True)):
            if was != now:
                yield forbidden(f"spec.{name}[{index}].name", f"{name} may not be renamed or reordered on resize")


def _removed(new: JSON, old: JSON, at: str) -> Iterator[Cause]:
    for part in ("requests", "limits"):
        before = (old.get("resources") or {}).get(part) or {}
        after = (new.get("resources") or {}).get(part) or {}
        if before.keys() - after.keys():
            yield forbidden(f"{at}.{part}", f"resource {part} cannot be removed")


def _fixed(container: JSON) -> JSON:
    """The container without what a resize may change."""
    resources = container.get("resources") or {}
    rest = {
        part: left
        for part, listed in resources.items()
        if (
            left := {name: amount for name, amount in listed.items() if name not in _RESIZED}
            if isinstance(listed, dict)
            else listed
        )
    }
    return {**container, "resources": rest}
