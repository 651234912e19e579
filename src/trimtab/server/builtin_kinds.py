"""The built-in kinds that are served, and their subresources. A kind that is not in this table answers 404.

Names, scopes, short names and verbs are Kubernetes' own, so that discovery tells clients what they know already.
"""

from __future__ import annotations

from trimtab.server.kinds import ALL_VERBS, Kind, Scale

_GET_UPDATE = ("get", "patch", "update")
_CREATE = ("create",)
_CONNECT = ("create", "get")
_PROXIED = ("create", "delete", "get", "patch", "update")
_MEASURED = ("get", "list")
ALL = ("all",)

_POD_SUBRESOURCES = (
    ("attach", "PodAttachOptions", _CONNECT),
    ("binding", "Binding", _CREATE),
    ("ephemeralcontainers", "Pod", _GET_UPDATE),
    ("eviction", "Eviction", _CREATE),
    ("exec", "PodExecOptions", _CONNECT),
    ("log", "Pod", ("get",)),
    ("portforward", "PodPortForwardOptions", _CONNECT),
    ("proxy", "PodProxyOptions", _PROXIED),
    ("resize", "Pod", _GET_UPDATE),
)

_API_EXTENSIONS = ("api-extensions",)
ADMISSION = "admissionregistration.k8s.io"
RBAC = "rbac.authorization.k8s.io"
AUTHORIZATION = "authorization.k8s.io"
AUTHENTICATION = "authentication.k8s.io"
METRICS = "metrics.k8s.io"
PRIORITY_CLASSES = "/scheduling.k8s.io/priorityclasses/"
RUNTIME_CLASSES = "/node.k8s.io/runtimeclasses/"
"""The prefixes of the keys of all of them."""

BUILTIN_KINDS: tuple[Kind, ...] = (
    Kind("", "v1", "ConfigMap", "configmaps", short_names=("cm",), generation=False),
    Kind(
        "",
        "v1",
        "Endpoints",
        "endpoints",
        short_names=("ep",),
        singular="endpoints",
        generation=False,
        warning="v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    ),
    Kind("", "v1", "Event", "events", short_names=("ev",), generation=False),
    Kind(
        "",
        "v1",
        "Namespace",
        "namespaces",
        namespaced=False,
        short_names=("ns",),
        status=True,
        generation=False,
        verbs=tuple(verb for verb in ALL_VERBS if verb != "deletecollection"),
        subresources=(("finalize", "Namespace", ("update",)),),
    ),
    Kind("", "v1", "Node", "nodes", namespaced=False, short_names=("no",), status=True, generation=False),
    Kind(
        "",
        "v1",
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        short_names=("pvc",),
        status=True,
        generation=False,
    ),
    Kind(
        "",
        "v1",
        "PersistentVolume",
        "persistentvolumes",
        namespaced=False,
        short_names=("pv",),
        status=True,
        generation=False,
    ),
    Kind("", "v1", "Pod", "pods", short_names=("po",), categories=ALL, status=True, subresources=_POD_SUBRESOURCES),
    Kind("", "v1", "PodTemplate", "podtemplates"),
    Kind(
        "",
        "v1",
        "ReplicationController",
        "replicationcontrollers",
        short_names=("rc",),
        categories=ALL,
        status=True,
        scale=Scale(selector_is_map=True),
    ),
    Kind("", "v1", "LimitRange", "limitranges", short_names=("limits",), generation=False),
    Kind("", "v1", "ResourceQuota", "resourcequotas", short_names=("quota",), status=True, generation=False),
    Kind("", "v1", "Secret", "secrets", generation=False),
    Kind(
        "",
        "v1",
        "ServiceAccount",
        "serviceaccounts",
        short_names=("sa",),
        generation=False,
        subresources=(("token", "TokenRequest", _CREATE),),
    ),
    Kind(
        "",
        "v1",
        "Service",
        "services",
        short_names=("svc",),
        categories=ALL,
        status=True,
        generation=False,
        subresources=(("proxy", "ServiceProxyOptions", _PROXIED),),
    ),
    Kind(
        ADMISSION,
        "v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        namespaced=False,
        categories=_API_EXTENSIONS,
    ),
    Kind(
        ADMISSION,
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        namespaced=False,
        categories=_API_EXTENSIONS,
    ),
    Kind(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        namespaced=False,
        short_names=("crd", "crds"),
        categories=_API_EXTENSIONS,
        status=True,
    ),
    Kind("apps", "v1", "ControllerRevision", "controllerrevisions"),
    Kind("apps", "v1", "DaemonSet", "daemonsets", short_names=("ds",), categories=ALL, status=True),
    Kind(
        "apps", "v1", "Deployment", "deployments", short_names=("deploy",), categories=ALL, status=True, scale=Scale()
    ),
    Kind("apps", "v1", "ReplicaSet", "replicasets", short_names=("rs",), categories=ALL, status=True, scale=Scale()),
    Kind("apps", "v1", "StatefulSet", "statefulsets", short_names=("sts",), categories=ALL, status=True, scale=Scale()),
    Kind(AUTHENTICATION, "v1", "SelfSubjectReview", "selfsubjectreviews", namespaced=False, verbs=_CREATE),
    Kind(AUTHENTICATION, "v1", "TokenReview", "tokenreviews", namespaced=False, verbs=_CREATE),
    Kind(AUTHORIZATION, "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", verbs=_CREATE),
    Kind(AUTHORIZATION, "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", namespaced=False, verbs=_CREATE),
    Kind(AUTHORIZATION, "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", namespaced=False, verbs=_CREATE),
    Kind(AUTHORIZATION, "v1", "SubjectAccessReview", "subjectaccessreviews", namespaced=False, verbs=_CREATE),
    Kind(
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        short_names=("hpa",),
        categories=ALL,
        status=True,
        generation=False,
    ),
    Kind(
        "autoscaling",
        "v1",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        short_names=("hpa",),
        categories=ALL,
        status=True,
        generation=False,
        stored_version="v2",
    ),
    Kind("batch", "v1", "CronJob", "cronjobs", short_names=("cj",), categories=ALL, status=True),
    Kind("batch", "v1", "Job", "jobs", categories=ALL, status=True),
    Kind(
        "certificates.k8s.io",
        "v1",
        "CertificateSigningRequest",
        "certificatesigningrequests",
        namespaced=False,
        short_names=("csr",),
        status=True,
        generation=False,
        subresources=(("approval", "CertificateSigningRequest", _GET_UPDATE),),
    ),
    Kind("coordination.k8s.io", "v1", "Lease", "leases", generation=False),
    Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
    Kind("events.k8s.io", "v1", "Event", "events", short_names=("ev",), generation=False, stored_group="core"),
    Kind(METRICS, "v1beta1", "NodeMetrics", "nodes", namespaced=False, verbs=_MEASURED, singular="node"),
    Kind(METRICS, "v1beta1", "PodMetrics", "pods", verbs=_MEASURED, singular="pod"),
    Kind(
        "networking.k8s.io",
        "v1",
        "IPAddress",
        "ipaddresses",
        namespaced=False,
        short_names=("ip",),
        singular="ipaddress",
    ),
    Kind(
        "networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", namespaced=False, status=True, singular="servicecidr"
    ),
    Kind(
        "node.k8s.io",
        "v1",
        "RuntimeClass",
        "runtimeclasses",
        namespaced=False,
        generation=False,
        singular="runtimeclass",
    ),
    Kind("networking.k8s.io", "v1", "IngressClass", "ingressclasses", namespaced=False, singular="ingressclass"),
    Kind("networking.k8s.io", "v1", "Ingress", "ingresses", short_names=("ing",), status=True, singular="ingress"),
    Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", short_names=("netpol",)),
    Kind(
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        short_names=("pdb",),
        status=True,
    ),
    Kind(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False, generation=False),
    Kind(RBAC, "v1", "ClusterRole", "clusterroles", namespaced=False, generation=False),
    Kind(RBAC, "v1", "RoleBinding", "rolebindings", generation=False),
    Kind(RBAC, "v1", "Role", "roles", generation=False),
    Kind("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", namespaced=False, short_names=("pc",)),
    Kind("storage.k8s.io", "v1", "CSIDriver", "csidrivers", namespaced=False, generation=False, singular="csidriver"),
    Kind("storage.k8s.io", "v1", "CSINode", "csinodes", namespaced=False, generation=False, singular="csinode"),
    Kind("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities", generation=False),
    Kind(
        "storage.k8s.io",
        "v1",
        "VolumeAttributesClass",
        "volumeattributesclasses",
        namespaced=False,
        short_names=("vac",),
        generation=False,
    ),
    Kind(
        "storage.k8s.io",
        "v1",
        "StorageClass",
        "storageclasses",
        namespaced=False,
        short_names=("sc",),
        generation=False,
        singular="storageclass",
    ),
    Kind(
        "storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", namespaced=False, status=True, generation=False
    ),
)

REVIEWS = frozenset(kind.kind for kind in BUILTIN_KINDS if kind.group in (AUTHENTICATION, AUTHORIZATION))
"""Kinds that are questions: answered, never stored."""
MEASURED = frozenset(kind.kind for kind in BUILTIN_KINDS if kind.group == METRICS)
"""Kinds that are measured when somebody asks, never stored."""
