"""Rules of kinds that follow from the object alone: one function a kind, in the words of the real server.

What needs the cluster, or the object as it was, stands with the kind's strategy.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trimtab.api import JSON
from trimtab.api.cron import zone_of
from trimtab.api.quantity import parse_quantity, plain_quantity
from trimtab.server import names
from trimtab.server.errors import Cause
from trimtab.server.problems import (
    duplicate,
    forbidden,
    invalid,
    invalids,
    labels,
    not_negative,
    one_of,
    required,
    selector,
    too_long,
    unsupported,
)
from trimtab.server.strategies.network_rules import NO_CIDR, NO_IP, ingress, is_ip, network, network_policy
from trimtab.server.strategies.pod_rules import PROTOCOLS, host_path_problems, port_problems
from trimtab.server.strategies.set_rules import daemon_set, stateful_set

DATA_MAX_BYTES = 1024 * 1024
USER_PRIORITY_MAX = 1_000_000_000
RBAC = "rbac.authorization.k8s.io"
_DESCRIPTORS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_NOT_SOURCES = frozenset(
    {
        "capacity",
        "accessModes",
        "claimRef",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "mountOptions",
        "volumeMode",
        "nodeAffinity",
        "volumeAttributesClassName",
    }
)


def _config_map(obj: JSON) -> Iterator[Cause]:
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    for key in data:
        yield from invalids(f"data[{key}]", key, names.config_key(key))
    for key in binary:
        yield from invalids(f"binaryData[{key}]", key, names.config_key(key))
    size = sum(len(value.encode()) for value in data.values()) + sum(_length(value) for value in binary.values())
    if size > DATA_MAX_BYTES:
        yield too_long("[]", DATA_MAX_BYTES)


def _secret(obj: JSON) -> Iterator[Cause]:
    data = obj.get("data") or {}
    for key in data:
        yield from invalids(f"data[{key}]", key, names.config_key(key))
    if sum(_length(value) for value in data.values()) > DATA_MAX_BYTES:
        yield too_long("data", DATA_MAX_BYTES)
    account = "kubernetes.io/service-account.name"
    named = (obj["metadata"].get("annotations") or {}).get(account)
    if obj.get("type") == "kubernetes.io/service-account-token" and not named:
        yield required(f"metadata.annotations[{account}]")
    if obj.get("type") == "kubernetes.io/basic-auth" and not data.keys() & {"username", "password"}:
        yield required("data[username]")
        yield required("data[password]")


def _length(text: str) -> int:
    """Bytes that a text in base64 stands for."""
    return len(base64.b64decode(text)) if len(text) % 4 == 0 else len(text) * 3 // 4


def _service(obj: JSON) -> Iterator[Cause]:
    spec = obj["spec"]
    kind = spec.get("type")
    yield from one_of(spec, "type", ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort"), "spec")
    yield from one_of(spec, "sessionAffinity", ("ClientIP", "None"), "spec")
    yield from labels(spec.get("selector") or {}, "spec.selector")
    for index, port in enumerate(spec.get("ports") or ()):
        at, name = f"spec.ports[{index}]", port.get("name") or ""
        if name:
            yield from invalids(f"{at}.name", name, names.dns_label(name))
        yield from one_of(port, "protocol", PROTOCOLS, at)
        yield from port_problems(port.get("targetPort"), f"{at}.targetPort")
        if (protocol := port.get("appProtocol")) is not None:
            yield from invalids(f"{at}.appProtocol", protocol, names.qualified_name(protocol))
    for index, address in enumerate(spec.get("externalIPs") or ()):
        if not is_ip(address):
            yield invalid(f"spec.externalIPs[{index}]", address, NO_IP)
    if kind == "ExternalName" and spec.get("externalName"):
        name = spec["externalName"].removesuffix(".")
        yield from invalids("spec.externalName", name, names.dns_subdomain(name))
    if kind in ("NodePort", "LoadBalancer"):
        if spec.get("clusterIP") == "None":
            yield invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services")
        yield from one_of(spec, "externalTrafficPolicy", ("Cluster", "Local"), "spec")
    elif spec.get("externalTrafficPolicy") and not spec.get("externalIPs"):
        text = "may only be set for externally-accessible services"
        yield invalid("spec.externalTrafficPolicy", spec["externalTrafficPolicy"], text)
    for index, source in enumerate(spec.get("loadBalancerSourceRanges") or ()):
        if network(source.strip()) is None:
            yield invalid(f"spec.LoadBalancerSourceRanges[{index}]", source, NO_CIDR)


def _claim(obj: JSON) -> Iterator[Cause]:
    spec = obj["spec"]
    for mode in spec.get("accessModes") or ():
        if mode not in _MODES:
            yield unsupported("spec.accessModes", mode, _MODES)
    size = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if size is not None and parse_quantity(str(size)) <= 0:
        yield invalid("spec.resources[storage]", str(size), "must be greater than zero")
    if spec.get("storageClassName"):
        yield from invalids(
            "spec.storageClassName", spec["storageClassName"], names.dns_subdomain(spec["storageClassName"])
        )
    yield from one_of(spec, "volumeMode", ("Block", "Filesystem"), "spec")
    yield from selector(spec.get("selector"), "spec.selector")


def _volume(obj: JSON) -> Iterator[Cause]:
    spec = obj.get("spec") or {}
    if not spec.get("accessModes"):
        yield required("spec.accessModes")
    for mode in spec.get("accessModes") or ():
        if mode not in _MODES:
            yield unsupported("spec.accessModes", mode, _MODES)
    capacity = spec.get("capacity") or {}
    if not capacity:
        yield required("spec.capacity")
    if set(capacity) != {"storage"}:
        yield unsupported("spec.capacity", capacity, ("storage",))
    sources = [name for name, value in spec.items() if name not in _NOT_SOURCES and value is not None]
    if not sources:
        yield required("spec", "must specify a volume type")
    for name in sources[1:]:
        yield forbidden(f"spec.{name}", "may not specify more than 1 volume type")
    if spec.get("hostPath") is not None:
        yield from host_path_problems(spec["hostPath"], "spec.hostPath.path")
    yield from one_of(spec, "persistentVolumeReclaimPolicy", ("Delete", "Recycle", "Retain"), "spec")


def _storage_class(obj: JSON) -> Iterator[Cause]:
    provisioner = obj.get("provisioner") or ""
    if not provisioner:
        yield required("provisioner")
    else:
        yield from invalids("provisioner", provisioner, names.qualified_name(provisioner.lower()))
    yield from one_of(obj, "reclaimPolicy", ("Delete", "Retain"), "")
    yield from one_of(obj, "volumeBindingMode", ("Immediate", "WaitForFirstConsumer"), "")


def _role(obj: JSON) -> Iterator[Cause]:
    for index, rule in enumerate(obj.get("rules") or ()):
        at = f"rules[{index}]"
        if not rule.get("verbs"):
            yield required(f"{at}.verbs", "verbs must contain at least one value")
        urls = rule.get("nonResourceURLs") or []
        if urls:
            if obj["kind"] == "Role":
                yield invalid(f"{at}.nonResourceURLs", urls, "namespaced rules cannot apply to non-resource URLs")
            if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
                text = "rules cannot apply to both regular resources and non-resource URLs"
                yield invalid(f"{at}.nonResourceURLs", urls, text)
            continue
        if not rule.get("apiGroups"):
            yield required(f"{at}.apiGroups", "resource rules must supply at least one api group")
        if not rule.get("resources"):
            yield required(f"{at}.resources", "resource rules must supply at least one resource")


def _binding(obj: JSON) -> Iterator[Cause]:
    reference = obj.get("roleRef") or {}
    if reference.get("apiGroup") != RBAC:
        yield unsupported("roleRef.apiGroup", reference.get("apiGroup") or "", (RBAC,))
    allowed = ("Role", "ClusterRole") if obj["kind"] == "RoleBinding" else ("ClusterRole",)
    if reference.get("kind") not in allowed:
        yield unsupported("roleRef.kind", reference.get("kind") or "", allowed)
    if not reference.get("name"):
        yield required("roleRef.name")
    for index, subject in enumerate(obj.get("subjects") or ()):
        at, kind, group = f"subjects[{index}]", subject.get("kind") or "", subject.get("apiGroup") or ""
        if not subject.get("name"):
            yield required(f"{at}.name")
        if kind not in ("ServiceAccount", "User", "Group"):
            yield unsupported(f"{at}.kind", kind, ("ServiceAccount", "User", "Group"))
        elif kind == "ServiceAccount":
            if group:
                yield unsupported(f"{at}.apiGroup", group, ("",))
        elif group != RBAC:
            yield unsupported(f"{at}.apiGroup", group, (RBAC,))


def _budget(obj: JSON) -> Iterator[Cause]:
    spec = obj.get("spec") or {}
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        names_in_go = ("minAvailable", "selector", "maxUnavailable", "unhealthyPodEvictionPolicy")
        shown = {name[0].upper() + name[1:]: spec.get(name) for name in names_in_go}
        yield invalid("spec", shown, "minAvailable and maxUnavailable cannot be both set")
    for name in ("minAvailable", "maxUnavailable"):
        yield from amount_problems(spec.get(name), f"spec.{name}")
    yield from selector(spec.get("selector"), "spec.selector")
    yield from one_of(spec, "unhealthyPodEvictionPolicy", ("AlwaysAllow", "IfHealthyBudget"), "spec")


def amount_problems(value: Any, at: str) -> Iterator[Cause]:
    """Of a number of pods, or a percentage of them."""
    if isinstance(value, int) and value < 0:
        yield invalid(at, value, "must be greater than or equal to 0")
    elif isinstance(value, str):
        if problems := names.percent(value):
            yield from invalids(at, value, problems)
        elif int(value[:-1]) > 100:
            yield invalid(at, value, "must not be greater than 100%")


def _autoscaler(obj: JSON) -> Iterator[Cause]:
    spec = obj["spec"]
    target = spec.get("scaleTargetRef") or {}
    for name in ("kind", "name"):
        if not target.get(name):
            yield required(f"spec.scaleTargetRef.{name}")
    least, most = spec.get("minReplicas", 1), spec.get("maxReplicas") or 0
    if least < 1:
        yield invalid("spec.minReplicas", least, "must be greater than or equal to 1")
    if most < 1:
        yield required("spec.maxReplicas", "must be set and greater than 0")
    if most < least:
        yield invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`")


def _priority(obj: JSON) -> Iterator[Cause]:
    name = obj["metadata"].get("name") or ""
    system = name in ("system-node-critical", "system-cluster-critical")
    if name.startswith("system-") and not system:
        text = "priority class names with 'system-' prefix are reserved for system use only. error: "
        yield forbidden("metadata.name", f"{text}{name} is not a known system priority class")
    elif not system and (obj.get("value") or 0) > USER_PRIORITY_MAX:
        yield forbidden("value", f"maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}")
    yield from one_of(obj, "preemptionPolicy", ("PreemptLowerPriority", "Never"), "")


def _lease(obj: JSON) -> Iterator[Cause]:
    spec = obj.get("spec") or {}
    seconds = spec.get("leaseDurationSeconds")
    if isinstance(seconds, int) and seconds <= 0:
        yield invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0")
    yield from not_negative(spec, "leaseTransitions", "spec")


def _slice(obj: JSON) -> Iterator[Cause]:
    sort = obj.get("addressType")
    yield from one_of(obj, "addressType", ("FQDN", "IPv4", "IPv6"), "")
    for index, endpoint in enumerate(obj.get("endpoints") or ()):
        if not endpoint.get("addresses"):
            yield required(f"endpoints[{index}].addresses", "must contain at least 1 address")
        for number, address in enumerate(endpoint.get("addresses") or ()):
            if sort in ("IPv4", "IPv6") and not is_ip(address):
                yield invalid(f"endpoints[{index}].addresses[{number}]", address, NO_IP)


def _workload(obj: JSON) -> Iterator[Cause]:
    spec = obj.get("spec") or {}
    for name in ("minReadySeconds", "revisionHistoryLimit"):
        yield from not_negative(spec, name, "spec")
    if obj["kind"] != "Deployment":
        return
    deadline = spec.get("progressDeadlineSeconds")
    if isinstance(deadline, int) and deadline <= (spec.get("minReadySeconds") or 0):
        yield invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds")
    rolling = (spec.get("strategy") or {}).get("rollingUpdate") or {}
    for name in ("maxSurge", "maxUnavailable"):
        value = rolling.get(name)
        if name == "maxSurge" and isinstance(value, str) and not names.percent(value):
            continue  # more than all of them may come on top
        yield from amount_problems(value, f"spec.strategy.rollingUpdate.{name}")
    kind = (spec.get("strategy") or {}).get("type")
    if kind not in ("Recreate", "RollingUpdate"):
        shown = {"Type": kind or "", "RollingUpdate": None}
        yield unsupported("spec.strategy", shown, ("Recreate", "RollingUpdate"))


def _job(obj: JSON) -> Iterator[Cause]:
    spec = obj.get("spec") or {}
    for name in ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"):
        yield from not_negative(spec, name, "spec")
    yield from one_of(spec, "completionMode", ("NonIndexed", "Indexed"), "spec")
    yield from one_of(spec, "podReplacementPolicy", ("Failed", "TerminatingOrFailed"), "spec")
    if spec.get("completionMode") == "Indexed" and spec.get("completions") is None:
        yield required("spec.completions", "when completion mode is Indexed")
    limit = spec.get("backoffLimitPerIndex")
    if limit is not None and spec.get("completionMode") != "Indexed":
        yield invalid("spec.backoffLimitPerIndex", limit, "requires indexed completion mode")


def _cron_job(obj: JSON) -> Iterator[Cause]:
    spec = obj.get("spec") or {}
    name = obj["metadata"].get("name") or ""
    if len(name) > 52:
        yield invalid("metadata.name", name, "must be no more than 52 characters")
    if zone := spec.get("timeZone"):
        try:
            zone_of(zone)
        except ValueError:
            yield invalid("spec.timeZone", zone, f"unknown time zone {zone}")
    schedule = spec.get("schedule") or ""
    if "TZ" in schedule:
        text = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        yield invalid("spec.schedule", schedule, text)
    elif schedule.startswith("@"):
        if schedule not in _DESCRIPTORS and not schedule.startswith("@every "):
            yield invalid("spec.schedule", schedule, f"unrecognized descriptor: {schedule}")
    elif schedule and len(fields := schedule.split()) != 5:
        text = f"expected exactly 5 fields, found {len(fields)}: [{' '.join(fields)}]"
        yield invalid("spec.schedule", schedule, text)
    yield from one_of(spec, "concurrencyPolicy", ("Allow", "Forbid", "Replace"), "spec")
    for field in ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
        yield from not_negative(spec, field, "spec")


def _event(obj: JSON) -> Iterator[Cause]:
    of = (obj.get("involvedObject") or {}).get("namespace") or ""
    if of and of != obj["metadata"].get("namespace"):
        yield invalid("involvedObject.namespace", of, "does not match event.namespace")


_COUNTED = frozenset(
    {
        "pods",
        "services",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "services.nodeports",
        "services.loadbalancers",
    }
)


_SCOPES = frozenset(
    {
        "Terminating",
        "NotTerminating",
        "BestEffort",
        "NotBestEffort",
        "PriorityClass",
        "CrossNamespacePodAffinity",
        "VolumeAttributesClass",
    }
)


def _quota(obj: JSON) -> Iterator[Cause]:
    scopes = (obj.get("spec") or {}).get("scopes") or []
    for _ in _SCOPES.union(scopes) - _SCOPES:
        yield invalid("spec.scopes", scopes, "unsupported scope")
    for name, value in ((obj.get("spec") or {}).get("hard") or {}).items():
        yield from invalids(f"spec.hard[{name}]", name, names.qualified_name(name))
        amount = parse_quantity(str(value))
        if amount < 0:
            yield invalid(f"spec.hard[{name}]", str(value), "must be greater than or equal to 0")
        if (name in _COUNTED or name.startswith("count/")) and amount != int(amount):
            yield invalid(f"spec.hard[{name}]", plain_quantity(amount), "must be an integer")


def _endpoints(obj: JSON) -> Iterator[Cause]:
    for index, subset in enumerate(obj.get("subsets") or ()):
        for number, address in enumerate(subset.get("addresses") or ()):
            at, text = f"subsets[{index}].addresses[{number}].ip", address.get("ip") or ""
            if not is_ip(text):
                yield invalid(at, text, NO_IP)
                yield invalid(at, text, "must be a valid IP address")
            elif ipaddress.ip_address(text).is_loopback:
                yield invalid(at, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
        seen: set[tuple[Any, ...]] = set()
        for number, port in enumerate(subset.get("ports") or ()):
            yield from port_problems(port.get("port") or 0, f"subsets[{index}].ports[{number}].port")
            key = (port.get("name"), port.get("port"), port.get("protocol"))
            if key in seen:
                yield duplicate(f"subsets[{index}].ports[{number}]", port)
            seen.add(key)


def _daemon_set(obj: JSON) -> Iterator[Cause]:
    yield from _workload(obj)
    yield from daemon_set(obj)


def _stateful_set(obj: JSON) -> Iterator[Cause]:
    yield from _workload(obj)
    yield from stateful_set(obj)


RULES: Mapping[tuple[str, str], Callable[[JSON], Iterator[Cause]]] = {
    ("", "ConfigMap"): _config_map,
    ("", "Endpoints"): _endpoints,
    ("", "Event"): _event,
    ("", "PersistentVolume"): _volume,
    ("", "PersistentVolumeClaim"): _claim,
    ("", "ResourceQuota"): _quota,
    ("", "Secret"): _secret,
    ("", "Service"): _service,
    ("apps", "DaemonSet"): _daemon_set,
    ("apps", "Deployment"): _workload,
    ("apps", "ReplicaSet"): _workload,
    ("apps", "StatefulSet"): _stateful_set,
    ("autoscaling", "HorizontalPodAutoscaler"): _autoscaler,
    ("batch", "CronJob"): _cron_job,
    ("batch", "Job"): _job,
    ("coordination.k8s.io", "Lease"): _lease,
    ("discovery.k8s.io", "EndpointSlice"): _slice,
    ("networking.k8s.io", "Ingress"): ingress,
    ("networking.k8s.io", "NetworkPolicy"): network_policy,
    ("policy", "PodDisruptionBudget"): _budget,
    (RBAC, "ClusterRole"): _role,
    (RBAC, "ClusterRoleBinding"): _binding,
    (RBAC, "Role"): _role,
    (RBAC, "RoleBinding"): _binding,
    ("scheduling.k8s.io", "PriorityClass"): _priority,
    ("storage.k8s.io", "StorageClass"): _storage_class,
}
