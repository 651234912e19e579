"""Runs of pipelines whose steps are not executed but computed: what a step leaves says what it was made of.

An output is one file with the step's commands and the digests of what was laid in it, so that it changes exactly when
something that counts has.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from trimtab.ci.cache.blobs import Blobs
from trimtab.ci.cache.lookups import LocalLookups
from trimtab.ci.runs.ports import Job, Outcome, Reason, Stop
from trimtab.ci.runs.prepare import define, look_up
from trimtab.ci.runs.record import History, new_id
from trimtab.ci.runs.run import Options, Running
from trimtab.ci.runs.screen import Plain

HEADER = "from trimtab.ci import image, pipeline, secret, service, src, step\nbase = image('base').workdir('/w')\n"


class Computed:
    """An `Executor`. does: by step what it does besides; it returns how it ends, and None for success."""

    def __init__(self, blobs: Blobs, does: Mapping[str, Callable[[Job, Callable[[bytes], None], Stop], Any]]) -> None:
        self._blobs = blobs
        self._does = does
        self._lock = threading.Lock()
        self.jobs: list[Job] = []

    def execute(self, job: Job, write: Callable[[bytes], None], stop: Stop) -> Outcome:
        with self._lock:
            self.jobs.append(job)
        write(f"this is {job.step}\n".encode())
        ended: tuple[Reason, int] | None = self._does[job.step](job, write, stop) if job.step in self._does else None
        if ended is not None:
            job.directory.mkdir(parents=True)
            return Outcome(*ended, {}, 1.0, kept=job.directory, failed_run=0)
        action = job.action
        made = {"runs": action["runs"], "laid": [[one.to, one.tree] for one in job.inputs], "env": action.get("env")}
        job.directory.mkdir(parents=True)
        file = job.directory / "made.json"
        file.write_text(json.dumps(made))
        tree, _ = self._blobs.capture(str(file))
        file.unlink()
        job.directory.rmdir()
        return Outcome("exit", 0, {one["name"]: tree for one in action.get("outputs", ())}, 2.0, 0.5, 1 << 20)


class Project:
    """A directory with a `ship.py`, and a state of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "project"
        self.state = directory / "state"
        self.directory.mkdir()
        self.does: dict[str, Callable[[Job, Callable[[bytes], None], Stop], Any]] = {}
        self.shown = ""

    def write(self, text: str, **files: str) -> None:
        """Writes ship.py after its usual beginning, and files, `__` for `/` and `_` for a dot in their names."""
        (self.directory / "ship.py").write_text(HEADER + text)
        for name, content in files.items():
            path = self.directory / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    def run(
        self, *steps: str, given: Mapping[str, str] | None = None, fresh: bool = False, fail_fast: bool = False
    ) -> dict[str, Any]:
        """Runs its pipeline and returns the record."""
        defined = define(self.directory, None, given or {}, steps)
        lookups = LocalLookups(self.directory, self.state)
        history = History(self.state)
        out = StringIO()
        try:
            prepared = look_up(defined, {"base": "sha256:" + "0" * 64}, lookups, fresh=fresh)
            executor = Computed(lookups.blobs, self.does)
            running = Running(
                new_id(),
                prepared,
                lookups,
                lookups.blobs,
                history,
                Plain(out),
                Options(4.0, fail_fast),
                self.state,
                lambda action: executor,
                lambda base, digest: digest,
            )
            return running.run()
        finally:
            self.shown = out.getvalue()
            self.jobs = executor.jobs if "executor" in locals() else []
            history.close()
            lookups.close()
