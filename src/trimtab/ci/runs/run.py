"""One run: what has not changed is looked up, the rest runs, and all of it is recorded.

    Prepared -> Plan -> for each step: by content? else Job -> Executor -> Result -> kept
                            |
                         Progress (the terminal)              at the end -> record -> blob, history

A failed step ends those that need it; the others go on. A run that is interrupted or that the engine fails under is recorded,
too. What steps print passes through one place, `Log`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import trimtab
from trimtab.ci.cache.blobs import Lost
from trimtab.ci.cache.index import CacheError
from trimtab.ci.definition.graph import Step
from trimtab.ci.definition.values import Container
from trimtab.ci.results.suites import Suites, Taken, told
from trimtab.ci.results.tests import DIRECTORY as TESTS
from trimtab.ci.results.tests import KNOWN
from trimtab.ci.results.tests import known as tests_known
from trimtab.ci.runs.ports import EngineFault, Executor, Found, Job, Laid, Lookups, Outcome, Result
from trimtab.ci.runs.prepare import ASKED, Prepared, always_runs
from trimtab.ci.runs.record import VERSION, History, Store, commit_of, packed

if TYPE_CHECKING:
    from trimtab.ci.runs.schedule import Watch
    from trimtab.secrets.scrub import Scrubber

JSON = dict[str, Any]

LOG_BYTES_MAX = 32 << 20
"""Of a log's beginning; what comes after it is counted, and its end is kept."""
TAIL_BYTES = 64 << 10
TAIL_LINES = 20
STATES = ("hit", "succeeded", "failed", "fault", "skipped", "cancelled", "unneeded")
"""fault: the engine could not run it. skipped: what it needs has failed. unneeded: nothing that has to run takes anything of it."""


class Progress(Protocol):
    """Who watches a run. Called from several threads, one at a time for a step. tick_s: how often `tick` is wanted; 0 for never."""

    tick_s: float

    def begins(self, run: str, prepared: Prepared, seconds: Mapping[str, float]) -> None: ...

    def told(self, said: str) -> None: ...

    def starts(self, step: str, reason: str) -> None: ...

    def prints(self, step: str, data: bytes) -> None: ...

    def silent(self, step: str, seconds: float) -> None: ...

    def ends(self, step: str, did: Did) -> None: ...

    def tick(self) -> None: ...


@dataclass
class Did:
    """What became of a step. started: seconds since the run's beginning."""

    state: str
    found: Found
    started: float = 0.0
    seconds: float = 0.0
    exit: int | None = None
    ended: str = ""
    said: str = ""
    cpu_s: float = 0.0
    rss_bytes: int = 0
    log: str = ""
    tail: list[str] = field(default_factory=list)
    outputs: Mapping[str, str] = field(default_factory=dict)
    failed_run: int | None = None
    kept: str = ""
    where: str = ""
    job: JSON | None = None
    tests: Taken = field(default_factory=Taken)


@dataclass(frozen=True)
class Options:
    """How to run. jobs: how many processors may be busy; trigger: who asked for it; since_s: when, by the monotonic clock."""

    jobs: float
    fail_fast: bool = False
    trigger: str = "command"
    since_s: float = field(default_factory=time.monotonic)


class Log:
    """The one place that a step's output passes through: to a file, to who watches, and to the watchdog.

    No secret comes out of it. The file has no name, so that a run that is killed leaves none.
    """

    def __init__(
        self, directory: Path, scrubber: Scrubber | None, heard: Callable[[], None], seen: Callable[[bytes], None]
    ) -> None:
        self._scrubbed = scrubber.stream() if scrubber is not None else None
        import tempfile

        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  # closed by __exit__
        self._heard = heard
        self._seen = seen
        self._bytes = 0
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        """Takes what was printed."""
        self._heard()
        self._take(self._scrubbed.feed(data) if self._scrubbed is not None else data)

    def end(self) -> None:
        """Nothing more will be printed."""
        if self._scrubbed is not None:
            self._take(self._scrubbed.close())

    def _take(self, data: bytes) -> None:
        if not data:
            return
        if self._bytes < LOG_BYTES_MAX:
            self._file.write(data)
        self._bytes += len(data)
        self._tail.append(data[-TAIL_BYTES:])
        self._tail_bytes += len(self._tail[-1])
        while self._tail_bytes - len(self._tail[0]) >= TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft())
        self._seen(data)

    def kept(self, store: Store) -> str:
        """Keeps what was printed as a blob and gives its digest; of a log that was too long its beginning and its end."""
        if not self._bytes:
            return ""
        written = self._file.tell()
        self._file.seek(0)
        log = self._file.read()
        if self._bytes > written:
            end = b"".join(self._tail)[-min(TAIL_BYTES, self._bytes - written) :]
            log += b"\n... %d bytes are left out ...\n" % (self._bytes - written - len(end)) + end
        return store.put(log)

    def last_lines(self) -> list[str]:
        """The last lines that were printed."""
        return b"".join(self._tail).decode(errors="replace").splitlines()[-TAIL_LINES:]


class Running:
    """A run at work. state: the directory of `trimtab ci`; what steps leave lies in `uppers`."""

    def __init__(
        self,
        id: str,
        prepared: Prepared,
        lookups: Lookups,
        store: Store,
        history: History,
        progress: Progress,
        options: Options,
        state: Path,
        executor: Callable[[JSON], Executor],
        bring: Callable[..., str],
    ) -> None:
        self.id = id
        self.prepared = prepared
        self.graph = prepared.defined.graph
        self._lookups = lookups
        self._store = store
        self._history = history
        self._progress = progress
        self._options = options
        self._state = state
        self._uppers = state / "uppers"
        self._executor = executor
        self._bring = bring
        self._scrubber = _scrubber(prepared.secrets)
        self._suites = Suites(str(state), str(prepared.defined.project), id, self._scrubber)
        self._since_s = options.since_s
        self._started = time.time() - (time.monotonic() - options.since_s)
        self._numbers = {step: number for number, step in enumerate(prepared.run)}
        self.results: dict[str, Result] = {}
        self.did: dict[str, Did] = {}
        for step, found in prepared.found.items():
            if found.result is not None:
                self.results[step] = found.result
                self.did[step] = _hit(found, found.result)

    def run(self) -> JSON:
        """Runs what has to run, and returns the record. Raises `EngineFault` when not even that can be kept."""
        state, said = "succeeded", ""
        project = str(self.prepared.defined.project)
        names = {id: self.graph.steps[id].name for id in self.prepared.run}
        seconds = self._history.seconds(project, names) if names else {}
        self._progress.begins(self.id, self.prepared, seconds)
        try:
            if self.prepared.run and not self._drive(seconds):
                state, said = "cancelled", "interrupted"
        except EngineFault as err:
            state, said = "fault", str(err)
        self._suites.settle()
        failed = [step for step, did in self.did.items() if did.state == "failed"]
        if failed and state == "succeeded":
            state, said = "failed", f"{', '.join(failed)} failed"
        record = self._record(state, said)
        if self._scrubber is not None:
            record = _scrubbed(record, self._scrubber)
        self._history.add(record, self._store.put(packed(record)))
        return record

    def _drive(self, seconds: Mapping[str, float]) -> bool:
        """Runs the steps; False when it was interrupted."""
        from trimtab.ci.runs import schedule

        steps = set(self.prepared.run)
        needs = {step: [need for need in self.graph.needs(step) if need in steps] for step in self.prepared.run}
        labels = {step: self.graph.steps[step].labels for step in steps}
        cpus = {step: label.cpus for step, label in labels.items()}
        run = schedule.Run(
            schedule.Plan(needs, seconds, self._options.jobs, cpus),
            self._step,
            {step: label.timeout_s for step, label in labels.items()},
            skipped=self._skipped,
            silent=self._progress.silent,
            fail_fast=self._options.fail_fast,
            tick=self._progress.tick,
            tick_s=self._progress.tick_s,
        )
        try:
            run.drive()
        except schedule.Interrupted:
            return False
        return True

    # One step, in a thread of its own

    def _step(self, id: str, watch: Watch) -> bool:
        step = self.graph.steps[id]
        started = time.monotonic() - self._since_s
        found = self.prepared.found[id]
        try:
            producers = {need: self.results[need] for need in step.needs()}
            if producers:
                found = self._lookups.by_content(found, step, producers)
            if self.prepared.fresh:
                found = replace(found, result=None, reason=ASKED)
            elif reason := always_runs(step):
                found = replace(found, result=None, reason=reason)
            if found.result is not None:
                did = _hit(found, found.result, started)
                self.results[id] = found.result
            else:
                did = self._executed(step, found, watch, started)
        except (EngineFault, CacheError, Lost) as err:
            did = Did("fault", found, started, time.monotonic() - self._since_s - started, said=str(err))
            self._ended(id, did)
            raise EngineFault(str(err)) from None
        self._ended(id, did)
        return did.state in ("hit", "succeeded")

    def _ended(self, step: str, did: Did) -> None:
        self.did[step] = did
        self._progress.ends(step, did)

    def _executed(self, step: Step, found: Found, watch: Watch, started: float) -> Did:
        self._progress.starts(step.id, found.reason)
        place = self._uppers / f"{self.id}-{self._numbers[step.id]}"
        with Log(self._state, self._scrubber, watch.heard, lambda data: self._progress.prints(step.id, data)) as log:
            job = self._job(step, place)
            outcome = self._executor(job.action).execute(job, log.write, watch.stop)
            log.end()
            did = _did(outcome, found, started)
            did.log = log.kept(self._store)
        did.tests = self._suites.take(step, found, outcome.reports)
        if outcome.succeeded:
            tests = self._store.put(did.tests.blob) if did.tests.blob else ""
            result = Result(outcome.outputs, did.log, outcome.seconds, outcome.cpu_s, outcome.rss_bytes, tests)
            self._lookups.keep(found, step, result)
            self.results[step.id] = result
        else:
            did.tail = log.last_lines()
            did.job = job.as_json()
        return did

    def _job(self, step: Step, place: Path) -> Job:
        action = step.action()
        services = {
            name: self._part(
                f"{step.id} {name}", action["services"][name], service.container, place / "services" / name
            )
            for name, service in step.container.services
        }
        job = self._part(step.id, action, step.container, place)
        labels = step.labels
        table = self.prepared.tables.get(step.id)
        known = self._suites.known(step)
        return Job(
            job.step,
            told(action, step),
            job.image,
            (
                *job.inputs,
                *([Laid(TESTS, table.tree(self._store.put))] if table else []),
                *([Laid(KNOWN, tests_known(known, self._store.put))] if known is not None else []),
            ),
            place,
            services,
            job.secrets,
            memory_bytes=labels.memory_bytes,
            cpus=labels.cpus,
            timeout_s=labels.timeout_s,
        )

    def _part(self, name: str, action: JSON, container: Container, place: Path) -> Job:
        """The job of a step or of one of its services."""
        base = container.base
        whole = {"whole": True} if "platforms" in action else {}
        image = "" if base.is_nothing else self._bring(base, self.prepared.images[str(base)], **whole)
        secrets = {name: self.prepared.secrets[said] for name, said in action.get("secrets", {}).items()}
        laid = tuple(self._laid(one) for one in action.get("inputs", ()))
        return Job(name, action, image, laid, place, secrets=secrets)

    def _laid(self, entry: JSON) -> Laid:
        ref = entry["from"]
        if "source" in ref:
            return Laid(entry["to"], self._lookups.tree(ref))
        to = f"{entry['to'].rstrip('/')}/{ref['below']}" if "below" in ref else entry["to"]
        return Laid(to, self.results[ref["step"]].outputs[ref["output"]])

    def _skipped(self, step: str, because: str) -> None:
        state = "skipped" if because in self.graph.steps else "cancelled"
        self._ended(step, Did(state, self.prepared.found[step], said=f"because of {because}"))

    # The record

    def _record(self, state: str, said: str) -> JSON:
        defined = self.prepared.defined
        steps = {}
        for id, step in self.graph.steps.items():
            did = self.did.get(id)
            if did is None:
                did = Did("cancelled" if id in self._numbers else "unneeded", self.prepared.found[id])
            steps[id] = _step_record(step, did, self.graph.needs(id))
        ran = {id: one["seconds"] for id, one in steps.items() if one["state"] in ("succeeded", "failed")}
        needs = {id: [need for need in self.graph.needs(id) if need in ran] for id in ran}
        path = _critical_path(needs, ran) if ran else []
        host = os.uname()
        return {
            "v": VERSION,
            "id": self.id,
            "pipeline": defined.pipeline.name,
            "parameters": dict(defined.values),
            "project": str(defined.project),
            "commit": commit_of(defined.project),
            "trigger": self._options.trigger,
            "engine": trimtab.__version__,
            "host": {
                "name": host.nodename,
                "platform": f"{host.sysname.lower()}/{host.machine}",
                "cpus": os.cpu_count(),
            },
            "jobs": self._options.jobs,
            "images": dict(self.prepared.images),
            "started": self._started,
            "seconds": round(time.monotonic() - self._since_s, 6),
            "state": state,
            "said": said,
            "wanted": list(self.graph.wanted),
            "steps": steps,
            "criticalPath": path,
            "criticalSeconds": round(sum(ran[id] for id in path), 6),
            "savedSeconds": round(sum(one["savedSeconds"] for one in steps.values()), 6),
        }


def _critical_path(needs: Mapping[str, list[str]], seconds: Mapping[str, float]) -> list[str]:
    from trimtab.ci.runs import schedule

    return schedule.critical_path(needs, seconds)


def _scrubber(secrets: Mapping[str, str]) -> Scrubber | None:
    if not secrets:
        return None
    from trimtab.secrets.scrub import Scrubber

    return Scrubber(secrets)


def without_secrets(value: Any, secrets: Mapping[str, str]) -> Any:
    """Plain values without these secrets in their texts."""
    scrubber = _scrubber(secrets)
    return value if scrubber is None else _scrubbed(value, scrubber)


def _scrubbed(value: Any, scrubber: Scrubber) -> Any:
    """Plain values without secrets in their texts."""
    if isinstance(value, str):
        return scrubber.text(value)
    if isinstance(value, list):
        return [_scrubbed(one, scrubber) for one in value]
    if isinstance(value, dict):
        return {name: _scrubbed(one, scrubber) for name, one in value.items()}
    return value


def _hit(found: Found, result: Result, started: float = 0.0) -> Did:
    return Did("hit", found, started, log=result.log, outputs=result.outputs)


def _did(outcome: Outcome, found: Found, started: float) -> Did:
    state = "succeeded" if outcome.succeeded else "cancelled" if outcome.ended == "cancelled" else "failed"
    return Did(
        state,
        found,
        started,
        outcome.seconds,
        outcome.exit,
        outcome.ended,
        outcome.said,
        outcome.cpu_s,
        outcome.rss_bytes,
        outputs=outcome.outputs,
        failed_run=outcome.failed_run,
        kept=str(outcome.kept or ""),
        where=outcome.where,
    )


def _step_record(step: Step, did: Did, needs: list[str]) -> JSON:
    found = did.found
    out: JSON = {
        "name": step.name,
        "site": str(step.labels.site),
        "state": did.state,
        "needs": needs,
        "defKey": found.def_key,
        "contentKey": found.content_key,
        "components": dict(found.components),
        "reason": found.reason,
        "nearest": found.nearest,
        "started": round(did.started, 6),
        "seconds": round(did.seconds, 6),
        "savedSeconds": round(found.result.seconds, 6) if did.state == "hit" and found.result is not None else 0,
        "exit": did.exit,
        "ended": did.ended,
        "said": did.said,
        "cpuSeconds": round(did.cpu_s, 6),
        "rssBytes": did.rss_bytes,
        "log": did.log,
        "tail": did.tail,
        "outputs": dict(did.outputs),
        "kept": did.kept,
        "where": did.where,
        "job": did.job,
        "failedRun": did.failed_run,
        "tests": dict(did.tests.counts),
        "failedTests": list(did.tests.failed),
        "flakedTests": list(did.tests.flaked),
        "problems": list(did.tests.problems),
    }
    return {name: value for name, value in out.items() if value not in ("", None, [], {})}
