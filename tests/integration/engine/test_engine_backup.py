"""A real engine is backed up while it works, removed, and restored elsewhere: objects, keys and volumes are there again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from counting_pod import count_forever, counted, counted_by, told, volume_of
from engine_under_test import EngineUnderTest, engine, wait_for
from trimtab.engine import datadir, local

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def check_schedule(under_test: EngineUnderTest, place: str) -> None:
    """A run of a schedule is made once, however often it is asked for, and a failure is told."""
    run = "nightly/2026-01-01T00:00:00Z"

    def begin(name: str, active: str) -> None:
        """As after a crash: the intent stands in the status."""
        document = {"apiVersion": "trimtab.dev/v1alpha1", "kind": "BackupSchedule", "metadata": {"name": name}}
        path = f"/apis/trimtab.dev/v1alpha1/backupschedules/{name}/status"
        socket = datadir.load(under_test.data).api_socket
        assert local.merge_patch(socket, path, document | {"status": {"active": active}}) == 200

    def told(name: str, reason: str) -> dict[str, Any] | None:
        found = under_test.json("get", "backupschedule", name)
        status: dict[str, Any] = found.get("status", {})
        reasons = [condition["reason"] for condition in status.get("conditions", [])]
        return status if reasons == [reason] and not status["active"] else None

    under_test.run("backup", "schedule", "0 0 1 1 *", place, "--name", "nightly")
    wait_for(lambda: told("nightly", "NotDueYet"), 20, "the schedule to be read")
    for _ in range(2):
        begin("nightly", run)
        wait_for(lambda: told("nightly", "BackupMade"), 30, "the backup of the run")
    rows = under_test.json("backup", "list", place)
    assert [row["run"] for row in rows].count(run) == 1
    assert told("nightly", "BackupMade")["lastBackup"]["id"] == rows[-1]["id"]  # type: ignore[index]

    under_test.run("backup", "schedule", "@yearly", "/proc/nowhere", "--name", "broken")
    wait_for(lambda: told("broken", "NotDueYet"), 20, "the schedule to be read")
    begin("broken", "broken/2026-01-01T00:00:00Z")
    status = wait_for(lambda: told("broken", "BackupFailed"), 30, "the failure to be told")
    assert status["failures"] == 1
    assert "/proc/nowhere/" in status["conditions"][0]["message"]
    under_test.wait_timeline("the backup broken/2026-01-01T00:00:00Z could not be made")
    refused = under_test.run("backup", "schedule", "61 * * * *", place, check=False)
    assert refused.returncode == 1
    assert 'spec.schedule: "61" is not a minute: it must be from 0 to 59' in refused.stderr


def test_a_working_engine_is_restored_elsewhere(tmp_path: Path) -> None:
    place, key = str(tmp_path / "backups"), tmp_path / "key"
    with engine(tmp_path / "data") as first:
        count_forever(first)
        first.run("apply", "-f", "-", input="apiVersion: v1\nkind: ConfigMap\nmetadata: {name: note}\ndata: {a: b}\n")
        wait_for(lambda: counted(first) > 50, 60, "the pod to count")

        made = first.run("backup", place, "-o", "json")
        commit = json.loads(made.stdout)
        at_backup = counted(first)
        again = first.json("backup", place, "--keep", "1")

        assert "1 pod with volumes stood still for" in made.stderr
        assert commit["volumes"] == 1
        assert commit["frozenMs"] > 0
        assert again["sentBytes"] < commit["sentBytes"]
        assert again["deleted"] == [commit["id"]]
        assert [row["id"] for row in first.json("backup", "list", place)] == [again["id"]]
        assert "is whole" in first.run("backup", "verify", place).stdout
        wait_for(lambda: counted(first) > at_backup + 20, 30, "the pod to go on")
        check_schedule(first, place)
        key.write_text((first.data / "backup" / "identity.txt").read_text())
        authority = (first.data / "pki" / "ca.crt").read_text()
        was = first.json("get", "configmap", "note")

    second = EngineUnderTest(tmp_path / "elsewhere", first.api_port, first.http_port, first.https_port, first.web_port)
    try:
        second.run("restore", place, "--key", str(key))
        restored = counted(second)
        lines = (volume_of(second) / "all").read_text().split()
        # The volume is of one moment: what one file says, the other does.
        assert int(lines[-1]) in (restored - 1, restored)
        assert at_backup - 50 < restored

        second.start()

        wait_for(lambda: counted(second) > restored + 20, 60, "the pod to go on counting")
        assert f"began after {restored}" in (volume_of(second) / "history").read_text()
        assert (second.data / "pki" / "ca.crt").read_text() == authority
        now = second.json("get", "configmap", "note")
        assert (now["metadata"]["uid"], now["data"]) == (was["metadata"]["uid"], was["data"])
        refused = second.run("restore", place, "--key", str(key), check=False)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith(f"trimtab: there is an engine at {second.data}: restore into another --data")
        assert len(refused.stderr.splitlines()) == 1
    finally:
        second.remove()


@pytest.mark.long
def test_volumes_of_further_nodes_and_movable_ones_come_back(tmp_path: Path) -> None:
    place, key = str(tmp_path / "backups"), tmp_path / "key"
    counters = ("far", "movable")
    with engine(tmp_path / "data", "--nodes", "2") as first:
        count_forever(first, "far", node="node-2")
        count_forever(first, "movable", node="node-2", storage_class="block")
        for name in counters:
            wait_for(lambda name=name: counted_by(first, name) > 50, 90, f"{name} to count")
        before = {name: counted_by(first, name) for name in counters}

        made = first.run("backup", place, "-o", "json")

        after = {name: counted_by(first, name) for name in counters}
        assert "2 pods with volumes stood still for" in made.stderr
        assert json.loads(made.stdout)["volumes"] == 2
        key.write_text((first.data / "backup" / "identity.txt").read_text())

    second = EngineUnderTest(tmp_path / "elsewhere", first.api_port, first.http_port, first.https_port, first.web_port)
    try:
        second.run("restore", place, "--key", str(key))
        second.start()
        for name in counters:
            wait_for(lambda name=name: counted_by(second, name) > after[name], 120, f"{name} to go on counting")
            history = told(second, name, "history").splitlines()
            assert len(history) == 2
            assert before[name] <= int(history[1].rpartition(" ")[2]) <= after[name]
    finally:
        second.remove()
