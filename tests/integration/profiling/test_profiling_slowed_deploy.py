"""A function of the example that a deploy makes slower is named by the comparison of its profiles, with the whole engine.

shipnotes with its database --GET /, all the time--> the same with a slow `day` --GET /--> ProfileSteady: False, `day`
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from engine_under_test import EngineUnderTest, engine, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(1800)]

HOST = "shipnotes.localhost"
EXAMPLE = Path(__file__).parents[3] / "examples" / "shipnotes"
QUICK = 'return moment.strftime("%-d %B %Y")'
SLOW = f"""number = 0
        while number < 100_000:
            number += 1
        {QUICK}"""
PROFILER = {
    "apiVersion": "trimtab.dev/v1alpha1",
    "kind": "Profiler",
    "metadata": {"name": "default"},
    # What else the machine does at the time of the test is not to end it.
    "spec": {"hz": 199, "budget": {"cpuPercent": 100, "memory": "1Gi"}},
}
SAMPLES = 2_000
MINUTES = 3
"""Of the proxy's log: one that is whole at least, of those that were begun."""
DEADLINE_S = 900
AGENT_S = 600
UP_S = 600
"""An image is built, with its packages from their registries."""


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
        return float(running.json("profile", "top", "app=shipnotes", "--last", "1h")["side"].get("samples", 0))
    return 0.0


def condition(running: EngineUnderTest) -> dict[str, Any]:
    found = running.json("get", "app", "shipnotes")["status"]["conditions"]
    return next((c for c in found if c["type"] == "ProfileSteady"), {"reason": "", "message": ""})


def minutes_logged(running: EngineUnderTest) -> int:
    """In how many minutes the proxy served the App."""
    log = running.data / "log" / "proxy" / "access.log"
    lines = [json.loads(line) for line in log.read_text().splitlines(True) if line.endswith("\n")]
    return len({line["time"][:16] for line in lines if "shipnotes-web" in (line["backend"] or "")})


def test_a_slowed_function_is_named_by_the_comparison_of_its_deploy(running: EngineUnderTest, tmp_path: Path) -> None:
    project = tmp_path / "shipnotes"
    shutil.copytree(EXAMPLE, project)
    running.run("apply", "-f", "-", input=json.dumps(PROFILER))
    state = wait_for(lambda: settled(running), AGENT_S, "the agent")
    if state["reason"] not in ("Measuring", "Shedding"):
        pytest.skip(f"nothing is measured here: {state['reason']}: {state['message']}")
    running.run("up", str(project), timeout_s=UP_S)
    running.wait_serving(HOST)
    with load(running):
        wait_for(
            lambda: samples(running) > SAMPLES and minutes_logged(running) > MINUTES,
            DEADLINE_S,
            "samples of the first image",
        )
        program = project / "shipnotes" / "web.py"
        assert program.read_text().count(QUICK) == 1
        program.write_text(program.read_text().replace(QUICK, SLOW))
        running.run("up", str(project), timeout_s=UP_S)
        wait_for(lambda: condition(running)["reason"] == "Comparing", 120, "the comparison to begin")
        wait_for(
            lambda: condition(running)["reason"] not in ("Comparing", ""),
            DEADLINE_S,
            lambda: condition(running)["message"],
        )

    said = condition(running)
    print(said["message"])
    assert (said["status"], said["reason"]) == ("False", "FunctionsGrew")
    _, _, named = said["message"].partition(": ")
    assert named.startswith("create_app.<locals>.day (/app/shipnotes/web.py"), "it is named first"
    assert "(per request, which took " in named
    assert said["message"] in running.run("why", "app/shipnotes").stdout
    events = running.json("get", "events")["items"]
    assert [e["type"] for e in events if e["reason"] == "FunctionsGrew"] == ["Warning"]


def settled(running: EngineUnderTest) -> dict[str, Any] | None:
    """The Profiler's condition, once it has come to something. Another engine's agent ends some time."""
    status = running.json("get", "profiler", "default").get("status", {})
    found: list[dict[str, Any]] = [c for c in status.get("conditions", []) if c["type"] == "Ready"]
    return next((c for c in found if c["reason"] not in ("Starting", "AnotherAgent")), None)
