"""One of three nodes is destroyed with its disk, under load: when do its pods serve elsewhere, and what failed meanwhile?

    python benchmarks/nodes.py [--data DIR]        needs root; makes an engine of its own and removes it again

Six web pods with memory requests, so that every node has some, are asked through their service address 50 times a second,
each request on a connection of its own. Prints milliseconds and counts, with load and cores, and each further node's memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from engine_under_test import EngineUnderTest, engine, wait_for
from node_world import busybox_image
from trimtab.content import ContentStore

REPLICAS = 6
PAUSE_S = 0.02
ASK_S = 1.0


def manifest(image: str) -> str:
    command = "mkdir -p /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"
    container = {
        "name": "main",
        "image": image,
        "command": ["/bin/sh", "-c", command],
        "resources": {"requests": {"memory": "64Mi"}},
        "readinessProbe": {"tcpSocket": {"port": 8080}},
    }
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    web = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": REPLICAS, "selector": {"matchLabels": labels}, "template": template},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    return f"{json.dumps(web)}\n---\n{json.dumps(service)}\n"


def get(running: EngineUnderTest, kind: str) -> Any:
    return json.loads(running.run("get", kind, "-n", "default", "-o", "json").stdout)["items"]


def ready_pods(running: EngineUnderTest) -> list[Any]:
    def is_ready(pod: Any) -> bool:
        conditions = pod.get("status", {}).get("conditions", [])
        alive = "deletionTimestamp" not in pod["metadata"]
        return alive and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    return [pod for pod in get(running, "pods") if is_ready(pod)]


class Load:
    """Requests, one after the other, and when each failed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.good = 0
        self.failed_at: list[float] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while not self.over.wait(PAUSE_S):
            began = time.monotonic()
            try:
                with urllib.request.urlopen(self.url, timeout=ASK_S) as answer:
                    answer.read()
                self.good += 1
            except OSError:
                self.failed_at.append(began)

    def end(self) -> None:
        self.over.set()
        self.thread.join()


def measure(running: EngineUnderTest) -> None:
    image = busybox_image(ContentStore(running.data / "content"))
    running.run("apply", "-f", "-", input=manifest(image))
    wait_for(lambda: len(ready_pods(running)) == REPLICAS, 60, "all pods are ready")
    nodes = json.loads(running.run("node", "list", "-o", "json").stdout)
    further = [n for n in nodes if n["pss_bytes"] is not None]
    print(
        f"memory of a further node: {max(n['pss_bytes'] for n in further) / 1e6:.0f} MB (its programs, shared pages counted once)"
    )
    on_it = sum(pod["spec"]["nodeName"] == "node-3" for pod in ready_pods(running))
    [service] = [s for s in get(running, "services") if s["metadata"]["name"] == "web"]
    load = Load(f"http://{service['spec']['clusterIP']}/")
    time.sleep(1.0)
    before = load.good
    began = time.monotonic()
    try:
        running.run("node", "kill", "node-3")
        gone_s = time.monotonic() - began
        wait_for(lambda: len(ready_pods(running)) == REPLICAS, 30, "as many pods are ready again")
        healed_s = time.monotonic() - began
        time.sleep(1.0)
    finally:
        load.end()
    last = max((at - began for at in load.failed_at), default=0.0)
    print(f"node-3 had {on_it} of {REPLICAS} pods; destroyed, its disk too, after {gone_s * 1000:.0f} ms")
    print(f"all {REPLICAS} pods serve elsewhere {healed_s * 1000:.0f} ms after the command was given")
    print(
        f"requests: {before} before, {load.good - before} good and {len(load.failed_at)} failed since; the last failure began {last * 1000:.0f} ms after it"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("/tmp/trimtab-bench-nodes"))
    data = options.parse_args().data
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with engine(data, "--nodes", "3") as running:
        measure(running)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as err:
        sys.exit(str(err))
