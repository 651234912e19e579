"""What there is under the root, and what of it counts: batches and segments whose content is in no other segment.

Nothing here holds a lock: a roll-up may commit and delete between any two steps of a reader. Batches are listed before segments, so what
moves from one to the other is seen at least once, and by the names in `segment.json` at most once. A file that went between listing and
reading is `FileNotFoundError`, upon which the reader begins anew.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from trimtab.components.profiling.batch import incoming
from trimtab.components.profiling.storage.part import Damaged
from trimtab.components.profiling.storage.segment import Name, Segment, hours

log = logging.getLogger(__name__)

ASIDE_MAX = 16
"""Damaged files that are kept to be looked at, the newest."""


class Done(Struct, kw_only=True):
    """What a roll-up did."""

    batches: int = 0
    segments: int = 0
    """Written."""
    aside: int = 0
    """Files and segments that were damaged."""
    deleted: int = 0
    """Segments that were older, or more, than is kept."""


class Contents(Struct, kw_only=True):
    """What counts, of what is there."""

    batches: list[Path]
    segments: dict[int, list[Segment]]
    """By hour."""
    leftovers: list[Path]
    """Batches and segments that are in one of `segments`."""
    damaged: list[tuple[Path, Damaged]]


def contents(root: Path) -> Contents:
    """What counts under `root`. Batches are listed first: one that becomes part of a segment meanwhile is found in that segment."""
    batches = sorted(incoming(root).glob("*.batch"))
    segments: list[Segment] = []
    damaged: list[tuple[Path, Damaged]] = []
    for path in sorted(hours(root).glob("[0-9]*-*")):
        try:
            segments.append(Segment(path))
        except FileNotFoundError:
            continue
        except Damaged as err:
            damaged.append((path, err))
    inside = {name for one in segments for name in one.about.batches}
    replaced = {name for one in segments for name in one.about.replaces}
    by_hour: dict[int, list[Segment]] = {}
    for one in segments:
        if one.path.name not in replaced and (name := Name.parse(one.path.name)):
            by_hour.setdefault(name.start, []).append(one)
    return Contents(
        batches=[path for path in batches if path.name not in inside],
        segments=by_hour,
        leftovers=[path for path in batches if path.name in inside]
        + [one.path for one in segments if one.path.name in replaced],
        damaged=damaged,
    )


def set_aside(root: Path, path: Path, error: Damaged, done: Done) -> None:
    """Moves what is damaged out of the way, with one line; the newest `ASIDE_MAX` are kept."""
    log.warning("%s: set aside in %s", error, root / "aside")
    aside = root / "aside"
    aside.mkdir(mode=0o750, exist_ok=True)
    try:
        path.rename(aside / path.name)
    except FileNotFoundError:
        return
    done.aside += 1
    delete(sorted(aside.iterdir(), key=lambda one: one.stat().st_mtime)[:-ASIDE_MAX])


def delete(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            # The name goes first: a segment that is half deleted would be read as damaged.
            gone = path.with_name(f".{path.name}.part")
            path.rename(gone)
            shutil.rmtree(gone)
        else:
            path.unlink(missing_ok=True)
