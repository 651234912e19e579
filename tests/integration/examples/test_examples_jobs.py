"""What the Kubernetes documentation shows of Jobs: one that computes, one on a schedule, one with an index for each pod, one with a
queue of work, and the policies on failure and success."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from example_objects import container, job, obj, pod, service, template

pytestmark = [
    pytest.mark.engine,
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
]

ITEMS = "apple banana cherry date fig grape lemon melon orange"


def complete(examples: Any, name: str, condition: str = "complete") -> None:
    examples("wait", f"--for=condition={condition}", f"job/{name}", "--timeout=120s")


def test_a_job_computes_pi(examples: Any, images: Any) -> None:
    images("perl")
    pi = job(
        "pi", template({}, container("pi", "perl", "perl", "-Mbignum=bpi", "-wle", "print bpi(300)")), backoffLimit=4
    )
    examples.apply(pi)
    complete(examples, "pi")
    assert examples("logs", "job/pi").startswith("3.14159265358979323846")
    examples.remove(pi)


def test_a_job_every_minute(examples: Any, images: Any) -> None:
    images("busybox")
    hello = container("hello", "busybox:1.28", "/bin/sh", "-c", "date; echo Hello from the cluster")
    made = job("unused", template({}, hello, restartPolicy="OnFailure"))["spec"]
    cron = obj("batch/v1", "CronJob", "hello", {"schedule": "* * * * *", "jobTemplate": {"spec": made}})
    examples.apply(cron)
    examples.until("Complete", "get", "jobs")
    name = examples("get", "jobs", "-o", "jsonpath={.items[0].metadata.name}")
    assert name.startswith("hello-")
    assert "Hello from the cluster" in examples("logs", f"job/{name}")
    examples.remove(cron)


def test_each_pod_of_an_indexed_job_does_its_part(examples: Any, images: Any) -> None:
    """An init container picks the part by index, the container turns it round."""
    images("bash", "busybox")
    mounts = [{"name": "input", "mountPath": "/input"}]
    pick = "items=(foo bar baz qux xyz); echo ${items[$JOB_COMPLETION_INDEX]} > /input/data.txt"
    made = template(
        {},
        container("worker", "docker.io/library/busybox", "rev", "/input/data.txt", volumeMounts=mounts),
        initContainers=[container("input", "docker.io/library/bash", "bash", "-c", pick, volumeMounts=mounts)],
        volumes=[{"name": "input", "emptyDir": {}}],
    )
    indexed = job("indexed-job", made, completions=5, parallelism=3, completionMode="Indexed")
    examples.apply(indexed)
    complete(examples, "indexed-job")
    said = examples("logs", "-l", "job-name=indexed-job", "-c", "worker")
    assert sorted(said.split()) == ["oof", "rab", "xuq", "zab", "zyx"]
    assert "0-4" in examples("describe", "job", "indexed-job")
    second = (
        "get",
        "pods",
        "-l",
        "batch.kubernetes.io/job-completion-index=1",
        "-o",
        "jsonpath={.items[0].spec.hostname}",
    )
    assert examples(*second) == "indexed-job-1"
    examples.remove(indexed)


def test_workers_empty_a_queue(examples: Any, images: Any) -> None:
    images("redis", "worker")
    labels = {"app": "queue"}
    queue = pod("redis-master", container("master", "redis", port=6379), labels=labels)
    found = service("redis", labels, ("", 6379))
    examples.apply(queue, found)
    examples("wait", "--for=condition=Ready", "pod/redis-master", "--timeout=60s")
    ask = ("exec", "redis-master", "--", "redis-cli")
    examples.until("PONG", *ask, "ping")
    assert examples(*ask, "rpush", "job2", *ITEMS.split()).strip() == "9"
    work = job(
        "job-wq-2", template({}, container("c", "gcr.io/myproject/job-wq-2"), restartPolicy="OnFailure"), parallelism=2
    )
    examples.apply(work)
    complete(examples, "job-wq-2")
    assert examples(*ask, "get", "job2:done").strip() == "9"
    assert examples(*ask, "llen", "job2").strip() == "0"
    assert examples("get", "job", "job-wq-2", "-o", "jsonpath={.status.succeeded}") == "2"
    examples.remove(work, queue, found)


def python(code: str) -> dict[str, Any]:
    index = "index = int(os.environ['JOB_COMPLETION_INDEX'])"
    return template({}, container("main", "python", "python3", "-c", f"import os, sys; {index}; {code}"))


def test_failures_are_borne_by_index(examples: Any, images: Any) -> None:
    images("python")
    rules = {"completions": 6, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 0}
    bearing = job("by-index", python("sys.exit(index % 2 == 0)"), maxFailedIndexes=5, **rules)
    examples.apply(bearing)
    complete(examples, "by-index", "failed")
    status = "jsonpath={.status.completedIndexes} {.status.failedIndexes} {.status.succeeded} {.status.failed}"
    assert examples("get", "job", "by-index", "-o", status) == "1,3,5 0,2,4 3 3"
    examples.remove(bearing)


def test_policies_on_failure_and_success(examples: Any, images: Any) -> None:
    images("bash", "python")
    fatal = {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}}
    ignored = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    bug = template({}, container("main", "docker.io/library/bash:5", "bash", args=["-c", "echo Hello; exit 42"]))
    failing = job("failing", bug, completions=12, parallelism=3, podFailurePolicy={"rules": [fatal, ignored]})
    enough = {"rules": [{"succeededIndexes": "0,2-3", "succeededCount": 1}]}
    led = job(
        "led",
        python("sys.exit(index != 2)"),
        completions=5,
        parallelism=5,
        completionMode="Indexed",
        successPolicy=enough,
    )
    examples.apply(failing, led)
    complete(examples, "failing", "failed")
    complete(examples, "led")
    reason = "jsonpath={.status.conditions[?(@.type=='%s')].reason}"
    assert examples("get", "job", "failing", "-o", reason % "Failed") == "PodFailurePolicy"
    assert examples("get", "job", "led", "-o", reason % "Complete") == "SuccessPolicy"
    assert examples("get", "job", "led", "-o", "jsonpath={.status.completedIndexes}") == "2"
    examples.remove(failing, led)
