"""The breaker against reconcilers that never come to rest.

A reconciler may write as often as its inputs change. When only its own writes (or somebody who undoes them) bring it back,
and it still writes each time, it will never end: it is stopped, with a message that names the fields that flip. It starts
again when an input changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from trimtab.api import Ref

STREAK_MAX = 15
"""Runs in a row that wrote although only the reconciler's own writes had changed. Honest chains (create, see the defaulted
result, write a status from it) take three or four."""
FIGHT_MAX = 15
FIGHT_WINDOW_S = 60.0
"""The same intent written to the same object more than this often in the window: somebody keeps undoing it."""
FLIPS_KEPT = 4


@dataclass(slots=True)
class Breaker:
    """Of one subject of one reconciler."""

    streak: int = 0
    wrote: bool = False
    open: str = ""
    """Why it is stopped; empty while it is not."""
    _flips: deque[tuple[Ref, tuple[str, ...]]] = field(default_factory=lambda: deque(maxlen=FLIPS_KEPT))
    _repeats: dict[Ref, deque[float]] = field(default_factory=dict)

    def begin(self, external: bool) -> bool:
        """A run is about to start. False: stopped, do not run."""
        if external:
            self.streak = 0
            if self.open:
                self.open = ""
                self._repeats.clear()
        self.wrote = False
        return not self.open

    def count(self, ref: Ref, paths: tuple[str, ...], *, repeated: bool, now_s: float) -> None:
        """A write changed `paths` of `ref`. `repeated`: with the same intent as the write before."""
        self.wrote = True
        self._flips.append((ref, paths))
        if repeated:
            times = self._repeats.setdefault(ref, deque(maxlen=FIGHT_MAX))
            times.append(now_s)
            if len(times) == FIGHT_MAX and now_s - times[0] < FIGHT_WINDOW_S:
                fields = ", ".join(paths) or "its fields"
                self.open = f"{ref}: {fields} written {FIGHT_MAX} times in {now_s - times[0]:.0f} s; somebody undoes it"

    def end(self) -> str:
        """The run is over; returns why to stop now, or ""."""
        if self.wrote:
            self.streak += 1
        else:
            self.streak = 0
        if self.streak >= STREAK_MAX and not self.open:
            flips: dict[str, None] = {}
            for ref, paths in self._flips:
                flips[f"{ref} ({', '.join(paths)})" if paths else str(ref)] = None
            self.open = f"wrote {self.streak} times in a row while nothing else changed: {'; '.join(flips)}"
        return self.open


PATHS_MAX = 6


def changed_paths(old: Any, new: Any) -> tuple[str, ...]:
    """The paths at which two typed objects differ, without bookkeeping metadata; at most `PATHS_MAX`."""
    found: list[str] = []
    for path in _differences(old, new, ""):
        if path not in ("metadata.resourceVersion", "metadata.generation"):
            found.append(path)
            if len(found) == PATHS_MAX:
                break
    return tuple(found)


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, msgspec.Struct) and type(old) is type(new):
        names = zip(old.__struct_fields__, old.__struct_encode_fields__, strict=True)
        for attribute, name in names:
            yield from _differences(
                getattr(old, attribute), getattr(new, attribute), f"{path}.{name}" if path else name
            )
    elif isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(
                old.get(name), new.get(name), f"{path}[{name}]" if "." in name else f"{path}.{name}"
            )
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (left, right) in enumerate(zip(old, new, strict=True)):
            label = getattr(left, "type", None) or getattr(left, "name", None) or i
            yield from _differences(left, right, f"{path}[{label}]")
    else:
        yield path or "."
