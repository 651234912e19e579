"""Tests, seen from a run: what their runners are told before it, and what is kept of their results after each step.

    ledger, trimtab.quarantine -> Table by step (a part of its key) -> laid into the sandbox beside the step's files
    JUnit reports of an execution -> results without secrets -> a blob, the ledger, a line in the record

A run without tests, or in which nothing runs, loads none of that. The table is a part of the key: with another split, or without a test's leave to fail, a result is another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from trimtab.ci.definition.graph import Graph, Step
from trimtab.ci.results import tests
from trimtab.ci.runs.ports import EngineFault, Found

if TYPE_CHECKING:
    from datetime import date

    from trimtab.ci.results.junit import TestResult
    from trimtab.ci.results.ledger import Ledger
    from trimtab.ci.runs.prepare import Defined
    from trimtab.secrets.scrub import Scrubber

JSON = dict[str, Any]
NAMED_MAX = 20
"""So many failed tests are named in a record; all of them are in the results' blob."""


@dataclass(frozen=True)
class Taken:
    """What the tests of a step did. blob: of all results; failed, flaked: some of them, with what they said."""

    counts: Mapping[str, int] = field(default_factory=dict)
    blob: bytes = b""
    failed: tuple[JSON, ...] = ()
    flaked: tuple[JSON, ...] = ()
    problems: tuple[str, ...] = ()


def has_runner(step: Step) -> bool:
    """Whether a test runner of ours runs in a step."""
    return any(run.tests for run in step.container.runs)


def with_tables(defined: Defined, state: str, today: date | None = None) -> tuple[Defined, dict[str, tests.Table]]:
    """Gives each step with a test runner its table; the tables by step.

    Raises:
        DefinitionError: `trimtab.quarantine` cannot be read.
        EngineFault: the ledger cannot.
    """
    graph = defined.graph
    with_runner = [step for step in graph.steps.values() if has_runner(step)]
    if not with_runner:
        return defined, {}
    from datetime import date

    from trimtab.ci.results import quarantine

    held = quarantine.held(quarantine.read(defined.project), today or date.today())  # noqa: DTZ011  # an owner's calendar
    ledger = _opened(state)
    try:
        tables = {step.id: tests.Table(_seconds(ledger, str(defined.project), step), held) for step in with_runner}
    finally:
        ledger.close()
    steps = {
        id: replace(step, table=tables[id].tree(_digest)) if id in tables else step for id, step in graph.steps.items()
    }
    return replace(defined, graph=Graph(graph.name, steps, graph.after, graph.wanted)), tables


def _seconds(ledger: Ledger, project: str, step: Step) -> Mapping[str, float]:
    if step.shard is None or not any(run.split for run in step.container.runs):
        return {}
    return ledger.split(project, step.name, step.shard[1])


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _opened(state: str) -> Ledger:
    from trimtab.ci.results.ledger import Ledger, LedgerError

    try:
        return Ledger(state)
    except LedgerError as err:
        raise EngineFault(str(err)) from None


def told(action: JSON, step: Step) -> JSON:
    """The action with what its test runners are given in their environment."""
    if not has_runner(step):
        return action
    runs = []
    for run in action["runs"]:
        labels = step.labels
        more = tests.environment(step.shard if run.get("split") else None, labels.retry_failed_tests, labels.burn_in)
        runs.append({**run, "env": {**run.get("env", {}), **more}} if run.get("tests") else run)
    return {**action, "runs": runs}


class Suites:
    """Takes the results of a run's steps. For all its threads."""

    def __init__(self, state: str, project: str, run: str, scrubber: Scrubber | None) -> None:
        self._state = state
        self._project = project
        self._run = run
        self._scrubber = scrubber
        self._sharded: dict[tuple[str, int], None] = {}

    def known(self, step: Step) -> dict[str, str] | None:
        """By test the function that has passed, for a step that burns new ones in; else None."""
        if not step.labels.burn_in or not has_runner(step):
            return None
        ledger = _opened(self._state)
        try:
            return ledger.sources(self._project, step.name)
        finally:
            ledger.close()

    def take(self, step: Step, found: Found, reports: Mapping[str, bytes]) -> Taken:
        """Reads the reports of an execution, and enters them in the ledger. A report that is none is said, and no more."""
        if not reports:
            return Taken()
        from trimtab.ci.results import junit

        results: list[TestResult] = []
        problems = []
        for path, report in reports.items():
            try:
                results += map(self._without_secrets, junit.read(report))
            except junit.ReportError as err:
                problems.append(f"the report {path} cannot be read: {err}")
        if not results:
            return Taken(problems=tuple(problems))
        shard = f"{step.shard[0]}/{step.shard[1]}" if step.shard else ""
        ledger = _opened(self._state)
        try:
            key = found.content_key or found.def_key
            ledger.record(self._project, step.name, self._run, key, results, shard=shard)
        finally:
            ledger.close()
        if step.shard:
            self._sharded[step.name, step.shard[1]] = None
        return Taken(
            junit.counts(results),
            junit.dump(results),
            _named(one for one in results if one.outcome in ("failed", "error")),
            _named(one for one in results if one.unsteady),
            tuple(problems),
        )

    def _without_secrets(self, one: TestResult) -> TestResult:
        if self._scrubber is None:
            return one
        return replace(one, id=self._scrubber.text(one.id), message=self._scrubber.text(one.message))

    def settle(self) -> None:
        """After the run: tests of shards that have become uneven are split anew the next time."""
        if self._sharded:
            ledger = _opened(self._state)
            try:
                for name, count in self._sharded:
                    ledger.settle(self._project, name, count)
            finally:
                ledger.close()


def _named(results: Iterable[TestResult]) -> tuple[JSON, ...]:
    found = [{"test": one.id, "said": one.message.split("\n")[0]} for one in results]
    return tuple(found[:NAMED_MAX])
