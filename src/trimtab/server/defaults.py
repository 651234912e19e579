"""What the API fills in when a built-in kind leaves it out, and which structs a built-in object always carries.

The published schemas name no defaults, so they stand here as facts, by the short name of the definition
(`core.v1.PodSpec`): plain ones in `DEFAULTS`, those that depend on sibling fields in `DEFAULTERS`. Source: the API
reference of Kubernetes 1.37 (https://kubernetes.io/docs/reference/kubernetes-api/), which states them field by field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

JSON = dict[str, Any]

_RBAC = "rbac.authorization.k8s.io"
_FILE_MODE = 0o644
_CONTAINER = {
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "resources": {},
}
_WEBHOOK = {
    "failurePolicy": "Fail",
    "matchPolicy": "Equivalent",
    "namespaceSelector": {},
    "objectSelector": {},
    "timeoutSeconds": 10,
}

DEFAULTS: Mapping[str, JSON] = {
    "core.v1.PodSpec": {
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "terminationGracePeriodSeconds": 30,
        "securityContext": {},
        "schedulerName": "default-scheduler",
    },
    "core.v1.Container": _CONTAINER,
    "core.v1.EphemeralContainer": _CONTAINER,
    "core.v1.ContainerPort": {"protocol": "TCP"},
    "core.v1.Probe": {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
    "core.v1.HTTPGetAction": {"path": "/", "scheme": "HTTP"},
    "core.v1.GRPCAction": {"service": ""},
    "core.v1.SecretVolumeSource": {"defaultMode": _FILE_MODE},
    "core.v1.ConfigMapVolumeSource": {"defaultMode": _FILE_MODE},
    "core.v1.DownwardAPIVolumeSource": {"defaultMode": _FILE_MODE},
    "core.v1.ProjectedVolumeSource": {"defaultMode": _FILE_MODE},
    "core.v1.ServiceAccountTokenProjection": {"expirationSeconds": 3600},
    "core.v1.HostPathVolumeSource": {"type": ""},
    "core.v1.ISCSIVolumeSource": {"iscsiInterface": "default"},
    "core.v1.ISCSIPersistentVolumeSource": {"iscsiInterface": "default"},
    "core.v1.ObjectFieldSelector": {"apiVersion": "v1"},
    "core.v1.Secret": {"type": "Opaque"},
    "core.v1.ServicePort": {"protocol": "TCP"},
    "core.v1.EndpointPort": {"protocol": "TCP"},
    "core.v1.PersistentVolumeSpec": {"persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"},
    "core.v1.PersistentVolumeClaimSpec": {"volumeMode": "Filesystem"},
    "apps.v1.DeploymentSpec": {
        "replicas": 1,
        "strategy": {},
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
    },
    "apps.v1.DeploymentStrategy": {"type": "RollingUpdate"},
    "apps.v1.RollingUpdateDeployment": {"maxUnavailable": "25%", "maxSurge": "25%"},
    "apps.v1.ReplicaSetSpec": {"replicas": 1},
    "core.v1.ReplicationControllerSpec": {"replicas": 1},
    "apps.v1.StatefulSetSpec": {
        "replicas": 1,
        "podManagementPolicy": "OrderedReady",
        "updateStrategy": {},
        "revisionHistoryLimit": 10,
        "persistentVolumeClaimRetentionPolicy": {},
    },
    "apps.v1.RollingUpdateStatefulSetStrategy": {"partition": 0},
    "apps.v1.StatefulSetPersistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
    "apps.v1.DaemonSetSpec": {"updateStrategy": {}, "revisionHistoryLimit": 10},
    "apps.v1.DaemonSetUpdateStrategy": {"type": "RollingUpdate"},
    "apps.v1.RollingUpdateDaemonSet": {"maxUnavailable": 1, "maxSurge": 0},
    "batch.v1.CronJobSpec": {
        "concurrencyPolicy": "Allow",
        "suspend": False,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 1,
    },
    "batch.v1.PodFailurePolicyOnPodConditionsPattern": {"status": "True"},
    "discovery.v1.EndpointPort": {"name": "", "protocol": "TCP"},
    "networking.v1.NetworkPolicyPort": {"protocol": "TCP"},
    "networking.v1.IngressClassParametersReference": {"scope": "Cluster"},
    "storage.v1.StorageClass": {"reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"},
    "networking.v1.ServiceCIDR": {"status": {}},
    "storage.v1.CSIDriverSpec": {
        "attachRequired": True,
        "podInfoOnMount": False,
        "storageCapacity": False,
        "fsGroupPolicy": "ReadWriteOnceWithFSType",
        "volumeLifecycleModes": ["Persistent"],
        "requiresRepublish": False,
        "seLinuxMount": False,
    },
    "rbac.v1.RoleRef": {"apiGroup": _RBAC},
    "autoscaling.v1.HorizontalPodAutoscalerSpec": {"minReplicas": 1},
    "autoscaling.v2.HorizontalPodAutoscalerSpec": {"minReplicas": 1},
    "scheduling.v1.PriorityClass": {"preemptionPolicy": "PreemptLowerPriority"},
    "authentication.v1.TokenRequestSpec": {"expirationSeconds": 3600},
    "admissionregistration.v1.ValidatingWebhook": _WEBHOOK,
    "admissionregistration.v1.MutatingWebhook": {**_WEBHOOK, "reinvocationPolicy": "Never"},
    "admissionregistration.v1.ServiceReference": {"port": 443},
    "admissionregistration.v1.RuleWithOperations": {"scope": "*"},
    "apis.apiextensions.v1.CustomResourceDefinitionSpec": {"conversion": {"strategy": "None"}},
}


def _pull_policy(container: JSON) -> None:
    if "imagePullPolicy" not in container:
        image = str(container.get("image", ""))
        _, at, _ = image.partition("@")
        _, colon, tag = image.rpartition("/")[2].partition(":")
        always = not at and (not colon or tag == "latest")
        container["imagePullPolicy"] = "Always" if always else "IfNotPresent"


def _pod(pod: JSON) -> None:
    spec = pod.get("spec")
    if not isinstance(spec, dict):
        return
    spec.setdefault("enableServiceLinks", True)
    for container in _dicts(spec.get("containers")) + _dicts(spec.get("initContainers")):
        resources = container.get("resources")
        if not isinstance(resources, dict):
            continue
        limits = resources.get("limits")
        if isinstance(limits, dict) and limits:
            requests = resources.setdefault("requests", {})
            for name, amount in limits.items():
                requests.setdefault(name, amount)


def _pod_spec(spec: JSON) -> None:
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:  # an old name of the same field, kept in step
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    if spec.get("hostNetwork") is True:
        for container in _dicts(spec.get("containers")) + _dicts(spec.get("initContainers")):
            for port in _dicts(container.get("ports")):
                if "containerPort" in port:
                    port.setdefault("hostPort", port["containerPort"])


def _volume(volume: JSON) -> None:
    if set(volume) <= {"name"}:
        volume["emptyDir"] = {}


def _strategy(strategy: JSON) -> None:
    if strategy.get("type") == "RollingUpdate":
        strategy.setdefault("rollingUpdate", {})


def _stateful_set_strategy(strategy: JSON) -> None:
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
        strategy.setdefault("rollingUpdate", {})


def _service_spec(spec: JSON) -> None:
    spec.setdefault("sessionAffinity", "None")
    kind = spec.setdefault("type", "ClusterIP")
    if spec["sessionAffinity"] == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {})
        if isinstance(config, dict):
            config.setdefault("clientIP", {}).setdefault("timeoutSeconds", 10800)
    if kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and spec.get("externalIPs")):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    if kind != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")


def _service_port(port: JSON) -> None:
    if port.get("targetPort") in (None, 0, "") and "port" in port:
        port["targetPort"] = port["port"]


def _job(job: JSON) -> None:
    """What a Job's spec is without words; the spec in a CronJob stays as it is until a Job is made of it."""
    spec = _within(job, "spec")
    labels = _within(_within(spec, "template"), "metadata").get("labels")
    if labels and not _within(job, "metadata").get("labels"):
        _within(job, "metadata")["labels"] = dict(labels)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    spec.setdefault("manualSelector", False)
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    spec.setdefault("parallelism", 1)
    spec.setdefault("backoffLimit", 2**31 - 1 if "backoffLimitPerIndex" in spec else 6)
    spec.setdefault("podReplacementPolicy", "Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed")


def _replication_controller(obj: JSON) -> None:
    spec = _within(obj, "spec")
    labels = _within(_within(_within(spec, "template"), "metadata"), "labels")
    for holder, name in ((spec, "selector"), (_within(obj, "metadata"), "labels")):
        if labels and not holder.get(name):
            holder[name] = dict(labels)


def _network_policy_spec(spec: JSON) -> None:
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def _subject(subject: JSON) -> None:
    if "apiGroup" not in subject and subject.get("kind") in ("User", "Group"):
        subject["apiGroup"] = _RBAC


def _claim_template(claim: JSON) -> None:
    status = claim.get("status")
    if status is None:
        claim["status"] = {"phase": "Pending"}
    elif isinstance(status, dict) and not status.get("phase"):
        status["phase"] = "Pending"


def _stateful_set_spec(spec: JSON) -> None:
    for claim in _dicts(spec.get("volumeClaimTemplates")):
        claim.setdefault("apiVersion", "v1")
        claim.setdefault("kind", "PersistentVolumeClaim")


def _autoscaler_spec(spec: JSON) -> None:
    if not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": 80}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]


def _crd_spec(spec: JSON) -> None:
    names = spec.get("names")
    if isinstance(names, dict) and isinstance(names.get("kind"), str):
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", names["kind"] + "List")


def _within(value: JSON, name: str) -> JSON:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _dicts(value: Any) -> list[JSON]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


REPEATS: Mapping[str, tuple[str, ...]] = {
    "core.v1.Container": ("env", "ports"),
    "core.v1.EphemeralContainer": ("env", "ports"),
    "core.v1.PodSpec": ("hostAliases", "imagePullSecrets", "containers", "initContainers"),
    "storage.v1.CSINodeSpec": ("drivers",),
    "admissionregistration.v1.MutatingWebhook": ("matchConditions",),
    "admissionregistration.v1.MutatingWebhookConfiguration": ("webhooks",),
    "admissionregistration.v1.ValidatingWebhook": ("matchConditions",),
    "admissionregistration.v1.ValidatingWebhookConfiguration": ("webhooks",),
}
"""Keyed lists in which Kubernetes lets a key stand twice, whatever their schema says, or refuses that in the words of their kind."""

OPTIONAL: Mapping[str, frozenset[str]] = {
    "core.v1.LimitRangeSpec": frozenset({"limits"}),
    "apps.v1.DaemonSetSpec": frozenset({"selector"}),
    "storage.v1.CSINodeSpec": frozenset({"drivers"}),
}
"""What the published schema requires and no rule of the real server does."""

DEFAULTERS: Mapping[str, Callable[[JSON], None]] = {
    "core.v1.Container": _pull_policy,
    "core.v1.EphemeralContainer": _pull_policy,
    "core.v1.Pod": _pod,
    "core.v1.PodSpec": _pod_spec,
    "core.v1.Volume": _volume,
    "core.v1.ServiceSpec": _service_spec,
    "core.v1.ServicePort": _service_port,
    "core.v1.PersistentVolumeClaim": _claim_template,
    "apps.v1.DeploymentStrategy": _strategy,
    "apps.v1.StatefulSetUpdateStrategy": _stateful_set_strategy,
    "apps.v1.DaemonSetUpdateStrategy": _strategy,
    "apps.v1.StatefulSetSpec": _stateful_set_spec,
    "batch.v1.Job": _job,
    "core.v1.ReplicationController": _replication_controller,
    "networking.v1.NetworkPolicySpec": _network_policy_spec,
    "rbac.v1.Subject": _subject,
    "autoscaling.v2.HorizontalPodAutoscalerSpec": _autoscaler_spec,
    "apis.apiextensions.v1.CustomResourceDefinitionSpec": _crd_spec,
}

_WORKLOAD = frozenset({"metadata", "spec", "status"})
INLINE: Mapping[str, frozenset[str]] = {
    "apps.v1.Deployment": _WORKLOAD,
    "apps.v1.ReplicaSet": _WORKLOAD,
    "apps.v1.StatefulSet": _WORKLOAD,
    "apps.v1.DaemonSet": _WORKLOAD,
    "batch.v1.Job": _WORKLOAD,
    "batch.v1.CronJob": _WORKLOAD,
    "batch.v1.CronJobSpec": frozenset({"jobTemplate"}),
    "batch.v1.JobTemplateSpec": frozenset({"metadata", "spec"}),
    "batch.v1.JobSpec": frozenset({"template"}),
    "core.v1.Pod": _WORKLOAD,
    "core.v1.Service": _WORKLOAD,
    "core.v1.ServiceStatus": frozenset({"loadBalancer"}),
    "core.v1.Namespace": _WORKLOAD,
    "core.v1.Node": _WORKLOAD,
    "core.v1.NodeStatus": frozenset({"daemonEndpoints", "nodeInfo"}),
    "core.v1.NodeDaemonEndpoints": frozenset({"kubeletEndpoint"}),
    "core.v1.PersistentVolume": _WORKLOAD,
    "core.v1.PersistentVolumeClaim": _WORKLOAD,
    "core.v1.PersistentVolumeClaimSpec": frozenset({"resources"}),
    "core.v1.PodTemplateSpec": frozenset({"metadata", "spec"}),
    "core.v1.PodSpec": frozenset({"containers"}),
    "core.v1.ConfigMap": frozenset({"metadata"}),
    "core.v1.Secret": frozenset({"metadata"}),
    "core.v1.ServiceAccount": frozenset({"metadata"}),
    "core.v1.Event": frozenset({"metadata", "involvedObject", "source"}),
    "core.v1.ReplicationController": _WORKLOAD,
    "core.v1.ResourceQuota": _WORKLOAD,
    "core.v1.LimitRange": frozenset({"metadata", "spec"}),
    "apps.v1.DeploymentSpec": frozenset({"strategy", "template"}),
    "apps.v1.ReplicaSetSpec": frozenset({"template"}),
    "apps.v1.StatefulSetSpec": frozenset({"template", "updateStrategy"}),
    "apps.v1.DaemonSetSpec": frozenset({"template", "updateStrategy"}),
    "networking.v1.Ingress": _WORKLOAD,
    "networking.v1.IngressStatus": frozenset({"loadBalancer"}),
    "networking.v1.NetworkPolicy": frozenset({"metadata", "spec"}),
    "networking.v1.NetworkPolicySpec": frozenset({"podSelector"}),
    "networking.v1.IngressClass": frozenset({"metadata", "spec"}),
    "rbac.v1.Role": frozenset({"metadata"}),
    "rbac.v1.ClusterRole": frozenset({"metadata"}),
    "rbac.v1.RoleBinding": frozenset({"metadata", "roleRef"}),
    "rbac.v1.ClusterRoleBinding": frozenset({"metadata", "roleRef"}),
    "coordination.v1.Lease": frozenset({"metadata", "spec"}),
    "discovery.v1.EndpointSlice": frozenset({"metadata"}),
    "storage.v1.StorageClass": frozenset({"metadata"}),
    "storage.v1.CSIDriver": frozenset({"metadata", "spec"}),
    "storage.v1.CSINode": frozenset({"metadata", "spec"}),
    "storage.v1.CSIStorageCapacity": frozenset({"metadata"}),
    "storage.v1.VolumeAttributesClass": frozenset({"metadata"}),
    "networking.v1.IPAddress": frozenset({"metadata", "spec"}),
    "networking.v1.ServiceCIDR": _WORKLOAD,
    "node.v1.RuntimeClass": frozenset({"metadata"}),
    "policy.v1.PodDisruptionBudget": _WORKLOAD,
    "autoscaling.v1.HorizontalPodAutoscaler": _WORKLOAD,
    "autoscaling.v1.HorizontalPodAutoscalerSpec": frozenset({"scaleTargetRef"}),
    "autoscaling.v2.HorizontalPodAutoscaler": _WORKLOAD,
    "autoscaling.v2.HorizontalPodAutoscalerSpec": frozenset({"scaleTargetRef"}),
    "apis.apiextensions.v1.CustomResourceDefinition": _WORKLOAD,
    "apis.apiextensions.v1.CustomResourceDefinitionSpec": frozenset({"names"}),
}
"""Structs and lists that a built-in object carries even when empty, so that no field manager ever owns them as such."""
