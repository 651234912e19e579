"""kubectl on objects that change hands: owners deleted without their pods, pods relabelled, claims that go with their set; and on
Indexed and suspended Jobs. On the real API server and store, with a node that plays pods."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from workload_cluster import Cluster

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")

DEADLINE_S = 60.0

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec: {containers: [{name: main, image: "ok:1"}]}
"""

STATEFUL_SET = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: db
  ordinals: {start: 4}
  persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete, whenScaled: Retain}
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers: [{name: main, image: "ok:1", volumeMounts: [{name: data, mountPath: /data}]}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"""

DAEMON_SET = """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  updateStrategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: main, image: "ok:1"}]}
"""

CONTROLLER = """
apiVersion: v1
kind: ReplicationController
metadata: {name: old}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: old}}
    spec: {containers: [{name: main, image: "ok:1"}]}
"""

INDEXED = """
apiVersion: batch/v1
kind: Job
metadata: {name: render}
spec:
  completions: 4
  parallelism: 2
  completionMode: Indexed
  backoffLimitPerIndex: 0
  template:
    spec: {restartPolicy: Never, containers: [{name: main, image: "odd"}]}
"""

SUSPENDED = """
apiVersion: batch/v1
kind: Job
metadata: {name: later}
spec:
  suspend: true
  template:
    spec: {restartPolicy: Never, containers: [{name: main, image: "exit-0"}]}
"""

UIDS = "jsonpath={range .items[*]}{.metadata.uid}{' '}{end}"


async def until(cluster: Cluster, wanted: str, *args: str) -> None:
    """Waits until kubectl prints just that, words in any order."""
    said = ""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while sorted((said := await cluster.run(*args)).split()) != sorted(wanted.split()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"kubectl {' '.join(args)} says {said!r}, not {wanted!r}") from None


async def test_a_deployment_deleted_without_its_pods_is_made_again_around_them(cluster: Cluster) -> None:
    await cluster.apply(DEPLOYMENT)
    await cluster.run("rollout", "status", "deployment/shop")
    await cluster.run("set", "image", "deployment/shop", "main=ok:2")
    await cluster.run("rollout", "status", "deployment/shop")
    await until(cluster, "2 0", "get", "rs", "-o", "jsonpath={.items[*].status.replicas}")
    before = await cluster.run("get", "pods", "-o", UIDS)

    await cluster.run("delete", "deployment", "shop", "--cascade=orphan")
    await until(cluster, "", "get", "rs", "-o", "jsonpath={.items[*].metadata.ownerReferences}")
    await cluster.run("delete", "rs", "--all", "--cascade=orphan")
    await until(cluster, "", "get", "pods", "-o", "jsonpath={.items[*].metadata.ownerReferences}")

    await cluster.apply(DEPLOYMENT.replace("ok:1", "ok:2"))
    await cluster.run("rollout", "status", "deployment/shop")
    assert sorted((await cluster.run("get", "pods", "-o", UIDS)).split()) == sorted(before.split())
    await until(
        cluster, "ReplicaSet ReplicaSet", "get", "pods", "-o", "jsonpath={.items[*].metadata.ownerReferences[*].kind}"
    )


async def test_a_replica_set_that_is_left_behind_is_the_history_of_the_next_deployment(cluster: Cluster) -> None:
    await cluster.apply(DEPLOYMENT)
    await cluster.run("rollout", "status", "deployment/shop")
    await cluster.run("delete", "deployment", "shop", "--cascade=orphan")
    await until(cluster, "", "get", "rs", "-o", "jsonpath={.items[*].metadata.ownerReferences}")
    await cluster.apply(DEPLOYMENT.replace("ok:1", "ok:2"))
    await cluster.run("rollout", "status", "deployment/shop")
    await cluster.run("rollout", "undo", "deployment/shop")
    await cluster.run("rollout", "status", "deployment/shop")
    image = "jsonpath={.spec.template.spec.containers[0].image}"
    assert await cluster.run("get", "deployment", "shop", "-o", image) == "ok:1"


async def test_a_pod_that_is_relabelled_is_let_go_and_replaced(cluster: Cluster) -> None:
    await cluster.apply(DEPLOYMENT)
    await cluster.run("rollout", "status", "deployment/shop")
    first = (await cluster.run("get", "pods", "-o", "name")).split()[0]
    await cluster.run("label", "--overwrite", first, "app=looked-at")
    await until(cluster, "", "get", first, "-o", "jsonpath={.metadata.ownerReferences}")
    await until(
        cluster,
        "True True",
        "get",
        "pods",
        "-l",
        "app=shop",
        "-o",
        "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}",
    )
    await cluster.run("delete", "deployment", "shop")
    await until(cluster, first, "get", "pods", "-o", "name")


async def test_claims_go_with_their_set_unless_it_is_deleted_without_its_pods(cluster: Cluster) -> None:
    await cluster.apply(STATEFUL_SET)
    await cluster.run("rollout", "status", "statefulset/db")
    assert (await cluster.run("get", "pods", "-o", "name")).split() == ["pod/db-4", "pod/db-5"]
    await until(
        cluster, "StatefulSet StatefulSet", "get", "pvc", "-o", "jsonpath={.items[*].metadata.ownerReferences[*].kind}"
    )
    before = await cluster.run("get", "pods", "-o", UIDS)

    await cluster.run("delete", "statefulset", "db", "--cascade=orphan")
    await until(cluster, "", "get", "pvc", "-o", "jsonpath={.items[*].metadata.ownerReferences}")
    await cluster.apply(STATEFUL_SET)
    await cluster.run("rollout", "status", "statefulset/db")
    assert await cluster.run("get", "pods", "-o", UIDS) == before

    await until(
        cluster, "StatefulSet StatefulSet", "get", "pvc", "-o", "jsonpath={.items[*].metadata.ownerReferences[*].kind}"
    )
    await cluster.run("delete", "statefulset", "db")
    await until(cluster, "", "get", "pvc", "-o", "name")


async def test_a_daemon_set_surges(cluster: Cluster) -> None:
    await cluster.apply(DAEMON_SET)
    await cluster.run("rollout", "status", "daemonset/agent")
    tolerated = "jsonpath={.items[0].spec.tolerations[*].key}"
    keys = (await cluster.run("get", "pods", "-o", tolerated)).split()
    assert "node.kubernetes.io/unschedulable" in keys
    await cluster.run("set", "image", "daemonset/agent", "main=crash")
    both = "jsonpath={.items[*].spec.containers[0].image}"
    await until(cluster, "ok:1 crash", "get", "pods", "-o", both)
    assert await cluster.run("get", "ds", "agent", "-o", "jsonpath={.status.numberAvailable}") == "1"
    await cluster.run("set", "image", "daemonset/agent", "main=ok:2")
    await cluster.run("rollout", "status", "daemonset/agent")
    await until(cluster, "ok:2", "get", "pods", "-o", both)


async def test_an_indexed_job_says_which_indexes_failed(cluster: Cluster) -> None:
    await cluster.apply(INDEXED)
    await cluster.run("wait", "--for=condition=failed", "job/render", "--timeout=60s")
    said = " ".join((await cluster.run("describe", "job", "render")).split())
    assert "Completion Mode: Indexed" in said
    assert "Completed Indexes: 0,2" in said
    status = "jsonpath={.status.failedIndexes} {.status.succeeded} {.status.failed} {.status.uncountedTerminatedPods}"
    assert await cluster.run("get", "job", "render", "-o", status) == "1,3 2 2 {}"
    names = "jsonpath={.items[*].spec.hostname}"
    assert sorted((await cluster.run("get", "pods", "-o", names)).split()) == [f"render-{n}" for n in range(4)]
    await cluster.run("delete", "job", "render")
    await until(cluster, "", "get", "pods", "-o", "name")


async def test_a_job_is_resumed(cluster: Cluster) -> None:
    await cluster.apply(SUSPENDED)
    await cluster.run("wait", "--for=condition=suspended", "job/later", "--timeout=60s")
    assert (await cluster.run("get", "job", "later", "--no-headers")).split()[:3] == ["later", "Suspended", "0/1"]
    await cluster.run("patch", "job", "later", "-p", '{"spec":{"suspend":false}}')
    await cluster.run("wait", "--for=condition=complete", "job/later", "--timeout=60s")
    await cluster.run("delete", "job", "later", "--cascade=orphan")
    await until(cluster, "", "get", "pods", "-o", "jsonpath={.items[*].metadata.finalizers}")


async def test_a_replication_controller_keeps_its_pods_and_is_deleted_without_them(cluster: Cluster) -> None:
    await cluster.apply(CONTROLLER)
    await until(cluster, "2 2", "get", "rc", "old", "-o", "jsonpath={.status.readyReplicas} {.status.replicas}")
    assert "app=old" in await cluster.run("get", "rc", "old", "-o", "wide")
    await cluster.run("scale", "rc", "old", "--replicas=1")
    await until(cluster, "1 1", "get", "rc", "old", "-o", "jsonpath={.status.replicas} {.status.readyReplicas}")
    before = await cluster.run("get", "pods", "-o", UIDS)
    await cluster.run("delete", "rc", "old", "--cascade=orphan")
    await until(cluster, "", "get", "pods", "-o", "jsonpath={.items[*].metadata.ownerReferences}")
    assert await cluster.run("get", "pods", "-o", UIDS) == before
