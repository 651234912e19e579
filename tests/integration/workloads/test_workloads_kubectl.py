"""kubectl works on workloads as on any cluster: rollout, scale, wait, on the real API server and store."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping

import pytest

from trimtab.api.core import Pod
from trimtab.components.workloads import pods as facts
from workload_cluster import Cluster

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")

DEADLINE_S = 60.0


def deployment(image: str = "ok:1", replicas: int = 3, extra: str = "") -> str:
    return f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  strategy: {{rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}}}
  {extra}
  template:
    metadata: {{labels: {{app: web}}}}
    spec: {{containers: [{{name: main, image: "{image}"}}]}}
"""


SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
"""

STATEFUL_SET = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers: [{name: main, image: "ok:1", volumeMounts: [{name: data, mountPath: /data}]}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"""


def job(name: str, image: str, extra: str = "") -> str:
    return f"""
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
  {extra}
  template:
    spec: {{restartPolicy: Never, containers: [{{name: main, image: "{image}"}}]}}
"""


async def images(cluster: Cluster) -> list[str]:
    """The images of ready pods."""
    out = await cluster.run("get", "pods", "-o", "jsonpath={range .items[*]}{.spec.containers[0].image}{'\\n'}{end}")
    return out.split()


async def runs(cluster: Cluster, wanted: list[str]) -> None:
    """Waits until just these images run: a rollout is done while the last old pod is still ending."""
    async with asyncio.timeout(DEADLINE_S):
        while sorted(await images(cluster)) != sorted(wanted):  # noqa: ASYNC110 - kubectl is another process
            await asyncio.sleep(0.05)


async def until(cluster: Cluster, wanted: str, *args: str) -> None:
    """Waits until kubectl prints just that."""
    async with asyncio.timeout(DEADLINE_S):
        while (await cluster.run(*args)).strip() != wanted:  # noqa: ASYNC110 - kubectl is another process
            await asyncio.sleep(0.05)


async def directories(cluster: Cluster, count: int) -> None:
    """Waits until the node has so many directories of volumes."""
    async with asyncio.timeout(DEADLINE_S):
        while len(list(cluster.volumes.glob("pvc-*"))) != count:  # noqa: ASYNC110 - nor has a directory an event
            await asyncio.sleep(0.05)


async def test_rollout_status_history_undo_and_restart(cluster: Cluster) -> None:
    await cluster.apply(deployment() + "---" + SERVICE)
    assert 'deployment "web" successfully rolled out' in await cluster.run("rollout", "status", "deployment/web")

    await cluster.run("set", "image", "deployment/web", "main=ok:2")
    await cluster.run("annotate", "deployment/web", "kubernetes.io/change-cause=second")
    said = await cluster.run("rollout", "status", "deployment/web")
    assert said.endswith('deployment "web" successfully rolled out\n')
    await runs(cluster, ["ok:2"] * 3)

    # The cause reaches the ReplicaSet, whose history it is, after the rollout is through.
    cause = "jsonpath={.items[*].metadata.annotations['kubernetes\\.io/change-cause']}"
    await until(cluster, "second", "get", "rs", "-o", cause)
    history = await cluster.run("rollout", "history", "deployment/web")
    assert [line.split() for line in history.splitlines()[2:4]] == [["1", "<none>"], ["2", "second"]]
    assert "ok:1" in await cluster.run("rollout", "history", "deployment/web", "--revision=1")

    await cluster.run("rollout", "undo", "deployment/web")
    await cluster.run("rollout", "status", "deployment/web")
    await runs(cluster, ["ok:1"] * 3)
    revision = "jsonpath={.metadata.annotations['deployment\\.kubernetes\\.io/revision']}"
    await until(cluster, "3", "get", "deployment", "web", "-o", revision)

    before = await cluster.run("get", "pods", "-o", "name")
    await cluster.run("rollout", "restart", "deployment/web")
    await cluster.run("rollout", "status", "deployment/web")
    async with asyncio.timeout(DEADLINE_S):
        while set(before.split()) & set((await cluster.run("get", "pods", "-o", "name")).split()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    ready = "jsonpath={.items[*].endpoints[*].conditions.ready}"
    await until(cluster, "true true true", "get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", ready)


async def test_scale_wait_pause_and_resume(cluster: Cluster) -> None:
    await cluster.apply(deployment(replicas=1))
    await cluster.run("wait", "--for=condition=Available", "deployment/web", "--timeout=60s")
    await cluster.run("scale", "deployment/web", "--replicas=4")
    await cluster.run("rollout", "status", "deployment/web")
    await runs(cluster, ["ok:1"] * 4)

    await cluster.run("rollout", "pause", "deployment/web")
    await cluster.run("set", "image", "deployment/web", "main=ok:2")
    await cluster.run("scale", "deployment/web", "--replicas=2")
    await until(cluster, "2", "get", "deployment", "web", "-o", "jsonpath={.status.replicas}")
    await runs(cluster, ["ok:1"] * 2)
    await cluster.run("rollout", "resume", "deployment/web")
    await cluster.run("rollout", "status", "deployment/web")
    await runs(cluster, ["ok:2"] * 2)

    columns = (await cluster.run("get", "deployment", "web", "--no-headers")).split()
    assert columns[:4] == ["web", "2/2", "2", "2"]


async def test_a_bad_version_leaves_the_old_one_and_says_why(cluster: Cluster) -> None:
    await cluster.apply(deployment())
    await cluster.run("rollout", "status", "deployment/web")
    await cluster.apply(deployment("crash:2", extra="progressDeadlineSeconds: 2"))
    done = await cluster.kubectl("rollout", "status", "deployment/web")
    assert done.code == 1
    assert 'deployment "web" exceeded its progress deadline' in done.text
    message = "jsonpath={.status.conditions[?(@.type=='Progressing')].message}"
    said = await cluster.run("get", "deployment", "web", "-o", message)
    assert "container main: CrashLoopBackOff" in said
    assert "no such table: notes" in said
    await runs(cluster, ["crash:2", "ok:1", "ok:1", "ok:1"])

    await cluster.run("rollout", "undo", "deployment/web")
    await cluster.run("rollout", "status", "deployment/web")
    await runs(cluster, ["ok:1"] * 3)


async def test_jobs_are_waited_for(cluster: Cluster) -> None:
    await cluster.apply(job("good", "exit-0") + "---" + job("bad", "exit-1", "backoffLimit: 0"))
    await cluster.run("wait", "--for=condition=complete", "job/good", "--timeout=60s")
    await cluster.run("wait", "--for=condition=failed", "job/bad", "--timeout=60s")
    message = "jsonpath={.status.conditions[?(@.type=='Failed')].message}"
    said = await cluster.run("get", "job", "bad", "-o", message)
    assert said.startswith("Job has reached the specified backoff limit: pod bad-")
    assert said.endswith("container main: exited with code 1: no such table: notes")
    assert (await cluster.run("get", "job", "good", "--no-headers")).split()[:3] == ["good", "Complete", "1/1"]
    await cluster.run("delete", "job", "good", "bad")
    await until(cluster, "", "get", "pods", "-o", "name")


async def test_a_stateful_set_keeps_its_claims(cluster: Cluster) -> None:
    await cluster.apply(STATEFUL_SET)
    await cluster.run("rollout", "status", "statefulset/db")
    assert (await cluster.run("get", "pods", "-o", "name")).split() == ["pod/db-0", "pod/db-1"]
    phases = await cluster.run("get", "pvc", "-o", "jsonpath={.items[*].status.phase}")
    assert phases == "Bound Bound"
    await directories(cluster, 2)

    await cluster.run("set", "image", "statefulset/db", "main=ok:2")
    await cluster.run("rollout", "status", "statefulset/db")
    await runs(cluster, ["ok:2", "ok:2"])
    history = await cluster.run("rollout", "history", "statefulset/db")
    assert [line.split()[0] for line in history.splitlines()[2:4]] == ["1", "2"]
    await cluster.run("rollout", "undo", "statefulset/db")
    await cluster.run("rollout", "status", "statefulset/db")
    await runs(cluster, ["ok:1", "ok:1"])

    await cluster.run("delete", "statefulset", "db")
    await until(cluster, "", "get", "pods", "-o", "name")
    assert (await cluster.run("get", "pvc", "-o", "jsonpath={.items[*].status.phase}")) == "Bound Bound"
    await cluster.run("delete", "pvc", "--all")
    await until(cluster, "", "get", "pv", "-o", "name")
    assert list(cluster.volumes.iterdir()) == []


async def test_a_daemon_set_rolls(cluster: Cluster) -> None:
    await cluster.apply(
        """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: main, image: "ok:1"}]}
"""
    )
    await cluster.run("rollout", "status", "daemonset/agent")
    await cluster.run("set", "image", "daemonset/agent", "main=ok:2")
    await cluster.run("rollout", "status", "daemonset/agent")
    await runs(cluster, ["ok:2"])
    await cluster.run("rollout", "undo", "daemonset/agent")
    await cluster.run("rollout", "status", "daemonset/agent")
    await runs(cluster, ["ok:1"])


async def test_a_claim_in_use_outlasts_its_deletion(cluster: Cluster) -> None:
    await cluster.apply(STATEFUL_SET.replace("replicas: 2", "replicas: 1"))
    await cluster.run("rollout", "status", "statefulset/db")
    await directories(cluster, 1)
    await cluster.run("delete", "pvc", "data-db-0", "--wait=false")
    await cluster.run("delete", "pv", "--all", "--wait=false")
    claim = await cluster.run("get", "pvc", "data-db-0", "-o", "jsonpath={.status.phase} {.metadata.deletionTimestamp}")
    assert claim.startswith("Bound 20")
    assert len(list(cluster.volumes.glob("pvc-*"))) == 1
    await cluster.run("delete", "statefulset", "db")
    await until(cluster, "", "get", "pvc,pv", "-o", "name")
    assert list(cluster.volumes.iterdir()) == []


async def test_a_rollout_survives_the_death_of_the_api_server(cluster: Cluster) -> None:
    """kill -9 again and again in mid-rollout: never more than 4 pods, never fewer than 3 ready, and it ends."""
    await cluster.apply(deployment())
    await cluster.run("rollout", "status", "deployment/web")

    def promise(pods: Mapping[str, Pod]) -> str | None:
        living = [pod for pod in pods.values() if facts.active(pod)]
        ready = sum(facts.ready(pod) for pod in living)
        return None if len(living) <= 4 and ready >= 3 else f"{len(living)} pods, {ready} ready"

    cluster.promise = promise
    await cluster.run("set", "image", "deployment/web", "main=ok:2")
    for pause_s in (0.05, 0.1, 0.15, 0.2, 0.3):
        await asyncio.sleep(pause_s)
        cluster.api.kill()
        await asyncio.to_thread(cluster.api.start)
    await cluster.run("rollout", "status", "deployment/web", "--timeout=60s")
    await runs(cluster, ["ok:2"] * 3)


async def test_a_template_that_misses_its_selector_is_refused(cluster: Cluster) -> None:
    wrong = deployment().replace("metadata: {labels: {app: web}}", "metadata: {labels: {app: other}}")
    done = await cluster.kubectl("apply", "-f", "-", stdin=wrong)
    assert done.code == 1
    assert "`selector` does not match template `labels`" in done.text


BUDGET = """
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: keep-two}
spec:
  minAvailable: 2
  selector: {matchLabels: {app: web}}
"""

CRON_JOB = """
apiVersion: batch/v1
kind: CronJob
metadata: {name: hello}
spec:
  schedule: "0 0 1 1 *"
  timeZone: Europe/Berlin
  jobTemplate:
    spec: {template: {spec: {restartPolicy: OnFailure, containers: [{name: main, image: exit-0}]}}}
"""


async def test_a_budget_lets_as_many_pods_be_evicted_as_it_says(cluster: Cluster) -> None:
    await cluster.apply(deployment() + "---" + BUDGET)
    await cluster.run("rollout", "status", "deployment/web")
    await until(cluster, "1", "get", "pdb", "keep-two", "-o", "jsonpath={.status.disruptionsAllowed}")
    await cluster.run("cordon", "node-1")
    await until(cluster, "true", "get", "node", "node-1", "-o", "jsonpath={.spec.unschedulable}")
    drained = await cluster.kubectl("drain", "node-1", "--ignore-daemonsets", "--force", "--timeout=3s")
    assert drained.code != 0
    assert "The disruption budget keep-two needs 2 healthy pods and has 2 currently" in drained.text
    await cluster.run("uncordon", "node-1")
    await runs(cluster, ["ok:1"] * 3)


async def test_a_cron_job_can_be_run_by_hand(cluster: Cluster) -> None:
    await cluster.apply(CRON_JOB)
    await cluster.run("create", "job", "now", "--from=cronjob/hello")
    await cluster.run("wait", "--for=condition=Complete", "job/now", "--timeout=60s")
