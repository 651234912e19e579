"""LimitRange: what containers, pods and claims of a namespace get when they ask for nothing, and how little and much they may ask for.

As Kubernetes' admission plugin LimitRanger: defaults are filled in before an object is validated, bounds are looked at after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal

from trimtab.api import JSON, demand
from trimtab.api.quantity import parse_quantity, plain_quantity

ANNOTATION = "kubernetes.io/limit-ranger"


def complete(limit_range: JSON) -> None:
    """Fills in, in place, what a LimitRange's own fields imply: a default limit is the maximum, a default request is the
    default limit, else the minimum."""
    for item in limit_range.get("spec", {}).get("limits") or ():
        if item.get("type") != "Container":
            continue
        default, request = item.setdefault("default", {}), item.setdefault("defaultRequest", {})
        for name, value in (item.get("max") or {}).items():
            default.setdefault(name, value)
        for source in (default, item.get("min") or {}):
            for name, value in source.items():
                request.setdefault(name, value)
        for name in ("default", "defaultRequest"):
            if not item[name]:
                del item[name]


def problems(limit_range: JSON) -> Iterator[tuple[str, str]]:
    """(path, text) of bounds that contradict each other."""
    for index, item in enumerate(limit_range.get("spec", {}).get("limits") or ()):
        at = f"spec.limits[{index}]"
        order = [(name, item.get(name) or {}) for name in ("min", "defaultRequest", "default", "max")]
        for position, (low_name, low) in enumerate(order):
            for high_name, high in order[position + 1 :]:
                for resource in sorted(low.keys() & high.keys()):
                    if parse_quantity(low[resource]) > parse_quantity(high[resource]):
                        text = (
                            f'Invalid value: "{low[resource]}": {low_name} value {low[resource]} is greater than '
                            f"{high_name} value {high[resource]}"
                        )
                        yield f"{at}.{low_name}[{resource}]", text


def give_defaults(pod: JSON, limit_ranges: list[JSON]) -> None:
    """Fills in, in place, the requests and limits that containers do not say, and notes it in an annotation."""
    default, request = _merged(limit_ranges, "default"), _merged(limit_ranges, "defaultRequest")
    notes = []
    for list_name, kind in (("containers", "container"), ("initContainers", "init container")):
        for container in pod["spec"].get(list_name) or ():
            for part, values in (("requests", request), ("limits", default)):
                resources = container.get("resources") or {}
                asked = resources.get(part) or {}
                missing = {name: value for name, value in values.items() if name not in asked}
                if part == "requests":
                    # A limit alone is its request, too: that is filled in later, and must not be less than a default.
                    missing = {name: v for name, v in missing.items() if name not in (resources.get("limits") or {})}
                if missing:
                    container["resources"] = {**resources, part: {**asked, **missing}}
                    notes.append(f"{', '.join(sorted(missing))} {part[:-1]} for {kind} {container['name']}")
    if notes:
        annotations = pod["metadata"].setdefault("annotations", {})
        annotations[ANNOTATION] = f"LimitRanger plugin set: {'; '.join(notes)}"


def _merged(limit_ranges: list[JSON], name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in _items(limit_ranges, "Container"):
        found.update(item.get(name) or {})
    return found


def _items(limit_ranges: list[JSON], kind: str) -> Iterator[JSON]:
    for limit_range in limit_ranges:
        yield from (item for item in limit_range["spec"].get("limits") or () if item.get("type") == kind)


def refusals(kind: str, obj: JSON, limit_ranges: list[JSON]) -> list[str]:
    """Why a Pod or a PersistentVolumeClaim is outside of the bounds; one text for each bound."""
    if kind == "PersistentVolumeClaim":
        asked = {"requests": (obj["spec"].get("resources") or {}).get("requests") or {}, "limits": {}}
        return [text for item in _items(limit_ranges, kind) for text in _claim(item, asked["requests"])]
    found: list[str] = []
    spec = obj["spec"]
    for item in _items(limit_ranges, "Container"):
        for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
            resources = container.get("resources") or {}
            found += _bounds(item, "Container", resources.get("requests") or {}, resources.get("limits") or {})
    for item in _items(limit_ranges, "Pod"):
        found += _bounds(item, "Pod", pod_total(spec, "requests"), pod_total(spec, "limits"))
    return list(dict.fromkeys(found))


def _claim(item: JSON, requests: Mapping[str, str]) -> Iterator[str]:
    for name, (text, beyond) in _COMPARISONS.items():
        for resource, bound in (item.get(name) or {}).items():
            asked = requests.get(resource)
            if asked is None:
                yield f"{text} {resource} usage per PersistentVolumeClaim is {bound}.  No request is specified"
            elif beyond(parse_quantity(asked), parse_quantity(bound)):
                yield f"{text} {resource} usage per PersistentVolumeClaim is {bound}, but request is {asked}"


def _bounds(item: JSON, per: str, requests: Mapping[str, str], limits: Mapping[str, str]) -> Iterator[str]:
    for resource, bound in (item.get("min") or {}).items():
        asked, limited = requests.get(resource), limits.get(resource)
        least = parse_quantity(bound)
        if asked is None:
            yield f"minimum {resource} usage per {per} is {bound}.  No request is specified"
        elif parse_quantity(asked) < least:
            yield f"minimum {resource} usage per {per} is {bound}, but request is {asked}"
        elif limited is not None and parse_quantity(limited) < least:
            yield f"minimum {resource} usage per {per} is {bound}, but limit is {limited}"
    for resource, bound in (item.get("max") or {}).items():
        asked, limited = requests.get(resource), limits.get(resource)
        most = parse_quantity(bound)
        if limited is None:
            yield f"maximum {resource} usage per {per} is {bound}.  No limit is specified"
        elif parse_quantity(limited) > most:
            yield f"maximum {resource} usage per {per} is {bound}, but limit is {limited}"
        elif asked is not None and parse_quantity(asked) > most:
            yield f"maximum {resource} usage per {per} is {bound}, but request is {asked}"
    for resource, bound in (item.get("maxLimitRequestRatio") or {}).items():
        asked, limited = requests.get(resource), limits.get(resource)
        if not asked or parse_quantity(asked) == 0:
            yield f"{resource} max limit to request ratio per {per} is {bound}, but no request is specified or request is 0"
        elif not limited or parse_quantity(limited) == 0:
            yield f"{resource} max limit to request ratio per {per} is {bound}, but no limit is specified or limit is 0"
        elif (ratio := parse_quantity(limited) / parse_quantity(asked)) > parse_quantity(bound):
            yield f"{resource} max limit to request ratio per {per} is {bound}, but provided ratio is {ratio:.6f}"


def pod_total(spec: JSON, part: str) -> dict[str, str]:
    """What a pod asks for as a whole, with its overhead. part: requests or limits."""

    def asked(container: JSON) -> dict[str, Decimal]:
        return {n: parse_quantity(v) for n, v in ((container.get("resources") or {}).get(part) or {}).items()}

    total = demand.together(
        [asked(container) for container in spec.get("containers") or ()],
        [(asked(c), c.get("restartPolicy") == "Always") for c in spec.get("initContainers") or ()],
    )
    demand.add(total, {name: parse_quantity(value) for name, value in (spec.get("overhead") or {}).items()})
    return {name: plain_quantity(value) for name, value in total.items()}


_Beyond = Callable[[Decimal, Decimal], bool]
_COMPARISONS: Mapping[str, tuple[str, _Beyond]] = {
    "min": ("minimum", lambda asked, bound: asked < bound),
    "max": ("maximum", lambda asked, bound: asked > bound),
}
