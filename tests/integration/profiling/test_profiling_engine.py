"""Profiling on a real engine, from `enable` to `uninstall`: a busy container under its names, an agent that is killed, and no trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine_under_test import EngineUnderTest, engine, free_port, wait_for
from measured_machine import machine_to_measure
from node_world import program_image
from trimtab.components.profiling import lock
from trimtab.content import ContentStore

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

DEADLINE_S = 120
SPIN = """
static volatile unsigned long turns;
__attribute__((noinline)) static void spin_here(void) { for (unsigned long n = 0; n < 100000000; n++) turns++; }
__attribute__((noinline)) static void outer(void) { for (;;) { spin_here(); turns++; } }
void _start(void) { outer(); }
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    """An engine on a machine that can be measured, and is not."""
    with machine_to_measure(), engine(tmp_path_factory.mktemp("profiled") / "data") as made:
        yield made


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with debug information, whose only function that costs anything is `spin_here`."""
    folder = tmp_path_factory.mktemp("spin")
    (folder / "spin.c").write_text(SPIN)
    program = folder / "spin"
    subprocess.run(
        [
            "clang",
            "-g",
            "-O1",
            "-static",
            "-nostdlib",
            "-fno-omit-frame-pointer",
            "-Wl,--build-id",
            "-o",
            program,
            folder / "spin.c",
        ],
        check=True,
    )
    return program


@pytest.fixture(scope="module")
def busy(running: EngineUnderTest, program: Path) -> str:
    """A pod `spinner` of the app `spin`, that runs the program."""
    image = program_image(ContentStore(running.data / "content"), program)
    limits = {"limits": {"cpu": "300m"}}
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "spinner", "labels": {"app.kubernetes.io/name": "spin"}},
        "spec": {
            "containers": [{"name": "main", "image": image, "command": ["/spin"], "resources": limits}],
            "terminationGracePeriodSeconds": 0,
        },
    }
    running.run("apply", "-f", "-", input=json.dumps(manifest))
    wait_for(lambda: "1/1" in running.run("get", "pod", "spinner").stdout, DEADLINE_S, "the pod to run")
    return "spinner"


def ready(running: EngineUnderTest) -> str:
    """The reason of the Profiler's condition."""
    told = running.run("profile", "status", "-o", "json", check=False).stdout
    conditions = json.loads(told).get("conditions", []) if told else []
    return next((str(c["reason"]) for c in conditions if c["type"] == "Ready"), "")


def pids(running: EngineUnderTest) -> dict[str, int]:
    return {process["name"]: process["pid"] for process in running.json("status")["processes"]}


def agents(data: Path) -> list[int]:
    return [pid for pid in processes(data) if b"profiling.agent" in command(pid)]


def processes(data: Path) -> list[int]:
    """All that name the data directory."""
    return [int(p) for p in os.listdir("/proc") if p.isdigit() and str(data).encode() in command(int(p))]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def functions(running: EngineUnderTest, *selectors: str) -> dict[str, Any]:
    """Of a table: function to row."""
    done = running.run("profile", "top", *selectors, "-o", "json", check=False)
    return {row["function"][0]: row for row in json.loads(done.stdout)["rows"]} if done.returncode == 0 else {}


def test_where_another_agent_measures_it_is_said_and_waited_for(running: EngineUnderTest) -> None:
    held = lock.take()
    assert held is not None
    try:
        refused = running.run("profile", "enable", check=False)
        assert refused.returncode == 1
        assert "AnotherAgent: another agent measures this machine" in refused.stderr
        assert "profiling: AnotherAgent" in running.run("status").stdout
    finally:
        held.close()
    wait_for(lambda: ready(running) in ("Measuring", "Shedding"), DEADLINE_S, "the agent to take over")


def test_a_busy_container_is_seen_under_its_names(running: EngineUnderTest, busy: str) -> None:
    running.run("profile", "enable")

    def mostly_spins() -> bool:
        """Its start, which the agent may see before it knows the files, counts as well."""
        found = functions(running, "app=spin", f"pod={busy}", "namespace=default", "container=main", "node=node-1")
        own = sum(row["self"] for row in found.values())
        return "spin_here" in found and bool(found["spin_here"]["self"] > 0.8 * own)

    wait_for(mostly_spins, DEADLINE_S, "the function by its name, and little else")
    labels = running.json("profile", "labels")["labels"]
    assert "spin" in labels["app"]
    assert all(image.startswith("sha256:") for image in labels["image"] if image)
    assert "spin_here" in running.run("profile", "flame", "app=spin").stdout
    assert running.run("profile", "export", "app=spin", "-o", "-", "--format", "folded").stdout.count(
        "outer;spin_here "
    )


def test_a_killed_agent_comes_back_and_loses_no_more_than_a_batch(running: EngineUnderTest, busy: str) -> None:
    incoming = running.data / "profiles" / "incoming"
    kept = {path.name for path in incoming.glob("*-agent-*.batch")}
    [agent] = agents(running.data)

    os.kill(agent, signal.SIGKILL)

    wait_for(lambda: agents(running.data) not in ([], [agent]), DEADLINE_S, "another agent")
    assert kept <= {path.name for path in incoming.glob("*-agent-*.batch")}
    wait_for(lambda: {p.name for p in incoming.glob("*-agent-*.batch")} > kept, DEADLINE_S, "what it measures")
    assert running.json("profile", "status")["agent"]["restarts"] >= 1


def test_what_is_measured_changes_while_the_engine_runs(running: EngineUnderTest, busy: str) -> None:
    wanted = ["cpu", "network", "allocations"]
    before = pids(running)
    running.run("profile", "enable", "--types", ",".join(wanted))

    def said() -> dict[str, Any]:
        told = running.run("profile", "status", "-o", "json", check=False).stdout
        return {"types": [], "missing": {}, "mode": "", **json.loads(told)["agent"]}

    def measured() -> bool:
        agent = said()
        return [*agent["types"], *agent["missing"]] == wanted if agent["mode"] == "bpf" else bool(agent["missing"])

    wait_for(measured, DEADLINE_S, "the agent to measure what is wanted, or to say why not")
    agent = said()
    if agent["mode"] != "bpf":
        assert agent["missing"]["network"].startswith("network: only with BPF ("), agent
        return
    assert "measured: cpu, " in running.run("profile", "status").stdout
    for name in agent["types"][1:]:

        def found(name: str = name) -> bool:
            told = running.run("profile", "top", "--type", name, "--sort", "total", "-n", "300", "-o", "json").stdout
            answer = json.loads(told)
            return answer["type"] == name and answer["unit"] == "bytes" and len(answer["rows"]) > 0

        wait_for(found, DEADLINE_S, f"samples of {name} in bytes")
    assert pids(running) == before, "no process of the engine was started again"
    refused = running.run("profile", "enable", "--types", "cpu,heat", check=False)
    assert (refused.returncode, "of cpu, offcpu" in refused.stderr) == (2, True), refused.stderr
    running.run("profile", "enable", "--types", "cpu")


def test_debuggers_of_this_machine_get_debug_information(running: EngineUnderTest, program: Path) -> None:
    port = free_port()
    said = running.run("profile", "push", str(program)).stdout
    build_id = said.rstrip().rpartition(" ")[2]

    def listen(at: str) -> None:
        profiler = {"apiVersion": "trimtab.dev/v1alpha1", "kind": "Profiler", "metadata": {"name": "default"}}
        running.run("apply", "-f", "-", input=json.dumps({**profiler, "spec": {"debuginfod": {"listen": at}}}))

    listen(f"127.0.0.1:{port}")

    def served() -> bytes:
        url = f"http://127.0.0.1:{port}/buildid/{build_id}/debuginfo"
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
                return bytes(answer.read())
        except OSError:  # nobody listens yet
            return b""

    wait_for(served, DEADLINE_S, "an answer on loopback")
    assert served() == program.read_bytes()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/buildid/{'0' * 40}/debuginfo", timeout=DEADLINE_S)
    listen("")
    wait_for(lambda: not served(), DEADLINE_S, "nobody to listen any more")


def test_the_roll_up_and_the_server_run_apart(running: EngineUnderTest) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-m", "trimtab.engine.profiling", str(running.data), "roll-up"),
            json.dumps({"retention_s": 86400, "disk_bytes": 1 << 30}),
        ],
        capture_output=True, text=True, check=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert json.loads(done.stdout)["disk_bytes"] > 0
    hours = running.data / "profiles" / "hours"
    assert {path.owner() for path in hours.rglob("*")} == {"trimtab"}
    assert "spin_here" in functions(running, "app=spin")


def test_disabled_nothing_measures_and_uninstalled_nothing_is_left(running: EngineUnderTest) -> None:
    running.run("profile", "disable")

    wait_for(lambda: not agents(running.data), DEADLINE_S, "the agent to end")
    again = running.run("profile", "top", check=False)
    assert (again.returncode, again.stderr) == (4, "trimtab: profiling is not enabled: trimtab profile enable\n")
    assert "profiling:" not in running.run("status").stdout

    running.run("profile", "enable")
    running.remove()

    assert not processes(running.data)
    assert not running.data.exists()
    held = lock.take()
    assert held is not None, "the lock is free"
    held.close()
