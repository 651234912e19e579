"""How long shipping takes, and how long until a killed process serves again. Prints medians with the machine's load.

    sudo .venv/bin/python benchmarks/apps.py [--rounds N]

Starts an engine of its own in a temporary directory and removes it again. The first `up` builds the images from cold caches of
this engine (Debian packages and wheels are downloaded); the unchanged one is the figure that a user meets many times a day.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from engine_under_test import EngineUnderTest, engine, wait_for  # noqa: E402

HOST = "shipnotes.localhost"
UNCHANGED_S, HEALED_S = 2.0, 1.0
"""What is allowed for an `up` that changes nothing, and for a killed process until it serves again."""


def timed(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def killed_to_serving(running: EngineUnderTest) -> float:
    """Kills a web process, waits until it is ready again and the proxy answers 200, and replaces its pod: one that was killed
    before is restarted with a back-off, which is not what is measured."""
    [first, *_] = wait_for(lambda: web_pods(running), 60, "fresh pods")
    name = first["metadata"]["name"]
    running.run("exec", name, "--", "python3", "-c", "import os; os.kill(1, 15)")
    began = time.monotonic()
    wait_for(lambda: restarted(running.json("get", "pod", name)), 60, "the restart")
    running.wait_serving(HOST, "/healthz")
    took_s = time.monotonic() - began
    running.run("delete", "pod", name)
    return took_s


def web_pods(running: EngineUnderTest) -> list[dict[str, Any]]:
    """The pods of the web process, once all of them are ready and none was ever restarted; else none."""
    listing = running.json("get", "pods", "-l", "app.kubernetes.io/name=shipnotes,app.kubernetes.io/component=web")
    pods = [pod for pod in listing["items"] if "deletionTimestamp" not in pod["metadata"]]
    fresh = [
        p for p in pods if (s := p["status"].get("containerStatuses")) and s[0]["ready"] and not s[0]["restartCount"]
    ]
    return fresh if len(fresh) == len(pods) == 2 else []


def restarted(pod: dict[str, Any]) -> bool:
    status = pod["status"]["containerStatuses"][0]
    return bool(status["restartCount"] and status["ready"])


def line(what: str, seconds: list[float], allowed_s: float | None = None) -> None:
    median = statistics.median(seconds)
    limit = f"; {median / allowed_s:.2f} of the {allowed_s:.0f} s allowed" if allowed_s else ""
    spread = f"(min {min(seconds):.2f}, max {max(seconds):.2f}, n={len(seconds)})"
    print(f"{what:<48} median {median:6.2f} s  {spread}{limit}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"cores {os.cpu_count()}, load {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory(prefix="trimtab-bench-") as directory:
        Path(directory).chmod(0o755)
        with engine(Path(directory, "data")) as running:
            up = lambda: running.run("up", str(ROOT / "examples" / "shipnotes"), timeout_s=600)  # noqa: E731
            line("first `trimtab up` of shipnotes, images cold", [timed(up)])
            line("`trimtab up` of the unchanged app", [timed(up) for _ in range(rounds)], UNCHANGED_S)
            killed = [killed_to_serving(running) for _ in range(rounds)]
            line("killed web process -> ready, 200 by the proxy", killed, HEALED_S)
    print(f"load at the end {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
