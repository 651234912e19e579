"""Several processes append to one journal and are killed at any moment: the file stays whole, in order, and open to the rest."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from pathlib import Path

from trimtab.runtime.journal_read import JournalReader

WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from trimtab.api import Ref
from trimtab.runtime.journal import Entry, Journal

journal = Journal(Path(sys.argv[1]))
print("ready", flush=True)
count = 0
while True:
    batch = [Entry(datetime.now(UTC), "t", sys.argv[2], "said", Ref("v1", "Pod", "n", "p"), None, str(count + i)) for i in range(7)]
    journal.append(*batch)
    count += 7
    print(count, flush=True)
"""
ROUNDS = 3
PER_ROUND = 12


def test_killed_writers_leave_a_whole_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    rng = random.Random(1)
    written: dict[str, int] = {}
    for round in range(ROUNDS):
        names = [f"w{round}a", f"w{round}b"]
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stdout=subprocess.PIPE, text=True)
            for name in names
        ]
        for name, writer in zip(names, writers, strict=True):
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            for _ in range(rng.randrange(1, PER_ROUND)):
                written[name] = int(writer.stdout.readline())
        for writer in writers:
            writer.kill()
        for writer in writers:
            writer.communicate()

    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    reader = JournalReader(path)
    entries = reader.timeline(limit=1_000_000)
    reader.close()
    for name, count in written.items():
        messages = [int(entry.message) for entry in entries if entry.actor == name]
        assert messages == list(range(len(messages))), "in order, without holes"
        assert len(messages) >= count, "what append returned from outside a loop is in the file"
        assert len(messages) % 7 == 0, "a batch is whole or absent"
