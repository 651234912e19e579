"""A real app with its database, shipped by the command, from outside: serving, changing, breaking, healing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from engine_under_test import TRIMTAB, EngineUnderTest, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

EXAMPLES = Path(__file__).parents[3] / "examples"
HOST = "shipnotes.localhost"


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example that tests may change."""
    copy = tmp_path_factory.mktemp("project") / "shipnotes"
    shutil.copytree(EXAMPLES / "shipnotes", copy)
    return copy


@pytest.fixture(scope="session")
def shipped(running: EngineUnderTest, project: Path) -> EngineUnderTest:
    running.run("up", str(project), timeout_s=400)
    return running


def pods(engine: EngineUnderTest, process: str) -> list[dict]:
    listing = engine.json(
        "get", "pods", "-l", f"app.kubernetes.io/name=shipnotes,app.kubernetes.io/component={process}"
    )
    return [pod for pod in listing["items"] if "deletionTimestamp" not in pod["metadata"]]


def wait_well(engine: EngineUnderTest, timeout_s: float = 60) -> None:
    def well() -> bool:
        app = engine.json("get", "app", "shipnotes")
        ready = [c for c in app["status"]["conditions"] if c["type"] == "Ready"]
        return bool(ready) and ready[0]["status"] == "True" and app["status"]["ready"] == "2/2"

    wait_for(well, timeout_s, "shipnotes to be well")


def add_note(engine: EngineUnderTest, title: str) -> int:
    secret = engine.json("get", "secret", "shipnotes-secret-shipnotes-token")
    import base64

    token = base64.b64decode(secret["data"]["value"]).decode()
    answer = engine.get(
        HOST,
        "/notes",
        method="POST",
        body=json.dumps({"version": "9.9", "title": title}).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    assert answer.status == 201, answer.text
    return int(json.loads(answer.text)["id"])


def test_it_serves_over_tls_with_its_database(shipped: EngineUnderTest) -> None:
    assert "The first release" in shipped.wait_serving(HOST).text
    number = add_note(shipped, "Kept in PostgreSQL")
    assert "Kept in PostgreSQL" in shipped.get(HOST, f"/notes/{number}").text
    assert "Kept in PostgreSQL" in shipped.get(HOST, "/?q=postgresql").text
    assert "<rss" in shipped.get(HOST, "/feed.xml").text


def test_an_unchanged_app_changes_nothing(shipped: EngineUnderTest, project: Path) -> None:
    before = [pod["metadata"]["uid"] for pod in pods(shipped, "web")]
    shipped.run("up", str(project))
    assert [pod["metadata"]["uid"] for pod in pods(shipped, "web")] == before


def test_a_killed_process_serves_again(shipped: EngineUnderTest) -> None:
    wait_well(shipped)
    after = shipped.last_entry()
    name = pods(shipped, "web")[0]["metadata"]["name"]
    shipped.run("exec", name, "--", "python3", "-c", "import os, signal; os.kill(1, signal.SIGTERM)")
    entry = shipped.wait_timeline("web", "running again after", "ms", after=after)
    assert name in entry["object"]
    wait_well(shipped)


def test_a_deleted_pod_is_replaced(shipped: EngineUnderTest) -> None:
    wait_well(shipped)
    gone = pods(shipped, "web")[0]["metadata"]["uid"]
    shipped.run("delete", "pod", pods(shipped, "web")[0]["metadata"]["name"])
    wait_well(shipped)
    assert gone not in [pod["metadata"]["uid"] for pod in pods(shipped, "web")]
    shipped.wait_serving(HOST)


def test_the_database_keeps_its_data_when_its_pod_goes(shipped: EngineUnderTest) -> None:
    wait_well(shipped)
    number = add_note(shipped, "Survives")
    shipped.run("delete", "pod", "shipnotes-db-0")
    answer = shipped.wait_serving(HOST, f"/notes/{number}", timeout_s=90)
    assert "Survives" in answer.text
    wait_well(shipped)


@pytest.mark.parametrize("process", ["containerd", "api", "controllers", "node", "envoy", "web"])
def test_a_killed_part_of_the_engine_comes_back(shipped: EngineUnderTest, process: str) -> None:
    wait_well(shipped)
    before = {
        pod["metadata"]["uid"]: pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods(shipped, "web")
    }
    after, killed = shipped.last_entry(), shipped.pid(process)
    os.kill(killed, signal.SIGKILL)
    entry = shipped.wait_timeline("killed (signal 9)", "again after", "ms", after=after)
    assert entry["duration_ms"] > 0
    wait_for(lambda: shipped.pid(process) not in (0, killed), 30, f"a new {process}")
    shipped.wait_serving(HOST)
    wait_well(shipped)
    assert before == {
        pod["metadata"]["uid"]: pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods(shipped, "web")
    }, "the app's own processes were left alone"


def test_everything_killed_at_once(shipped: EngineUnderTest) -> None:
    wait_well(shipped)
    for pid in [shipped.pid(name) for name in ("containerd", "api", "controllers", "node", "envoy", "web")]:
        os.kill(pid, signal.SIGKILL)
    shipped.wait_serving(HOST)
    wait_for(lambda: shipped.run("get", "nodes", check=False).returncode == 0, 30, "the API")
    wait_well(shipped)


def test_a_killed_supervisor_comes_back(shipped: EngineUnderTest) -> None:
    supervisor = shipped.pid("supervisor")
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: shipped.pid("supervisor") not in (0, supervisor), 30, "a new supervisor")
    wait_well(shipped)
    shipped.wait_serving(HOST)


def test_stop_and_start(shipped: EngineUnderTest) -> None:
    number = add_note(shipped, "Over a restart")
    shipped.run("stop")
    assert shipped.serves(HOST) is None
    shipped.start()
    assert "Over a restart" in shipped.wait_serving(HOST, f"/notes/{number}", timeout_s=120).text
    wait_well(shipped)


# Versions that must never take traffic


def ship_variant(engine: EngineUnderTest, project: Path, old: str, new: str) -> subprocess.CompletedProcess[str]:
    text = (project / "ship.py").read_text()
    assert old in text
    try:
        (project / "ship.py").write_text(text.replace(old, new))
        return engine.run("up", str(project), check=False, timeout_s=240)
    finally:
        (project / "ship.py").write_text(text)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("python3 -m gunicorn", "python3 -m gunicornn", "No module named gunicornn"),
        ("shipnotes.web:app", "shipnotes.web:create_app()' --bind 0.0.0.0:9999 '", "not"),
        (
            'migrate="python3 -m shipnotes.migrate"',
            'migrate=["python3", "-c", "raise SystemExit(\'no such table: x\')"]',
            "no such table: x",
        ),
    ],
    ids=["crashes", "never-ready", "migration-fails"],
)
def test_a_bad_version_never_takes_traffic(
    shipped: EngineUnderTest, project: Path, old: str, new: str, said: str
) -> None:
    wait_well(shipped)
    done = ship_variant(shipped, project, old, new)
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert said in line
    assert shipped.serves(HOST), "the version before it serves on"
    # It crashes on; for a moment after each crash its last words are not there yet.
    wait_for(lambda: said in shipped.json("get", "app", "shipnotes")["status"]["message"], 60, f"the App says {said!r}")
    shipped.run("up", str(project), timeout_s=240)
    wait_well(shipped)


def test_why_tells_what_changed_a_deployment(shipped: EngineUnderTest) -> None:
    said = shipped.run("why", "deployment/shipnotes-web").stdout
    assert "App default/shipnotes" in said
    assert " by trimtab up" in said


def test_an_app_from_pypi_in_ten_lines(running: EngineUnderTest) -> None:
    running.run("up", str(EXAMPLES / "httpbin"), timeout_s=400)
    answer = running.wait_serving("httpbin.localhost", "/get?a=b")
    assert json.loads(answer.text)["args"] == {"a": "b"}
    running.run("delete", "app", "httpbin")


def test_nothing_in_the_content_store_belongs_to_root(shipped: EngineUnderTest) -> None:
    content = shipped.data / "content"
    assert [path for path in content.rglob("*") if path.lstat().st_uid == 0] == []
    assert len(list((content / "blobs" / "sha256").iterdir())) > 1


def test_an_up_that_was_killed_is_run_again(shipped: EngineUnderTest, project: Path) -> None:
    """Killed at several moments of a build, an apply, a rollout: the app serves on, and the next `up` ends what was begun."""
    page = project / "shipnotes" / "static" / "style.css"
    for after_s in (0.2, 0.4, 0.8, 1.6):
        page.write_text(page.read_text() + f"/* {after_s} */\n")
        command = [str(TRIMTAB), "--data", str(shipped.data), "up", str(project)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as up:
            try:
                up.wait(after_s)
            except subprocess.TimeoutExpired:
                up.kill()
        assert shipped.serves(HOST), f"not served after a kill at {after_s} s"

    shipped.run("up", str(project), timeout_s=200)

    wait_well(shipped)
    assert shipped.serves(HOST)


def test_an_image_that_is_not_there_is_named(running: EngineUnderTest, tmp_path: Path) -> None:
    (tmp_path / "ship.yaml").write_text("name: absent\nimage: localhost:1/none:1\nprocesses: {web: {command: serve}}\n")
    done = running.run("up", str(tmp_path), "--timeout", "5", check=False)
    running.run("delete", "app", "absent")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "localhost:1/none:1: the registry refuses the connection (logs: trimtab logs absent-web-" in last
