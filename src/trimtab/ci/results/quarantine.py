"""Tests that may fail for a while: `trimtab.quarantine` beside `ship.py`, in git, a line each.

    tests/test_pay.py::test_twice    until 2026-12-01    anna    the clock of the provider's sandbox jumps

Each has an end and somebody who answers for it. A quarantined test still runs, and is shown; it just does not end the run. From the
day after its end it counts again, and `ci check` says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from trimtab.ci.definition.site import DefinitionError, Site

FILE = "trimtab.quarantine"
DAYS_MAX = 90
_LINE = re.compile(r"(?P<test>\S.*?)\s{2,}until (?P<until>\S+)\s{2,}(?P<owner>\S+)(?:\s{2,}(?P<why>.*))?")


@dataclass(frozen=True)
class Entry:
    """One test. until: its last day."""

    test: str
    until: date
    owner: str
    why: str = ""
    line: int = 0

    def holds(self, today: date) -> bool:
        return today <= self.until

    def __str__(self) -> str:
        return f"until {self.until} by {self.owner}" + (f": {self.why}" if self.why else "")


def read(project: Path) -> list[Entry]:
    """The entries of a project, ended ones as well; [] without the file.

    Raises:
        DefinitionError: a line is no entry, or a test stands there twice.
    """
    path = project / FILE
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as err:
        raise DefinitionError(
            f"cannot be read: {getattr(err, 'strerror', None) or 'no text'}", Site(str(path), 1)
        ) from None
    entries: list[Entry] = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            entry = _entry(line.strip(), Site(str(path), number))
            if any(entry.test == one.test for one in entries):
                raise DefinitionError(f"{entry.test} stands here twice", Site(str(path), number))
            entries.append(entry)
    return entries


def _entry(line: str, site: Site) -> Entry:
    match = _LINE.fullmatch(line)
    try:
        if match is None:
            raise ValueError
        return Entry(match["test"], date.fromisoformat(match["until"]), match["owner"], match["why"] or "", site.line)
    except ValueError:
        raise DefinitionError(
            "no entry; write: TEST  until 2026-12-31  OWNER  why   (two blanks or more between them)", site
        ) from None


def held(entries: Iterable[Entry], today: date) -> dict[str, str]:
    """By test what is said of it while it may fail."""
    return {entry.test: str(entry) for entry in entries if entry.holds(today)}


def changed(project: Path, entry: Entry | None, test: str, today: date) -> list[Entry]:
    """Puts an entry in place of the one for `test`, or takes that out; comments stay where they are.

    Raises:
        DefinitionError: there is none to take out, or the new one would hold for too long.
    """
    old = read(project)
    if entry is None and not any(one.test == test for one in old):
        raise DefinitionError(f"{test} is not quarantined", Site(str(project / FILE), 1))
    if entry is not None and entry.until > today + timedelta(days=DAYS_MAX):
        raise DefinitionError(
            f"until {entry.until}: at most {DAYS_MAX} days; mend the test, or take it out", Site(str(project / FILE), 1)
        )
    path = project / FILE
    lines = (
        path.read_text().splitlines()
        if old or path.exists()
        else ["# Tests that may fail for a while: TEST  until DAY  OWNER  why"]
    )
    gone = {one.line for one in old if one.test == test}
    kept = [line for number, line in enumerate(lines, 1) if number not in gone]
    if entry is not None:
        kept.append("  ".join(filter(None, (entry.test, f"until {entry.until}", entry.owner, entry.why))))
    path.write_text("\n".join(kept) + "\n")
    return read(project)


def ended(entries: Sequence[Entry], today: date) -> list[Entry]:
    """Those that count again."""
    return [entry for entry in entries if not entry.holds(today)]
