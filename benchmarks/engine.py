"""What an engine costs and how quickly it boots and heals. Prints medians with the machine's load and core count.

    sudo .venv/bin/python benchmarks/engine.py [--rounds N] [--idle-s 20] [-o json]

    boot       `trimtab start` -> /readyz 200, -> node Ready; the API process's own share
    idle       RSS, PSS and CPU of every process over some seconds in which nobody asks anything
    commands   how long a command takes, beside kubectl's and an empty Python's start
    heal       kill -9 -> serving again, as the supervisor journals it, for each process and all at once

Starts an engine of its own in a temporary directory and removes it again, also when it fails or is ended.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from engine_under_test import TRIMTAB, EngineUnderTest, wait_for  # noqa: E402
from trimtab.engine import datadir, procfs  # noqa: E402
from trimtab.engine.child import STABLE_S  # noqa: E402
from trimtab.engine.plan import STATE, read_json  # noqa: E402

PROCESSES = ("api", "containerd", "controllers", "envoy", "node", "web")
SETTLE_S = 8.0
"""After a boot, before idleness is measured."""


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("--help",),
    ("get", "pods"),
    ("get", "nodes", "-o", "json"),
    ("status",),
    ("timeline",),
)
COMMAND_RUNS = 9

READYZ_S_MAX, IDLE_MB_MAX, IDLE_CPU_MAX, HEALED_MS_MAX = 0.5, 250, 2.0, 1000
"""What is allowed; the last line but two is the ratio to it."""


def state(under_test: EngineUnderTest) -> dict[str, Any]:
    found = read_json(str(datadir.supervisor_run(datadir.load(under_test.data)) / STATE))
    assert isinstance(found, dict)
    return found


def all_ready(under_test: EngineUnderTest) -> bool:
    return all(process["state"] == "ready" for process in state(under_test)["processes"].values())


def boot(under_test: EngineUnderTest, first: bool) -> dict[str, float]:
    """Seconds until the API and the node were ready, as `trimtab start` says, and until it returned."""
    ports = [under_test.api_port, under_test.http_port, under_test.https_port, under_test.web_port]
    names = ("--port", "--http-port", "--https-port", "--web-port")
    flags = [str(x) for pair in zip(names, ports, strict=True) for x in pair] if first else []
    began = time.monotonic()
    said = under_test.run("start", *flags).stdout
    took = time.monotonic() - began
    found = re.search(r"API ready after ([\d.]+) s.*node ready after ([\d.]+) s", said, re.DOTALL)
    assert found is not None, said
    wait_for(lambda: all_ready(under_test), 30, "all ready")
    return {"readyz_s": float(found[1]), "node_s": float(found[2]), "command_s": took}


def idle(under_test: EngineUnderTest, seconds: float) -> dict[str, dict[str, float]]:
    """Memory and CPU of each process while nothing happens."""
    found = state(under_test)
    pids = {name: int(process["pid"]) for name, process in found["processes"].items()}
    pids |= {"supervisor": int(found["supervisor"]["pid"]), "guardian": int(found["guardian"])}
    before = {name: procfs.cpu_s(pid) for name, pid in pids.items()}
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return {
        name: {
            "rss_mb": procfs.rss_bytes(pid) / 1e6,
            "pss_mb": procfs.pss_bytes(pid) / 1e6,
            "cpu_percent": 100 * (procfs.cpu_s(pid) - before[name]) / took,
        }
        for name, pid in pids.items()
    }


def commands(under_test: EngineUnderTest) -> dict[str, float]:
    """Milliseconds that each command takes, in turns, so that the noise of the machine hits all; and what kubectl takes for
    as little as it can do, where there is one, and a Python that does nothing."""
    config = under_test.data.parent / "kubeconfig"
    config.write_text(under_test.run("kubeconfig").stdout)
    asked: dict[str, list[str | Path]] = {
        f"trimtab {' '.join(words)}": [TRIMTAB, "--data", under_test.data, *words] for words in COMMANDS
    }
    if kubectl := shutil.which("kubectl"):
        asked["kubectl get --raw /version"] = [kubectl, "--kubeconfig", config, "get", "--raw", "/version"]
        asked["kubectl get pods"] = [kubectl, "--kubeconfig", config, "get", "pods"]
    asked["python -c pass"] = [sys.executable, "-c", "pass"]
    took: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(COMMAND_RUNS):
        for name, command in asked.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            took[name].append((time.perf_counter() - began) * 1e3)
    return {name: statistics.median(times) for name, times in took.items()}


def heal(under_test: EngineUnderTest, names: tuple[str, ...]) -> dict[str, float]:
    """Kills processes and returns the milliseconds that the journal tells for each."""
    wait_for(lambda: all_ready(under_test), 30, "all ready")
    time.sleep(STABLE_S + 0.5)  # a process that is killed again at once is held back on purpose
    last = under_test.last_entry()
    for name in names:
        os.kill(int(state(under_test)["processes"][name]["pid"]), signal.SIGKILL)
    entries: dict[str, float] = {}

    def told() -> bool:
        for entry in under_test.timeline():
            if entry["id"] > last and entry["verb"] == "healed":
                entries[entry["object"].removeprefix("Process ")] = float(entry["duration_ms"])
        return set(names) <= set(entries)

    wait_for(told, 60, f"{names} healed")
    return {name: entries[name] for name in names}


def heal_supervisor(under_test: EngineUnderTest) -> float:
    last = under_test.last_entry()
    os.kill(int(state(under_test)["supervisor"]["pid"]), signal.SIGKILL)
    return float(under_test.wait_timeline("supervisor was killed; running again", after=last)["duration_ms"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle-s", type=float, default=20.0)
    parser.add_argument("-o", dest="fmt", choices=("text", "json"), default="text")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is removed
    result: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as directory:
        under_test = EngineUnderTest(Path(directory) / "data")
        try:
            result["first_boot"] = boot(under_test, first=True)
            boots = []
            for _ in range(arguments.rounds):
                under_test.run("stop")
                boots.append(boot(under_test, first=False))
            result["boot"] = {key: statistics.median(b[key] for b in boots) for key in boots[0]}
            time.sleep(SETTLE_S)
            result["idle"] = idle(under_test, arguments.idle_s)
            result["command_ms"] = commands(under_test)
            result["heal_ms"] = {
                name: statistics.median(heal(under_test, (name,))[name] for _ in range(arguments.rounds))
                for name in PROCESSES
            }
            result["heal_all_ms"] = heal(under_test, PROCESSES)
            result["heal_ms"]["supervisor"] = statistics.median(
                heal_supervisor(under_test) for _ in range(arguments.rounds)
            )
        finally:
            under_test.remove()
    result["load_after"] = os.getloadavg()[0]
    print(json.dumps(result, indent=1) if arguments.fmt == "json" else text(result))


def text(result: dict[str, Any]) -> str:
    lines = [f"{result['cores']} cores, load {result['load']:.1f} before, {result['load_after']:.1f} after"]
    for title, boot_times in (("first boot", result["first_boot"]), ("boot (median)", result["boot"])):
        lines.append(
            f"{title:<16} /readyz {boot_times['readyz_s']:.2f} s   node Ready {boot_times['node_s']:.2f} s   "
            f"command {boot_times['command_s']:.2f} s"
        )
    lines.append(f"{'idle':<16} {'RSS MB':>8} {'PSS MB':>8} {'CPU %':>8}")
    for name, used in result["idle"].items():
        lines.append(f"  {name:<14} {used['rss_mb']:>8.1f} {used['pss_mb']:>8.1f} {used['cpu_percent']:>8.2f}")
    whole = {key: sum(used[key] for used in result["idle"].values()) for key in ("rss_mb", "pss_mb", "cpu_percent")}
    lines.append(f"  {'whole engine':<14} {whole['rss_mb']:>8.1f} {whole['pss_mb']:>8.1f} {whole['cpu_percent']:>8.2f}")
    lines.append(
        f"of what is allowed  /readyz {result['boot']['readyz_s'] / READYZ_S_MAX:.2f} of {READYZ_S_MAX} s   "
        f"memory (PSS) {whole['pss_mb'] / IDLE_MB_MAX:.2f} of {IDLE_MB_MAX} MB   "
        f"CPU {whole['cpu_percent'] / IDLE_CPU_MAX:.2f} of {IDLE_CPU_MAX} % of a core   "
        f"killed {max(result['heal_ms'].values()) / HEALED_MS_MAX:.2f} of {HEALED_MS_MAX} ms (the slowest)"
    )
    bare = result["command_ms"]["python -c pass"]
    lines.append("a command        ms   of an empty Python's")
    lines += [f"  {name:<28} {ms:>6.0f} {ms / bare:>6.1f}" for name, ms in result["command_ms"].items()]
    lines.append("killed -> again  " + "   ".join(f"{name} {ms:.0f} ms" for name, ms in result["heal_ms"].items()))
    lines.append("all at once      " + "   ".join(f"{name} {ms:.0f} ms" for name, ms in result["heal_all_ms"].items()))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
