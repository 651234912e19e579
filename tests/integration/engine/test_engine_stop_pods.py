"""Stopping an engine gives every pod its own time, says for whom it waits, and takes no longer than the user allows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine_under_test import EngineUnderTest, engine, wait_for
from node_world import busybox_image
from trimtab.content import ContentStore

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

TIDY = "trap 'sleep 3; echo whole > /kept/end; exit 0' TERM; touch /kept/begun; while :; do sleep 0.1; done"
DEAF = "trap '' TERM; touch /kept/begun; while :; do sleep 0.1; done"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[EngineUnderTest]:
    with engine(tmp_path / "data") as made:
        yield made


def run_pod(running: EngineUnderTest, name: str, script: str, grace_s: int, kept: Path) -> None:
    kept.mkdir(exist_ok=True)
    image = busybox_image(ContentStore(running.data / "content"))
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": grace_s,
            "volumes": [{"name": "kept", "hostPath": {"path": str(kept)}}],
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": ["/bin/sh", "-c", script],
                    "volumeMounts": [{"name": "kept", "mountPath": "/kept"}],
                }
            ],
        },
    }
    running.run("apply", "-f", "-", input=json.dumps(manifest))
    wait_for((kept / "begun").exists, 30, f"pod {name} runs")


def test_a_stop_waits_for_each_pod_as_long_as_it_may_take(running: EngineUnderTest, tmp_path: Path) -> None:
    run_pod(running, "tidy", TIDY, 20, tmp_path / "tidy")
    run_pod(running, "deaf", DEAF, 1, tmp_path / "deaf")

    stopped = running.run("stop").stdout

    assert (tmp_path / "tidy" / "end").read_text() == "whole\n"
    lines = [line for line in stopped.splitlines() if line.startswith("waiting for")]
    assert lines[0].startswith("waiting for 2 pods to end, up to 20 s: default/")
    assert "waiting for 1 pod to end, up to 20 s: default/tidy" in lines

    running.run("start")
    (tmp_path / "tidy" / "end").unlink()
    (tmp_path / "tidy" / "begun").unlink()
    wait_for((tmp_path / "tidy" / "begun").exists, 30, "the pod runs again")
    running.run("stop", "--timeout", "1")
    assert not (tmp_path / "tidy" / "end").exists()
