"""The story: a claim is a cluster at a cloud with an app in it; the cluster is lost, and comes back with everything in it.

Each step stands on the timeline; what the claim is made of goes with it, in order, and nothing of it is left at the cloud.
"""

from __future__ import annotations

import json
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
ENDED = ("Removed", "Deleted")


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
        one.example = _app(running)
        running.run("cluster", "--clusters", str(home / "clusters"), "load", timeout_s=300)
        wait_for(lambda: _answers(one), 60, "the cloud")
        one.publish()
        yield one
        one.end()
        running.run(
            "delete", "-f", "-", input=running.run("composition", "render", str(telling.shop.DEFINITION)).stdout
        )
        running.run("delete", "providerconfigs", "default", "-n", "default")
        running.run("delete", "secrets", "cloud", "-n", "default")
        running.run("provider", "disable", "cloud", "cloud_network", "cloud_cluster")
        running.run("provider", "remove", "cloud")
    finally:
        cloud.send_signal(signal.SIGTERM)
        cloud.wait()
        subprocess.run(
            [TRIMTAB, "cluster", "--clusters", str(home / "clusters"), "delete", "--all"], check=False, timeout=180
        )
        shutil.rmtree(home, ignore_errors=True)


def _app(running: EngineUnderTest) -> Any:
    printed = running.run("up", str(EXAMPLES / "shipnotes"), "--print", timeout_s=400).stdout
    (app,) = [one for one in yaml.safe_load_all(printed) if one]
    return app


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


def test_a_claim_whose_cluster_is_lost_comes_back_with_everything_in_it(story: Any) -> None:
    foreseen = story.plan(story.example)
    planned = {(one["kind"], one["name"]): one for one in foreseen["objects"]}
    assert {one["action"] for one in planned.values()} == {"create"}
    assert sorted(kind for kind, _ in planned) == ["Cluster", "ClusterManifests", "Network", "Platform"]
    unknown = [
        one["path"] for one in planned["Cluster", "shop-cluster"]["changes"] if one["after"] == "(known after apply)"
    ]
    assert {"id", "network"} <= set(unknown)
    assert story.left() == {"clusters": [], "networks": []}

    story.declare(story.example)
    first = story.until(story.whole, "the claim to be ready")
    story.write("Written before the loss")
    story.dump()
    since = datetime.now().astimezone()

    story.lose()

    second = story.until(lambda: story.whole(but=first), "the cluster to come back")
    assert second != first
    assert story.has("Written before the loss")
    reasons = story.until(lambda: _all_told(story, since), "the timeline to have all of it")
    for before, after in (
        ("Gone", "Created"),
        ("Created", "ClusterReplaced"),
        ("ClusterReplaced", "Restored"),
        ("Applied", "Ready"),
        ("ResourceNotReady", "AllReady"),
        ("Restored", "AllReady"),
        ("Ready", "AllReady"),
    ):
        assert reasons.index(before) < reasons.index(after), reasons
    timed = {reason for _, reason, entry in story.told(since) if entry["duration_ms"]}
    assert {"Created", "Applied", "Restored", "Ready"} <= timed
    chain = story.run("why", "clustermanifests/shop-inside", "-n", "default")
    assert "Platform default/shop created by trimtab" in chain, chain

    # It ends in order: what is in the cluster, the cluster, its network.
    since = datetime.now().astimezone()
    story.end()
    assert story.left() == {"clusters": [], "networks": []}
    ended = [(entry["object"].partition(" ")[0], reason) for _, reason, entry in story.told(since, ENDED)]
    assert ended == [("ClusterManifests", "Removed"), ("Cluster", "Deleted"), ("Network", "Deleted")]
    assert story.run("get", "secrets,jobs", "-n", "default", "-o", "name").split() == ["secret/cloud"]


def _all_told(story: Any, since: datetime) -> list[str]:
    """The reasons on the timeline, once the claim has said that all of it is ready."""
    reasons = [reason for _, reason, _ in story.told(since)]
    return reasons if "AllReady" in reasons else []


@pytest.mark.long
def test_what_goes_wrong_on_the_way_is_said_and_mended(story: Any) -> None:
    """New credentials; an image that cannot be pulled; a cluster that is made half way."""
    story.declare(story.example)
    number = story.until(story.whole, "the claim to be ready")
    story.write("Written before the next loss")
    story.dump()
    before = story.access()
    story.cloud("POST", f"clusters/{number}/rotate")
    story.until(lambda: story.access() != before, "the new credentials in the claim's Secret")
    assert story.until(story.whole, "the claim with its new credentials") == number

    example = story.example
    story.declare({**example, "spec": {**example["spec"], "image": "nowhere.invalid/app:1"}})
    message = story.until(lambda: _message(story), "the claim to say that the app is not ready")
    assert "App default/shipnotes: " in message
    story.declare(example)
    story.until(story.whole, "the claim with the app that was there before")
    story.cloud("PUT", "faults", {"half": 1})
    story.lose()
    # Whoever brings the data back is killed on the way: another goes on, and lets nothing run twice.
    pod = story.until(lambda: _restoring(story), "a pod that brings the data back")
    story.run("delete", "pod", pod, "-n", "default", "--grace-period", "0")
    anew = story.until(lambda: story.whole(but=number), "the cluster after one that was made half way")
    assert story.has("Written before the next loss")
    assert story.left()["clusters"] == [anew]
    assert pod not in story.run("get", "pods", "-n", "default", "-o", "name")
    jobs = json.loads(story.inside("get", "jobs", "-o", "json"))["items"]
    (within,) = [one for one in jobs if one["metadata"]["name"].startswith("restore-")]
    assert within["status"]["succeeded"] == 1

    # Deleted while it is lost: it ends all the same, and nothing is left.
    story.lose()
    story.end()
    assert story.left() == {"clusters": [], "networks": []}


def _restoring(story: Any) -> str:
    """The pod of the Job that brings the data back, once it runs; empty before."""
    pods = json.loads(story.run("get", "pods", "-n", "default", "-o", "json"))["items"]
    running = [one["metadata"]["name"] for one in pods if one.get("status", {}).get("phase") == "Running"]
    return next((name for name in running if "-restore-" in name), "")


def _message(story: Any) -> str:
    one = story.condition()
    return one["message"] if "App default/shipnotes" in one.get("message", "") else ""
