"""`trimtab ci tests`: what the ledger knows of a project's tests, and the quarantine."""

from __future__ import annotations

import argparse
import json
from datetime import date, timedelta
from pathlib import Path

from trimtab.ci.cache.index import state_directory
from trimtab.ci.results import quarantine
from trimtab.ci.results.ledger import Heat, Ledger, LedgerError
from trimtab.ci.runs.ports import EngineFault
from trimtab.cli.ci import GREEN, UsageError
from trimtab.cli.ci.options import parser, project

RUNS = 20
DAYS = 14
_WORDS = {"p": ".", "f": "F", "s": "s", "k": "~", "": " "}


def tests(arguments: list[str]) -> int:
    """Shows tests by runs, or changes the quarantine."""
    options = parser(
        "tests",
        "Tests by their last runs, those in trouble first: . passed, F failed, ~ flaked, s skipped. A flake is a test that has "
        "failed and passed on the same content.",
    )
    options.add_argument("--flaky", action="store_true", help="only those that have flaked, and how often they do")
    options.add_argument("-n", dest="count", type=int, default=30, metavar="N", help="how many tests; default: 30")
    options.add_argument("--html", metavar="FILE", help="write the heat map of the last 200 runs as one page")
    options.add_argument(
        "--title", metavar="TEXT", help="whose tests the page says they are; default: the directory's name"
    )
    options.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="default: text")
    change = options.add_argument_group("quarantine (kept in trimtab.quarantine, which belongs in git)")
    change.add_argument("--quarantine", metavar="TEST", help="let a test fail without ending the run")
    change.add_argument("--owner", metavar="NAME", help="who answers for it")
    change.add_argument("--days", type=int, default=DAYS, metavar="N", help=f"for how long; default: {DAYS}")
    change.add_argument("--why", default="", metavar="TEXT", help="in a few words")
    change.add_argument("--lift", metavar="TEST", help="let a test count again")
    said = options.parse_args(arguments)
    place = project(said.directory)
    if said.quarantine or said.lift:
        return _change(options, said, place)
    try:
        ledger = Ledger(state_directory())
    except LedgerError as err:
        raise EngineFault(str(err)) from None
    try:
        if said.html:
            from trimtab.ci.results.heat import html

            Path(said.html).write_text(html(ledger.heat(str(place)), said.title or place.name))
            print(said.html)
        elif said.flaky:
            _print_flakes(ledger, place, said.output == "json", said.count)
        else:
            _print_tests(ledger, place, said.output == "json", said.count)
    finally:
        ledger.close()
    return GREEN


def _change(options: argparse.ArgumentParser, said: argparse.Namespace, place: Path) -> int:
    today = date.today()  # noqa: DTZ011  # an owner's calendar
    if said.lift:
        quarantine.changed(place, None, said.lift, today)
        print(f"{said.lift} counts again")
        return GREEN
    if not said.owner or " " in said.owner:
        options.error("--quarantine needs --owner NAME, one word: somebody who answers for it")
    if "  " in said.quarantine:
        raise UsageError(f"{said.quarantine!r}: no test's id has two blanks")
    entry = quarantine.Entry(said.quarantine, today + timedelta(days=said.days), said.owner, said.why)
    quarantine.changed(place, entry, said.quarantine, today)
    print(f"{said.quarantine} may fail {entry}; commit {quarantine.FILE}")
    return GREEN


def _print_flakes(ledger: Ledger, place: Path, as_json: bool, count: int) -> None:
    found = ledger.flakes(str(place))[:count]
    if as_json:
        rows = [
            {
                "step": one.step,
                "test": one.test,
                "runs": one.runs,
                "flaked": one.flaked,
                "rate": [round(bound, 4) for bound in one.rate],
                "flaky": one.flaky,
                "lastRun": one.last_run,
                "said": one.message,
            }
            for one in found
        ]
        print(json.dumps(rows, indent=2))
        return
    if not found:
        print("no test has flaked: none has failed and passed on the same content")
    for one in found:
        low, high = (f"{bound:.0%}" for bound in one.rate)
        doubt = "" if one.flaky else "  (too few runs to be sure)"
        print(f"{one.step}  {one.test}  {one.flaked} of {one.runs} runs, {low} to {high}{doubt}")
        print(f"    {one.last_run}: {one.message}")


def _print_tests(ledger: Ledger, place: Path, as_json: bool, count: int) -> None:
    heat = ledger.heat(str(place), RUNS, count)
    seconds = {name: ledger.seconds(str(place), name) for name in {step for step, _ in heat.rows}}
    if as_json:
        rows = [
            {
                "step": step,
                "test": test,
                "seconds": seconds[step].get(test),
                "outcomes": dict(zip(heat.runs, cells, strict=True)),
            }
            for (step, test), cells in zip(heat.rows, heat.cells, strict=True)
        ]
        print(json.dumps(rows, indent=2))
        return
    if not heat.rows:
        print('no results yet: .run(tests.pytest()), or .run("...", junit="report.xml"), records them')
        return
    _print_heat(heat, seconds)


def _print_heat(heat: Heat, seconds: dict[str, dict[str, float]]) -> None:
    width = max(len(step) for step, _ in heat.rows)
    for (step, test), cells in zip(heat.rows, heat.cells, strict=True):
        took = seconds[step].get(test)
        shown = "       -" if took is None else f"{took:7.2f}s"
        print(f"{''.join(_WORDS[cell] for cell in cells)}  {shown}  {step:<{width}}  {test}")
