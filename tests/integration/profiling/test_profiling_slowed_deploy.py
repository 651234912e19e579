"""A function that a deploy made slower is named by the comparison of its profiles, with the whole engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from engine_under_test import EngineUnderTest, engine, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(1800)]

HOST = "slowed.localhost"
APP = Path(__file__).parents[2] / "support" / "slowed_app"
PROFILER = {
    "apiVersion": "trimtab.dev/v1alpha1",
    "kind": "Profiler",
    "metadata": {"name": "default"},
    # What else the machine does at the time of the test is not to end it.
    "spec": {"hz": 99, "budget": {"cpuPercent": 100, "memory": "1Gi"}},
}
SAMPLES = 1_600
BEFORE_S = 150
"""Two whole minutes of the proxy's log."""
DEADLINE_S = 900
AGENT_S = 600


@pytest.fixture
def running() -> Iterator[EngineUnderTest]:
    if os.geteuid() != 0:
        pytest.skip("an engine that runs containers needs root")
    with tempfile.TemporaryDirectory(prefix="trimtab-test-") as directory:
        Path(directory).chmod(0o755)
        with engine(Path(directory, "data")) as made:
            yield made


@contextmanager
def load(running: EngineUnderTest) -> Iterator[None]:
    """Somebody asks all the time."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            with suppress(OSError):
                running.get(HOST, "/")

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(60)


def samples(running: EngineUnderTest) -> float:
    with suppress(subprocess.CalledProcessError, AssertionError):
        return float(running.json("profile", "top", "app=slowed", "--last", "1h")["side"].get("samples", 0))
    return 0.0


def condition(running: EngineUnderTest) -> dict[str, Any]:
    found = running.json("get", "app", "slowed")["status"]["conditions"]
    return next((c for c in found if c["type"] == "ProfileSteady"), {"reason": "", "message": ""})


def test_a_slowed_function_is_named_by_the_comparison_of_its_deploy(running: EngineUnderTest, tmp_path: Path) -> None:
    project = tmp_path / "slowed"
    shutil.copytree(APP, project)
    running.run("apply", "-f", "-", input=json.dumps(PROFILER))
    state = wait_for(lambda: settled(running), AGENT_S, "the agent")
    if state["reason"] not in ("Measuring", "Shedding"):
        pytest.skip(f"nothing is measured here: {state['reason']}: {state['message']}")
    running.run("up", str(project), timeout_s=400)
    running.wait_serving(HOST)
    with load(running):
        began = time.monotonic()
        wait_for(
            lambda: samples(running) > SAMPLES and time.monotonic() - began > BEFORE_S,
            DEADLINE_S,
            "samples of the first image",
        )
        program = project / "shop.py"
        program.write_text(program.read_text().replace("DIGEST_ROUNDS = 150_000", "DIGEST_ROUNDS = 450_000"))
        running.run("up", str(project), timeout_s=400)
        wait_for(lambda: condition(running)["reason"] == "Comparing", 120, "the comparison to begin")
        wait_for(
            lambda: condition(running)["reason"] not in ("Comparing", ""),
            DEADLINE_S,
            lambda: condition(running)["message"],
        )

    said = condition(running)
    print(said["message"])
    assert (said["status"], said["reason"]) == ("False", "FunctionsGrew")
    assert "digest" in said["message"].partition(",")[0], "it is named first"
    assert "render" not in said["message"]
    assert "do_GET" not in said["message"], "it grew by what it calls"
    assert said["message"] in running.run("why", "app/slowed").stdout
    events = running.json("get", "events")["items"]
    assert [e["type"] for e in events if e["reason"] == "FunctionsGrew"] == ["Warning"]


def settled(running: EngineUnderTest) -> dict[str, Any] | None:
    """The Profiler's condition, once it has come to something. Another engine's agent ends some time."""
    status = running.json("get", "profiler", "default").get("status", {})
    found: list[dict[str, Any]] = [c for c in status.get("conditions", []) if c["type"] == "Ready"]
    return next((c for c in found if c["reason"] not in ("Starting", "AnotherAgent")), None)


def test_the_example_is_what_the_test_changes() -> None:
    assert "DIGEST_ROUNDS = 150_000" in (APP / "shop.py").read_text()
    assert json.dumps(HOST) in (APP / "ship.py").read_text()
