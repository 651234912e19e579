"""The states of failed steps: kept to be entered, bounded in number and in size, the newest longest.

uppers/RUN/STEP/kept.json    what was to be done, and what the file system is stacked from, beside its upper directories
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab.ci.runs.ports import EngineFault, Job, Outcome, job_of
from trimtab.ci.sandbox.space import KEPT, lease, used_bytes

UPPERS = "uppers"
LAST = "last"
KEPT_MAX = 20
KEPT_BYTES_MAX = 10 << 30


@dataclass(frozen=True)
class Kept:
    """A failure whose state is there. run: the run's id, of the name of its directory."""

    directory: Path
    run: str
    job: Job
    ended: str
    failed_run: int | None
    time_s: float
    size_bytes: int

    @property
    def step(self) -> str:
        return self.job.step


def keep(job: Job, outcome: Outcome, lowers: Iterable[Path]) -> None:
    """Marks the directory of a failed step, with all that a shell in its state needs; no secrets.

    lowers: the directories below its upper ones. They must stay as long as this does.
    """
    doc = {
        "job": job.as_json(),
        "ended": outcome.ended,
        "failedRun": outcome.failed_run,
        "time": time.time(),
        "bytes": used_bytes(job.directory),
        "lowers": sorted({str(one) for one in lowers}),
    }
    temporary = job.directory / f".{KEPT}"
    temporary.write_text(json.dumps(doc))
    temporary.replace(job.directory / KEPT)


def failures(state: Path) -> list[Kept]:
    """All that are kept, the newest first."""
    found = []
    for path in (state / UPPERS).glob(f"*/{KEPT}"):
        with suppress(OSError, ValueError, KeyError):
            doc: dict[str, Any] = json.loads(path.read_text())
            job = replace(job_of(doc["job"]), directory=path.parent)
            run = path.parent.name.rpartition("-")[0]
            found.append(Kept(path.parent, run, job, doc["ended"], doc["failedRun"], doc["time"], doc["bytes"]))
    return sorted(found, key=lambda one: -one.time_s)


def choose(state: Path, name: str) -> Kept:
    """The failure that `RUN/STEP` names: `last/unit[2/4]`, or a step alone for its newest. Raises `EngineFault`."""
    kept = failures(state)
    run, _, step = name.partition("/")
    for one in kept:
        if (run in (one.run, LAST) and one.step == step) or one.step == name:
            return one
    if not kept:
        raise EngineFault("no failed step is kept here: there is nothing to enter")
    there = ", ".join(dict.fromkeys(f"{one.run}/{one.step}" for one in kept[:10]))
    raise EngineFault(f"no failed step {name!r} is kept; there is {there}")


def prune(state: Path, count_max: int = KEPT_MAX, bytes_max: int = KEPT_BYTES_MAX) -> list[str]:
    """Lets go of the oldest failures beyond so many, or so many bytes; never of the newest, nor of one that is entered.

    Returns which.
    """
    removed = []
    total = 0
    for number, one in enumerate(failures(state)):
        total += one.size_bytes
        if number == 0 or (number < count_max and total <= bytes_max):
            continue
        held = lease(one.directory, wait=False)
        if held is None:
            continue
        (one.directory / KEPT).unlink(missing_ok=True)
        held.remove()
        removed.append(f"{one.run}/{one.step}")
    return removed
