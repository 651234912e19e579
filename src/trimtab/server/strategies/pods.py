"""Rules of pods, and of the pod templates in other kinds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trimtab.api import JSON
from trimtab.api.quantity import parse_quantity
from trimtab.server import errors, limit_range
from trimtab.server import names as names_of
from trimtab.server.clock import timestamp
from trimtab.server.errors import Cause
from trimtab.server.kinds import Kind
from trimtab.server.problems import forbidden, invalid, invalids, required
from trimtab.server.strategies import ephemeral, resizing
from trimtab.server.strategies.accounts import identify
from trimtab.server.strategies.base import Strategy, Surroundings
from trimtab.server.strategies.pod_network import network_problems
from trimtab.server.strategies.pod_rules import container_problems, placement_problems, volume_source_problems
from trimtab.server.strategies.pod_volumes import volume_problems
from trimtab.server.strategies.runtimes import give_runtime

_CONTAINER_LISTS = ("containers", "initContainers", "ephemeralContainers")


class NodeStrategy(Strategy):
    def prepare(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        """Notes when a NoExecute taint came: from then on the pods' tolerationSeconds count."""
        before = {
            (taint.get("key"), taint.get("effect")): taint.get("timeAdded")
            for taint in ((old or {}).get("spec") or {}).get("taints") or ()
        }
        for taint in (new.get("spec") or {}).get("taints") or ():
            if isinstance(taint, dict) and taint.get("effect") == "NoExecute" and not taint.get("timeAdded"):
                since = before.get((taint.get("key"), "NoExecute"))
                taint["timeAdded"] = since or timestamp(around.clock)
        return []


class PodStrategy(Strategy):
    def admit(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> None:
        spec = new.get("spec")
        if not isinstance(spec, dict):
            return
        _tolerate_lost_nodes(spec)
        if old is not None:
            for name in ("priority", "preemptionPolicy"):
                if spec.get(name) is None and old["spec"].get(name) is not None:
                    spec[name] = old["spec"][name]
        else:
            limit_range.give_defaults(new, around.limit_ranges(new["metadata"].get("namespace") or ""))
            identify(around, kind, new)
            _prioritize(around, kind, new)
            give_runtime(around, kind, new)

    def prepare(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        spec = new.get("spec")
        if not isinstance(spec, dict):
            return [Cause("spec", "Required value", "FieldValueRequired")]
        if old is None:
            problems: list[Cause] = []
            if spec.get("schedulingGates") and spec.get("nodeName"):
                text = "Forbidden: cannot be set until all schedulingGates have been cleared"
                problems.append(Cause("spec.nodeName", text, "FieldValueForbidden"))
            new["status"] = {"phase": "Pending", "qosClass": qos_class(spec)}
            return problems
        return []

    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        found = pod_spec_problems(new["spec"], "spec", ("Always", "OnFailure", "Never"))
        if old is not None:
            before, after = old["spec"], new["spec"]
            for name in ("containers", "initContainers"):
                if len(before.get(name) or ()) != len(after.get(name) or ()):
                    return [*found, forbidden(f"spec.{name}", "pod updates may not add or remove containers")]
            was, now = before.get("activeDeadlineSeconds"), after.get("activeDeadlineSeconds")
            if was is not None and now is not None and now > was:
                found.append(invalid("spec.activeDeadlineSeconds", now, "must be less than or equal to previous value"))
            kept = [_untimed(one) for one in after.get("tolerations") or ()]
            if any(_untimed(one) not in kept for one in before.get("tolerations") or ()):
                text = "existing toleration can not be modified except its tolerationSeconds"
                found.append(forbidden("spec.tolerations", text))
        if old is not None and _fixed_part(new["spec"], old["spec"]) != _fixed_part(old["spec"], old["spec"]):
            found.append(
                Cause(
                    "spec",
                    "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
                    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
                    "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was "
                    "previously negative)",
                    "FieldValueForbidden",
                )
            )
        if old is None and new["spec"].get(ephemeral.FIELD):
            text = "Forbidden: cannot be set on create"
            found.append(Cause(f"spec.{ephemeral.FIELD}", text, "FieldValueForbidden"))
        return found

    def part_problems(self, around: Surroundings, kind: Kind, subresource: str, new: JSON, old: JSON) -> list[Cause]:
        if subresource == resizing.SUBRESOURCE:
            found = pod_spec_problems(new["spec"], "spec", ("Always", "OnFailure", "Never"))
            return found + resizing.resize_problems(new, old, qos_class(old["spec"]), qos_class(new["spec"]))
        if subresource != ephemeral.SUBRESOURCE:
            return self.problems(around, kind, new, old)
        found = list(ephemeral.ephemeral_problems(new, old))
        return found + pod_spec_problems(new["spec"], "spec", ("Always", "OnFailure", "Never"))


LOST_NODE_S = 300
"""How long a pod stays on a node that is not ready or not heard of, unless it says otherwise."""


def _tolerate_lost_nodes(spec: JSON) -> None:
    """Writes down how long the pod outlasts its node's silence, as Kubernetes' admission plugin DefaultTolerationSeconds does."""
    present = [t for t in spec.get("tolerations") or () if isinstance(t, dict)]
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(t.get("key") in (key, None, "") and t.get("effect") in ("NoExecute", None, "") for t in present):
            toleration = {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": LOST_NODE_S}
            spec["tolerations"] = [*(spec.get("tolerations") or ()), toleration]


def _prioritize(around: Surroundings, kind: Kind, pod: JSON) -> None:
    """Fills in what the pod's PriorityClass says, as Kubernetes' admission plugin Priority does.

    Raises:
        StatusError: 403, there is no such class, or the pod says another priority.
    """
    spec = pod["spec"]
    name = spec.get("priorityClassName") or ""
    found = around.priority_class(name)
    if name and found is None:
        text = f"no PriorityClass with name {name} was found"
        raise errors.forbidden(kind.plural, kind.group, pod["metadata"].get("name") or "", text)
    value = found["value"] if found else 0
    policy = (found.get("preemptionPolicy") if found else None) or "PreemptLowerPriority"
    asked = spec.get("priority")
    if asked is not None and asked != value:
        text = f"the integer value of priority ({asked}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        raise errors.forbidden(kind.plural, kind.group, pod["metadata"].get("name") or "", text)
    if found and not name:
        spec["priorityClassName"] = found["metadata"]["name"]
    spec["priority"] = value
    spec["preemptionPolicy"] = policy


def _untimed(toleration: JSON) -> JSON:
    return {key: value for key, value in toleration.items() if key != "tolerationSeconds"}


def _fixed_part(spec: JSON, old: JSON) -> JSON:
    """The spec without what may change. The node may be set once, as binding does."""
    changeable = {"activeDeadlineSeconds", "tolerations", "schedulingGates"}
    if (old.get("terminationGracePeriodSeconds") or 0) < 0 and spec.get("terminationGracePeriodSeconds") in (
        1,
        old["terminationGracePeriodSeconds"],
    ):
        changeable.add("terminationGracePeriodSeconds")
    if not old.get("nodeName"):
        changeable.add("nodeName")
    fixed: JSON = {key: value for key, value in spec.items() if key not in changeable}
    for name in ("initContainers", "containers"):
        if name in fixed:
            fixed[name] = [{k: v for k, v in container.items() if k != "image"} for container in fixed[name]]
    return fixed


def pod_template_problems(
    template: Any, path: str, restart_policies: tuple[str, ...], claimed: frozenset[str] = frozenset()
) -> list[Cause]:
    """What is wrong with the pods that a template would make; `path` is that of the template's spec, `claimed` the names
    of volumes that the pods get besides (a StatefulSet's claims)."""
    spec = template.get("spec") if isinstance(template, dict) else None
    if not isinstance(spec, dict) or not spec.get("containers"):
        return [Cause(f"{path}.containers", "Required value", "FieldValueRequired")]
    return pod_spec_problems(spec, path, restart_policies, claimed)


def pod_spec_problems(
    spec: JSON, path: str, restart_policies: tuple[str, ...], claimed: frozenset[str] = frozenset()
) -> list[Cause]:
    found: list[Cause] = []
    volumes = {volume.get("name") for volume in spec.get("volumes") or ()} | claimed
    names: set[str] = set()
    if not spec.get("containers"):
        found.append(Cause(f"{path}.containers", "Required value", "FieldValueRequired"))
    for list_name in _CONTAINER_LISTS:
        for index, container in enumerate(spec.get(list_name) or ()):
            at = f"{path}.{list_name}[{index}]"
            name = container.get("name") or ""
            if name in names:
                found.append(Cause(f"{at}.name", f'Duplicate value: "{name}"', "FieldValueDuplicate"))
            names.add(name)
            found += invalids(f"{at}.name", name, names_of.dns_label(name)) if name else [required(f"{at}.name")]
            if not container.get("image"):
                found.append(Cause(f"{at}.image", "Required value", "FieldValueRequired"))
            elif container["image"] != container["image"].strip():
                found.append(
                    Cause(
                        f"{at}.image",
                        f'Invalid value: "{container["image"]}": must not have leading or trailing whitespace',
                    )
                )
            found += _mount_problems(container, at, volumes)
            probed = list_name != "initContainers" or container.get("restartPolicy") == "Always"
            found += container_problems(container, at, probed=probed)
            found += _resource_problems(container, at)
            found += _sleep_problems(container, at, spec.get("terminationGracePeriodSeconds"))
    found += placement_problems(spec, path)
    found += volume_source_problems(spec, path)
    found += network_problems(spec, path)
    found += volume_problems(spec, path)
    policy = spec.get("restartPolicy")
    if policy == "Always" and "Always" not in restart_policies:
        found.append(required(f"{path}.restartPolicy", 'valid values: "OnFailure", "Never"'))
    elif policy not in restart_policies:
        allowed = ", ".join(f'"{value}"' for value in restart_policies)
        found.append(
            Cause(
                f"{path}.restartPolicy",
                f'Unsupported value: "{policy}": supported values: {allowed}',
                "FieldValueNotSupported",
            )
        )
    return found


def _resource_problems(container: JSON, at: str) -> Iterator[Cause]:
    """Requests beyond their limit; those that cannot be overcommitted must be just that."""
    resources = container.get("resources") or {}
    limits = resources.get("limits") or {}
    for name, asked in sorted((resources.get("requests") or {}).items()):
        if name not in limits:
            continue
        request, limit = parse_quantity(asked), parse_quantity(limits[name])
        native = "/" not in name or "kubernetes.io/" in name
        if name.startswith("hugepages-") or not native:
            problem = "equal to" if request != limit else ""
        else:
            problem = "less than or equal to" if request > limit else ""
        if problem:
            text = f'Invalid value: "{asked}": must be {problem} {name} limit of {limits[name]}'
            yield Cause(f"{at}.resources.requests", text)


def _sleep_problems(container: JSON, at: str, grace_s: int | None) -> list[Cause]:
    found = []
    for hook, handler in (container.get("lifecycle") or {}).items():
        seconds = (handler.get("sleep") or {}).get("seconds") if isinstance(handler, dict) else None
        if seconds is not None and grace_s is not None and not 0 <= seconds <= grace_s:
            text = f"must be non-negative and less than terminationGracePeriodSeconds ({grace_s})"
            found.append(Cause(f"{at}.lifecycle.{hook}.sleep", f"Invalid value: {seconds}: {text}"))
    return found


def _mount_problems(container: JSON, at: str, volumes: set[Any]) -> list[Cause]:
    found: list[Cause] = []
    paths: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        if mount.get("name") not in volumes:
            found.append(
                Cause(f"{at}.volumeMounts[{index}].name", f'Not found: "{mount.get("name")}"', "FieldValueNotFound")
            )
        path = mount.get("mountPath") or ""
        if path in paths:
            found.append(Cause(f"{at}.volumeMounts[{index}].mountPath", f'Invalid value: "{path}": must be unique'))
        paths.add(path)
    return found


def qos_class(spec: JSON) -> str:
    """Guaranteed when every container limits cpu and memory and requests just that; BestEffort when none asks for any."""
    containers = [c for name in ("containers", "initContainers") for c in spec.get(name) or ()]
    resources = [c.get("resources") or {} for c in containers if isinstance(c, dict)]
    asked = [(r.get("requests") or {}, r.get("limits") or {}) for r in resources if isinstance(r, dict)]
    watched = ("cpu", "memory")
    if not any(name in part for pair in asked for part in pair for name in watched):
        return "BestEffort"
    for requests, limits in asked:
        for name in watched:
            if name not in limits or str(requests.get(name, limits[name])) != str(limits[name]):
                return "Burstable"
    return "Guaranteed"
