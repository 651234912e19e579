"""Objects that Kubernetes refuses, each with one fault or two, and changes that it refuses: what the rules of the kinds are told by.

`CASES` maps a name to its requests; the answer to the last one counts. `{ns}` in a path is the namespace of the test.
"""

from __future__ import annotations

import base64
import copy
from typing import Any

Object = dict[str, Any]
Request = tuple[str, str, Any]
MERGE = "application/merge-patch+json"

CORE = "/api/v1/namespaces/{ns}/"
APPS = "/apis/apps/v1/namespaces/{ns}/"
BATCH = "/apis/batch/v1/namespaces/{ns}/"
NET = "/apis/networking.k8s.io/v1/namespaces/{ns}/"
RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/"
POLICY = "/apis/policy/v1/namespaces/{ns}/"
SCALING = "/apis/autoscaling/v2/namespaces/{ns}/"


def named(name: str = "x", **rest: Any) -> Object:
    return {"metadata": {"name": name}, **rest}


def container(**rest: Any) -> Object:
    return {"name": "c", "image": "i", **rest}


def pod(*containers: Object, **spec: Any) -> Object:
    listed = list(containers) or [container()]
    return named(spec={"containers": listed, "automountServiceAccountToken": False, **spec})


def template(**spec: Any) -> Object:
    return {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container()], **spec}}


def workload(**spec: Any) -> Object:
    return named(spec={"selector": {"matchLabels": {"a": "b"}}, "template": template(), **spec})


def job(**spec: Any) -> Object:
    made = {"metadata": {}, "spec": {"containers": [container()], "restartPolicy": "Never"}}
    return named(spec={"template": made, **spec})


def cron(**spec: Any) -> Object:
    return named(spec={"schedule": "* * * * *", "jobTemplate": {"spec": job()["spec"]}, **spec})


def service(*ports: Object, **spec: Any) -> Object:
    return named(spec={"ports": list(ports) or [{"port": 80}], **spec})


def claim(**spec: Any) -> Object:
    base = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "s"}
    return named(spec={**base, **spec})


def ingress(**spec: Any) -> Object:
    return named(spec=spec)


def rule(path: str = "/", path_type: str | None = "Prefix", host: str = "h.example.com", **backend: Any) -> Object:
    to = backend or {"service": {"name": "s", "port": {"number": 80}}}
    one = {"path": path, "backend": to} | ({"pathType": path_type} if path_type else {})
    return {"host": host, "http": {"paths": [one]}}


def scaler(**spec: Any) -> Object:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
    return named(spec={"scaleTargetRef": target, "maxReplicas": 2, **spec})


CASES: dict[str, list[Request]] = {}


def make(name: str, path: str, obj: Object) -> None:
    """A creation that is refused."""
    CASES[name] = [("POST", path, obj)]


def change(name: str, path: str, obj: Object, patch: Any) -> None:
    """A good object, and a change of it that is refused."""
    CASES[name] = [("POST", path, obj), ("PATCH", f"{path}/{obj['metadata']['name']}", patch)]


# Names, labels, annotations

for index, bad in enumerate(("UPPER", "a_b", "-a", "a.", "x" * 254, "")):
    make(f"configmap name {index}", f"{CORE}configmaps", named(bad))
for index, bad in enumerate(("a.b", "1a", "A", "x" * 64, "a-")):
    make(f"service name {index}", f"{CORE}services", service() | {"metadata": {"name": bad}})
for index, bad in enumerate(("a.b", "A", "x" * 64)):
    make(f"namespace name {index}", "/api/v1/namespaces", named(bad))
make("role name", f"{RBAC}roles", named("a%b"))
make("role name dots", f"{RBAC}roles", named(".."))
make("job name", f"{BATCH}jobs", job() | {"metadata": {"name": "x" * 64}})
make("cronjob name", f"{BATCH}cronjobs", cron() | {"metadata": {"name": "x" * 53}})
make("statefulset name", f"{APPS}statefulsets", workload(serviceName="s") | {"metadata": {"name": "a.b"}})
make("label key", f"{CORE}configmaps", {"metadata": {"name": "x", "labels": {"a/b/c": "d"}}})
make("label key empty", f"{CORE}configmaps", {"metadata": {"name": "x", "labels": {"": "d"}}})
make("label prefix", f"{CORE}configmaps", {"metadata": {"name": "x", "labels": {"A_/b": "d"}}})
make("label no prefix", f"{CORE}configmaps", {"metadata": {"name": "x", "labels": {"/b": "d"}}})
make("label long", f"{CORE}configmaps", {"metadata": {"name": "x", "labels": {"k" * 64: "v" * 64}}})
make("label value", f"{CORE}configmaps", {"metadata": {"name": "x", "labels": {"k": "a b"}}})
make("annotation key", f"{CORE}configmaps", {"metadata": {"name": "x", "annotations": {"a b": "d"}}})
make("annotations size", f"{CORE}configmaps", {"metadata": {"name": "x", "annotations": {"a": "d" * 262144}}})
make("finalizer", f"{CORE}configmaps", {"metadata": {"name": "x", "finalizers": ["a b"]}})
make("finalizer unqualified", f"{CORE}configmaps", {"metadata": {"name": "x", "finalizers": ["plain"]}})
owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u"}
make("owner incomplete", f"{CORE}configmaps", {"metadata": {"name": "x", "ownerReferences": [{**owner, "uid": ""}]}})
two = [{**owner, "controller": True}, {**owner, "uid": "w", "name": "p", "controller": True}]
make("owners two controllers", f"{CORE}configmaps", {"metadata": {"name": "x", "ownerReferences": two}})
event_owner = {**owner, "kind": "Event"}
make("owner event", f"{CORE}configmaps", {"metadata": {"name": "x", "ownerReferences": [event_owner]}})
make("generate name", f"{CORE}configmaps", {"metadata": {"generateName": "UPPER-"}})

# Configuration

make("configmap key", f"{CORE}configmaps", named(data={"a b": "c"}))
make("configmap key up", f"{CORE}configmaps", named(data={"..": "c"}))
make("configmap key twice", f"{CORE}configmaps", named(data={"k": "c"}, binaryData={"k": "YQ=="}))
make("configmap large", f"{CORE}configmaps", named(data={"k": "x" * 1048577}))
change("configmap immutable", f"{CORE}configmaps", named(data={"k": "c"}, immutable=True), {"data": {"k": "d"}})
change("configmap mutable", f"{CORE}configmaps", named(data={"k": "c"}, immutable=True), {"immutable": False})
make("secret key", f"{CORE}secrets", named(data={"a/b": "YQ=="}))
make("secret tls", f"{CORE}secrets", named(type="kubernetes.io/tls"))
make("secret docker", f"{CORE}secrets", named(type="kubernetes.io/dockerconfigjson"))
no_json = base64.b64encode(b"no json").decode()
make(
    "secret docker json",
    f"{CORE}secrets",
    named(type="kubernetes.io/dockerconfigjson", data={".dockerconfigjson": no_json}),
)
make("secret dockercfg", f"{CORE}secrets", named(type="kubernetes.io/dockercfg"))
make("secret basic", f"{CORE}secrets", named(type="kubernetes.io/basic-auth"))
make("secret ssh", f"{CORE}secrets", named(type="kubernetes.io/ssh-auth"))
make("secret account", f"{CORE}secrets", named(type="kubernetes.io/service-account-token"))
make("secret large", f"{CORE}secrets", named(data={"k": base64.b64encode(b"x" * 1048577).decode()}))
change("secret type", f"{CORE}secrets", named(data={"k": "YQ=="}), {"type": "other/type"})
change("secret immutable", f"{CORE}secrets", named(data={"k": "YQ=="}, immutable=True), {"data": {"k": "Yg=="}})

# Pods

make("pod without containers", f"{CORE}pods", named(spec={"containers": []}))
make("pod container name", f"{CORE}pods", pod(container(name="A_b")))
make("pod container no name", f"{CORE}pods", pod(container(name="")))
make("pod container no image", f"{CORE}pods", pod({"name": "c"}))
make("pod image space", f"{CORE}pods", pod(container(image=" i ")))
make("pod container twice", f"{CORE}pods", pod(container(), container()))
make("pod init twice", f"{CORE}pods", pod(initContainers=[container()]))
make("pod port", f"{CORE}pods", pod(container(ports=[{"containerPort": 0}])))
make("pod port large", f"{CORE}pods", pod(container(ports=[{"containerPort": 70000}])))
make("pod port name", f"{CORE}pods", pod(container(ports=[{"containerPort": 80, "name": "http_is_long_and_bad"}])))
ports = [{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}]
make("pod port names twice", f"{CORE}pods", pod(container(ports=ports)))
make("pod port protocol", f"{CORE}pods", pod(container(ports=[{"containerPort": 80, "protocol": "ICMP"}])))
host = [{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 80}]
make("pod host port twice", f"{CORE}pods", pod(container(ports=host)))
make(
    "pod host network port",
    f"{CORE}pods",
    pod(container(ports=[{"containerPort": 80, "hostPort": 81}]), hostNetwork=True),
)
make("pod env name", f"{CORE}pods", pod(container(env=[{"name": "a=b", "value": "c"}])))
make("pod env no name", f"{CORE}pods", pod(container(env=[{"name": "", "value": "c"}])))
both = {"name": "a", "value": "c", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
make("pod env both", f"{CORE}pods", pod(container(env=[both])))
make("pod env from nothing", f"{CORE}pods", pod(container(env=[{"name": "a", "valueFrom": {}}])))
make(
    "pod env field",
    f"{CORE}pods",
    pod(container(env=[{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}])),
)
key = {"configMapKeyRef": {"name": "m", "key": ""}}
make("pod env key", f"{CORE}pods", pod(container(env=[{"name": "a", "valueFrom": key}])))
make("pod env from", f"{CORE}pods", pod(container(envFrom=[{"configMapRef": {"name": ""}}])))
make("pod env from none", f"{CORE}pods", pod(container(envFrom=[{"prefix": "A"}])))
make("pod mount unknown", f"{CORE}pods", pod(container(volumeMounts=[{"name": "v", "mountPath": "/m"}])))
make(
    "pod mount no path",
    f"{CORE}pods",
    pod(container(volumeMounts=[{"name": "v", "mountPath": ""}]), volumes=[{"name": "v", "emptyDir": {}}]),
)
twice = [{"name": "v", "mountPath": "/m"}, {"name": "v", "mountPath": "/m"}]
make("pod mount twice", f"{CORE}pods", pod(container(volumeMounts=twice), volumes=[{"name": "v", "emptyDir": {}}]))
sub = [{"name": "v", "mountPath": "/m", "subPath": "../x"}]
make("pod mount sub path", f"{CORE}pods", pod(container(volumeMounts=sub), volumes=[{"name": "v", "emptyDir": {}}]))
make("pod volume name", f"{CORE}pods", pod(volumes=[{"name": "V_", "emptyDir": {}}]))
make("pod volume no name", f"{CORE}pods", pod(volumes=[{"emptyDir": {}}]))
make("pod volume twice", f"{CORE}pods", pod(volumes=[{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]))
make("pod volume two sources", f"{CORE}pods", pod(volumes=[{"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}]))
make("pod volume secret", f"{CORE}pods", pod(volumes=[{"name": "v", "secret": {}}]))
make("pod volume configmap", f"{CORE}pods", pod(volumes=[{"name": "v", "configMap": {}}]))
make("pod volume claim", f"{CORE}pods", pod(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": ""}}]))
make("pod volume host path", f"{CORE}pods", pod(volumes=[{"name": "v", "hostPath": {"path": ""}}]))
make("pod volume host path up", f"{CORE}pods", pod(volumes=[{"name": "v", "hostPath": {"path": "/a/../b"}}]))
make("pod volume mode", f"{CORE}pods", pod(volumes=[{"name": "v", "secret": {"secretName": "s", "defaultMode": 512}}]))
items = {"name": "m", "items": [{"key": "", "path": "/abs"}]}
make("pod volume items", f"{CORE}pods", pod(volumes=[{"name": "v", "configMap": items}]))
make(
    "pod requests above limits",
    f"{CORE}pods",
    pod(container(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})),
)
make("pod resource negative", f"{CORE}pods", pod(container(resources={"requests": {"cpu": "-1"}})))
make("pod resource name", f"{CORE}pods", pod(container(resources={"requests": {"foo": "1"}})))
make("pod resource extended", f"{CORE}pods", pod(container(resources={"requests": {"example.com/x": "1"}})))
make("pod resource fraction", f"{CORE}pods", pod(container(resources={"limits": {"example.com/x": "500m"}})))
make("pod probe none", f"{CORE}pods", pod(container(readinessProbe={})))
make(
    "pod probe two",
    f"{CORE}pods",
    pod(container(readinessProbe={"tcpSocket": {"port": 1}, "exec": {"command": ["a"]}})),
)
make("pod probe port", f"{CORE}pods", pod(container(livenessProbe={"httpGet": {"port": 0}})))
make("pod probe port name", f"{CORE}pods", pod(container(livenessProbe={"tcpSocket": {"port": "Bad_Name"}})))
make("pod probe negative", f"{CORE}pods", pod(container(livenessProbe={"tcpSocket": {"port": 1}, "periodSeconds": -1})))
make(
    "pod probe success", f"{CORE}pods", pod(container(livenessProbe={"tcpSocket": {"port": 1}, "successThreshold": 2}))
)
make("pod probe exec", f"{CORE}pods", pod(container(livenessProbe={"exec": {}})))
make("pod probe scheme", f"{CORE}pods", pod(container(livenessProbe={"httpGet": {"port": 1, "scheme": "FTP"}})))
make("pod lifecycle", f"{CORE}pods", pod(container(lifecycle={"preStop": {}})))
make("pod pull policy", f"{CORE}pods", pod(container(imagePullPolicy="Sometimes")))
make("pod termination policy", f"{CORE}pods", pod(container(terminationMessagePolicy="Never")))
make("pod restart policy", f"{CORE}pods", pod(restartPolicy="Sometimes"))
make("pod dns policy", f"{CORE}pods", pod(dnsPolicy="Mine"))
make("pod dns none", f"{CORE}pods", pod(dnsPolicy="None"))
make("pod deadline", f"{CORE}pods", pod(activeDeadlineSeconds=0))
make("pod grace", f"{CORE}pods", pod(terminationGracePeriodSeconds=-1))
make("pod account", f"{CORE}pods", pod(serviceAccountName="A_"))
make("pod node", f"{CORE}pods", pod(nodeName="A_"))
make("pod node selector", f"{CORE}pods", pod(nodeSelector={"a b": "c"}))
make("pod hostname", f"{CORE}pods", pod(hostname="A_"))
make("pod subdomain", f"{CORE}pods", pod(subdomain="a.b"))
make("pod host alias", f"{CORE}pods", pod(hostAliases=[{"ip": "nonsense"}]))
make("pod toleration", f"{CORE}pods", pod(tolerations=[{"key": "a b", "operator": "Exists", "value": "v"}]))
make("pod toleration operator", f"{CORE}pods", pod(tolerations=[{"operator": "Equal"}]))
make("pod toleration effect", f"{CORE}pods", pod(tolerations=[{"key": "a", "effect": "Never"}]))
make(
    "pod toleration seconds",
    f"{CORE}pods",
    pod(tolerations=[{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 3}]),
)
make(
    "pod spread",
    f"{CORE}pods",
    pod(topologySpreadConstraints=[{"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "Maybe"}]),
)
term = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Around", "values": ["b"]}]}]}
make(
    "pod affinity",
    f"{CORE}pods",
    pod(affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}),
)
make(
    "pod affinity empty",
    f"{CORE}pods",
    pod(affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}),
)
apart = {
    "requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"a": "b"}}, "topologyKey": ""}
    ]
}
make("pod anti affinity", f"{CORE}pods", pod(affinity={"podAntiAffinity": apart}))
make("pod user", f"{CORE}pods", pod(securityContext={"runAsUser": -1}))
make("pod container user", f"{CORE}pods", pod(container(securityContext={"runAsUser": -1})))
make(
    "pod privileged",
    f"{CORE}pods",
    pod(container(securityContext={"privileged": True, "allowPrivilegeEscalation": False})),
)
make("pod sysctl", f"{CORE}pods", pod(securityContext={"sysctls": [{"name": "a b", "value": "1"}]}))
make("pod seccomp", f"{CORE}pods", pod(securityContext={"seccompProfile": {"type": "Localhost"}}))
make(
    "pod init probe",
    f"{CORE}pods",
    pod(initContainers=[container(name="i", readinessProbe={"tcpSocket": {"port": 1}})]),
)
make("pod pull secret", f"{CORE}pods", pod(imagePullSecrets=[{"name": ""}]))
make("pod gate", f"{CORE}pods", pod(schedulingGates=[{"name": "a b"}]))
make("pod priority class", f"{CORE}pods", pod(priorityClassName="none"))
make("pod priority", f"{CORE}pods", pod(priority=5))
make("pod overhead", f"{CORE}pods", pod(overhead={"cpu": "1"}))
make("pod ephemeral", f"{CORE}pods", pod(ephemeralContainers=[container(name="e")]))
make("pod os", f"{CORE}pods", pod(os={"name": "beos"}))
make("pod two faults", f"{CORE}pods", pod(container(name="A", image="", ports=[{"containerPort": 0}])))
change("pod spec", f"{CORE}pods", pod(), {"spec": {"hostNetwork": True}})
change("pod image", f"{CORE}pods", pod(), {"spec": {"containers": [container(image="")]}})
change("pod containers", f"{CORE}pods", pod(), {"spec": {"containers": [container(), container(name="d")]}})
change("pod command", f"{CORE}pods", pod(), {"spec": {"containers": [container(command=["x"])]}})
change("pod deadline raised", f"{CORE}pods", pod(activeDeadlineSeconds=5), {"spec": {"activeDeadlineSeconds": 6}})
change(
    "pod tolerations dropped",
    f"{CORE}pods",
    pod(tolerations=[{"key": "a", "operator": "Exists"}]),
    {"spec": {"tolerations": []}},
)
change("pod node changed", f"{CORE}pods", pod(nodeName="n"), {"spec": {"nodeName": "m"}})

# Workloads

for plural in ("deployments", "replicasets", "daemonsets"):
    make(f"{plural} selector", f"{APPS}{plural}", workload(selector={}))
    make(f"{plural} no selector", f"{APPS}{plural}", named(spec={"template": template()}))
    make(f"{plural} labels", f"{APPS}{plural}", workload(selector={"matchLabels": {"x": "y"}}))
    make(f"{plural} restart policy", f"{APPS}{plural}", workload(template=template(restartPolicy="Never")))
    change(
        f"{plural} selector changed",
        f"{APPS}{plural}",
        workload(),
        {"spec": {"selector": {"matchLabels": {"a": "b", "c": "d"}}, "template": {"metadata": {"labels": {"c": "d"}}}}},
    )
make("deployment replicas", f"{APPS}deployments", workload(replicas=-1))
make(
    "deployment operator",
    f"{APPS}deployments",
    workload(selector={"matchExpressions": [{"key": "a", "operator": "Near", "values": ["b"]}]}),
)
make("deployment min ready", f"{APPS}deployments", workload(minReadySeconds=-1))
make("deployment deadline", f"{APPS}deployments", workload(minReadySeconds=700))
make("deployment history", f"{APPS}deployments", workload(revisionHistoryLimit=-1))
make("deployment strategy", f"{APPS}deployments", workload(strategy={"type": "Sideways"}))
make(
    "deployment recreate",
    f"{APPS}deployments",
    workload(strategy={"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}),
)
make(
    "deployment none", f"{APPS}deployments", workload(strategy={"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}})
)
make(
    "deployment percent",
    f"{APPS}deployments",
    workload(strategy={"rollingUpdate": {"maxSurge": "x", "maxUnavailable": "120%"}}),
)
make("deployment negative surge", f"{APPS}deployments", workload(strategy={"rollingUpdate": {"maxSurge": -1}}))
make("deployment template", f"{APPS}deployments", workload(template=template(containers=[container(name="A")])))
make(
    "deployment template label",
    f"{APPS}deployments",
    workload(template={"metadata": {"labels": {"a": "b", "c d": "e"}}, "spec": template()["spec"]}),
)
make("deployment template deadline", f"{APPS}deployments", workload(template=template(activeDeadlineSeconds=5)))
make(
    "daemonset rolling",
    f"{APPS}daemonsets",
    workload(updateStrategy={"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}}),
)
make("daemonset strategy", f"{APPS}daemonsets", workload(updateStrategy={"type": "Sideways"}))
make("statefulset replicas", f"{APPS}statefulsets", workload(serviceName="s", replicas=-1))
make("statefulset policy", f"{APPS}statefulsets", workload(serviceName="s", podManagementPolicy="Random"))
make("statefulset strategy", f"{APPS}statefulsets", workload(serviceName="s", updateStrategy={"type": "Sideways"}))
make(
    "statefulset partition",
    f"{APPS}statefulsets",
    workload(serviceName="s", updateStrategy={"rollingUpdate": {"partition": -1}}),
)
make(
    "statefulset retention",
    f"{APPS}statefulsets",
    workload(serviceName="s", persistentVolumeClaimRetentionPolicy={"whenDeleted": "Never"}),
)
make("statefulset labels", f"{APPS}statefulsets", workload(serviceName="s", selector={"matchLabels": {"x": "y"}}))
change("statefulset service", f"{APPS}statefulsets", workload(serviceName="s"), {"spec": {"serviceName": "t"}})
change(
    "statefulset selector",
    f"{APPS}statefulsets",
    workload(serviceName="s"),
    {"spec": {"selector": {"matchLabels": {"a": "b", "c": "d"}}, "template": {"metadata": {"labels": {"c": "d"}}}}},
)
make("job restart policy", f"{BATCH}jobs", named(spec={"template": {"spec": {"containers": [container()]}}}))
for field in ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"):
    make(f"job {field}", f"{BATCH}jobs", job(**{field: -1}))
make("job mode", f"{BATCH}jobs", job(completionMode="Sorted"))
make("job indexed", f"{BATCH}jobs", job(completionMode="Indexed"))
make("job selector", f"{BATCH}jobs", job(selector={"matchLabels": {"a": "b"}}))
make("job replacement", f"{BATCH}jobs", job(podReplacementPolicy="Later"))
make("job limit per index", f"{BATCH}jobs", job(backoffLimitPerIndex=1))
change("job template", f"{BATCH}jobs", job(), {"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}})
change("job completions", f"{BATCH}jobs", job(completions=2), {"spec": {"completions": 3}})
change("job mode changed", f"{BATCH}jobs", job(completions=2), {"spec": {"completionMode": "Indexed"}})
for index, bad in enumerate(("", "* * *", "x * * * *", "61 * * * *", "TZ=UTC * * * * *", "@sometimes")):
    make(f"cronjob schedule {index}", f"{BATCH}cronjobs", cron(schedule=bad))
make("cronjob policy", f"{BATCH}cronjobs", cron(concurrencyPolicy="Maybe"))
make("cronjob zone", f"{BATCH}cronjobs", cron(timeZone="Mars/Olympus"))
make("cronjob history", f"{BATCH}cronjobs", cron(successfulJobsHistoryLimit=-1, failedJobsHistoryLimit=-1))
make("cronjob deadline", f"{BATCH}cronjobs", cron(startingDeadlineSeconds=-1))
make("cronjob restart policy", f"{BATCH}cronjobs", cron(jobTemplate={"spec": {"template": template()}}))
make("autoscaler max", f"{SCALING}horizontalpodautoscalers", scaler(maxReplicas=0))
make("autoscaler min", f"{SCALING}horizontalpodautoscalers", scaler(minReplicas=3))
make("autoscaler min zero", f"{SCALING}horizontalpodautoscalers", scaler(minReplicas=0))
make("autoscaler target", f"{SCALING}horizontalpodautoscalers", scaler(scaleTargetRef={"kind": "", "name": ""}))
make("autoscaler metric", f"{SCALING}horizontalpodautoscalers", scaler(metrics=[{"type": "Resource"}]))
make("autoscaler metric type", f"{SCALING}horizontalpodautoscalers", scaler(metrics=[{"type": "Moon"}]))
low = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 0}}}
make("autoscaler utilization", f"{SCALING}horizontalpodautoscalers", scaler(metrics=[low]))
make("budget both", f"{POLICY}poddisruptionbudgets", named(spec={"minAvailable": 1, "maxUnavailable": 1}))
make("budget negative", f"{POLICY}poddisruptionbudgets", named(spec={"minAvailable": -1}))
make("budget percent", f"{POLICY}poddisruptionbudgets", named(spec={"minAvailable": "120%"}))
make("budget text", f"{POLICY}poddisruptionbudgets", named(spec={"minAvailable": "x"}))
make(
    "budget policy",
    f"{POLICY}poddisruptionbudgets",
    named(spec={"minAvailable": 1, "unhealthyPodEvictionPolicy": "Never"}),
)

# Services and networks

make("service no ports", f"{CORE}services", named(spec={"type": "ClusterIP"}))
make("service port", f"{CORE}services", service({"port": 0}))
make("service port large", f"{CORE}services", service({"port": 70000}))
make("service protocol", f"{CORE}services", service({"port": 80, "protocol": "ICMP"}))
make("service target", f"{CORE}services", service({"port": 80, "targetPort": 70000}))
make("service target name", f"{CORE}services", service({"port": 80, "targetPort": "Bad_Name"}))
make("service names", f"{CORE}services", service({"port": 80}, {"port": 81}))
make("service names twice", f"{CORE}services", service({"port": 80, "name": "a"}, {"port": 81, "name": "a"}))
make("service name label", f"{CORE}services", service({"port": 80, "name": "A_"}))
make("service ports twice", f"{CORE}services", service({"port": 80, "name": "a"}, {"port": 80, "name": "b"}))
make("service type", f"{CORE}services", service(type="Magic"))
make("service external name", f"{CORE}services", named(spec={"type": "ExternalName"}))
make("service external name bad", f"{CORE}services", named(spec={"type": "ExternalName", "externalName": "A_b"}))
make("service selector", f"{CORE}services", service(selector={"a b": "c"}))
make("service affinity", f"{CORE}services", service(sessionAffinity="Sticky"))
make("service address", f"{CORE}services", service(clusterIP="nonsense"))
make("service address range", f"{CORE}services", service(clusterIP="1.2.3.4"))
make("service node port", f"{CORE}services", service({"port": 80, "nodePort": 80}, type="NodePort"))
make("service node port cluster", f"{CORE}services", service({"port": 80, "nodePort": 30080}))
make("service external ip", f"{CORE}services", service(externalIPs=["nonsense"]))
make("service traffic", f"{CORE}services", service(externalTrafficPolicy="Local"))
make("service traffic value", f"{CORE}services", service(type="NodePort", externalTrafficPolicy="Nearby"))
make("service headless node", f"{CORE}services", service(type="NodePort", clusterIP="None"))
make("service source ranges", f"{CORE}services", service(type="LoadBalancer", loadBalancerSourceRanges=["x"]))
change(
    "service cluster ip",
    f"{CORE}services",
    service(),
    {"spec": {"clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"]}},
)
make("endpoints address", f"{CORE}endpoints", named(subsets=[{"addresses": [{"ip": "x"}], "ports": [{"port": 0}]}]))
make(
    "endpoints loopback",
    f"{CORE}endpoints",
    named(subsets=[{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 1}]}]),
)
slices = "/apis/discovery.k8s.io/v1/namespaces/{ns}/endpointslices"
make("slice type", slices, named(addressType="IPv5", endpoints=[]))
make("slice address", slices, named(addressType="IPv4", endpoints=[{"addresses": ["x"]}]))
make("slice no address", slices, named(addressType="IPv4", endpoints=[{"addresses": []}]))
make("ingress empty", f"{NET}ingresses", ingress())
make("ingress path", f"{NET}ingresses", ingress(rules=[rule("x")]))
make("ingress path type", f"{NET}ingresses", ingress(rules=[rule(path_type=None)]))
make("ingress path type bad", f"{NET}ingresses", ingress(rules=[rule(path_type="Regex")]))
make("ingress path dots", f"{NET}ingresses", ingress(rules=[rule("/a/../b")]))
make("ingress host", f"{NET}ingresses", ingress(rules=[rule(host="A_")]))
make("ingress host ip", f"{NET}ingresses", ingress(rules=[rule(host="1.2.3.4")]))
make("ingress wildcard", f"{NET}ingresses", ingress(rules=[rule(host="*.*.example.com")]))
make("ingress backend", f"{NET}ingresses", ingress(rules=[rule(service={"name": "", "port": {}})]))
make(
    "ingress backend port",
    f"{NET}ingresses",
    ingress(rules=[rule(service={"name": "s", "port": {"number": 80, "name": "a"}})]),
)
make("ingress default", f"{NET}ingresses", ingress(defaultBackend={}))
make(
    "ingress tls",
    f"{NET}ingresses",
    ingress(defaultBackend={"service": {"name": "s", "port": {"number": 80}}}, tls=[{"hosts": ["A_"]}]),
)
make("ingress class", f"{NET}ingresses", ingress(rules=[rule()], ingressClassName="A_"))
make(
    "ingressclass controller", "/apis/networking.k8s.io/v1/ingressclasses", named("rules-x", spec={"controller": "a b"})
)
make("policy types", f"{NET}networkpolicies", named(spec={"podSelector": {}, "policyTypes": ["Sideways"]}))
make("policy port", f"{NET}networkpolicies", named(spec={"podSelector": {}, "ingress": [{"ports": [{"port": 70000}]}]}))
make(
    "policy end port",
    f"{NET}networkpolicies",
    named(spec={"podSelector": {}, "ingress": [{"ports": [{"port": 80, "endPort": 70}]}]}),
)
make(
    "policy cidr",
    f"{NET}networkpolicies",
    named(spec={"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "x"}}]}]}),
)
make(
    "policy except",
    f"{NET}networkpolicies",
    named(
        spec={"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["1.0.0.0/8"]}}]}]}
    ),
)
make("policy peer", f"{NET}networkpolicies", named(spec={"podSelector": {}, "ingress": [{"from": [{}]}]}))
make(
    "policy two peers",
    f"{NET}networkpolicies",
    named(spec={"podSelector": {}, "egress": [{"to": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]}),
)
make("policy selector", f"{NET}networkpolicies", named(spec={"podSelector": {"matchLabels": {"a b": "c"}}}))

# Storage

make("claim modes", f"{CORE}persistentvolumeclaims", claim(accessModes=[]))
make("claim mode", f"{CORE}persistentvolumeclaims", claim(accessModes=["WriteOnly"]))
make("claim size", f"{CORE}persistentvolumeclaims", claim(resources={}))
make("claim zero", f"{CORE}persistentvolumeclaims", claim(resources={"requests": {"storage": "0"}}))
make("claim class", f"{CORE}persistentvolumeclaims", claim(storageClassName="A_"))
make("claim volume mode", f"{CORE}persistentvolumeclaims", claim(volumeMode="Tape"))
make("claim selector", f"{CORE}persistentvolumeclaims", claim(selector={"matchLabels": {"a b": "c"}}))
change("claim spec", f"{CORE}persistentvolumeclaims", claim(), {"spec": {"accessModes": ["ReadOnlyMany"]}})
change(
    "claim shrunk",
    f"{CORE}persistentvolumeclaims",
    claim(),
    {"spec": {"resources": {"requests": {"storage": "500Mi"}}}},
)
VOLUMES = "/api/v1/persistentvolumes"
volume = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}
make("volume capacity", VOLUMES, named("rules-x", spec={**volume, "capacity": {}}))
make("volume modes", VOLUMES, named("rules-x", spec={**volume, "accessModes": []}))
make(
    "volume source", VOLUMES, named("rules-x", spec={"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]})
)
make("volume sources", VOLUMES, named("rules-x", spec={**volume, "nfs": {"server": "s", "path": "/p"}}))
make("volume policy", VOLUMES, named("rules-x", spec={**volume, "persistentVolumeReclaimPolicy": "Burn"}))
make("volume path", VOLUMES, named("rules-x", spec={**volume, "hostPath": {"path": "/a/.."}}))
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
make("class provisioner", CLASSES, named("rules-x", provisioner=""))
make("class provisioner bad", CLASSES, named("rules-x", provisioner="a b"))
make("class policy", CLASSES, named("rules-x", provisioner="p", reclaimPolicy="Burn"))
make("class binding", CLASSES, named("rules-x", provisioner="p", volumeBindingMode="Later"))

# Who may what

make("role rule", f"{RBAC}roles", named(rules=[{"verbs": [], "resources": ["pods"], "apiGroups": [""]}]))
make("role rule empty", f"{RBAC}roles", named(rules=[{"verbs": ["get"]}]))
make("role rule no group", f"{RBAC}roles", named(rules=[{"verbs": ["get"], "resources": ["pods"]}]))
make("role url", f"{RBAC}roles", named(rules=[{"verbs": ["get"], "nonResourceURLs": ["/x"]}]))
reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
make("binding ref kind", f"{RBAC}rolebindings", named(roleRef={**reference, "kind": "Pod"}))
make("binding ref group", f"{RBAC}rolebindings", named(roleRef={**reference, "apiGroup": "x"}))
make("binding ref name", f"{RBAC}rolebindings", named(roleRef={**reference, "name": ""}))
make("binding subject kind", f"{RBAC}rolebindings", named(roleRef=reference, subjects=[{"kind": "Robot", "name": "x"}]))
make("binding subject name", f"{RBAC}rolebindings", named(roleRef=reference, subjects=[{"kind": "User", "name": ""}]))
make(
    "binding subject account",
    f"{RBAC}rolebindings",
    named(roleRef=reference, subjects=[{"kind": "ServiceAccount", "name": "x"}]),
)
make(
    "binding subject group",
    f"{RBAC}rolebindings",
    named(roleRef=reference, subjects=[{"kind": "User", "name": "x", "apiGroup": "y"}]),
)
change("binding ref", f"{RBAC}rolebindings", named(roleRef=reference), {"roleRef": {"name": "other"}})

# The rest

PRIORITIES = "/apis/scheduling.k8s.io/v1/priorityclasses"
make("priority large", PRIORITIES, named("rules-x", value=1000000001))
make("priority system", PRIORITIES, named("system-x", value=1))
make("priority preemption", PRIORITIES, named("rules-x", value=1, preemptionPolicy="Sometimes"))
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases"
make("lease duration", LEASES, named(spec={"leaseDurationSeconds": 0}))
make("lease transitions", LEASES, named(spec={"leaseTransitions": -1}))
make("lease holder", LEASES, named(spec={"holderIdentity": ""}))
make("quota resource", f"{CORE}resourcequotas", named(spec={"hard": {"a b": "1"}}))
make("quota negative", f"{CORE}resourcequotas", named(spec={"hard": {"pods": "-1"}}))
make("quota scope", f"{CORE}resourcequotas", named(spec={"hard": {"pods": "1"}, "scopes": ["Never"]}))
make("limits type", f"{CORE}limitranges", named(spec={"limits": [{"type": "a b"}]}))
make(
    "limits order",
    f"{CORE}limitranges",
    named(spec={"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}),
)
event = {"involvedObject": {"kind": "Pod", "namespace": "other", "name": "p"}, "reason": "r", "message": "m"}
make("event namespace", f"{CORE}events", named(**event))
make("node name", "/api/v1/nodes", named("A_"))
make("node taint", "/api/v1/nodes", named("rules-x", spec={"taints": [{"key": "a b", "effect": "Never"}]}))
change("namespace finalizers", f"{CORE}configmaps", named(), {"metadata": {"namespace": "other"}})
change("metadata uid", f"{CORE}configmaps", named(), {"metadata": {"uid": "other"}})
change("metadata name", f"{CORE}configmaps", named(), {"metadata": {"name": "other"}})


def requests(name: str, namespace: str) -> list[Request]:
    """The requests of a case, in a namespace."""
    return [(method, path.replace("{ns}", namespace), copy.deepcopy(body)) for method, path, body in CASES[name]]
