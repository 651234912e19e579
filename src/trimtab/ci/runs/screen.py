"""A run as people see it while it goes on: lines, and on a terminal below them what is running now.

Plain     a line for each thing that happens
Live      the same lines, and a picture of the running steps that is drawn anew ten times a second
"""

from __future__ import annotations

import os
import shlex
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

from trimtab.ci.runs.prepare import ASKED, Prepared
from trimtab.ci.runs.run import Did, Progress

JSON = dict[str, Any]

TICK_S = 0.1
ROWS_MAX = 12
"""Of running steps in the picture; the rest is counted."""
WORDS = {
    "succeeded": "ok",
    "failed": "FAILED",
    "fault": "FAULT",
    "skipped": "skipped",
    "cancelled": "ended",
    "hit": "unchanged",
}
_COLOURS = {"succeeded": "32", "failed": "31;1", "fault": "31;1", "skipped": "33", "cancelled": "33", "hit": "2"}


def seconds_text(seconds: float) -> str:
    """`0.42 s`, `12.3 s`, `4 m 05 s`, `1 h 02 m`."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} m"


class Screen(Progress, Protocol):
    """What `trimtab ci run` shows."""

    def line(self, text: str) -> None: ...

    def close(self) -> None: ...


class Plain:
    """A line for each thing that happens. verbose: what steps print, too, each line with its step."""

    tick_s = 0.0

    def __init__(self, out: TextIO, *, verbose: bool = False, colour: bool = False) -> None:
        self._out = out
        self._verbose = verbose
        self._colour = colour
        self._lock = threading.RLock()
        self._rest: dict[str, bytes] = {}

    def begins(self, run: str, prepared: Prepared, seconds: Mapping[str, float]) -> None:
        graph = prepared.defined.graph
        hits = sum(1 for id in graph.steps if prepared.found[id].result is not None)
        counted = f"{len(graph.steps)} step{'s' * (len(graph.steps) != 1)}, {hits} unchanged"
        if prepared.run:
            counted += f", {len(prepared.run)} to look at"
        self.line(f"{graph.name}: {counted}; run {run}")

    def told(self, said: str) -> None:
        self.line(f"  {said}")

    def starts(self, step: str, reason: str) -> None:
        self.line(f"  {self._word('run', '36')} {step}  {reason}")

    def prints(self, step: str, data: bytes) -> None:
        if not self._verbose:
            return
        with self._lock:
            *lines, self._rest[step] = (self._rest.get(step, b"") + data).split(b"\n")
            for line in lines:
                self.line(f"  {step} | {shown(line.decode(errors='replace'))}")

    def silent(self, step: str, seconds: float) -> None:
        self.line(f"  {self._word('silent', '33')} {step}  has printed nothing for {seconds_text(seconds)}")

    def ends(self, step: str, did: Did) -> None:
        with self._lock:
            if rest := self._rest.pop(step, b""):
                self.line(f"  {step} | {shown(rest.decode(errors='replace'))}")
            said = ended_text(did)
            self.line(f"  {self._word(WORDS[did.state], _COLOURS[did.state])} {step}  {said}")

    def tick(self) -> None:
        """Nothing to draw anew."""

    def line(self, text: str) -> None:
        """Prints one line."""
        with self._lock:
            self._out.write(text.rstrip() + "\n")
            self._out.flush()

    def close(self) -> None:
        """Ends the picture."""

    def _word(self, word: str, colour: str) -> str:
        padded = f"{word:<9}"
        return f"\x1b[{colour}m{padded}\x1b[0m" if self._colour else padded


class Live(Plain):
    """Lines as they come, and below them the steps that run: for how long, of how long last time, and what they printed last."""

    tick_s = TICK_S

    def __init__(self, out: TextIO, *, verbose: bool = False, colour: bool = True) -> None:
        super().__init__(out, verbose=verbose, colour=colour)
        self._running: dict[str, float] = {}
        self._said: dict[str, str] = {}
        self._usual: Mapping[str, float] = {}
        self._rows = 0

    def begins(self, run: str, prepared: Prepared, seconds: Mapping[str, float]) -> None:
        self._usual = seconds
        super().begins(run, prepared, seconds)

    def starts(self, step: str, reason: str) -> None:
        with self._lock:
            self._running[step] = time.monotonic()
            super().starts(step, reason)

    def prints(self, step: str, data: bytes) -> None:
        lines = data.decode(errors="replace").splitlines()
        if last := next((line for line in reversed(lines) if line.strip()), ""):
            self._said[step] = shown(last)
        super().prints(step, data)

    def ends(self, step: str, did: Did) -> None:
        with self._lock:
            self._running.pop(step, None)
            super().ends(step, did)

    def line(self, text: str) -> None:
        with self._lock:
            self._wipe()
            super().line(text)
            self._draw()

    def tick(self) -> None:
        with self._lock:
            self._wipe()
            self._draw()

    def close(self) -> None:
        with self._lock:
            self._running.clear()
            self._wipe()
            self._out.flush()

    def _wipe(self) -> None:
        if self._rows:
            self._out.write(f"\x1b[{self._rows}A\x1b[J")
            self._rows = 0

    def _draw(self) -> None:
        width = _width(self._out)
        now = time.monotonic()
        rows = []
        for step, since in list(self._running.items())[:ROWS_MAX]:
            usual = f" of {seconds_text(self._usual[step])}" if step in self._usual else ""
            rows.append(f"  > {step}  {seconds_text(now - since)}{usual}  {self._said.get(step, '')}")
        if len(self._running) > ROWS_MAX:
            rows.append(f"  > and {len(self._running) - ROWS_MAX} more")
        for row in rows:
            self._out.write(row[: width - 1] + "\n")
        self._rows = len(rows)
        self._out.flush()


def _width(out: TextIO) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def shown(line: str) -> str:
    """A line that a program printed, without what would move the cursor or change the screen."""
    return "".join(one if one.isprintable() or one == "\t" else "" for one in _without_escapes(line)).expandtabs()


def _without_escapes(line: str) -> str:
    if "\x1b" not in line:
        return line
    import re

    return re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])", "", line)


def ended_text(did: Did) -> str:
    """How a step has ended, in words."""
    if did.state in ("skipped", "cancelled", "fault"):
        return did.said
    if did.state == "hit":
        return did.found.reason
    tests = f"  {counts_text(did.tests.counts)}" if did.tests.counts else ""
    if did.state == "succeeded":
        return seconds_text(did.seconds) + tests
    return failure_text(did.ended, did.exit, did.said, did.seconds) + tests


def counts_text(counts: Mapping[str, int]) -> str:
    """How tests ended: `120 passed, 1 flaked`."""
    return ", ".join(f"{number} {word}" for word, number in counts.items() if number) or "no tests"


def failure_text(ended: str, exit: int | None, said: str, seconds: float) -> str:
    """Why a step has failed: `exit status 1 after 3.2 s`."""
    how = {
        "exit": f"exit status {exit}",
        "timeout": "ran out of time",
        "memory": "ran out of memory",
        "processes": "made too many processes",
        "disk": "ran out of disk",
        "output": "an output is missing",
        "service": "a service did not become ready",
    }.get(ended, ended)
    return f"{how} after {seconds_text(seconds)}" + (f": {said}" if said else "")


# Afterwards


def summary(record: JSON) -> list[str]:
    """What a run came to, in lines: the failures with all that helps, then one line of all."""
    lines = []
    for id, step in record["steps"].items():
        if step["state"] == "failed":
            lines += ["", *failure(record, id, step)]
    ran = [one for one in record["steps"].values() if one["state"] in ("succeeded", "failed")]
    hits = [one for one in record["steps"].values() if one["state"] == "hit"]
    word = {"succeeded": "green", "failed": "red", "cancelled": "interrupted", "fault": "the engine failed"}
    text = f"{word[record['state']]} after {seconds_text(record['seconds'])}: {len(ran)} ran, {len(hits)} unchanged"
    if record["savedSeconds"] > 0:
        text += f" (saved {seconds_text(record['savedSeconds'])})"
    if len(record["criticalPath"]) > 1:
        text += f"; longest way {' -> '.join(record['criticalPath'])} ({seconds_text(record['criticalSeconds'])})"
    flaked = [one["test"] for step in record["steps"].values() for one in step.get("flakedTests", ())]
    if flaked:
        lines += [f"  flaked: {shown(test)}" for test in flaked]
    if record["state"] == "fault":
        text += f"; {record['said']}"
    return [*lines, *([""] if lines else []), text]


def failure(record: JSON, id: str, step: JSON) -> list[str]:
    """All that is known of a failed step: how, its last lines, what has changed, how to enter it."""
    how = failure_text(step.get("ended", ""), step.get("exit"), step.get("said", ""), step["seconds"])
    lines = [f"{id} failed: {how}  ({step['site']})"]
    runs = (step.get("job") or {}).get("action", {}).get("runs", [])
    if (number := step.get("failedRun")) is not None and number < len(runs):
        lines.append(f"  in: {command_text(runs[number]['argv'])}")
    lines += [f"  | {shown(line)}" for line in step.get("tail", [])]
    lines += [f"  failed: {shown(one['test'])}: {shown(one['said'])}" for one in step.get("failedTests", ())]
    lines += [f"  {problem}" for problem in step.get("problems", ())]
    if step.get("reason", ASKED) != ASKED:
        lines.append(f"  what is new: {step['reason']}")
    name = shlex.quote(f"{record['id']}/{id}")
    if step.get("kept"):
        lines.append(f"  enter it:    trimtab ci shell {name}")
    elif step.get("where"):
        lines.append(f"  enter it:    {went_with_its_pod(id, step['where'])}")
    if step.get("log"):
        lines.append(f"  whole log:   trimtab ci log {name}")
    return lines


def went_with_its_pod(id: str, where: str) -> str:
    """Why there is nothing to enter, and how there would be."""
    return (
        f"its state went with its pod in {where}; `trimtab ci run {shlex.quote(id)}` does the same here, and keeps it"
    )


def command_text(argv: list[str]) -> str:
    """A command as it was said: a text for the shell as that text."""
    return argv[2] if argv[:2] == ["/bin/sh", "-ec"] and len(argv) == 3 else shlex.join(argv)
