"""The kinds that `differential_operations.py` tells stories of: all but those that run stand here."""

from __future__ import annotations

import base64

from hypothesis import strategies as st

from differential_subject import JSON, Subject, condition, exactly, items, number, some, text, word, word_set, words
from differential_workloads import CRON_JOB, DAEMON_SET, DEPLOYMENT, JOB, POD, REPLICA_SET, STATEFUL_SET

encoded = st.sampled_from([base64.b64encode(one).decode() for one in (b"", b"x", b"secret")])
CONFIG_MAP = Subject(
    "configmaps",
    "ConfigMap",
    parts=some(data=words, binaryData=st.dictionaries(text("b1", "k1"), encoded, max_size=2), immutable=st.booleans()),
    wrong=st.sampled_from(
        [{"dta": {}}, {"data": {"a/b": "x"}}, {"data": {"k": 1}}, {"data": "x"}, {"binaryData": {"x": "!"}}]
    ),
    edits=(
        {"op": "add", "path": "/data", "value": {"k1": "z"}},
        {"op": "remove", "path": "/data/k1"},
        {"op": "replace", "path": "/data/k2", "value": "z"},
        {"op": "add", "path": "/data/k~13", "value": "z"},
    ),
    strategic=st.sampled_from([{"data": {"$patch": "replace", "k3": "z"}}]),
)
SECRET = Subject(
    "secrets",
    "Secret",
    parts=some(
        data=st.dictionaries(text("k1", "k2"), encoded, max_size=2),
        stringData=words,
        type=text("Opaque", "example.com/t", "kubernetes.io/basic-auth", "kubernetes.io/tls", ""),
        immutable=st.booleans(),
    ),
    wrong=st.sampled_from([{"data": {"k": "no base64!"}}, {"data": {"bad key": "eA=="}}, {"typ": "x"}]),
)
_port = exactly(port=st.integers(80, 82)).flatmap(
    lambda one: some(
        name=text("http", "web", "dns"),
        protocol=text("TCP", "UDP"),
        targetPort=st.sampled_from([8080, "http"]),
        appProtocol=word,
    ).map(lambda more: {**one, **more})
)
SERVICE = Subject(
    "services",
    "Service",
    base={"spec": {"ports": [{"name": "main", "port": 80}]}},
    parts=exactly(
        spec=some(
            ports=items(_port, "port"),
            selector=words,
            type=text("ClusterIP", "NodePort", "ExternalName", "LoadBalancer"),
            externalName=text("example.com"),
            sessionAffinity=text("None", "ClientIP"),
            externalIPs=st.lists(text("1.2.3.4", "1.2.3.5"), max_size=2),
            publishNotReadyAddresses=st.booleans(),
            internalTrafficPolicy=text("Cluster", "Local"),
        )
    ),
    wrong=st.sampled_from(
        [
            {"spec": {"ports": [{"port": 0}]}},
            {"spec": {"clusterIP": "x"}},
            {"spec": {"type": "Wrong"}},
            {"spec": {"prts": 1}},
        ]
    ),
    strategic=st.sampled_from(
        [
            {"spec": {"ports": [{"port": 81, "$patch": "delete"}]}},
            {
                "spec": {
                    "ports": [{"port": 80, "targetPort": 99}],
                    "$setElementOrder/ports": [{"port": 81}, {"port": 80}],
                }
            },
            {"spec": {"ports": [{"port": 82, "name": "new"}]}},
            {"spec": {"ports": [{"$patch": "replace"}, {"port": 90}]}},
            {"spec": {"ports": [{"name": "nokey"}]}},
        ]
    ),
    status=some(loadBalancer=some(ingress=st.lists(exactly(ip=text("1.1.1.1", "2.2.2.2")), max_size=2))),
    edits=(
        {"op": "add", "path": "/spec/ports/-", "value": {"name": "j", "port": 99}},
        {"op": "remove", "path": "/spec/ports/0"},
    ),
)
ROLE = Subject(
    "roles",
    "Role",
    "rbac.authorization.k8s.io/v1",
    parts=some(
        rules=st.lists(
            st.one_of(
                exactly(apiGroups=st.just([""]), resources=word_set, verbs=word_set),
                exactly(verbs=word_set),
                exactly(
                    apiGroups=st.just([""]), resources=st.just(["pods"]), verbs=st.just(["get"]), resourceNames=word_set
                ),
            ),
            max_size=2,
        )
    ),
    wrong=st.sampled_from([{"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}, {"rules": "x"}, {"ruls": []}]),
)
LEASE = Subject(
    "leases",
    "Lease",
    "coordination.k8s.io/v1",
    parts=exactly(
        spec=some(
            holderIdentity=word,
            leaseDurationSeconds=number,
            leaseTransitions=number,
            renewTime=text(
                "2024-01-01T00:00:00.000000Z", "2024-01-01T00:00:00.123456Z", "2024-01-01T00:00:00Z", "soon"
            ),
        )
    ),
)
SERVICE_ACCOUNT = Subject(
    "serviceaccounts",
    "ServiceAccount",
    parts=some(
        automountServiceAccountToken=st.booleans(),
        secrets=items(exactly(name=text("s1", "s2")), "name"),
        imagePullSecrets=items(exactly(name=text("s1", "s2")), "name"),
    ),
    strategic=st.sampled_from(
        [{"secrets": [{"name": "s1", "$patch": "delete"}]}, {"imagePullSecrets": [{"name": "s2"}]}]
    ),
)
INGRESS = Subject(
    "ingresses",
    "Ingress",
    "networking.k8s.io/v1",
    base={"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}},
    parts=exactly(
        spec=some(
            ingressClassName=text("c1", "c2"),
            rules=st.lists(
                some(
                    host=text("a.example.com", "*.example.com", "BAD"),
                    http=exactly(
                        paths=st.lists(
                            exactly(
                                path=text("/", "/x", "no"), pathType=text("Prefix", "Exact", "ImplementationSpecific"),
                                backend=exactly(service=exactly(name=text("s"), port=st.sampled_from([{"number": 80}, {"name": "http"}, {}]))),
                            ),
                            max_size=2,
                        )
                    ),
                ),
                max_size=2,
            ),
            tls=st.lists(some(hosts=st.just(["a.example.com"]), secretName=word), max_size=1),
        )
    ),
    status=some(loadBalancer=some(ingress=st.lists(exactly(ip=text("1.1.1.1", "2.2.2.2")), max_size=2))),
)  # fmt: skip
NETWORK_POLICY = Subject(
    "networkpolicies",
    "NetworkPolicy",
    "networking.k8s.io/v1",
    base={"spec": {"podSelector": {}}},
    parts=exactly(
        spec=some(
            podSelector=some(matchLabels=words, matchExpressions=st.lists(exactly(key=text("k"), operator=text("In", "Exists", "Is")), max_size=1)),
            policyTypes=st.lists(text("Ingress", "Egress"), max_size=2),
            ingress=st.lists(some(ports=st.lists(some(port=st.sampled_from([80, "http"]), protocol=text("TCP", "UDP")), max_size=2)), min_size=1, max_size=2),
            egress=st.lists(some(to=st.lists(exactly(ipBlock=exactly(cidr=text("10.0.0.0/8", "bad"))), max_size=1)), min_size=1, max_size=1),
        )
    ),
)  # fmt: skip
BUDGET = Subject(
    "poddisruptionbudgets",
    "PodDisruptionBudget",
    "policy/v1",
    parts=exactly(
        spec=some(
            minAvailable=st.sampled_from([0, 1, "50%", "x%", -1]),
            maxUnavailable=st.sampled_from([0, 1, "50%"]),
            selector=some(matchLabels=words),
            unhealthyPodEvictionPolicy=text("IfHealthyBudget", "AlwaysAllow"),
        )
    ),
    strategic=st.just({"spec": {"selector": {"matchLabels": {"x": "y"}}}}),
)
CLAIM = Subject(
    "persistentvolumeclaims",
    "PersistentVolumeClaim",
    versions=False,
    base={
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": "sc",
        }
    },
    parts=exactly(
        spec=some(
            accessModes=st.lists(text("ReadWriteOnce", "ReadOnlyMany", "Wrong"), max_size=2),
            resources=exactly(requests=exactly(storage=text("1Gi", "2Gi", "1024Mi", "0"))),
            volumeMode=text("Filesystem", "Block"),
            storageClassName=text("sc", "sc2"),
            volumeName=text("v"),
        )
    ),
    status=some(phase=text("Pending", "Bound"), capacity=exactly(storage=text("1Gi", "1024Mi"))),
)
LIMIT_RANGE = Subject(
    "limitranges",
    "LimitRange",
    base={"spec": {"limits": []}},
    parts=exactly(
        spec=some(
            limits=st.lists(
                exactly(type=text("PersistentVolumeClaim"), max=exactly(storage=text("10Gi", "20Gi"))), max_size=1
            )
        )
    ),
)
QUOTA = Subject(
    "resourcequotas",
    "ResourceQuota",
    versions=False,
    parts=exactly(spec=some(hard=st.dictionaries(text("pods", "count/widgets.example.com", "requests.cpu", "bad name"), text("10", "0.5", "-1"), max_size=2))),
)  # fmt: skip

_map_items = items(
    exactly(k=text("x", "y"), n=number).flatmap(lambda one: some(v=word, deep=words).map(lambda more: {**one, **more})),
    "k",
)
WIDGETS: JSON = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.differential.example.com"},
    "spec": {
        "group": "differential.example.com",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList", "shortNames": ["wg"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
                },
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.replicas"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "replicas": {"type": "integer", "minimum": 0, "maximum": 3},
                                    "text": {"type": "string", "default": "given", "maxLength": 5},
                                    "choice": {"type": "string", "enum": ["x", "y"]},
                                    "either": {"x-kubernetes-int-or-string": True},
                                    "nullable": {"type": "string", "nullable": True, "default": "n"},
                                    "atomic": {"type": "array", "items": {"type": "string"}},
                                    "atomics": {"type": "array", "x-kubernetes-list-type": "atomic", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                                    "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                                    "numbers": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}},
                                    "listmap": {
                                        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k", "n"],
                                        "items": {
                                            "type": "object", "required": ["k"],
                                            "properties": {
                                                "k": {"type": "string"}, "n": {"type": "integer", "default": 0}, "v": {"type": "string"},
                                                "deep": {"type": "object", "additionalProperties": {"type": "string"}},
                                            },
                                        },
                                    },
                                    "granular": {"type": "object", "additionalProperties": {"type": "string"}},
                                    "atomicmap": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
                                    "struct": {
                                        "type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer", "default": 7}},
                                    },
                                    "atomicstruct": {
                                        "type": "object", "x-kubernetes-map-type": "atomic",
                                        "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
                                    },
                                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                                },
                            },
                            "status": {
                                "type": "object",
                                "properties": {
                                    "replicas": {"type": "integer"}, "phase": {"type": "string"},
                                    "conditions": {
                                        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
                                        "items": {
                                            "type": "object", "required": ["type"],
                                            "properties": {"type": {"type": "string"}, "status": {"type": "string"}, "reason": {"type": "string"}, "message": {"type": "string"}},
                                        },
                                    },
                                },
                            },
                        },
                    }
                },
            }
        ],
    },
}  # fmt: skip
WIDGET = Subject(
    "widgets",
    "Widget",
    "differential.example.com/v1",
    custom=True,
    parts=exactly(
        spec=some(
            replicas=number,
            text=word,
            choice=text("x", "y"),
            either=st.sampled_from([1, "1", "x"]),
            nullable=st.sampled_from([None, "x"]),
            atomic=st.lists(word, max_size=2),
            atomics=st.lists(words, max_size=2),
            set=word_set,
            numbers=st.lists(number, max_size=3, unique=True),
            listmap=_map_items,
            granular=words,
            atomicmap=words,
            struct=some(a=word, b=number),
            atomicstruct=some(a=word, b=number),
            free=st.dictionaries(text("k1", "k2"), st.one_of(word, number, words, st.lists(words, max_size=2), st.none()), max_size=2),
        )
    ),
    wrong=st.sampled_from(
        [
            {"spec": {"replicas": 9}}, {"spec": {"replicas": "x"}}, {"spec": {"choice": "z"}}, {"spec": {"unknown": 1}}, {"spec": {"text": "too long"}},
            {"spec": {"set": ["p", "p"]}}, {"spec": {"listmap": [{"k": "x"}, {"k": "x"}]}}, {"spec": {"listmap": [{"n": 1}]}}, {"spec": []}, {"spec": None},
            {"spec": {"struct": None}}, {"spec": {"replicas": None}}, {"spec": {"replicas": 1.5}}, {"spec": {"either": 1.5}}, {"spec": {"granular": {"k1": 1}}},
            {"spec": {"set": None}}, {"spec": {"listmap": None}}, {"spec": {"numbers": [1.0, 1]}}, {"unknownTop": {"a": 1}}, {"spec": {"struct": {"c": 1}}},
            {"spec": {"text": None}}, {"spec": {"listmap": [None]}}, {"spec": {"listmap": [{"k": "x", "zz": 1}]}},
        ]
    ),
    status=some(replicas=number, phase=word, conditions=items(condition, "type", 2)),
    scale=True,
    edits=(
        {"op": "add", "path": "/spec", "value": {"replicas": 1}},
        {"op": "add", "path": "/spec/set", "value": ["q", "p"]},
        {"op": "add", "path": "/spec/set/-", "value": "r"},
        {"op": "remove", "path": "/spec/listmap/0"},
        {"op": "remove", "path": "/spec"},
        {"op": "replace", "path": "/spec/text", "value": "j"},
        {"op": "remove", "path": "/spec/struct/b"},
    ),
)  # fmt: skip

SUBJECTS = (
    CONFIG_MAP, SECRET, SERVICE, DEPLOYMENT, STATEFUL_SET, DAEMON_SET, REPLICA_SET, POD, JOB, CRON_JOB, ROLE, LEASE, SERVICE_ACCOUNT, INGRESS,
    NETWORK_POLICY, BUDGET, CLAIM, LIMIT_RANGE, QUOTA, WIDGET,
)  # fmt: skip
