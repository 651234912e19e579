"""The journal: appended by several, read back in order, pruned, and walked from effect to cause."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trimtab.api import Ref
from trimtab.runtime.journal import Entry, Journal
from trimtab.runtime.journal_read import JournalReader
from trimtab.runtime.journal_text import (
    Story,
    duration_text,
    entry_json,
    entry_line,
    short,
    took,
    what,
    why_json,
    why_text,
)

T0 = datetime(2030, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
APP = Ref("trimtab.dev/v1alpha1", "App", "shop", "web")
DEPLOYMENT = Ref("apps/v1", "Deployment", "shop", "web")
REPLICASET = Ref("apps/v1", "ReplicaSet", "shop", "web-1")
POD = Ref("v1", "Pod", "shop", "web-1-a")


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


STORY = [
    Entry(at(0), "api", "kubectl", "changed", APP),
    Entry(at(1), "apps", "trimtab-apps-app", "changed", DEPLOYMENT, APP, "spec.template", 3.0, subject=APP),
    Entry(at(2), "workloads", "trimtab-workloads-deployment", "created", REPLICASET, DEPLOYMENT, subject=DEPLOYMENT),
    Entry(at(3), "workloads", "trimtab-workloads-replicaset", "created", POD, REPLICASET, subject=REPLICASET),
    Entry(at(4), "node", "trimtab-node-pods", "status", POD, POD, "status.phase", 12.0, subject=POD),
    Entry(
        at(5),
        "node",
        "trimtab-node-pods",
        "warned",
        POD,
        "the container exited",
        "exit code 1",
        data={"reason": "BackOff"},
    ),
]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal" / "journal.sqlite")
    yield journal
    journal.close()


def reader(journal: Journal) -> JournalReader:
    assert journal.path is not None
    return JournalReader(journal.path)


def test_what_was_appended_is_read_back(journal: Journal) -> None:
    journal.append(*STORY)
    found = reader(journal)

    told = found.timeline()

    assert [e.id for e in told] == [1, 2, 3, 4, 5, 6]
    first, last = told[0], told[-1]
    assert (first.at, first.object, first.cause) == (at(0), APP, None)
    assert (last.cause, last.data) == ("the container exited", {"reason": "BackOff"})
    assert [e.id for e in found.timeline(limit=2)] == [5, 6]
    assert [e.id for e in found.timeline(since=at(4))] == [5, 6]
    assert [e.id for e in found.timeline(after=4)] == [5, 6]
    assert [e.id for e in found.timeline(component="apps")] == [2]
    assert [e.id for e in found.timeline(object=DEPLOYMENT)] == [2, 3]
    found.close()


def test_why_walks_from_the_pod_to_the_user(journal: Journal) -> None:
    journal.append(*STORY)
    found = reader(journal)

    why = found.why(POD)

    assert why_text(POD, why, zone=UTC).splitlines() == [
        "Pod shop/web-1-a",
        "└─ 12:00:04.123  Pod shop/web-1-a status (phase) by node-pods",
        "   └─ 12:00:03.123  Pod shop/web-1-a created by workloads-replicaset",
        "      └─ 12:00:02.123  ReplicaSet shop/web-1 created by workloads-deployment",
        "         └─ 12:00:01.123  Deployment shop/web changed (spec.template) by apps-app",
        "            └─ 12:00:00.123  App shop/web changed by kubectl",
    ]
    deepest = why_json(why)[1]["reasons"][0]["reasons"][0]["reasons"][0]
    assert deepest["object"] == "App shop/web"
    found.close()


def test_an_object_that_never_was(journal: Journal) -> None:
    found = reader(journal)

    assert why_text(APP, found.why(APP)) == (
        "App shop/web: the journal has nothing about it; is the name right? (trimtab timeline shows what there is)"
    )
    found.close()


def test_a_circle_of_causes_ends(journal: Journal) -> None:
    for i in range(6):
        one, other = (APP, DEPLOYMENT) if i % 2 else (DEPLOYMENT, APP)
        journal.append(Entry(at(i), "x", f"m{i}", "changed", one, other, subject=other))
    found = reader(journal)

    assert len(why_text(APP, found.why(APP, limit=1)).splitlines()) == 7
    found.close()


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (STORY[0], "12:00:00.123  App shop/web changed by kubectl"),
        (STORY[1], "12:00:01.123  Deployment shop/web changed (spec.template) by apps-app  because of App shop/web"),
        (STORY[4], "12:00:04.123  Pod shop/web-1-a status (phase) by node-pods"),
        (STORY[5], "12:00:05.123  Pod shop/web-1-a: warning: BackOff: exit code 1  because the container exited"),
        (Entry(at(0), "api", "", "deleted", POD), "12:00:00.123  Pod shop/web-1-a deleted by somebody"),
        (Entry(at(0), "api", "", "deleting", POD), "12:00:00.123  Pod shop/web-1-a is being deleted by somebody"),
        (
            Entry(at(0), "dns", "trimtab-dns-zone", "effect", APP, None, "record web: done", 640.0),
            "12:00:00.123  App shop/web: effect record web: done by dns-zone  (640 ms)",
        ),
        (
            Entry(at(0), "node", "trimtab-node-pods", "said", POD, None, "running again", 912.0),
            "12:00:00.123  Pod shop/web-1-a: running again  (912 ms)",
        ),
        (
            Entry(at(0), "apps", "trimtab-apps-hook", "failed", None, None, "service hook: it broke"),
            "12:00:00.123  apps-hook failed: service hook: it broke",
        ),
    ],
)
def test_a_line_says_what_happened(entry: Entry, line: str) -> None:
    assert entry_line(entry, zone=UTC) == line


def test_an_entry_as_json() -> None:
    assert entry_json(STORY[0]) == {
        "id": 0,
        "at": "2030-01-01T12:00:00.123Z",
        "component": "api",
        "actor": "kubectl",
        "verb": "changed",
        "object": "App shop/web",
        "cause": None,
        "subject": None,
        "message": "",
        "duration_ms": None,
        "data": None,
    }


def test_durations_are_readable() -> None:
    assert [duration_text(ms) for ms in (0.4, 3.25, 640, 12_340, 245_000)] == [
        "0.4 ms",
        "3.2 ms",
        "640 ms",
        "12.3 s",
        "4 min 5 s",
    ]


def test_several_processes_append(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journals = [Journal(path) for _ in range(3)]

    for i in range(30):
        journals[i % 3].append(Entry(at(i), "x", f"p{i % 3}", "said", APP, None, str(i)))

    found = JournalReader(path)
    assert [e.message for e in found.timeline()] == [str(i) for i in range(30)]
    found.close()
    for journal in journals:
        journal.close()


async def test_inside_a_loop_entries_are_written_together_a_moment_later(journal: Journal) -> None:
    found = reader(journal)
    for i in range(5):
        journal.append(Entry(at(i), "x", "m", "said", APP, None, str(i)))
    assert found.timeline() == []

    fresh = await asyncio.wait_for(found.wait_newer(0, every_s=0.01), 60)

    assert [e.message for e in fresh] == ["0", "1", "2", "3", "4"]
    found.close()


async def test_following_sees_what_another_process_appends(journal: Journal) -> None:
    found = reader(journal)
    other = Journal(journal.path)
    seen: list[str] = []

    async def follow() -> None:
        async for entry in found.follow(0, every_s=0.01):
            seen.append(entry.message)
            if len(seen) == 3:
                return

    task = asyncio.create_task(follow())
    for i in range(3):
        other.append(Entry(at(i), "x", "m", "said", APP, None, str(i)))
        other.flush()
    await asyncio.wait_for(task, 60)

    assert seen == ["0", "1", "2"]
    other.close()
    found.close()


def test_retention_drops_the_oldest(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite", keep_days=1, keep_entries=5)
    journal.append(Entry(at(-200_000), "x", "m", "said"), *(Entry(at(i), "x", "m", "said") for i in range(8)))

    dropped = journal.prune(at(10))

    found = reader(journal)
    assert dropped == 4
    assert [e.id for e in found.timeline()] == [5, 6, 7, 8, 9]
    found.close()
    journal.close()


def test_newer_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=99")
    db.close()

    with pytest.raises(ValueError, match="was written by a newer Trimtab"):
        Journal(path)


def test_a_journal_that_cannot_be_written_holds_nobody_up(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    journal.database.execute("DROP TABLE entries")

    journal.append(STORY[0])

    assert journal.dropped == 1
    assert "1 entries were not written: no such table: entries" in caplog.text


def test_what_a_full_disk_does_not_take_is_written_when_it_has_room(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite")
    full = journal.database.execute("PRAGMA page_count").fetchone()[0] + 1
    journal.database.execute(f"PRAGMA max_page_count={full}")  # SQLite's own word for a full disk is the same
    entries = [Entry(at(n), "api", "kubectl", "changed", APP, message="x" * 2000) for n in range(10)]
    for one in entries:
        journal.append(one)
    kept = journal.database.execute("SELECT count(*) FROM entries").fetchone()[0]
    assert kept < len(entries)

    journal.database.execute("PRAGMA max_page_count=1000")
    journal.append(STORY[0])

    assert journal.dropped == 0
    with contextlib.closing(JournalReader(tmp_path / "j.sqlite")) as reader:
        assert len(reader.timeline(limit=100)) == len(entries) + 1
    journal.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_a_journal_that_root_begins_belongs_to_the_owner_of_its_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)

    journal = Journal(tmp_path / "j.sqlite")
    journal.append(STORY[0])

    assert {path.name: path.stat().st_uid for path in tmp_path.iterdir()} == {
        "j.sqlite": 12345,
        "j.sqlite-wal": 12345,
        "j.sqlite-shm": 12345,
    }
    journal.close()


def test_a_journal_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no journal; has this engine ever been started"):
        JournalReader(tmp_path / "none.sqlite")


# What people are told


def ours(seconds: float, verb: str, about: Ref, message: str = "", **more: Any) -> Entry:
    return Entry(at(seconds), "workloads", "trimtab-workloads-x", verb, about, message=message, **more)


NOT_READY = {"ready": False, "reason": "ContainersNotReady", "message": "container db is not ready"}


def told(story: Story, *entries: Entry) -> list[str]:
    return [f"{what(one)}{took(one)}" for entry in entries if (one := story.told(entry)) is not None]


@pytest.mark.parametrize(
    "entry",
    [
        ours(0, "status", POD, "status.phase"),
        ours(0, "status", POD, "status.conditions", data={"ready": False, "reason": "PodCompleted", "message": ""}),
        ours(0, "changed", Ref("v1", "Endpoints", "shop", "web"), "subsets"),
        ours(0, "changed", Ref("discovery.k8s.io/v1", "EndpointSlice", "shop", "web-1"), "endpoints"),
        ours(0, "created", REPLICASET),
        ours(0, "said", REPLICASET, "Created pod: web-1-a", data={"reason": "SuccessfulCreate"}),
        ours(0, "said", POD, "stopping container web: the pod is deleted", data={"reason": "Killing"}),
        ours(0, "changed", POD, "spec.nodeName"),
        ours(0, "changed", DEPLOYMENT, "metadata.annotations[deployment.kubernetes.io/revision], metadata.finalizers"),
    ],
)
def test_what_another_entry_tells_is_a_detail(entry: Entry) -> None:
    assert Story().told(entry) is None


@pytest.mark.parametrize(
    "entry",
    [
        ours(0, "created", POD),
        ours(0, "changed", DEPLOYMENT, "spec.replicas, metadata.finalizers"),
        ours(0, "said", POD, "stopping container web: its liveness probe failed", data={"reason": "Killing"}),
        ours(0, "said", REPLICASET, "Error creating: quota", data={"reason": "FailedCreate"}),
        Entry(at(0), "api", "kubectl", "changed", Ref("v1", "Endpoints", "shop", "web"), message="subsets"),
        Entry(at(0), "engine", "supervisor", "said", message="API server was killed"),
    ],
)
def test_what_nothing_else_tells_is_told(entry: Entry) -> None:
    assert Story().told(entry) == entry


def test_a_pod_of_a_statefulset_comes_back_and_the_time_is_that_since_it_was_deleted() -> None:
    lines = told(
        Story(),
        ours(0.0, "deleting", POD),
        ours(0.1, "status", POD, "status.conditions", data=NOT_READY),  # as everybody knows of a pod that goes
        ours(1.5, "deleted", POD),
        ours(1.6, "created", POD),
        ours(3.25, "status", POD, "status.conditions[Ready].status", data={"ready": True}, duration_ms=12.0),
    )

    assert lines == [
        "Pod shop/web-1-a is being deleted by workloads-x",
        "Pod shop/web-1-a deleted by workloads-x",
        "Pod shop/web-1-a created by workloads-x",
        "Pod shop/web-1-a is ready after 3.2 s",
    ]


def test_a_pod_whose_container_ended_is_not_ready_for_so_long() -> None:
    lines = told(
        Story(),
        ours(0.0, "status", POD, "status.conditions[Ready].status", data=NOT_READY),
        ours(
            0.9,
            "said",
            POD,
            "container db of pod shop/web-1-a exited; running again after 640 ms",
            duration_ms=640.0,
            data={"reason": "Restarted"},
        ),
        ours(0.95, "status", POD, "status.conditions[Ready].status", data={"ready": True}, duration_ms=12.0),
        ours(9.0, "status", POD, "status.conditions[Ready].message", duration_ms=12.0),
    )

    assert lines == [
        "Pod shop/web-1-a is not ready: ContainersNotReady: container db is not ready",
        "Pod shop/web-1-a: Restarted: container db exited; running again after 640 ms",
        "Pod shop/web-1-a is ready after 950 ms",
    ]


def test_how_long_it_took_is_not_said_where_the_beginning_is_not_known() -> None:
    assert told(Story(), ours(9.0, "status", POD, "status.conditions", data={"ready": True}, duration_ms=12.0)) == [
        "Pod shop/web-1-a is ready"
    ]


def test_a_digest_is_shown_by_its_first_digits() -> None:
    assert short(f"image web@sha256:{'0123456789abcdef' * 4} is here") == "image web@sha256:0123456789ab is here"


@pytest.mark.parametrize(
    ("actor", "shown"), [("trimtab-cli", "trimtab"), ("trimtab-up", "trimtab up"), ("trimtab-apps-app", "apps-app")]
)
def test_who_did_it_is_named_as_people_know_them(actor: str, shown: str) -> None:
    assert what(Entry(at(0), "api", actor, "created", APP)) == f"App shop/web created by {shown}"


def test_a_wait_whose_end_was_not_written_is_no_part_of_the_next() -> None:
    lines = told(
        Story(),
        ours(0.0, "created", POD),
        ours(600.0, "deleting", POD),
        ours(601.0, "created", POD),
        ours(602.0, "status", POD, "status.conditions", data={"ready": True}),
    )

    assert lines[-1] == "Pod shop/web-1-a is ready after 2.0 s"
