"""Rules of kinds that are only stored: clients ask for them, and no part of Trimtab acts on them. In the words of the real server."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator

from trimtab.api import JSON
from trimtab.api.quantity import parse_quantity
from trimtab.server import names
from trimtab.server.errors import Cause
from trimtab.server.kinds import Kind
from trimtab.server.problems import (
    duplicate,
    forbidden,
    immutable,
    invalid,
    invalids,
    not_negative,
    required,
    selector,
    too_long,
    unsupported,
)
from trimtab.server.strategies.base import Strategy, Surroundings

_DRIVER_MAX = 63
_NODE_ID_MAX = 192
_TOKEN_MIN_S, _TOKEN_MAX_S = 600, 2**32
_MODES = ("Persistent", "Ephemeral")
_GROUP_POLICIES = ("File", "None", "ReadWriteOnceWithFSType")
_FAMILIES = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"
_NO_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"


class StoredStrategy(Strategy):
    """`rules` of the object by itself, and what may not change."""

    def __init__(
        self, rules: Callable[[JSON], Iterator[Cause]], changes: Callable[[JSON, JSON], Iterator[Cause]]
    ) -> None:
        self._rules = rules
        self._changes = changes

    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        return [*self._rules(new), *(() if old is None else self._changes(new, old))]


def _may_change(new: JSON, old: JSON) -> Iterator[Cause]:
    return iter(())


def _driver_name(name: str, at: str) -> Iterator[Cause]:
    if not name:
        yield required(at)
        return
    if len(name) > _DRIVER_MAX:
        yield too_long(at, _DRIVER_MAX)
    yield from invalids(at, name, names.dns_subdomain(name.lower()))


def _driver(obj: JSON) -> Iterator[Cause]:
    spec = obj.get("spec") or {}
    if spec.get("fsGroupPolicy") not in (None, *_GROUP_POLICIES):
        yield unsupported("spec.fsGroupPolicy", spec["fsGroupPolicy"], _GROUP_POLICIES)
    seen: set[str] = set()
    for index, token in enumerate(spec.get("tokenRequests") or ()):
        at, audience, seconds = (
            f"spec.tokenRequests[{index}]",
            token.get("audience") or "",
            token.get("expirationSeconds"),
        )
        if audience in seen:
            yield duplicate(f"{at}.audience", audience)
            continue
        seen.add(audience)
        if seconds is not None and seconds < _TOKEN_MIN_S:
            yield invalid(f"{at}.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
        if seconds is not None and seconds > _TOKEN_MAX_S:
            yield invalid(f"{at}.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds")
    for mode in spec.get("volumeLifecycleModes") or ():
        if mode not in _MODES:
            yield unsupported("spec.volumeLifecycleModes", mode, _MODES)


def _driver_changes(new: JSON, old: JSON) -> Iterator[Cause]:
    after, before = new.get("spec") or {}, old.get("spec") or {}
    yield from immutable("spec.attachedRequired", after.get("attachRequired"), before.get("attachRequired"))
    modes = "volumeLifecycleModes"
    yield from immutable(f"spec.{modes}", after.get(modes), before.get(modes))


def _node(obj: JSON) -> Iterator[Cause]:
    seen: set[str] = set()
    for index, driver in enumerate((obj.get("spec") or {}).get("drivers") or ()):
        at, name, node = f"spec.drivers[{index}]", driver.get("name") or "", driver.get("nodeID") or ""
        yield from _driver_name(name, f"{at}.name")
        if not node:
            yield required(f"{at}.nodeID")
        if len(node) > _NODE_ID_MAX:
            yield invalid(f"{at}.nodeID", node, f"must be {_NODE_ID_MAX} characters or less")
        yield from not_negative(driver.get("allocatable") or {}, "count", f"{at}.allocatable")
        if name in seen:
            yield duplicate(f"{at}.name", name)
        seen.add(name)
        for key in driver.get("topologyKeys") or ():
            yield from invalids(f"{at}.topologyKeys", key, names.qualified_name(key))


def _capacity(obj: JSON) -> Iterator[Cause]:
    yield from selector(obj.get("nodeTopology"), "nodeTopology")
    name = obj.get("storageClassName") or ""
    yield from invalids("storageClassName", name, names.dns_subdomain(name))
    size = obj.get("capacity")
    try:
        if size is not None and parse_quantity(str(size)) < 0:
            yield invalid("capacity", size, "must be greater than or equal to 0")
    except ValueError as err:
        yield invalid("capacity", size, str(err))


def _capacity_changes(new: JSON, old: JSON) -> Iterator[Cause]:
    for name in ("nodeTopology", "storageClassName"):
        yield from immutable(name, new.get(name), old.get(name))


def _attributes(obj: JSON) -> Iterator[Cause]:
    name = obj.get("driverName") or ""
    if not name:
        yield required("driverName")
    else:
        yield from invalids("driverName", name, names.qualified_name(name.lower()))
    if not obj.get("parameters"):
        yield required("parameters", "must contain at least one key/value pair")


def _attributes_changes(new: JSON, old: JSON) -> Iterator[Cause]:
    for name in ("driverName", "parameters"):
        if new.get(name) != old.get(name):
            yield forbidden(name, f"updates to {name} are forbidden.")


def _address(obj: JSON) -> Iterator[Cause]:
    parent = (obj.get("spec") or {}).get("parentRef")
    at = "spec.parentRef"
    if parent is None:
        yield required(at)
        return
    if parent.get("group"):
        yield from invalids(f"{at}.group", parent["group"], names.dns_subdomain(parent["group"]))
    for name in ("resource", "name", "namespace"):
        value = parent.get(name) or ""
        if not value and name != "namespace":
            yield required(f"{at}.{name}")
        yield from invalids(f"{at}.{name}", value, names.path_segment(value))


def _address_changes(new: JSON, old: JSON) -> Iterator[Cause]:
    after, before = new.get("spec") or {}, old.get("spec") or {}
    yield from immutable("spec.parentRef", after.get("parentRef"), before.get("parentRef"))


def _service_range(obj: JSON) -> Iterator[Cause]:
    ranges, at = (obj.get("spec") or {}).get("cidrs") or [], "spec.cidrs"
    if not ranges:
        yield required(at, "at least one CIDR required")
        return
    if len(ranges) > 2:
        yield invalid(at, obj["spec"], "may only hold up to 2 values")
        return
    versions = [_version(text) for text in ranges]
    for index, version in enumerate(versions):
        if not version:
            yield invalid(f"{at}[{index}]", ranges[index], _NO_CIDR)
    if len(versions) == 2 and versions[0] == versions[1] != 0:
        yield invalid(at, ranges, _FAMILIES)


def _version(text: str) -> int:
    """4 or 6; 0 when it is no range of addresses."""
    try:
        return ipaddress.ip_network(text, strict=False).version if "/" in text else 0
    except ValueError:
        return 0


def _service_range_changes(new: JSON, old: JSON) -> Iterator[Cause]:
    after, before = ((obj.get("spec") or {}).get("cidrs") or [] for obj in (new, old))
    if len(after) < len(before):
        yield from immutable("spec.cidrs", after, before)
        return
    for index, text in enumerate(before):
        yield from immutable(f"spec.cidrs[{index}]", after[index], text)


def _runtime(obj: JSON) -> Iterator[Cause]:
    handler = obj.get("handler") or ""
    if not handler:
        yield required("handler")
    else:
        yield from invalids("handler", handler, names.dns_label(handler))


def _runtime_changes(new: JSON, old: JSON) -> Iterator[Cause]:
    yield from immutable("handler", new.get("handler"), old.get("handler"))


STORED: dict[tuple[str, str], Strategy] = {
    ("storage.k8s.io", "CSIDriver"): StoredStrategy(_driver, _driver_changes),
    ("storage.k8s.io", "CSINode"): StoredStrategy(_node, _may_change),
    ("storage.k8s.io", "CSIStorageCapacity"): StoredStrategy(_capacity, _capacity_changes),
    ("storage.k8s.io", "VolumeAttributesClass"): StoredStrategy(_attributes, _attributes_changes),
    ("networking.k8s.io", "IPAddress"): StoredStrategy(_address, _address_changes),
    ("networking.k8s.io", "ServiceCIDR"): StoredStrategy(_service_range, _service_range_changes),
    ("node.k8s.io", "RuntimeClass"): StoredStrategy(_runtime, _runtime_changes),
}
