"""A run as another program follows it: beside what a person sees, a line of JSON for the run and for each step, as it happens.

{"run": ID, "steps": N}    {"step": ID, "state": "running", "reason": ...}    {"step": ID, "state": ..., "seconds": ..., "reason": ...}
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress

from trimtab.ci.runs.prepare import Prepared
from trimtab.ci.runs.run import Did
from trimtab.ci.runs.screen import Screen


class Telling:
    """Another `Screen`, and lines to an open file descriptor. When nobody reads them any more, the run goes on."""

    def __init__(self, screen: Screen, to: int) -> None:
        self._screen = screen
        self._to = to
        self._lock = threading.Lock()
        self.tick_s = screen.tick_s

    def begins(self, run: str, prepared: Prepared, seconds: Mapping[str, float]) -> None:
        steps = prepared.defined.graph.steps
        self._tell(run=run, steps=len(steps))
        for id in steps:
            found = prepared.found[id]
            if found.result is not None:
                self._tell(step=id, state="hit", seconds=0.0, reason=found.reason)
        self._screen.begins(run, prepared, seconds)

    def told(self, said: str) -> None:
        self._screen.told(said)

    def starts(self, step: str, reason: str) -> None:
        self._tell(step=step, state="running", seconds=0.0, reason=reason)
        self._screen.starts(step, reason)

    def prints(self, step: str, data: bytes) -> None:
        self._screen.prints(step, data)

    def silent(self, step: str, seconds: float) -> None:
        self._screen.silent(step, seconds)

    def ends(self, step: str, did: Did) -> None:
        self._tell(step=step, state=did.state, seconds=round(did.seconds, 3), reason=did.said or did.found.reason)
        self._screen.ends(step, did)

    def tick(self) -> None:
        self._screen.tick()

    def line(self, text: str) -> None:
        self._screen.line(text)

    def close(self) -> None:
        self._screen.close()

    def _tell(self, **what: object) -> None:
        with self._lock, suppress(OSError):
            os.write(self._to, json.dumps(what).encode() + b"\n")
