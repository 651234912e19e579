"""A StatefulSet's pod whose node is destroyed: how long after the proof is its volume attached elsewhere, and does the pod serve?

    python benchmarks/volumes.py [--runs N] [--data DIR]     needs root; makes an engine of its own and removes it again

The proof is the end of the node's first process, as the kernel reports it to this program (a pidfd), not as the engine says. From then
on: attachment.status.attached on another node; the pod Ready there, its data written to. Prints median and extremes, with load and cores.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from engine_under_test import TRIMTAB, EngineUnderTest, engine, wait_for
from node_world import busybox_image
from trimtab.content import ContentStore
from trimtab.engine import datadir, fencing, local

RUNS = 7


def manifest(image: str) -> str:
    labels = {"app": "db"}
    container = {
        "name": "main",
        "image": image,
        "command": ["/bin/sh", "-c", "while true; do date >> /data/log; sync; sleep 0.05; done"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    elsewhere = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["node-1"]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [elsewhere]}]}
    pod = {
        "containers": [container],
        "terminationGracePeriodSeconds": 1,
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}},
    }
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "block",
            "resources": {"requests": {"storage": "256Mi"}},
        },
    }
    spec = {
        "serviceName": "db",
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
        "volumeClaimTemplates": [claim],
    }
    meta = {"name": "db", "namespace": "default"}
    return json.dumps({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta, "spec": spec})


class Watcher:
    """Asks the API on its socket, which costs a millisecond."""

    def __init__(self, running: EngineUnderTest) -> None:
        self.settings = datadir.load(running.data)

    def get(self, path: str) -> Any:
        return local.get_json(self.settings.api_socket, path) or {}

    def attached(self) -> str | None:
        """The node that has the volume."""
        items = self.get("/apis/storage.k8s.io/v1/volumeattachments").get("items", ())
        having = [a for a in items if a.get("status", {}).get("attached") and "deletionTimestamp" not in a["metadata"]]
        return str(having[0]["spec"]["nodeName"]) if having else None

    def serving(self) -> str | None:
        """The node on which the pod is ready."""
        pod = self.get("/api/v1/namespaces/default/pods/db-0")
        conditions = pod.get("status", {}).get("conditions", ())
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        return str(pod["spec"]["nodeName"]) if ready and "deletionTimestamp" not in pod["metadata"] else None


def one_run(running: EngineUnderTest, watcher: Watcher) -> tuple[float, float]:
    """Milliseconds from the proof to the attachment elsewhere, and to a pod that is ready there."""
    node = wait_for(watcher.serving, 60, "the pod is ready")
    process = fencing.first_process(datadir.load(running.data), node)
    assert process is not None
    handle = os.pidfd_open(process.pid)
    proof: list[float] = []

    def watch() -> None:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll()
        proof.append(time.monotonic())

    watching = threading.Thread(target=watch)
    watching.start()
    command = subprocess.Popen(
        [str(TRIMTAB), "--data", str(running.data), "node", "kill", node],
        stdout=subprocess.DEVNULL,
    )
    wait_for(lambda: watcher.attached() not in (None, node), 60, "the volume is attached elsewhere")
    attached_at = time.monotonic()
    wait_for(lambda: watcher.serving() not in (None, node), 60, "the pod is ready elsewhere")
    ready_at = time.monotonic()
    watching.join()
    command.wait(60)
    os.close(handle)
    running.run("node", "add")
    return (attached_at - proof[0]) * 1000, (ready_at - proof[0]) * 1000


def said(values: list[float]) -> str:
    return f"median {statistics.median(values):.0f} ms (of {len(values)} runs: {min(values):.0f} to {max(values):.0f})"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("/tmp/trimtab-bench-volumes"))
    options.add_argument("--runs", type=int, default=RUNS)
    chosen = options.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with engine(chosen.data, "--nodes", "3") as running:
        running.run("apply", "-f", "-", input=manifest(busybox_image(ContentStore(running.data / "content"))))
        watcher = Watcher(running)
        times = [one_run(running, watcher) for _ in range(chosen.runs)]
    print(f"attached elsewhere after the proof: {said([attached for attached, _ in times])}")
    print(f"pod ready there after the proof:    {said([ready for _, ready in times])}")
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
