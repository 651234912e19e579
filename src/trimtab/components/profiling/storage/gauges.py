"""What is there at a moment (memory in use, goroutines) does not sum over time: of each target the last snapshot of a time counts.

A target is told apart by who it is (`IDENTITY`), not by the labels that single samples carry: what its last snapshot no longer has is
gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trimtab.components.profiling.batch import TIME_S
from trimtab.components.profiling.storage.segment import Mask
from trimtab.components.profiling.storage.trie import Ints

GAUGES = frozenset({"inuse_space", "inuse_objects", "goroutine", "threadcreate"})
"""Go's names, and of whoever took them over."""
IDENTITY = ("instance", "node", "namespace", "pod", "container", "app", "process", "pid")


class Latest:
    """The last snapshot of each target in each step of `step_s` seconds from `start`."""

    def __init__(self, start: int, step_s: int) -> None:
        self._start, self._step = start // TIME_S, max(1, step_s // TIME_S)
        self._last: dict[tuple[str, ...], dict[int, int]] = {}

    def see(self, time: Ints, sets: Ints, labels: Sequence[Mapping[str, str]]) -> None:
        """Takes notice of samples: their times in `TIME_S` seconds since 1970, and the indexes of their labels."""
        for at, number in np.unique(np.stack([time, sets]), axis=1).T.tolist():
            steps = self._last.setdefault(_target(labels[number]), {})
            step = (at - self._start) // self._step
            steps[step] = max(at, steps.get(step, at))

    def keep(self, time: Ints, sets: Ints, labels: Sequence[Mapping[str, str]]) -> Mask:
        """Which of these samples are of the last snapshot, of those that were seen."""
        if not len(time):
            return np.ones(0, bool)
        pairs, inverse = np.unique(np.stack([time, sets]), axis=1, return_inverse=True)
        last = [
            self._last[_target(labels[number])][(at - self._start) // self._step] == at
            for at, number in pairs.T.tolist()
        ]
        return np.array(last, bool)[inverse.ravel()]


def _target(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(labels.get(name, "") for name in IDENTITY)
