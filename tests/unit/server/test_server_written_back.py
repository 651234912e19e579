"""An object that is written back as it was read, or as it was first written, has changed nothing and is never refused: rules that
hold fields fixed compare like with like, whatever nulls and zeros the server has written into the stored one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api_in_process import APPLY, MERGE, Api, running_api
from protobuf_writer import encoded
from trimtab.store import Put

JSON = dict[str, Any]
PROTOBUF = "application/vnd.kubernetes.protobuf"
CONTAINER = {
    "name": "main",
    "image": "i:1",
    "env": [{"name": "A", "value": ""}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    "livenessProbe": {"httpGet": {"port": 80}},
}
POD = {"containers": [CONTAINER], "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"operator": "Exists"}]}
TEMPLATE = {"metadata": {"labels": {"app": "w"}}, "spec": POD}
FINITE = {**TEMPLATE, "spec": {**POD, "restartPolicy": "Never"}}
WORKLOAD = {"selector": {"matchLabels": {"app": "w"}}, "template": TEMPLATE}
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
SOURCE = {"kind": "PersistentVolumeClaim", "name": "other"}
SCOPED = {**SOURCE, "apiGroup": ""}
CORE, APPS, BATCH, NET = "v1", "apps/v1", "batch/v1", "networking.k8s.io/v1"
STORAGE, RBAC = "storage.k8s.io/v1", "rbac.authorization.k8s.io/v1"
FAILURES = {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]}
WITH_CLAIMS = {**WORKLOAD, "serviceName": "s", "volumeClaimTemplates": [{"metadata": {"name": "d"}, "spec": CLAIM}]}

OBJECTS: dict[str, tuple[str, str, JSON]] = {
    "configmaps": (CORE, "ConfigMap", {"data": {"a": ""}, "immutable": True}),
    "secrets": (CORE, "Secret", {"data": {"a": "eA=="}, "immutable": True}),
    "services": (CORE, "Service", {"spec": {"ports": [{"port": 80}], "selector": {"app": "w"}}}),
    "headless/services": (CORE, "Service", {"spec": {"ports": [{"port": 80}], "clusterIP": "None"}}),
    "pods": (CORE, "Pod", {"spec": POD}),
    "persistentvolumeclaims": (CORE, "PersistentVolumeClaim", {"spec": {**CLAIM, "dataSource": SOURCE}}),
    "scoped/persistentvolumeclaims": (CORE, "PersistentVolumeClaim", {"spec": {**CLAIM, "dataSourceRef": SCOPED}}),
    "replicationcontrollers": (
        CORE,
        "ReplicationController",
        {"spec": {"selector": {"app": "w"}, "template": TEMPLATE}},
    ),
    "deployments": (APPS, "Deployment", {"spec": WORKLOAD}),
    "statefulsets": (APPS, "StatefulSet", {"spec": WITH_CLAIMS}),
    "daemonsets": (APPS, "DaemonSet", {"spec": WORKLOAD}),
    "replicasets": (APPS, "ReplicaSet", {"spec": WORKLOAD}),
    "controllerrevisions": (APPS, "ControllerRevision", {"revision": 0, "data": {"a": 1}}),
    "jobs": (BATCH, "Job", {"spec": {"template": FINITE, "podFailurePolicy": FAILURES, "completions": 1}}),
    "cronjobs": (BATCH, "CronJob", {"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": FINITE}}}}),
    "rolebindings": (
        RBAC,
        "RoleBinding",
        {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}},
    ),
    "ingresses": (NET, "Ingress", {"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}),
    "poddisruptionbudgets": ("policy/v1", "PodDisruptionBudget", {"spec": {"minAvailable": 0}}),
    "leases": ("coordination.k8s.io/v1", "Lease", {"spec": {"holderIdentity": "a"}}),
    "endpointslices": ("discovery.k8s.io/v1", "EndpointSlice", {"addressType": "IPv4", "endpoints": None}),
    "csistoragecapacities": (STORAGE, "CSIStorageCapacity", {"storageClassName": "fast"}),
}
OF_THE_CLUSTER: dict[str, tuple[str, str, JSON]] = {
    "persistentvolumes": (
        CORE,
        "PersistentVolume",
        {
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "csi": {"driver": "d", "volumeHandle": "h"},
            }
        },
    ),
    "storageclasses": (STORAGE, "StorageClass", {"provisioner": "p.example.com", "parameters": {"a": ""}}),
    "csidrivers": (STORAGE, "CSIDriver", {"spec": {"tokenRequests": [{"audience": "vault"}]}}),
    "csinodes": (
        STORAGE,
        "CSINode",
        {"spec": {"drivers": [{"name": "d.example.com", "nodeID": "n", "topologyKeys": None}]}},
    ),
    "volumeattachments": (
        STORAGE,
        "VolumeAttachment",
        {"spec": {"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "p"}}},
    ),
    "volumeattributesclasses": (STORAGE, "VolumeAttributesClass", {"driverName": "d", "parameters": {"iops": "9"}}),
    "priorityclasses": ("scheduling.k8s.io/v1", "PriorityClass", {"value": 0}),
    "ingressclasses": (NET, "IngressClass", {"spec": {"controller": "example.com/c"}}),
    "servicecidrs": (NET, "ServiceCIDR", {"spec": {"cidrs": ["192.0.2.0/28"]}}),
    "runtimeclasses": ("node.k8s.io/v1", "RuntimeClass", {"handler": "runc"}),
    "clusterrolebindings": (
        RBAC,
        "ClusterRoleBinding",
        {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}},
    ),
    "nodes": (CORE, "Node", {"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}}),
    "namespaces": (CORE, "Namespace", {}),
}


def _collection(plural: str, api_version: str, namespaced: bool) -> str:
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    plural = plural.rpartition("/")[2]
    return f"{root}/namespaces/default/{plural}" if namespaced else f"{root}/{plural}"


def _bare(value: Any) -> Any:
    """The value without nulls, zeros and what is empty: as a release stored it that did not write them, or as a client sends it."""
    if isinstance(value, dict):
        kept = {key: _bare(one) for key, one in value.items()}
        return {
            key: one for key, one in kept.items() if (one is not None and one != "") or key in ("apiGroup", "a", "A")
        }
    return [_bare(one) for one in value] if isinstance(value, list) else value


CASES = [(plural, True, *case) for plural, case in OBJECTS.items()]
CASES += [(plural, False, *case) for plural, case in OF_THE_CLUSTER.items()]


@pytest.mark.parametrize(
    ("plural", "namespaced", "api_version", "kind", "content"), CASES, ids=[case[0] for case in CASES]
)
async def test_an_object_written_back_is_never_refused(
    plural: str, namespaced: bool, api_version: str, kind: str, content: JSON
) -> None:
    collection = _collection(plural, api_version, namespaced)
    sent: JSON = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}, **content}
    async with running_api() as api:
        made = (await api.post(collection, sent)).ok()
        path = f"{collection}/x"
        await _written_back(api, path, made, sent)

        uid = made["metadata"]["uid"].encode()
        [record] = [one for one in api.server.store.list("/") if b'"uid":"' + uid in one.value]
        bare = json.dumps(_bare(json.loads(record.value))).encode()
        await api.server.store.write([Put(record.key, bare, record.revision)])
        await _written_back(api, path, (await api.get(path)).ok(), sent)


async def _written_back(api: Api, path: str, read: JSON, sent: JSON) -> None:
    first = {**sent, "metadata": {"name": "x", "resourceVersion": read["metadata"]["resourceVersion"]}}
    read = (await api.put(path, read)).ok()
    assert (await api.put(path, read)).ok() == read
    assert (await api.put(path, _bare(read))).ok()["metadata"]["uid"] == read["metadata"]["uid"]
    (await api.patch(path, {key: value for key, value in read.items() if key != "metadata"}, MERGE)).ok()
    (await api.patch(path, sent, MERGE)).ok()
    (await api.patch(f"{path}?fieldManager=two&force=true", sent, APPLY)).ok()
    read = (await api.get(path)).ok()
    if "data" not in sent or sent["kind"] in ("ConfigMap", "Secret"):  # the writer has no bytes of free data
        (await api.call("PUT", path, encoded(read), PROTOBUF)).ok()
    if sent["kind"] not in ("Pod", "Job"):  # what the server gave these is no longer theirs to leave out
        first["metadata"]["resourceVersion"] = (await api.get(path)).ok()["metadata"]["resourceVersion"]
        (await api.put(path, first)).ok()
