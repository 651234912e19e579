"""What the Kubernetes documentation shows of servers: a guestbook in three tiers, a StatefulSet of web servers and one of ZooKeeper,
a NetworkPolicy, rollouts, a DaemonSet, Redis with its configuration from a ConfigMap, init containers, a liveness probe."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from example_objects import container, deployment, obj, pod, service, stateful_set, template

pytestmark = [
    pytest.mark.engine,
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
]

NGINX = "registry.k8s.io/nginx-slim"


def test_a_guestbook_in_three_tiers(client: Any, images: Any) -> None:
    """The page writes to the leader of Redis and reads from its followers, each behind a Service and found by DNS."""
    images("redis", "follower", "frontend")
    asks = {"resources": {"requests": {"cpu": "100m", "memory": "100Mi"}}}
    leader = {"app": "redis", "role": "leader", "tier": "backend"}
    follower = {"app": "redis", "role": "follower", "tier": "backend"}
    page = {"app": "guestbook", "tier": "frontend"}
    replica = "us-docker.pkg.dev/google-samples/containers/gke/gb-redis-follower:v2"
    shown = "docker.io/corelab/gb-frontend:v5"
    objects = [
        deployment("redis-leader", 1, leader, container("leader", "docker.io/redis:6.0.5", port=6379, **asks)),
        service("redis-leader", leader, ("", 6379)),
        deployment("redis-follower", 2, follower, container("follower", replica, port=6379, **asks)),
        service("redis-follower", follower, ("", 6379)),
        deployment("frontend", 3, page, container("php-redis", shown, port=80, **asks)),
        service("frontend", page, ("", 80)),
    ]
    client.apply(*objects)
    for name in ("redis-leader", "redis-follower", "frontend"):
        client("rollout", "status", f"deployment/{name}", "--timeout=90s")

    ask = ("exec", "client", "--", "wget", "-qO-")
    assert client(*ask, "http://frontend/?cmd=set&key=messages&value=hello") == "OK"
    client.until("hello", *ask, "http://frontend/?cmd=get&key=messages")
    assert client("logs", "deployment/redis-leader", "--tail=100").count("Synchronization with replica") == 2

    client("scale", "deployment/frontend", "--replicas=5")
    client("rollout", "status", "deployment/frontend", "--timeout=60s")
    pages = {client(*ask, "http://frontend/").strip() for _ in range(40)}
    assert len(pages) == 5, f"not every page is asked: {pages}"
    client.remove(*objects)


def test_a_stateful_set_of_web_servers(client: Any, images: Any) -> None:
    """Ordered start, stable names and storage, scaling, a canary by partition, an update from the top, and a deletion that
    leaves the pods."""
    images("nginx")
    labels = {"app": "nginx"}
    mounts = [{"name": "www", "mountPath": "/usr/share/nginx/html"}]
    web = container("nginx", f"{NGINX}:0.7", ports=[{"containerPort": 80, "name": "web"}], volumeMounts=mounts)
    objects = [
        service("nginx", labels, ("web", 80), clusterIP="None"),
        stateful_set("web", "nginx", 2, template(labels, web), "www", "1Gi"),
    ]
    client.apply(*objects)
    client("rollout", "status", "statefulset/web", "--timeout=90s")
    created = client("get", "pods", "-l", "app=nginx", "--sort-by=.status.startTime", "-o", "name")
    assert created.split() == ["pod/web-0", "pod/web-1"]

    ask = ("exec", "client", "--", "wget", "-qO-")
    for name in ("web-0", "web-1"):
        assert client("exec", name, "--", "hostname").strip() == name
        client("exec", name, "--", "sh", "-c", "hostname > /usr/share/nginx/html/index.html")
        client.until(name, *ask, f"http://{name}.nginx/")
    looked_up = client("exec", "client", "--", "nslookup", "web-0.nginx.default.svc.cluster.local")
    address = client("get", "pod", "web-0", "-o", "jsonpath={.status.podIP}")
    assert f"Address: {address}" in looked_up

    client("delete", "pod", "-l", "app=nginx")
    client("rollout", "status", "statefulset/web", "--timeout=90s")
    for name in ("web-0", "web-1"):
        client.until(name, *ask, f"http://{name}.nginx/")

    client("scale", "statefulset/web", "--replicas=4")
    client("rollout", "status", "statefulset/web", "--timeout=90s")
    rules = '{"spec":{"updateStrategy":{"type":"RollingUpdate","rollingUpdate":{"partition":%d}}}}'
    client("patch", "statefulset", "web", "-p", rules % 3)
    client("set", "image", "statefulset/web", f"nginx={NGINX}:0.8")
    client("rollout", "status", "statefulset/web", "--timeout=90s")
    each = "jsonpath={.items[*].spec.containers[0].image}"
    client.until(f"{NGINX}:0.7 {NGINX}:0.7 {NGINX}:0.7 {NGINX}:0.8", "get", "pods", "-l", "app=nginx", "-o", each)
    client("patch", "statefulset", "web", "-p", rules % 0)
    client.until(" ".join([f"{NGINX}:0.8"] * 4), "get", "pods", "-l", "app=nginx", "-o", each)
    client("rollout", "status", "statefulset/web", "--timeout=90s")

    client("rollout", "undo", "statefulset/web")
    client.until(" ".join([f"{NGINX}:0.7"] * 4), "get", "pods", "-l", "app=nginx", "-o", each)
    client("rollout", "status", "statefulset/web", "--timeout=90s")
    client("delete", "statefulset", "web", "--cascade=orphan")
    assert client("get", "pod", "web-0", "-o", "jsonpath={.status.phase}") == "Running"
    client("delete", "pod", "-l", "app=nginx", "--wait=false")
    client("delete", "pvc", "-l", "app=nginx", "--wait=false")
    client.remove(*objects)


def test_an_ensemble_of_zookeeper(client: Any, images: Any) -> None:
    """Three servers that find each other by name, elect a leader, keep what they are told, within a disruption budget."""
    images("zookeeper")
    labels = {"app": "zk"}
    ports = [("client", 2181), ("server", 2888), ("leader-election", 3888)]
    options = {
        "servers": 3,
        "data_dir": "/var/lib/zookeeper/data",
        "data_log_dir": "/var/lib/zookeeper/data/log",
        "client_port": 2181,
        "election_port": 3888,
        "server_port": 2888,
        "tick_time": 2000,
        "init_limit": 10,
        "sync_limit": 5,
        "heap": "128M",
        "max_client_cnxns": 60,
    }
    probe = {"exec": {"command": ["sh", "-c", "zookeeper-ready 2181"]}, "initialDelaySeconds": 3, "timeoutSeconds": 5}
    server = container(
        "zookeeper",
        "registry.k8s.io/kubernetes-zookeeper:1.0-3.4.10",
        *("sh", "-c", " ".join(["start-zookeeper", *(f"--{name}={value}" for name, value in options.items())])),
        imagePullPolicy="Always",
        ports=[{"containerPort": number, "name": name} for name, number in ports],
        readinessProbe=probe,
        livenessProbe=probe,
        volumeMounts=[{"name": "datadir", "mountPath": "/var/lib/zookeeper"}],
        resources={"requests": {"cpu": "100m", "memory": "256Mi"}},
    )
    apart = {"labelSelector": {"matchLabels": {"role": "other"}}, "topologyKey": "kubernetes.io/hostname"}
    made = template(
        labels,
        server,
        securityContext={"runAsUser": 1000, "fsGroup": 1000},
        affinity={"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}},
    )
    objects = [
        service("zk-hs", labels, *ports[1:], clusterIP="None"),
        service("zk-cs", labels, ports[0]),
        obj("policy/v1", "PodDisruptionBudget", "zk-pdb", {"selector": {"matchLabels": labels}, "maxUnavailable": 1}),
        stateful_set("zk", "zk-hs", 3, made, "datadir", "1Gi", podManagementPolicy="OrderedReady"),
    ]
    client.apply(*objects)
    client("rollout", "status", "statefulset/zk", "--timeout=120s")
    assert client("exec", "zk-2", "--", "hostname", "-f").strip() == "zk-2.zk-hs.default.svc.cluster.local"
    assert client("exec", "zk-1", "--", "cat", "/var/lib/zookeeper/data/myid").strip() == "2"
    # A server says that it is well before it has found the others.
    client.until("Created /hello", "exec", "zk-0", "--", "sh", "-c", "zkCli.sh create /hello world 2>&1")
    client.until("world", "exec", "zk-1", "--", "zkCli.sh", "get", "/hello")

    left = "jsonpath={.status.disruptionsAllowed}"
    assert client("get", "pdb", "zk-pdb", "-o", left) == "1"
    evict = '{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"%s"}}'
    path = "/api/v1/namespaces/default/pods/%s/eviction"
    client("create", "--raw", path % "zk-0", "-f", "-", stdin=evict % "zk-0")
    refused = client("create", "--raw", path % "zk-1", "-f", "-", stdin=evict % "zk-1", check=False)
    assert "Success" not in refused
    client("rollout", "status", "statefulset/zk", "--timeout=120s")
    client.until("1", "get", "pdb", "zk-pdb", "-o", left)
    assert "world" in client.until("world", "exec", "zk-0", "--", "zkCli.sh", "get", "/hello").split()
    client.remove(*objects)


def test_a_network_policy_and_the_rollouts_of_a_deployment(client: Any, images: Any) -> None:
    """Only pods with the right label reach the server; a new image is rolled out, and a bad one is taken back."""
    images("nginx")
    labels = {"app": "web"}
    objects = [
        deployment("nginx-deployment", 3, labels, container("nginx", "nginx:1.14.2", port=80)),
        service("web", labels, ("", 80)),
    ]
    client.apply(*objects)
    client("rollout", "status", "deployment/nginx-deployment", "--timeout=90s")
    ask = ("exec", "client", "--", "timeout", "5", "wget", "-qO-", "http://web")
    client.until("Welcome to nginx!", *ask)

    allowed = {"from": [{"podSelector": {"matchLabels": {"access": "true"}}}]}
    policy = {"podSelector": {"matchLabels": labels}, "ingress": [allowed]}
    client.apply(obj("networking.k8s.io/v1", "NetworkPolicy", "access-web", policy))
    client.until("", "get", "networkpolicy", "access-web")
    closed = "for i in 1 2 3 4 5 6 7 8 9; do timeout 1 wget -qO- http://web > /dev/null || { echo closed; exit; }; done"
    assert client("exec", "client", "--", "sh", "-c", closed).strip() == "closed"
    client("label", "pod", "client", "access=true")
    client.until("Welcome to nginx!", *ask)
    client("label", "pod", "client", "access-")
    client("delete", "networkpolicy", "access-web")
    client.until("Welcome to nginx!", *ask)

    client("set", "image", "deployment/nginx-deployment", "nginx=nginx:1.16.1")
    client("rollout", "status", "deployment/nginx-deployment", "--timeout=90s")
    client("set", "image", "deployment/nginx-deployment", "nginx=nginx:1.161")
    client.until(
        "ErrImagePull", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.containerStatuses[*].state}"
    )
    client.until("Welcome to nginx!", *ask)
    client("rollout", "undo", "deployment/nginx-deployment")
    client("rollout", "status", "deployment/nginx-deployment", "--timeout=90s")
    image = "jsonpath={.spec.template.spec.containers[0].image}"
    assert client("get", "deployment", "nginx-deployment", "-o", image) == "nginx:1.16.1"
    client.remove(*objects)


def test_a_daemon_on_every_node(client: Any, images: Any) -> None:
    images("logs")
    labels = {"name": "fluentd-elasticsearch"}
    logs = container(
        "fluentd-elasticsearch",
        "k8s.gcr.io/fluentd-elasticsearch:1.20",
        resources={"limits": {"memory": "200Mi"}, "requests": {"cpu": "100m", "memory": "200Mi"}},
        volumeMounts=[{"name": "varlog", "mountPath": "/var/log"}],
    )
    tolerated = [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule"}]
    volumes = [{"name": "varlog", "hostPath": {"path": "/var/log"}}]
    spec = {
        "selector": {"matchLabels": labels},
        "template": template(labels, logs, tolerations=tolerated, volumes=volumes),
    }
    daemon = obj("apps/v1", "DaemonSet", "fluentd-elasticsearch", spec, namespace="kube-system")
    client.apply(daemon)
    client("rollout", "status", "daemonset/fluentd-elasticsearch", "-n", "kube-system", "--timeout=60s")
    assert client("logs", "daemonset/fluentd-elasticsearch", "-n", "kube-system").strip()
    client.remove(daemon)


def test_redis_reads_its_configuration_from_a_config_map(client: Any, images: Any) -> None:
    images("redis")
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "example-redis-config"}, "data": {}}
    config["data"] = {"redis-config": "maxmemory 2mb\nmaxmemory-policy allkeys-lru\n"}
    mounts = [{"name": "data", "mountPath": "/data"}, {"name": "config", "mountPath": "/usr/local/etc/redis"}]
    chosen = {"name": "example-redis-config", "items": [{"key": "redis-config", "path": "redis.conf"}]}
    volumes = [{"name": "data", "emptyDir": {}}, {"name": "config", "configMap": chosen}]
    server = container(
        "redis",
        "redis:5",
        args=["/usr/local/etc/redis/redis.conf"],
        env=[{"name": "MASTER", "value": "true"}],
        resources={"limits": {"cpu": "0.1"}},
        volumeMounts=mounts,
        port=6379,
    )
    redis = pod("redis", server, volumes=volumes)
    client.apply(config, redis)
    client("wait", "--for=condition=Ready", "pod/redis", "--timeout=60s")
    said = client.until("2097152", "exec", "redis", "--", "redis-cli", "CONFIG", "GET", "maxmemory")
    assert said.split() == ["maxmemory", "2097152"]
    said = client("exec", "redis", "--", "redis-cli", "CONFIG", "GET", "maxmemory-policy")
    assert said.split() == ["maxmemory-policy", "allkeys-lru"]
    client.remove(config, redis)


def test_an_init_container_prepares_what_the_server_shows(client: Any, images: Any) -> None:
    images("nginx")
    source = pod("source", container("nginx", "nginx", port=80), labels={"app": "source"})
    shown = [{"name": "workdir", "mountPath": "/usr/share/nginx/html"}]
    install = container(
        "install", "busybox:1.28", "sh", "-c", "until wget -O /work-dir/index.html http://source; do sleep 1; done"
    )
    install["volumeMounts"] = [{"name": "workdir", "mountPath": "/work-dir"}]
    demo = pod(
        "init-demo",
        container("nginx", "nginx", port=80, volumeMounts=shown),
        initContainers=[install],
        volumes=[{"name": "workdir", "emptyDir": {}}],
    )
    client.apply(demo)
    client.until("Init:0/1", "get", "pod", "init-demo")
    client.apply(source, service("source", {"app": "source"}, ("", 80)))
    client("wait", "--for=condition=Ready", "pod/init-demo", "--timeout=60s")
    assert "Welcome to nginx!" in client(
        "exec", "init-demo", "-c", "nginx", "--", "cat", "/usr/share/nginx/html/index.html"
    )
    client.remove(demo, source, service("source", {}, ("", 80)))


def test_a_container_whose_health_is_gone_is_started_again(client: Any) -> None:
    sick = "touch /tmp/healthy; sleep 6; rm -f /tmp/healthy; sleep 600"
    probe = {"exec": {"command": ["cat", "/tmp/healthy"]}, "initialDelaySeconds": 1, "periodSeconds": 1}
    body = container("liveness", "registry.k8s.io/busybox:1.27.2", args=["/bin/sh", "-c", sick], livenessProbe=probe)
    liveness = pod("liveness-exec", body, labels={"test": "liveness"})
    client.apply(liveness)
    client.until("1", "get", "pod", "liveness-exec", "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
    assert "its liveness probe failed 3 times" in client("describe", "pod", "liveness-exec")
    client.remove(liveness)
