"""Requests as a hostile or broken client sends them, for Hypothesis: values that JSON allows and nobody expects, objects that
are nearly right, bytes that are nearly a format.

`refused_well` says what an answer must be, whatever was asked.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

JSON = dict[str, Any]

WORDS = st.sampled_from(
    ["", "a", "x" * 300, "A_b.c-9", "..", "../x", "a/b", "a b", "é", "\u0000", "\ufeff", "\n", "-", "0", "true", "null",
     "10Gi", "1e400", "-1", "99999999999999999999", "2026-01-01T00:00:00Z", "not a time", "system:masters", "%2F", "$patch", "<<"]
)  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.sampled_from([0, -1, 65536, 1 << 31, 1 << 53, 1 << 62]),
    st.floats(allow_nan=False, allow_infinity=False),
    WORDS,
    st.text(max_size=20),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(WORDS, st.text(max_size=8)), inner, max_size=4)
    ),
    max_leaves=8,
)

_CONTAINER: JSON = {
    "name": "web",
    "image": "nginx",
    "command": ["a"],
    "env": [{"name": "A", "value": "b"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    "ports": [{"containerPort": 80, "name": "http", "protocol": "TCP"}],
    "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}},
    "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 3},
    "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    "securityContext": {"runAsUser": 1, "capabilities": {"drop": ["ALL"]}},
}
_POD_SPEC: JSON = {
    "containers": [_CONTAINER],
    "initContainers": [{"name": "init", "image": "busybox"}],
    "volumes": [{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "x", "items": [{"key": "k", "path": "p"}]}}],
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}]}}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule"}],
}  # fmt: skip
_TEMPLATE: JSON = {"metadata": {"labels": {"app": "web"}}, "spec": _POD_SPEC}
_SELECTOR: JSON = {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "app", "operator": "Exists"}]}
_JOB: JSON = {"template": {"spec": {"containers": [_CONTAINER], "restartPolicy": "Never"}}, "completions": 1}
_CRD: JSON = {
    "group": "fuzz.example",
    "scope": "Namespaced",
    "names": {"plural": "things", "kind": "Thing", "singular": "thing", "shortNames": ["th"]},
    "versions": [
        {
            "name": "v1",
            "served": True,
            "storage": True,
            "additionalPrinterColumns": [{"name": "A", "type": "integer", "jsonPath": ".spec.a[0].b"}],
            "subresources": {
                "status": {},
                "scale": {
                    "specReplicasPath": ".spec.n",
                    "statusReplicasPath": ".status.n",
                    "labelSelectorPath": ".status.s",
                },
            },
            "schema": {
                "openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": {
                            "type": "object",
                            "required": ["n"],
                            "properties": {
                                "n": {"type": "integer", "default": 1, "minimum": 0},
                                "s": {"type": "string", "pattern": "^a", "enum": ["a", "ab"]},
                                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                                "items": {
                                    "type": "array",
                                    "x-kubernetes-list-type": "map",
                                    "x-kubernetes-list-map-keys": ["k"],
                                    "items": {
                                        "type": "object",
                                        "required": ["k"],
                                        "properties": {"k": {"type": "string"}},
                                    },
                                },
                            },
                        },
                        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                    },
                }
            },
        }
    ],
}

NAMESPACED = "/namespaces/default/"
SAMPLES: list[tuple[str, JSON]] = [
    ("/api/v1/namespaces/default/configmaps", {"kind": "ConfigMap", "data": {"a": "b"}, "binaryData": {"c": "aGk="}}),
    ("/api/v1/namespaces/default/secrets", {"kind": "Secret", "type": "Opaque", "data": {"a": "aGk="}, "stringData": {"b": "c"}}),
    ("/api/v1/namespaces/default/pods", {"kind": "Pod", "spec": _POD_SPEC}),
    ("/api/v1/namespaces/default/services", {"kind": "Service", "spec": {"ports": [{"port": 80, "targetPort": "http", "nodePort": 0}], "selector": {"a": "b"}, "type": "ClusterIP", "ipFamilies": ["IPv4"]}}),
    ("/api/v1/namespaces/default/endpoints", {"kind": "Endpoints", "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]}),
    ("/api/v1/namespaces/default/events", {"kind": "Event", "involvedObject": {"kind": "Pod", "name": "a", "namespace": "default"}, "reason": "X", "type": "Normal", "count": 1}),
    ("/api/v1/namespaces/default/persistentvolumeclaims", {"kind": "PersistentVolumeClaim", "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
    ("/api/v1/namespaces/default/serviceaccounts", {"kind": "ServiceAccount", "secrets": [{"name": "a"}]}),
    ("/api/v1/namespaces/default/limitranges", {"kind": "LimitRange", "spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "default": {"cpu": "1"}}]}}),
    ("/api/v1/namespaces/default/resourcequotas", {"kind": "ResourceQuota", "spec": {"hard": {"pods": "1000"}, "scopes": ["BestEffort"]}}),
    ("/apis/apps/v1/namespaces/default/deployments", {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 1, "selector": _SELECTOR, "template": _TEMPLATE, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}}}}),
    ("/apis/apps/v1/namespaces/default/statefulsets", {"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {"serviceName": "a", "selector": _SELECTOR, "template": _TEMPLATE, "volumeClaimTemplates": [{"metadata": {"name": "d"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}}),
    ("/apis/apps/v1/namespaces/default/daemonsets", {"apiVersion": "apps/v1", "kind": "DaemonSet", "spec": {"selector": _SELECTOR, "template": _TEMPLATE}}),
    ("/apis/batch/v1/namespaces/default/jobs", {"apiVersion": "batch/v1", "kind": "Job", "spec": _JOB}),
    ("/apis/batch/v1/namespaces/default/cronjobs", {"apiVersion": "batch/v1", "kind": "CronJob", "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": _JOB}}}),
    ("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "a", "apiVersion": "apps/v1"}, "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}}),
    ("/apis/policy/v1/namespaces/default/poddisruptionbudgets", {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "spec": {"minAvailable": "50%", "selector": _SELECTOR}}),
    ("/apis/networking.k8s.io/v1/namespaces/default/ingresses", {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "spec": {"rules": [{"host": "a.example", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "a", "port": {"number": 80}}}}]}}], "tls": [{"hosts": ["a.example"], "secretName": "t"}]}}),
    ("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {"podSelector": _SELECTOR, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 80}]}]}}),
    ("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}], "ports": [{"port": 80}]}),
    ("/apis/coordination.k8s.io/v1/namespaces/default/leases", {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"holderIdentity": "a", "renewTime": "2026-01-01T00:00:00.000000Z"}}),
    ("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}),
    ("/apis/rbac.authorization.k8s.io/v1/clusterroles", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "rules": [{"nonResourceURLs": ["/x"], "verbs": ["get"]}], "aggregationRule": {"clusterRoleSelectors": [_SELECTOR]}}),
    ("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "a"}, "subjects": [{"kind": "User", "name": "u", "apiGroup": "rbac.authorization.k8s.io"}]}),
    ("/api/v1/nodes", {"kind": "Node", "spec": {"podCIDR": "10.1.0.0/24", "taints": [{"key": "a", "effect": "NoSchedule"}]}}),
    ("/api/v1/persistentvolumes", {"kind": "PersistentVolume", "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}, "claimRef": {"name": "a", "namespace": "default"}}}),
    ("/apis/storage.k8s.io/v1/storageclasses", {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "a/b", "parameters": {"a": "b"}}),
    ("/apis/scheduling.k8s.io/v1/priorityclasses", {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 5}),
    ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": _CRD}),
]  # fmt: skip
"""A collection and an object of its kind that is right, but for its name."""

META: JSON = {
    "labels": {"a": "b"},
    "annotations": {"c": "d"},
    "finalizers": [],
    "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "u", "controller": True}],
    "managedFields": [
        {
            "manager": "m",
            "operation": "Apply",
            "apiVersion": "v1",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {"f:a": {}}},
        }
    ],
}


def _ways(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [way] if way else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        found += _ways(child, (*way, key))
    return found


@st.composite
def mutated(draw: st.DrawFn, obj: Any, most: int = 3) -> Any:
    """The same value with some of its parts replaced, dropped, doubled or renamed."""
    out = copy.deepcopy(obj)
    for _ in range(draw(st.integers(0, most))):
        ways = _ways(out)
        if not ways:
            break
        way = draw(st.sampled_from(ways))
        place = out
        for key in way[:-1]:
            place = place[key]
        key = way[-1]
        match draw(st.sampled_from(["replace", "replace", "drop", "double", "rename", "retype"])):
            case "replace":
                place[key] = draw(VALUES)
            case "drop":
                del place[key]
            case "double" if isinstance(place, list):
                place.insert(key, copy.deepcopy(place[key]))
            case "rename" if isinstance(place, dict):
                place[draw(WORDS)] = place.pop(key)
            case "retype":
                place[key] = draw(st.sampled_from([None, {}, [], "", 0, [place[key]], {"x": place[key]}]))
    return out


@st.composite
def objects(draw: st.DrawFn) -> tuple[str, JSON]:
    """A collection and an object for it that is nearly right; named `fuzz`, unless that was mutated."""
    collection, sample = draw(st.sampled_from(SAMPLES))
    whole = {"apiVersion": "v1", "metadata": {"name": "fuzz", **draw(st.sampled_from([{}, {}, META]))}, **sample}
    if "CustomResourceDefinition" in sample["kind"]:
        whole["metadata"]["name"] = "things.fuzz.example"
    return collection, draw(mutated(whole))


def refused_well(answer: Any) -> None:
    """Raises AssertionError unless the answer is a success or a `Status` that names the fault.

    Two sorts of 500 are right: the real server's own, without a reason, for a configuration with fields that no schema has; and
    that a webhook did not answer as it should, which the message says.
    """
    if answer.status < 400:
        return
    if answer.status == 500 and "field not declared in schema" in answer.body["message"]:
        return
    if answer.status == 500:
        assert "webhook" in answer.body["message"] or "JSON patch" in answer.body["message"], answer.body
    body = answer.body
    assert isinstance(body, dict), body
    assert (body["kind"], body["apiVersion"], body["status"]) == ("Status", "v1", "Failure")
    assert body["code"] == answer.status
    assert body["reason"] or "webhook" in body["message"], body
    assert len(body["message"]) > 5, body
    json.dumps(body)
