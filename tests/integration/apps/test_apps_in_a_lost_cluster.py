"""The story: a cluster at a cloud with an app in it is lost, and comes back with everything in it; each step stands on the timeline."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine_under_test import TRIMTAB, EngineUnderTest, free_port, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

EXAMPLES = Path(__file__).parents[3] / "examples"
PATIENCE_S = 300
TOKEN = "of-a-test"


@pytest.fixture(scope="module")
def story(running: EngineUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The cloud runs, its provider is installed, and the app's images are on its machines."""
    sys.path.insert(0, str(EXAMPLES / "infrastructure"))
    try:
        import story as telling
    finally:
        sys.path.pop(0)
    home = Path("/tmp") / f"tt-story-{os.getpid()}"
    home.mkdir(mode=0o755)
    port = free_port()
    one = telling.Story(TRIMTAB, running.data, f"http://127.0.0.1:{port}", TOKEN, PATIENCE_S)
    cloud = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "infrastructure" / "cloud.py"), "--home", str(home), "--port", str(port), "--trimtab", str(TRIMTAB)],
        env=os.environ | {"CLOUD_TOKEN": TOKEN},
    )  # fmt: skip
    try:
        _provide(running, home)
        one.app_objects = _app(running)
        running.run("cluster", "--clusters", str(home / "clusters"), "load", timeout_s=300)
        wait_for(lambda: _answers(one), 60, "the cloud")
        yield one
        for kind in ("clustermanifests", telling.CLUSTER, f"networks.{telling.CLUSTER.partition('.')[2]}"):
            running.run("delete", kind, "shop", "-n", "default", check=False, timeout_s=180)
        running.run("provider", "disable", "cloud", "cloud_network", "cloud_cluster")
        running.run("provider", "remove", "cloud")
    finally:
        cloud.send_signal(signal.SIGTERM)
        cloud.wait()
        subprocess.run(
            [TRIMTAB, "cluster", "--clusters", str(home / "clusters"), "delete", "--all"], check=False, timeout=180
        )
        shutil.rmtree(home, ignore_errors=True)


def _app(running: EngineUnderTest) -> list[dict[str, Any]]:
    printed = running.run("up", str(EXAMPLES / "shipnotes"), "--print", timeout_s=400).stdout
    return [one for one in yaml.safe_load_all(printed) if one]


def _answers(one: Any) -> bool:
    try:
        return one.cloud("GET", "clusters") == []
    except (urllib.error.URLError, OSError):
        return False


def _provide(running: EngineUnderTest, home: Path) -> None:
    """The example's provider as a program of this interpreter, with PyPI's tf in a directory that the engine's user may read."""
    shutil.copytree(EXAMPLES.parent / "build" / "tf", home / "provider", symlinks=True)
    source = (EXAMPLES / "infrastructure" / "provider.py").read_text().split("\n", 1)[1]
    program = home / "terraform-provider-cloud"
    program.write_text(f"#!{home}/provider/bin/python\n{source}")
    program.chmod(0o755)
    running.run("provider", "install", "demo/cloud@1.0.0", "--path", str(program), "--read", str(home / "provider"))
    running.run("provider", "enable", "cloud", "cloud_network", "cloud_cluster")


def test_a_lost_cluster_comes_back_with_everything_in_it(story: Any) -> None:
    story.declare(story.app_objects)
    first = story.until(story.whole, "the cluster with the app in it")
    story.write("Written before the loss")
    story.dump()
    since = datetime.now().astimezone()

    story.lose()

    second = story.until(lambda: story.whole(but=first), "the cluster to come back")
    assert second != first
    assert story.has("Written before the loss")
    told = story.told(since)
    reasons = [reason for _, reason, _ in told]
    for before, after in (
        ("Gone", "Created"),
        ("Created", "ClusterReplaced"),
        ("ClusterReplaced", "Restored"),
        ("Applied", "Ready"),
    ):
        assert reasons.index(before) < reasons.index(after), reasons
    timed = {reason for _, reason, entry in told if entry["duration_ms"]}
    assert {"Created", "Applied", "Restored", "Ready"} <= timed


@pytest.mark.long
def test_what_goes_wrong_on_the_way_is_said_and_mended(story: Any) -> None:
    """New credentials; a cluster that is made half way; an image that cannot be pulled."""
    story.declare(story.app_objects)
    number = story.until(story.whole, "the cluster with the app in it")
    story.write("Written before the next loss")
    story.dump()
    before = story.access()
    story.cloud("POST", f"clusters/{number}/rotate")
    story.until(lambda: story.access() != before, "the new credentials in the Secret")
    assert story.until(story.whole, "the cluster with its new credentials") == number

    broken = [
        {**one, "spec": {**one["spec"], "image": "nowhere.invalid/app:1"}} if one["kind"] == "App" else one
        for one in story.app_objects
    ]
    story.declare(broken)
    message = story.until(
        lambda: _message(story, "clustermanifests", "NotReady"), "the manifests to say that the app is not ready"
    )
    assert message.startswith("App default/shipnotes: ")
    story.cloud("PUT", "faults", {"half": 1})
    story.declare(story.app_objects)
    story.lose()
    anew = story.until(lambda: story.whole(but=number), "the cluster after one that was made half way")
    assert story.has("Written before the next loss")
    assert [one["id"] for one in story.cloud("GET", "clusters")] == [anew]


def _message(story: Any, kind: str, reason: str) -> str:
    one = story.condition(kind)
    return one["message"] if one.get("reason") == reason else ""
