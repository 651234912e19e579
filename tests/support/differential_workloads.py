"""What runs, for `differential_operations.py`: pods, and the kinds that make them."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from differential_subject import (
    JSON,
    Subject,
    condition,
    exactly,
    items,
    merged,
    number,
    quantity,
    some,
    text,
    word,
    word_set,
    words,
)

_env = exactly(name=text("A", "B", "C")).flatmap(lambda one: some(value=word).map(lambda more: {**one, **more}))
_container_port = exactly(containerPort=st.integers(80, 82)).flatmap(
    lambda one: some(protocol=text("TCP", "UDP"), name=text("http", "web"), hostPort=st.sampled_from([0, 80])).map(
        lambda more: {**one, **more}
    )
)
_mount = exactly(name=text("v1", "v2"), mountPath=text("/m1", "/m2"))
_container = exactly(name=text("main", "side", "more"), image=text("i:1", "i:2", "i")).flatmap(
    lambda one: some(
        env=items(_env, "name"),
        ports=items(_container_port, "containerPort"),
        args=st.lists(word, max_size=2),
        command=st.lists(word, max_size=2),
        volumeMounts=items(_mount, "mountPath"),
        resources=some(
            limits=st.dictionaries(text("cpu", "memory"), quantity, max_size=2),
            requests=st.dictionaries(text("cpu"), text("1m", "0.001"), max_size=1),
        ),
        imagePullPolicy=text("Always", "IfNotPresent"),
        workingDir=word,
        readinessProbe=some(tcpSocket=exactly(port=st.sampled_from([80, "http"])), periodSeconds=number),
        securityContext=some(privileged=st.booleans(), runAsUser=number, capabilities=some(add=word_set)),
        stdin=st.booleans(),
    ).map(lambda more: {**one, **more})
)
_volume = exactly(name=text("v1", "v2")).flatmap(
    lambda one: st.one_of(
        exactly(emptyDir=some(sizeLimit=quantity)),
        exactly(configMap=exactly(name=text("c"))),
        exactly(hostPath=exactly(path=text("/h"))),
    ).map(lambda more: {**one, **more})
)
_VOLUMES = [{"name": "v1", "emptyDir": {}}, {"name": "v2", "emptyDir": {}}]
pod_spec = some(
    containers=items(_container, "name", 2),
    initContainers=items(_container, "name", 1),
    volumes=items(_volume, "name", 2),
    tolerations=st.lists(some(key=text("t1", "t2"), operator=text("Exists", "Equal"), effect=text("NoSchedule")), max_size=2),
    nodeSelector=words,
    hostAliases=items(exactly(ip=text("1.1.1.1", "1.1.1.2"), hostnames=st.lists(text("h1", "h2"), max_size=2)), "ip"),
    imagePullSecrets=items(exactly(name=text("s1", "s2")), "name"),
    restartPolicy=text("Always", "Never"),
    terminationGracePeriodSeconds=number,
    securityContext=some(runAsUser=number, fsGroup=number, sysctls=st.lists(exactly(name=text("a.b"), value=word), max_size=1)),
    topologySpreadConstraints=st.lists(
        exactly(maxSkew=st.just(1), topologyKey=text("zone", "host"), whenUnsatisfiable=text("DoNotSchedule", "ScheduleAnyway")), max_size=1
    ),
    affinity=some(nodeAffinity=some(preferredDuringSchedulingIgnoredDuringExecution=st.just([]))),
    hostNetwork=st.booleans(),
    dnsPolicy=text("Default", "ClusterFirst"),
)  # fmt: skip
_POD = {"containers": [{"name": "main", "image": "i:1"}], "volumes": _VOLUMES}
_pod_directives: list[JSON] = [
    {"containers": [{"name": "side", "$patch": "delete"}]},
    {"containers": [{"name": "main", "env": [{"name": "A", "value": "z"}, {"name": "B", "$patch": "delete"}]}]},
    {"containers": [{"name": "main", "$setElementOrder/env": [{"name": "B"}, {"name": "A"}]}]},
    {"containers": [{"name": "main", "ports": [{"containerPort": 81, "$patch": "delete"}]}]},
    {"containers": [{"name": "new", "image": "n"}], "$setElementOrder/containers": [{"name": "new"}, {"name": "main"}]},
    {"$setElementOrder/containers": [{"name": "side"}, {"name": "main"}]},
    {"containers": [{"$patch": "replace"}, {"name": "only", "image": "o"}]},
    {"volumes": [{"name": "v1", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/new"}}]},
    {"volumes": [{"name": "v1", "emptyDir": None, "hostPath": {"path": "/new"}}]},
    {"volumes": [{"name": "v2", "$patch": "delete"}]},
    {"volumes": None},
    {"nodeSelector": {"$patch": "replace", "n": "m"}},
    {"containers": [{"image": "nokey"}]},
    {"securityContext": {"$patch": "delete"}},
    {"affinity": {"$patch": "replace", "podAffinity": {}}},
    {"imagePullSecrets": [{"name": "s3"}], "$setElementOrder/imagePullSecrets": [{"name": "s3"}, {"name": "s1"}]},
    {"hostAliases": [{"ip": "1.1.1.1", "hostnames": ["patched"]}]},
    {"tolerations": [{"key": "patched", "operator": "Exists"}]},
    {"$setElementOrder/containers": [{"name": "main"}], "containers": [{"name": "elsewhere", "image": "x"}]},
]
_template_labels = {"metadata": {"labels": {"app": "w"}}}


def _workload(
    plural: str, kind: str, spec: SearchStrategy[JSON], base: JSON, status: SearchStrategy[JSON], *, scale: bool
) -> Subject:
    template = exactly(template=some(spec=pod_spec, metadata=some(annotations=words)))
    return Subject(
        plural,
        kind,
        "apps/v1",
        base={"spec": merged({"selector": {"matchLabels": {"app": "w"}}, "template": {**_template_labels, "spec": _POD}}, base)},
        parts=exactly(spec=st.one_of(spec, template, st.tuples(spec, template).map(lambda both: merged(*both)))),
        wrong=st.sampled_from(
            [
                {"spec": {"replicas": -1}},
                {"spec": {"selector": {"matchLabels": {"app": "other"}}}},
                {"spec": {"replica": 1}},
                {"spec": {"template": {"spec": {"containers": []}}}},
                {"spec": {"template": {"spec": {"containers": [{"name": "main"}]}}}},
                {"spec": {"template": {"spec": {"containers": [{"name": "Bad Name", "image": "x"}]}}}},
                {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "x", "volumeMounts": [{"name": "no", "mountPath": "/"}]}]}}}},
                {"spec": {"template": {"spec": {"restartPolicy": "Never"}}}},
                {"spec": {"replicas": "x"}},
                {"spec": {"template": {"spec": {"unknown": 1, "containers": [{"name": "main", "image": "i", "imag": 1}]}}}},
                {"spec": {"template": {"metadata": {"labels": {"app": "z"}}}}},
            ]
        ),
        strategic=st.sampled_from(_pod_directives).map(lambda one: {"spec": {"template": {"spec": one}}}),
        status=status,
        scale=scale,
        edits=(
            {"op": "add", "path": "/spec/template/spec/containers/-", "value": {"name": "j", "image": "j"}},
            {"op": "remove", "path": "/spec/template/spec/containers/0/env"},
            {"op": "replace", "path": "/spec/replicas", "value": 2},
            {"op": "remove", "path": "/spec/replicas"},
            {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "j"},
        ),
    )  # fmt: skip


DEPLOYMENT = _workload(
    "deployments",
    "Deployment",
    some(
        replicas=number,
        paused=st.booleans(),
        minReadySeconds=number,
        revisionHistoryLimit=number,
        progressDeadlineSeconds=st.sampled_from([600, 700]),
        strategy=st.one_of(
            exactly(type=text("Recreate")), exactly(type=text("RollingUpdate")),
            exactly(rollingUpdate=some(maxSurge=st.sampled_from([1, "25%", "10%"]), maxUnavailable=st.sampled_from([0, 1, "0%"]))),
        ),
    ),
    {},
    some(replicas=number, readyReplicas=number, observedGeneration=number, conditions=items(condition, "type", 2)),
    scale=True,
)  # fmt: skip
STATEFUL_SET = _workload(
    "statefulsets",
    "StatefulSet",
    some(
        replicas=number,
        serviceName=text("svc", "svc2"),
        podManagementPolicy=text("Parallel", "OrderedReady"),
        updateStrategy=exactly(type=text("OnDelete", "RollingUpdate")),
        minReadySeconds=number,
    ),
    {"serviceName": "svc"},
    some(replicas=number, currentReplicas=number, observedGeneration=number),
    scale=True,
)
DAEMON_SET = _workload(
    "daemonsets",
    "DaemonSet",
    some(minReadySeconds=number, updateStrategy=exactly(type=text("OnDelete", "RollingUpdate"))),
    {},
    exactly(
        currentNumberScheduled=number, numberMisscheduled=number, desiredNumberScheduled=number, numberReady=number
    ),
    scale=False,
)
REPLICA_SET = _workload(
    "replicasets",
    "ReplicaSet",
    some(replicas=number, minReadySeconds=number),
    {},
    some(replicas=number, readyReplicas=number),
    scale=True,
)
POD = Subject(
    "pods",
    "Pod",
    versions=False,
    base={"spec": {**_POD, "serviceAccountName": "default", "automountServiceAccountToken": False}},
    parts=exactly(spec=pod_spec),
    wrong=st.sampled_from(
        [
            {"spec": {"containers": []}},
            {"spec": {"nodeName": "Not A Node"}},
            {"spec": {"restartPolicy": "Sometimes"}},
            {"spec": {"containers": [{"name": "main", "image": "i", "ports": [{"containerPort": 0}]}]}},
            {"spec": {"containers": [{"name": "main", "image": "i", "resources": {"limits": {"cpu": "lots"}}}]}},
            {"spec": {"activeDeadlineSeconds": 5}},
        ]
    ),
    strategic=st.sampled_from(_pod_directives).map(lambda one: {"spec": one}),
    status=some(phase=text("Pending", "Running"), message=word, conditions=items(condition, "type", 2)),
    edits=({"op": "replace", "path": "/spec/containers/0/image", "value": "j"}, {"op": "add", "path": "/spec/tolerations/-", "value": {"key": "j", "operator": "Exists"}}),
)  # fmt: skip
JOB = Subject(
    "jobs",
    "Job",
    "batch/v1",
    versions=False,
    base={"spec": {"template": {"spec": {**_POD, "restartPolicy": "Never"}}}},
    parts=exactly(
        spec=some(
            parallelism=number, completions=number, backoffLimit=number, suspend=st.booleans(), activeDeadlineSeconds=st.integers(1, 3),
            ttlSecondsAfterFinished=number, completionMode=text("NonIndexed", "Indexed"),
        )
    ),
    wrong=st.sampled_from([{"spec": {"parallelism": -1}}, {"spec": {"template": {"spec": {"restartPolicy": "Always"}}}}, {"spec": {"paralelism": 1}}]),
    status=some(active=number, ready=number),
    strategic=st.sampled_from(_pod_directives).map(lambda one: {"spec": {"template": {"spec": one}}}),
)  # fmt: skip
CRON_JOB = Subject(
    "cronjobs",
    "CronJob",
    "batch/v1",
    base={"spec": {"schedule": "* * * * *", "jobTemplate": JOB.base}},
    parts=exactly(
        spec=some(
            schedule=text("*/5 * * * *", "@hourly", "not a schedule"), suspend=st.booleans(), concurrencyPolicy=text("Allow", "Forbid", "Wrong"),
            timeZone=text("Etc/UTC", "Nowhere/Land"), successfulJobsHistoryLimit=number, startingDeadlineSeconds=number,
        )
    ),
    status=some(lastScheduleTime=text("2024-01-01T00:00:00Z")),
)  # fmt: skip
