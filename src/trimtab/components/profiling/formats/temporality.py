"""Values of a time, and values since the start of a process.

A profile of a duration (`cpu`; anything that Go's `/debug/pprof` is asked for with `?seconds=`) is of that time, and sums over time. A
snapshot has no duration: its `alloc_*`, `contentions` and `delay` count since the process began, so two of them are each other's
difference, which `Differences` makes of what is scraped; one alone, as it is pushed, says nothing of a time and is left out. Its `inuse_*`
and goroutines are what there is at that moment.
"""

from __future__ import annotations

import msgspec

from trimtab.components.profiling.batch import Batch, Frame, Sample
from trimtab.components.profiling.formats.intake import Decoded

CUMULATIVE = frozenset({"alloc_objects", "alloc_space", "contentions", "delay"})
"""Go's heap, allocs, mutex and block, and whoever took these names over (jemalloc, Rust's and Node's exporters)."""

Key = tuple[str, tuple[Frame, ...], tuple[tuple[str, str], ...]]


def without_cumulative(decoded: Decoded) -> Batch:
    """A profile without what counts since the start of its process."""
    return _split(decoded)[0]


def _split(decoded: Decoded) -> tuple[Batch, list[Sample]]:
    batch = decoded.batch
    if decoded.duration_s:
        return batch, []
    since = {index for index, kind in enumerate(batch.types) if kind.name in CUMULATIVE}
    kept = [sample for sample in batch.samples if sample.type not in since]
    left = [sample for sample in batch.samples if sample.type in since]
    lost = batch.lost | ({"cumulative": len(left)} if left else {})
    return msgspec.structs.replace(batch, samples=kept, lost=lost), left


class Differences:
    """What one target counted since it was last asked."""

    def __init__(self) -> None:
        self._before: dict[Key, tuple[int, int]] | None = None

    def of(self, decoded: Decoded) -> Batch:
        """A profile whose cumulative values are what came to them since the one before; of the first there is no difference, and of a
        process that began anew (a value fell) all of it."""
        batch, left = _split(decoded)
        if not left:
            return batch
        whole = decoded.batch
        now: dict[Key, tuple[int, int]] = {}
        places: dict[Key, Sample] = {}
        for sample in left:
            labels = tuple(sorted(whole.labels[sample.labels].items()))
            key = (whole.types[sample.type].name, tuple(whole.frames[at] for at in whole.stacks[sample.stack]), labels)
            value, count = now.get(key, (0, 0))
            now[key] = (value + sample.value, count + sample.count)
            places[key] = sample
        before, self._before = self._before, now
        if before is None:
            return msgspec.structs.replace(batch, lost=whole.lost)
        if any(key not in now or now[key][0] < value for key, (value, _) in before.items()):
            before = {}
        more = []
        for key, (value, count) in now.items():
            old, events = before.get(key, (0, 0))
            if value > old:
                place = places[key]
                more.append(Sample(place.type, place.labels, place.stack, value - old, max(1, count - events)))
        return msgspec.structs.replace(batch, samples=batch.samples + more, lost=whole.lost)
