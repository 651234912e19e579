"""`trimtab ci history`, `log` and `report`: what was recorded."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from trimtab.ci.cache.blobs import Blobs, Lost
from trimtab.ci.cache.index import state_directory
from trimtab.ci.runs.ports import EngineFault
from trimtab.ci.runs.record import JSON, LAST, History, Past, unpacked
from trimtab.ci.runs.screen import seconds_text
from trimtab.cli.ci import GREEN, UsageError
from trimtab.cli.ci.options import parser, project

RUNS = 20


def history(arguments: list[str]) -> int:
    """Lists the runs of a project."""
    options = parser("history", "List the runs of this project, the last one first.")
    options.add_argument("-n", dest="count", type=int, default=RUNS, metavar="N", help=f"how many; default: {RUNS}")
    options.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="default: text")
    said = options.parse_args(arguments)
    known = History(Path(state_directory()))
    try:
        runs = known.runs(str(project(said.directory)), said.count)
    finally:
        known.close()
    if said.output == "json":
        print(json.dumps([asdict(one) for one in runs], indent=2))
    elif not runs:
        print("no run yet: trimtab ci run")
    else:
        print(f"{'RUN':<21}{'STARTED':<18}{'PIPELINE':<12}{'STATE':<11}{'TOOK':>10}{'RAN':>6}{'UNCHANGED':>11}  SAID")
        for one in runs:
            started = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.started))
            print(
                f"{one.id:<21}{started:<18}{one.pipeline:<12}{one.state:<11}{seconds_text(one.seconds):>10}"
                f"{one.ran:>6}{one.hits:>11}  {one.said}".rstrip()
            )
    return GREEN


def log(arguments: list[str]) -> int:
    """Prints what a step has printed."""
    options = parser("log", "Print what a step printed, when it ran.")
    options.add_argument(
        "what", metavar="RUN/STEP", help="a run's id or `last`, and a step of it; STEP alone is of the last"
    )
    said = options.parse_args(arguments)
    record, id = recorded(said.what, project(said.directory))
    step = record["steps"][id]
    if not step.get("log"):
        print(f"{id} printed nothing in run {record['id']} ({step['state']})", file=sys.stderr)
        return GREEN
    try:
        data = Blobs(state_directory()).read(step["log"])
    except Lost as err:
        if record.get("on"):
            from trimtab.ci.runs import far

            return far.ask(record, "log", [f"{record['id']}/{id}"])
        raise EngineFault(f"the log of {id} in run {record['id']} is gone: {err}") from None
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return GREEN


def report(arguments: list[str]) -> int:
    """Writes the page of a run."""
    options = parser("report", "Write a run as one HTML page that needs nothing else.")
    options.add_argument("run", nargs="?", default=LAST, metavar="RUN", help="a run's id; default: the last one")
    options.add_argument("--to", metavar="FILE", help="default: RUN.html; `-` for the output")
    said = options.parse_args(arguments)
    record = found(said.run, project(said.directory))
    from trimtab.ci.runs.report import html

    blobs = Blobs(state_directory())
    logs = {}
    for id, step in record["steps"].items():
        if step.get("log"):
            with suppress(Lost):  # the page says the rest
                logs[id] = blobs.read(step["log"]).decode(errors="replace")
    page = html(record, logs)
    if said.to == "-":
        sys.stdout.write(page)
        return GREEN
    path = Path(said.to or f"{record['id']}.html")
    path.write_text(page)
    print(path)
    return GREEN


def found(name: str, project: Path) -> JSON:
    """The record of the run of this id, or of the last. Raises `UsageError`, `EngineFault`."""
    known = History(Path(state_directory()))
    try:
        past = known.find(str(project), name)
    finally:
        known.close()
    if past is None:
        raise UsageError(f"there is no run {name}; `trimtab ci history` lists them")
    return record_of(past)


def recorded(name: str, project: Path) -> tuple[JSON, str]:
    """The record and the step that `RUN/STEP` means. Raises `UsageError` for what there is not, `EngineFault`."""
    before, slash, after = name.partition("/")
    known = History(Path(state_directory()))
    try:
        past = known.find(str(project), before) if slash else None
        step = after
        if past is None and (latest := known.find(str(project), LAST)) is not None:
            # A step's id may have a slash of its own: unit[1/2].
            past, step = (latest, name) if "[" in before or not slash else (None, name)
    finally:
        known.close()
    if past is None:
        raise UsageError(f"there is no run {before if slash else LAST}; `trimtab ci history` lists them")
    record = record_of(past)
    if step in record["steps"]:
        return record, step
    shards = [id for id, one in record["steps"].items() if one["name"] == step]
    if len(shards) == 1:
        return record, shards[0]
    has = ", ".join(shards or record["steps"])
    raise UsageError(f"run {past.id} has no step {step}; it has {has}")


def record_of(past: Past) -> JSON:
    """The record of a run. Raises `EngineFault` when it is gone."""
    try:
        return unpacked(Blobs(state_directory()).read(past.record))
    except Lost as err:
        raise EngineFault(f"the record of run {past.id} is gone: {err}") from None
