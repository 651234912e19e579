"""Writes what the supervisor has to tell into the journal: `python -m trimtab.engine.chronicle ENTRIES`.

The supervisor starts it as the engine's user for each batch of entries, so that it never loads SQLite itself.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.api import Ref
from trimtab.engine.processes import JOURNAL
from trimtab.runtime.journal import Entry, Journal

PROCESS = "Process"
"""The kind under which processes of the engine stand in the journal. It is no kind of the API."""


def entry_of(raw: dict[str, Any]) -> Entry:
    """A journal entry from what the supervisor wrote down."""
    return Entry(
        at=datetime.fromtimestamp(raw["at"], UTC),
        component="engine",
        actor="supervisor",
        verb=raw["verb"],
        object=Ref("", PROCESS, None, raw["process"]),
        message=raw["message"],
        duration_ms=raw["duration_ms"],
    )


def write(data: Path, entries: list[dict[str, Any]]) -> None:
    """Appends the entries to the journal of the engine at `data`."""
    journal = Journal(data.joinpath(*JOURNAL))
    journal.append(*(entry_of(raw) for raw in entries))
    journal.close()


if __name__ == "__main__":
    write(Path(os.environ["TRIMTAB_DATA"]), json.loads(sys.argv[1]))
