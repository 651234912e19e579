"""The columns of the built-in kinds: their names, and the functions that fill them from an object.

The names and their order are those that kubectl's users know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from trimtab.api import JSON
from trimtab.server.cells import NONE, age_of, map_cell, name_of, selector_cell, spec_of, status_of
from trimtab.server.certificate_columns import signing_request_cells
from trimtab.server.kinds import Column
from trimtab.server.measured_columns import autoscaler_cells, node_metrics_cells, pod_metrics_cells
from trimtab.server.pod_columns import pod_cells
from trimtab.server.tables import NAME, age
from trimtab.server.workload_columns import (
    cron_job_cells,
    daemon_set_cells,
    deployment_cells,
    job_cells,
    replica_set_cells,
    stateful_set_cells,
)

Cells = Callable[[JSON, datetime], list[Any]]


def _columns(text: str, wide: str = "") -> tuple[Column, ...]:
    """Column definitions from `Ready, Restarts:integer`; Name comes first by itself."""
    made = [NAME]
    for priority, names in enumerate((text, wide)):
        for part in filter(None, (piece.strip() for piece in names.split(","))):
            name, _, kind = part.partition(":")
            made.append(Column(name, kind or "string", "", priority=priority))
    return tuple(made)


def _service(obj: JSON, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    kind = spec.get("type", "ClusterIP")
    ports = []
    for port in spec.get("ports") or ():
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        ports.append(f"{port.get('port')}{node_port}/{port.get('protocol', 'TCP')}")
    external = spec.get("externalIPs") or []
    if kind == "LoadBalancer":
        ingress = (status_of(obj).get("loadBalancer") or {}).get("ingress") or []
        external = [i.get("ip") or i.get("hostname") or "" for i in ingress] + external or ["<pending>"]
    elif kind == "ExternalName":
        external = [spec.get("externalName", "")]
    return [
        name_of(obj),
        kind,
        spec.get("clusterIP") or NONE,
        ",".join(external) or NONE,
        ",".join(ports) or NONE,
        age_of(obj, now),
        map_cell(spec.get("selector")),
    ]


def _ingress(obj: JSON, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    hosts = [rule["host"] for rule in spec.get("rules") or () if rule.get("host")]
    shown = ",".join(hosts[:3]) + (f" + {len(hosts) - 3} more..." if len(hosts) > 3 else "")
    addresses = (status_of(obj).get("loadBalancer") or {}).get("ingress") or []
    return [
        name_of(obj),
        spec.get("ingressClassName") or NONE,
        shown or "*",
        ",".join(a.get("ip") or a.get("hostname") or "" for a in addresses),
        "80, 443" if spec.get("tls") else "80",
        age_of(obj, now),
    ]


def _node(obj: JSON, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    ready = next((c for c in status.get("conditions") or () if c.get("type") == "Ready"), None)
    state = "Unknown" if ready is None else "Ready" if ready.get("status") == "True" else "NotReady"
    if spec.get("unschedulable"):
        state += ",SchedulingDisabled"
    prefix = "node-role.kubernetes.io/"
    labels = obj["metadata"].get("labels") or {}
    roles = sorted(label.removeprefix(prefix) for label in labels if label.startswith(prefix))
    addresses = {a.get("type"): a.get("address") for a in status.get("addresses") or ()}
    info = status.get("nodeInfo") or {}
    return [
        name_of(obj),
        state,
        ",".join(roles) or NONE,
        age_of(obj, now),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP") or NONE,
        addresses.get("ExternalIP") or NONE,
        info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    ]


_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def _modes(modes: Sequence[str] | None) -> str:
    return ",".join(_MODES.get(mode, mode) for mode in modes or ())


def _volume(obj: JSON, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    claim = spec.get("claimRef") or {}
    phase = status.get("phase", "")
    return [
        name_of(obj),
        (spec.get("capacity") or {}).get("storage", ""),
        _modes(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy", ""),
        "Terminating" if obj["metadata"].get("deletionTimestamp") else phase,
        f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "",
        spec.get("storageClassName", ""),
        spec.get("volumeAttributesClassName") or "<unset>",
        status.get("reason", ""),
        age_of(obj, now),
        spec.get("volumeMode", "<unset>"),
    ]


def _claim(obj: JSON, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    bound = bool(spec.get("volumeName"))
    return [
        name_of(obj),
        "Terminating" if obj["metadata"].get("deletionTimestamp") else status.get("phase", ""),
        spec.get("volumeName", ""),
        (status.get("capacity") or {}).get("storage", "") if bound else "",
        _modes(status.get("accessModes")) if bound else "",
        spec.get("storageClassName", ""),
        spec.get("volumeAttributesClassName") or "<unset>",
        age_of(obj, now),
        spec.get("volumeMode", "<unset>"),
    ]


def _event(obj: JSON, now: datetime) -> list[Any]:
    series = obj.get("series") or {}
    first = obj.get("firstTimestamp") or obj.get("deprecatedFirstTimestamp") or obj.get("eventTime")
    last = series.get("lastObservedTime") or obj.get("lastTimestamp") or obj.get("deprecatedLastTimestamp") or first
    about = obj.get("involvedObject") or obj.get("regarding") or {}
    source = obj.get("source") or obj.get("deprecatedSource") or {}
    component = source.get("component") or obj.get("reportingComponent") or obj.get("reportingController") or ""
    created = obj["metadata"].get("creationTimestamp")
    return [
        age(last or created, now),
        obj.get("type", ""),
        obj.get("reason", ""),
        f"{about.get('kind', '').lower()}/{about.get('name', '')}",
        (obj.get("message") or obj.get("note") or "").strip(),
        about.get("fieldPath", ""),
        f"{component}, {source['host']}" if source.get("host") else component,
        age(first or created, now),
        series.get("count") or obj.get("count") or obj.get("deprecatedCount") or 1,
        name_of(obj),
    ]


def _endpoints(obj: JSON, now: datetime) -> list[Any]:
    shown: list[str] = []
    for subset in obj.get("subsets") or ():
        for address in subset.get("addresses") or ():
            shown += [f"{address.get('ip')}:{port.get('port')}" for port in subset.get("ports") or ()]
    return [name_of(obj), _some(shown, 3), age_of(obj, now)]


def _endpoint_slice(obj: JSON, now: datetime) -> list[Any]:
    addresses = [a for endpoint in obj.get("endpoints") or () for a in endpoint.get("addresses") or ()]
    ports = [str(port.get("port", "*")) for port in obj.get("ports") or ()]
    kind = obj.get("addressType", "")
    return [name_of(obj), kind, _some(ports, 3, "<unset>"), _some(addresses, 3, "<unset>"), age_of(obj, now)]


def _some(items: Sequence[str], limit: int, none: str = NONE) -> str:
    text = ",".join(items[:limit]) or none
    return f"{text} + {len(items) - limit} more..." if len(items) > limit else text


def _binding(obj: JSON, now: datetime) -> list[Any]:
    reference = obj.get("roleRef") or {}
    by_kind: dict[str, list[str]] = {"User": [], "Group": [], "ServiceAccount": []}
    for subject in obj.get("subjects") or ():
        name = subject.get("name", "")
        text = f"{subject['namespace']}/{name}" if subject.get("namespace") else name
        by_kind.setdefault(subject.get("kind", ""), []).append(text)
    lists = [", ".join(by_kind[kind]) for kind in ("User", "Group", "ServiceAccount")]
    return [name_of(obj), f"{reference.get('kind', '')}/{reference.get('name', '')}", age_of(obj, now), *lists]


def _budget(obj: JSON, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    return [
        name_of(obj),
        str(spec.get("minAvailable", "N/A")),
        str(spec.get("maxUnavailable", "N/A")),
        status_of(obj).get("disruptionsAllowed", 0),
        age_of(obj, now),
    ]


def _created(obj: JSON, now: datetime) -> list[Any]:
    return [name_of(obj), obj["metadata"].get("creationTimestamp", "")]


def _csi_driver(obj: JSON, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    tokens = spec.get("tokenRequests")
    return [
        name_of(obj),
        spec.get("attachRequired", True),
        spec.get("podInfoOnMount", False),
        spec.get("storageCapacity", False),
        "<unset>" if tokens is None else ",".join(token.get("audience", "") for token in tokens),
        spec.get("requiresRepublish", False),
        ",".join(spec.get("volumeLifecycleModes") or ()) or NONE,
        age_of(obj, now),
    ]


def _address(obj: JSON, now: datetime) -> list[Any]:
    parent = spec_of(obj).get("parentRef") or {}
    group, namespace = parent.get("group"), parent.get("namespace")
    resource = f"{parent.get('resource', '')}{'.' + group if group else ''}".lower()
    steps = [step for step in (resource, namespace, parent.get("name", "")) if step]
    return [name_of(obj), "/".join(steps) or NONE]


def _fields(*paths: str) -> Cells:
    """Cells of plain fields of the object, with the age at the end."""

    def cells(obj: JSON, now: datetime) -> list[Any]:
        found: list[Any] = []
        for path in paths:
            value: Any = obj
            for part in path.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            found.append("" if value is None else value)
        return [name_of(obj), *found, age_of(obj, now)]

    return cells


def _data(obj: JSON, now: datetime) -> list[Any]:
    return [name_of(obj), len(obj.get("data") or ()) + len(obj.get("binaryData") or ()), age_of(obj, now)]


def _secret(obj: JSON, now: datetime) -> list[Any]:
    return [name_of(obj), obj.get("type", ""), len(obj.get("data") or ()), age_of(obj, now)]


def _quota(obj: JSON, now: datetime) -> list[Any]:
    status = status_of(obj)
    hard, used = status.get("hard") or {}, status.get("used") or {}
    shown: dict[bool, list[str]] = {True: [], False: []}
    for name in sorted(hard):
        shown[name.startswith("limits.")].append(f"{name}: {used.get(name, '0')}/{hard[name]}")
    return [name_of(obj), ", ".join(shown[False]), ", ".join(shown[True]), age_of(obj, now)]


def _storage_class(obj: JSON, now: datetime) -> list[Any]:
    annotations = obj["metadata"].get("annotations") or {}
    default = annotations.get("storageclass.kubernetes.io/is-default-class") == "true"
    return [
        f"{name_of(obj)} (default)" if default else name_of(obj),
        obj.get("provisioner", ""),
        obj.get("reclaimPolicy", "Delete"),
        obj.get("volumeBindingMode", "Immediate"),
        bool(obj.get("allowVolumeExpansion")),
        age_of(obj, now),
    ]


def _attachment(obj: JSON, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    volume = (spec.get("source") or {}).get("persistentVolumeName") or ""
    attached = bool(status_of(obj).get("attached"))
    return [name_of(obj), spec.get("attacher", ""), volume, spec.get("nodeName", ""), attached, age_of(obj, now)]


_WORKLOAD = "Containers, Images, Selector"
_RBAC = "rbac.authorization.k8s.io"

_EVENT = (
    (
        *_columns("Last Seen, Type, Reason, Object, Message", "Subobject, Source, First Seen, Count:integer")[1:],
        Column("Name", "string", "", "name", "", 1),
    ),
    _event,
)

BUILTIN: Mapping[tuple[str, str], tuple[tuple[Column, ...], Cells]] = {
    ("", "Pod"): (
        _columns("Ready, Status, Restarts, Age", "IP, Node, Nominated Node, Readiness Gates"),
        pod_cells,
    ),
    ("apps", "Deployment"): (
        _columns("Ready, Up-to-date:integer, Available:integer, Age", _WORKLOAD),
        deployment_cells,
    ),
    ("apps", "ReplicaSet"): (
        _columns("Desired:integer, Current:integer, Ready:integer, Age", _WORKLOAD),
        replica_set_cells,
    ),
    ("", "ReplicationController"): (
        _columns("Desired:integer, Current:integer, Ready:integer, Age", _WORKLOAD),
        replica_set_cells,
    ),
    ("apps", "StatefulSet"): (_columns("Ready, Age", "Containers, Images"), stateful_set_cells),
    ("apps", "DaemonSet"): (
        _columns(
            "Desired:integer, Current:integer, Ready:integer, Up-to-date:integer, Available:integer, Node Selector, Age",
            _WORKLOAD,
        ),
        daemon_set_cells,
    ),
    ("batch", "Job"): (_columns("Status, Completions, Duration, Age", _WORKLOAD), job_cells),
    ("batch", "CronJob"): (
        _columns("Schedule, Timezone, Suspend, Active:integer, Last Schedule, Age", _WORKLOAD),
        cron_job_cells,
    ),
    ("", "Service"): (_columns("Type, Cluster-IP, External-IP, Port(s), Age", "Selector"), _service),
    ("networking.k8s.io", "Ingress"): (_columns("Class, Hosts, Address, Ports, Age"), _ingress),
    ("networking.k8s.io", "IngressClass"): (
        _columns("Controller, Parameters, Age"),
        _fields("spec.controller", "spec.parameters.name"),
    ),
    ("networking.k8s.io", "NetworkPolicy"): (
        _columns("Pod-Selector, Age"),
        lambda obj, now: [name_of(obj), selector_cell(spec_of(obj).get("podSelector")), age_of(obj, now)],
    ),
    ("", "Namespace"): (_columns("Status, Age"), _fields("status.phase")),
    ("", "Node"): (
        _columns(
            "Status, Roles, Age, Version", "Internal-IP, External-IP, OS-Image, Kernel-Version, Container-Runtime"
        ),
        _node,
    ),
    ("", "PersistentVolume"): (
        _columns(
            "Capacity, Access Modes, Reclaim Policy, Status, Claim, StorageClass, VolumeAttributesClass, Reason, Age",
            "VolumeMode",
        ),
        _volume,
    ),
    ("", "PersistentVolumeClaim"): (
        _columns(
            "Status, Volume, Capacity, Access Modes, StorageClass, VolumeAttributesClass, Age",
            "VolumeMode",
        ),
        _claim,
    ),
    ("", "ConfigMap"): (_columns("Data:integer, Age"), _data),
    ("", "LimitRange"): (_columns("Created At"), _created),
    ("", "ResourceQuota"): (_columns("Request, Limit, Age"), _quota),
    ("", "Secret"): (_columns("Type, Data:integer, Age"), _secret),
    ("", "ServiceAccount"): (_columns("Age"), lambda obj, now: [name_of(obj), age_of(obj, now)]),
    ("", "Event"): _EVENT,
    ("events.k8s.io", "Event"): _EVENT,
    ("", "Endpoints"): (_columns("Endpoints, Age"), _endpoints),
    ("discovery.k8s.io", "EndpointSlice"): (_columns("AddressType, Ports, Endpoints, Age"), _endpoint_slice),
    ("coordination.k8s.io", "Lease"): (_columns("Holder, Age"), _fields("spec.holderIdentity")),
    ("storage.k8s.io", "StorageClass"): (
        _columns("Provisioner, ReclaimPolicy, VolumeBindingMode, AllowVolumeExpansion:boolean, Age"),
        _storage_class,
    ),
    ("storage.k8s.io", "CSIDriver"): (
        _columns(
            "AttachRequired:boolean, PodInfoOnMount:boolean, StorageCapacity:boolean, TokenRequests, "
            "RequiresRepublish:boolean, Modes, Age"
        ),
        _csi_driver,
    ),
    ("storage.k8s.io", "CSINode"): (
        _columns("Drivers:integer, Age"),
        lambda obj, now: [name_of(obj), len(spec_of(obj).get("drivers") or ()), age_of(obj, now)],
    ),
    ("storage.k8s.io", "CSIStorageCapacity"): (_columns("Created At"), _created),
    ("storage.k8s.io", "VolumeAttributesClass"): (_columns("DriverName, Age"), _fields("driverName")),
    ("networking.k8s.io", "IPAddress"): (_columns("ParentRef"), _address),
    ("networking.k8s.io", "ServiceCIDR"): (
        _columns("CIDRs, Age"),
        lambda obj, now: [name_of(obj), ",".join(spec_of(obj).get("cidrs") or ()), age_of(obj, now)],
    ),
    ("certificates.k8s.io", "CertificateSigningRequest"): (
        _columns("Age, SignerName, Requestor, RequestedDuration, Condition"),
        signing_request_cells,
    ),
    ("node.k8s.io", "RuntimeClass"): (_columns("Handler, Age"), _fields("handler")),
    ("storage.k8s.io", "VolumeAttachment"): (_columns("Attacher, PV, Node, Attached:boolean, Age"), _attachment),
    (_RBAC, "Role"): (_columns("Created At"), _created),
    (_RBAC, "ClusterRole"): (_columns("Created At"), _created),
    (_RBAC, "RoleBinding"): (_columns("Role, Age", "Users, Groups, ServiceAccounts"), _binding),
    (_RBAC, "ClusterRoleBinding"): (_columns("Role, Age", "Users, Groups, ServiceAccounts"), _binding),
    ("autoscaling", "HorizontalPodAutoscaler"): (
        _columns("Reference, Targets, MinPods, MaxPods:integer, Replicas:integer, Age"),
        autoscaler_cells,
    ),
    ("autoscaling", "Scale"): (
        _columns("Desired:integer, Available:integer, Age"),
        lambda obj, now: [
            name_of(obj),
            spec_of(obj).get("replicas", 0),
            status_of(obj).get("replicas", 0),
            age_of(obj, now),
        ],
    ),
    ("metrics.k8s.io", "NodeMetrics"): (_columns("CPU, Memory, Window"), node_metrics_cells),
    ("metrics.k8s.io", "PodMetrics"): (_columns("CPU, Memory, Window"), pod_metrics_cells),
    ("policy", "PodDisruptionBudget"): (
        _columns("Min Available, Max Unavailable, Allowed Disruptions:integer, Age"),
        _budget,
    ),
    ("scheduling.k8s.io", "PriorityClass"): (
        _columns("Value:integer, Global-Default:boolean, Age"),
        lambda obj, now: [name_of(obj), obj.get("value", 0), bool(obj.get("globalDefault")), age_of(obj, now)],
    ),
    ("apiextensions.k8s.io", "CustomResourceDefinition"): (_columns("Created At"), _created),
}
