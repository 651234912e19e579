"""`trimtab ci run` and `trimtab ci plan`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.ci.cache.lookups import LocalLookups
from trimtab.ci.definition import lock
from trimtab.ci.definition.site import DefinitionError
from trimtab.ci.definition.values import Base
from trimtab.ci.results.suites import with_tables
from trimtab.ci.runs.ports import EngineFault
from trimtab.ci.runs.prepare import Defined, Prepared, define, locked, look_up, to_run
from trimtab.ci.runs.record import History, commit_of, new_id
from trimtab.ci.runs.run import Options, Running, without_secrets
from trimtab.ci.runs.screen import Live, Plain, Screen, seconds_text, summary
from trimtab.cli.ci import FAILED, FAULT, GREEN, INTERRUPTED
from trimtab.cli.ci.options import parameters, parser, project, with_pipeline

if TYPE_CHECKING:
    from trimtab.ci.cache.blobs import Blobs
    from trimtab.ci.images.bases import Images
    from trimtab.ci.images.publish import Origin
    from trimtab.ci.runs.ports import Executor
    from trimtab.ci.runs.statuses import Statuses
    from trimtab.components.pipelines.pods.place import Place

STATUS = {"succeeded": GREEN, "failed": FAILED, "fault": FAULT, "cancelled": INTERRUPTED}


def run(arguments: list[str]) -> int:
    """Runs a pipeline."""
    since_s = time.monotonic()
    options = parser("run", "Run a pipeline: what has not changed is not done again.")
    _common(options)
    options.add_argument("-j", "--jobs", type=float, metavar="N", help="processors to keep busy; default: all")
    options.add_argument("--fail-fast", action="store_true", help="end everything when one step fails")
    options.add_argument("-v", "--verbose", action="store_true", help="print what steps print")
    options.add_argument(
        "--on", metavar="WHERE", help="ssh://HOST: run it there; a context of the kubeconfig: run its steps as pods"
    )
    options.add_argument(
        "--on-push", action="store_true", help="asked for by a push: do nothing for a commit that a run has made"
    )
    options.add_argument("--plain", action="store_true", help="lines only, on a terminal, too")
    options.add_argument(
        "--tell", type=int, metavar="FD", help="for programs: what becomes of each step, as lines of JSON"
    )
    said, further = options.parse_known_args(arguments)
    if said.jobs is not None and said.jobs <= 0:
        options.error("--jobs: a number above 0")
    out = sys.stderr if said.output == "json" else sys.stdout
    colour = out.isatty() and "NO_COLOR" not in os.environ
    live = out.isatty() and not said.plain and os.environ.get("TERM") != "dumb"
    screen: Screen = (
        Live(out, verbose=said.verbose, colour=colour) if live else Plain(out, verbose=said.verbose, colour=colour)
    )
    if said.tell is not None:
        from trimtab.ci.runs.telling import Telling

        screen = Telling(screen, said.tell)
    id = new_id()
    defined = define(
        project(said.directory), said.pipeline, parameters(options, said.parameters, further), tuple(said.steps)
    )
    if (said.on_push or os.environ.get("GITHUB_EVENT_NAME") == "push") and _own(defined.project):
        screen.line("a run has made this commit, so it makes none")
        screen.close()
        return GREEN
    pods_in: Place | None = None
    if said.on is not None:
        from trimtab.ci.runs import far
        from trimtab.cli.ci.on import SSH, forwarded, place

        if said.on.startswith(SSH):
            return far.run(said.on, str(defined.project), defined.graph, forwarded(arguments))
        pods_in = place(said.on, defined.graph)
    lookups = LocalLookups(defined.project)
    state = Path(lookups.index.directory)
    try:
        history = History(state)
        try:
            bring = _Bring(state, screen.told)
            images = _images(defined, bring, screen.told, frozen=said.locked)
            defined, tables = with_tables(defined, lookups.index.directory)
            recording = _Recording(defined)
            prepared = look_up(defined, images, lookups, fresh=said.fresh, tables=tables)
            jobs = said.jobs or float(len(os.sched_getaffinity(0)))
            telling = _Telling(defined, id, screen.line)
            executors = _Executors(state, lambda: _origin(id, prepared), pods_in)
            running = Running(
                id,
                prepared,
                lookups,
                lookups.blobs,
                history,
                screen,
                Options(jobs, said.fail_fast, since_s=since_s),
                state,
                executors,
                bring,
            )
            record = running.run()
        finally:
            screen.close()
            history.close()
        lines = summary(record)
        for line in lines:
            screen.line(line)
        telling.done(record, lines[-1])
        status = STATUS[record["state"]]
        try:
            recording.done(record, lookups.blobs, screen.line)
        except EngineFault as err:
            screen.line(f"trimtab: {err}")
            status = FAULT
    finally:
        lookups.close()
    executors.tidy(lookups.blobs)
    if any(name in os.environ for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")):
        from trimtab.ci.runs import spans

        if problem := spans.send(record):
            screen.line(problem)
    if said.output == "json":
        print(json.dumps(record, indent=2, sort_keys=True))
    return status


def plan(arguments: list[str]) -> int:
    """Says what would run."""
    options = parser("plan", "Say what would run, and why; run nothing.")
    _common(options)
    said, further = options.parse_known_args(arguments)
    defined = define(
        project(said.directory), said.pipeline, parameters(options, said.parameters, further), tuple(said.steps)
    )
    lookups = LocalLookups(defined.project)
    try:
        state = Path(lookups.index.directory)
        images, missing = locked(defined)
        if missing:
            raise DefinitionError(_unlocked(missing), defined.definition.start)
        defined, tables = with_tables(defined, lookups.index.directory)
        prepared = look_up(defined, images, lookups, fresh=said.fresh, tables=tables)
        history = History(state)
        try:
            names = {id: defined.graph.steps[id].name for id in prepared.run}
            seconds = history.seconds(str(defined.project), names)
        finally:
            history.close()
    finally:
        lookups.close()
    _print_plan(prepared, seconds, said.output == "json")
    return GREEN


def _print_plan(prepared: Prepared, seconds: dict[str, float], as_json: bool) -> None:
    graph = prepared.defined.graph
    to_do = set(to_run(graph, prepared.found))
    rows: list[dict[str, Any]] = []
    for id in graph.order():
        found = prepared.found[id]
        state = "run" if id in to_do else "unchanged" if found.result is not None else "unneeded"
        rows.append({"step": id, "state": state, "reason": found.reason, "needs": graph.needs(id)})
        if id in to_do:
            rows[-1]["seconds"] = seconds[id]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    width = max(len(id) for id in graph.steps)
    for row in rows:
        about = f"  about {seconds_text(row['seconds'])}" if "seconds" in row else ""
        print(f"{row['state']:<10}{row['step']:<{width}}  {row['reason']}{about}".rstrip())


def _common(options: argparse.ArgumentParser) -> None:
    with_pipeline(options)
    options.add_argument("steps", nargs="*", metavar="STEP", help="only these and what they need")
    options.add_argument("--fresh", action="store_true", help="run everything, whatever is known")
    options.add_argument(
        "--locked", action="store_true", help="refuse to resolve an image that trimtab.lock does not have"
    )
    options.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="default: text")


def _images(defined: Defined, bring: _Bring, tell: Callable[[str], None], *, frozen: bool) -> dict[str, str]:
    """By name the digests of the images; what the lock does not have is resolved, and the lock written."""
    images, missing = locked(defined)
    if not missing:
        return images
    if frozen:
        raise DefinitionError(_unlocked(missing), defined.definition.start)
    found = bring.resolve([lock.bases(defined.graph)[name] for name in missing])
    lock.write(defined.project, {**lock.read(defined.project), **found})
    for name, digest in found.items():
        tell(f"{name} is {digest[:19]} from now on ({lock.NAME})")
    return {**images, **found}


def _unlocked(missing: list[str]) -> str:
    return f"{', '.join(missing)} {'are' if len(missing) > 1 else 'is'} not in {lock.NAME}; run `trimtab ci lock`"


class _Bring:
    """`Images`, loaded when one is asked for."""

    def __init__(self, state: Path, tell: Callable[[str], None]) -> None:
        self._state = state
        self._tell = tell
        self._made: Images | None = None
        self._lock = threading.Lock()

    def resolve(self, wanted: list[Base]) -> dict[str, str]:
        return self._images().resolve(wanted)

    def __call__(self, base: Base, digest: str, *, whole: bool = False) -> str:
        return self._images().bring(base, digest, whole=whole)

    def _images(self) -> Images:
        with self._lock:
            if self._made is None:
                from trimtab.ci.images.bases import Images

                self._made = Images(self._state, self._tell)
            return self._made


class _Executors:
    """What runs which steps, each loaded when one has to."""

    def __init__(self, state: Path, origin: Callable[[], Origin], pods_in: Place | None) -> None:
        self._state = state
        self._origin = origin
        self._pods_in = pods_in
        self._made: dict[str, Executor] = {}
        self._lock = threading.Lock()

    def __call__(self, action: dict[str, Any]) -> Executor:
        runs = "sandbox" if self._pods_in is None else "pods"
        kind = "push" if "push" in action else runs if "runs" in action else "image"
        with self._lock:
            if kind not in self._made:
                self._made[kind] = self._make(kind)
            return self._made[kind]

    def tidy(self, blobs: Blobs) -> None:
        """After a run in which a step was executed: unpacked images that nobody needs go."""
        if "sandbox" in self._made:
            from trimtab.ci.sandbox.roots import tidy

            tidy(self._state, blobs)

    def _make(self, kind: str) -> Executor:
        if kind == "push":
            from trimtab.ci.images.publish import Publisher

            return Publisher(self._state, self._origin())
        if kind == "image":
            from trimtab.ci.images.make import ImageMaker

            return ImageMaker(self._state)
        if self._pods_in is not None:
            from trimtab.components.pipelines.pods.executor import Pods

            return Pods(self._state, self._pods_in)
        from trimtab.ci.sandbox.steps import Sandbox

        return Sandbox(self._state)


class _Telling:
    """A run is told elsewhere, too: as a commit's status, and in a workflow of GitHub Actions; each loaded where it is wanted."""

    def __init__(self, defined: Defined, id: str, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._statuses: Statuses | None = None
        if os.environ.get("TRIMTAB_CI_STATUS"):
            from trimtab.ci.runs.statuses import NoStatus, wanted

            try:
                self._statuses = wanted(defined.project, defined.pipeline.name, id)
            except NoStatus as err:
                tell(str(err))
        self._say(self._statuses.pending() if self._statuses is not None else "")

    def done(self, record: dict[str, Any], said: str) -> None:
        if os.environ.get("GITHUB_ACTIONS") == "true":
            from trimtab.ci.runs import actions

            for line in actions.notes(record):
                self._tell(line)
            self._say(actions.summarise(record, said))
        self._say(self._statuses.done(record, said) if self._statuses is not None else "")

    def _say(self, problem: str) -> None:
        if problem:
            self._tell(problem)


class _Recording:
    """Digests that go into the project's files by a commit; what would be in its way is told before anything runs."""

    def __init__(self, defined: Defined) -> None:
        self._project = defined.project
        self._wanted: dict[str, tuple[str, tuple[str, ...]]] = {}
        if any(step.container.push is not None and step.container.push.record for step in defined.graph.steps.values()):
            from trimtab.ci.images import recorded

            self._wanted = recorded.wanted(defined.graph)
            if self._wanted:
                self._place = recorded.check(self._project, recorded.by_file(self._wanted))

    def done(self, record: dict[str, Any], blobs: Blobs, tell: Callable[[str], None]) -> None:
        """Commits what a green run has published."""
        if not self._wanted or record["state"] != "succeeded":
            return
        from trimtab.ci.images import recorded
        from trimtab.ci.images.publish import reference_of

        said = {
            id: (reference_of(blobs, record["steps"][id]["outputs"]), files) for id, (_, files) in self._wanted.items()
        }
        recorded.record(self._project, self._place, recorded.by_file(said), record["id"], tell)


def _own(project: Path) -> bool:
    from trimtab.ci.images import recorded

    return recorded.is_own(project)


def _origin(id: str, prepared: Prepared) -> Origin:
    from trimtab.ci.images.publish import Origin

    defined = prepared.defined
    values = without_secrets(dict(defined.values), prepared.secrets)
    return Origin(id, defined.pipeline.name, values, prepared.images, commit_of(defined.project))
