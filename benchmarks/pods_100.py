"""How long one machine takes until 100 pods of a Deployment are ready, and what they and the engine then cost.

    sudo .venv/bin/python benchmarks/pods_100.py [--pods N] [--idle-s 10] [-o json]

    ready      `kubectl apply` of the Deployment is answered -> the first, half, all pods are ready
    cpu        CPU seconds of the engine's processes until then; the rest is runc, its shims and CNI
    idle       memory and CPU of the engine's processes with all of them running
    gone       the Deployment is deleted -> all pods and their containers are gone

Starts an engine of its own in a temporary directory and removes it again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
sys.path.insert(0, str(ROOT / "benchmarks"))

from engine import idle  # noqa: E402
from engine_under_test import EngineUnderTest, wait_for  # noqa: E402
from node_world import busybox_image  # noqa: E402
from trimtab.content import ContentStore  # noqa: E402
from trimtab.engine import procfs  # noqa: E402

PODS = 100
ALLOWED_S = 60.0
"""What the project promises for 100 pods on 2 cores."""
UP_S_MAX = 300.0
SERVE = "trap 'exit 0' TERM; httpd -f -p 8000 -h /tmp & wait"


def deployment(image: str, replicas: int) -> dict[str, Any]:
    labels = {"app": "many"}
    container = {
        "name": "main",
        "image": image,
        "command": ["/bin/sh", "-c", SERVE],
        "ports": [{"containerPort": 8000}],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 10},
        "resources": {"requests": {"cpu": "5m", "memory": "8Mi"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "many", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 5},
            },
        },
    }


def ready(under_test: EngineUnderTest) -> int:
    found = under_test.json("get", "deployment", "many", "-n", "default")
    return int(found.get("status", {}).get("readyReplicas", 0))


def came_up(under_test: EngineUnderTest, pods: int) -> dict[str, float]:
    """Seconds from the answer to apply until so many were ready."""
    image = busybox_image(ContentStore(under_test.data / "content"))
    under_test.run("apply", "-f", "-", input=json.dumps(deployment(image, pods)))
    began = time.monotonic()
    times: dict[str, float] = {}
    marks = {"first_s": 1, "half_s": pods // 2, "all_s": pods}
    while "all_s" not in times:
        there = ready(under_test)
        for name, mark in marks.items():
            if there >= mark:
                times.setdefault(name, time.monotonic() - began)
        if time.monotonic() - began > UP_S_MAX:
            raise SystemExit(f"only {there} of {pods} pods are ready after {UP_S_MAX:.0f} s")
        time.sleep(0.5)
    return times


def cpu_of(under_test: EngineUnderTest) -> dict[str, float]:
    return {line["name"]: procfs.cpu_s(int(line["pid"])) for line in under_test.json("status")["processes"]}


def measure(pods: int, idle_s: float) -> dict[str, Any]:
    result: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "pods": pods}
    with tempfile.TemporaryDirectory() as directory:
        under_test = EngineUnderTest(Path(directory) / "data")
        try:
            under_test.start()
            before = cpu_of(under_test)
            machine = os.times()
            result["ready"] = came_up(under_test, pods)
            result["cpu_s"] = {name: round(cpu - before[name], 2) for name, cpu in cpu_of(under_test).items()}
            result["benchmark_cpu_s"] = round(sum(os.times()[:4]) - sum(machine[:4]), 2)
            time.sleep(5.0)
            result["idle"] = idle(under_test, idle_s)
            under_test.run("delete", "deployment", "many", "-n", "default")
            began = time.monotonic()
            wait_for(lambda: not under_test.json("get", "pods", "-n", "default")["items"], 180, "all pods gone")
            result["gone_s"] = time.monotonic() - began
        finally:
            under_test.remove()
    result["load_after"] = os.getloadavg()[0]
    return result


def text(result: dict[str, Any]) -> str:
    took = result["ready"]
    whole = {key: sum(used[key] for used in result["idle"].values()) for key in ("pss_mb", "cpu_percent")}
    return "\n".join(
        [
            f"{result['cores']} cores, load {result['load']:.1f} before, {result['load_after']:.1f} after",
            f"{result['pods']} pods ready   first {took['first_s']:.1f} s   half {took['half_s']:.1f} s   "
            f"all {took['all_s']:.1f} s   {took['all_s'] / ALLOWED_S:.2f} of {ALLOWED_S:.0f} s",
            "CPU seconds  " + "   ".join(f"{name} {used:.1f}" for name, used in result["cpu_s"].items()),
            f"idle with them  {whole['pss_mb']:.0f} MB (PSS)   {whole['cpu_percent']:.1f} % of a core",
            f"all gone     {result['gone_s']:.1f} s",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=PODS)
    parser.add_argument("--idle-s", type=float, default=10.0)
    parser.add_argument("-o", dest="fmt", choices=("text", "json"), default="text")
    arguments = parser.parse_args()
    result = measure(arguments.pods, arguments.idle_s)
    print(json.dumps(result, indent=1) if arguments.fmt == "json" else text(result))


if __name__ == "__main__":
    main()
