"""pprof's profile.proto, in and out (https://github.com/google/pprof/blob/main/proto/profile.proto has the numbers of the fields).

In: functions that are named become frames with a name, inlined ones before their callers; what has none becomes a place in a file, for
which names may be found later. Out: the names that there are now, with the build ids, so that another tool may find more.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence

import msgspec
import numpy as np

from trimtab.components.profiling.batch import Batch, Frame, SampleType
from trimtab.components.profiling.formats import limits, wire
from trimtab.components.profiling.formats.intake import Decoded
from trimtab.components.profiling.formats.names import Named, Symbolizer, names_of
from trimtab.components.profiling.formats.temporality import without_cumulative
from trimtab.components.profiling.formats.wire import LENGTH, Field, content, encoded, fields, number, signed
from trimtab.components.profiling.storage.selection import Selection
from trimtab.components.profiling.storage.trie import Ints

NANOSECONDS = 1_000_000_000
_THREADS = frozenset({"pid", "tid", "thread", "thread_id", "thread id"})
"""Labels that are numbers and still tell who, not how much."""


def decode(body: bytes, labels: dict[str, str], now: int, source: str = "push") -> Batch:
    """A profile, gzipped or not, as a batch; `labels` are added to those of its samples, and win. What counts since the start of a
    process cannot be summed over time and is left out, and counted as lost. Raises `ValueError` with one line."""
    return without_cumulative(decode_profile(body, labels, now, source))


def decode_profile(body: bytes, labels: dict[str, str], now: int, source: str) -> Decoded:
    """Like `decode`, with all that is in the profile."""
    try:
        return _Profile(limits.unpacked(body)).decoded(labels, now, source)
    except ValueError as err:
        raise ValueError(f"not a pprof profile: {err}") from err


def packed(body: bytes, labels: dict[str, str], now: int, source: str, *, fds: Sequence[int] = ()) -> bytes:
    """`decode_profile` as the sandbox calls it, for `intake.receive`."""
    return msgspec.msgpack.encode(decode_profile(body, labels, now, source))


class _Profile:
    """The fields of a profile: small tables as they are, samples as spans of bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.text = wire.Text(data)
        self.time = self.duration = 0
        spans: dict[int, list[tuple[int, int]]] = {1: [], 2: [], 3: [], 4: [], 5: []}
        for field in fields(data, 0, len(data)):
            if field.wire == LENGTH and field.number in spans:
                limits.append(spans[field.number], (field.value, field.end), limits.ROWS_MAX, "rows of a table")
            elif field.wire == LENGTH and field.number == 6:
                self.text.add(field.value, field.end)
            elif field.number == 9:
                self.time = signed(field.value)
            elif field.number == 10:
                self.duration = signed(field.value)
        self.types = [self._type(*span) for span in spans[1]]
        self._samples, self._locations = spans[2], spans[4]
        self._mappings = {one.get(1, 0): one for one in (self._numbers(*span) for span in spans[3])}
        self._functions = {one.get(1, 0): one for one in (self._numbers(*span) for span in spans[5])}
        if not self.types:
            raise ValueError("it has no sample_type")

    def decoded(self, given: dict[str, str], now: int, source: str) -> Decoded:
        stacks, labels = limits.Stacks(), limits.Labels(given)
        ids = self._places(stacks)
        flat, counts, values, sets = self._stacks(labels)
        known = np.sort(np.fromiter(ids, np.int64, len(ids)))
        order = np.fromiter((ids[one] for one in known.tolist()), np.int64, len(ids))
        at = np.searchsorted(known, flat)
        if len(flat) and (not len(known) or (known[np.minimum(at, len(known) - 1)] != flat).any()):
            raise ValueError("a sample is of a location that it does not have")
        expanded = stacks.expanded(order[at], counts)
        start = limits.start_of(self.time, now)
        batch = limits.batch(start, source, self.types, labels, stacks, expanded, values, sets, {})
        return Decoded(batch, max(0, self.duration) / NANOSECONDS)

    def _places(self, stacks: limits.Stacks) -> dict[int, int]:
        """Makes every location a place of `stacks`; the number of the place by the location's id."""
        found: dict[int, int] = {}
        for at, end in self._locations:
            numbers: dict[int, int] = {1: 0, 2: 0, 3: 0}
            lines: list[dict[int, int]] = []
            for field in fields(self.data, at, end):
                if field.number == 4 and field.wire == LENGTH:
                    limits.append(lines, self._numbers(field.value, field.end), limits.DEPTH_MAX, "lines of a location")
                elif field.number in numbers:
                    numbers[field.number] = field.value
            stacks.place(self._frames(numbers[2], numbers[3], lines))
            found[signed(numbers[1])] = len(found)
            if len(found) != len(stacks):
                raise ValueError(f"two locations have the id {numbers[1]}")
        return found

    def _frames(self, mapping_id: int, address: int, lines: list[dict[int, int]]) -> list[Frame]:
        found = []
        for line in lines:
            function = self._functions.get(line.get(1, 0), {})
            if name := self.text[function.get(2, 0)] or self.text[function.get(3, 0)]:
                at = signed(line.get(2, 0))
                found.append(Frame("named", name, self.text[function.get(4, 0)], at if 0 < at < 1 << 31 else 0))
        if found:
            return found
        mapping = self._mappings.get(mapping_id, {})
        place = address - mapping.get(2, 0) + mapping.get(4, 0)
        return [
            Frame(
                "native",
                file=self.text[mapping.get(5, 0)],
                build_id=self.text[mapping.get(6, 0)],
                address=place & (1 << 64) - 1,
            )
        ]

    def _stacks(self, labels: limits.Labels) -> tuple[Ints, Ints, list[list[int]], list[int]]:
        """Location ids of all samples one after the other, how many each has, its values, and the number of its labels."""
        data, places, amounts, sets = self.data, [], [], []
        for at, end in self._samples:
            own: dict[str, str] = {}
            lists: dict[int, Span] = {1: (0, 0), 2: (0, 0)}
            for field in fields(data, at, end):
                if field.number == 3 and field.wire == LENGTH:
                    self._label(own, field)
                elif field.number in lists:
                    lists[field.number] = _with(lists[field.number], field, data)
            places.append(lists[1])
            amounts.append(lists[2])
            sets.append(labels.number(own))
        flat, counts = _numbers(data, places)
        numbers, many = _numbers(data, amounts)
        if len(many) and (many != len(self.types)).any():
            raise ValueError(f"a sample does not have one value for each of its {len(self.types)} types")
        return flat, counts, numbers.reshape(-1, len(self.types)).tolist(), sets

    def _label(self, own: dict[str, str], field: Field) -> None:
        label = self._numbers(field.value, field.end)
        name = self.text[label.get(1, 0)][: limits.LABEL_MAX]
        if text := self.text[label.get(2, 0)]:
            own[name] = text
        elif name in _THREADS:
            own[name] = str(signed(label.get(3, 0)))

    def _type(self, at: int, end: int) -> SampleType:
        numbers = self._numbers(at, end)
        return SampleType(self.text[numbers.get(1, 0)], self.text[numbers.get(2, 0)])

    def _numbers(self, at: int, end: int) -> dict[int, int]:
        return {field.number: field.value for field in fields(self.data, at, end) if field.wire != LENGTH}


Span = tuple[int, int] | bytearray
"""A list of numbers: where it stands packed, as it mostly does; or a copy, of one in several fields."""


def _with(span: Span, field: Field, data: bytes) -> Span:
    """A list and the numbers of one more field."""
    if span == (0, 0) and field.wire == LENGTH:
        return field.value, field.end
    copied = span if isinstance(span, bytearray) else bytearray(data[slice(*span)])
    copied += data[field.value : field.end] if field.wire == LENGTH else encoded(field.value)
    return copied


def _numbers(data: bytes, spans: Sequence[Span]) -> tuple[Ints, Ints]:
    made = [span for span in spans if isinstance(span, bytearray)]
    if not made:
        return wire.packed(data, [span for span in spans if not isinstance(span, bytearray)])
    joined, at, every = data + b"".join(made), len(data), []
    for span in spans:
        if isinstance(span, bytearray):
            every.append((at, at + len(span)))
            at += len(span)
        else:
            every.append(span)
    return wire.packed(joined, every)


def encode(selection: Selection, symbolizer: Symbolizer) -> bytes:
    """A selection as a gzipped profile that `go tool pprof` opens: samples and values, names with inlined functions, build ids."""
    writer = _Writer()
    types = [("samples", "count"), (selection.type, selection.unit)]
    out = [content(1, writer.type(*one)) for one in types]
    locations = [
        content(4, writer.location(index + 1, frame, named))
        for index, (frame, named) in enumerate(zip(selection.frames, symbolizer.names(selection.frames), strict=True))
    ]
    ids = [encoded(index + 1) for index in range(len(selection.frames))]
    flat, offsets = selection.stacks.flat.tolist(), selection.stacks.offsets.tolist()
    for index, (count, value) in enumerate(zip(selection.counts.tolist(), selection.values.tolist(), strict=True)):
        stack = b"".join([ids[frame] for frame in flat[offsets[index] : offsets[index + 1]]])
        amounts = encoded(count & (1 << 64) - 1) + encoded(value & (1 << 64) - 1)
        out.append(content(2, content(1, stack) + content(2, amounts)))
    out += [content(3, mapping) for mapping in writer.mappings()] + locations + writer.functions
    comments = [f"lost: {count} ({reason})" for reason, count in sorted(selection.lost.items())]
    out.append(content(11, writer.type(selection.type, selection.unit)))
    tail = [number(9, selection.start * NANOSECONDS), number(10, (selection.end - selection.start) * NANOSECONDS)]
    tail += [number(13, writer.text(comment)) for comment in comments]
    tail.append(number(14, writer.text(selection.type)))
    out += [content(6, text.encode(errors="replace")) for text in writer.texts] + tail
    return gzip.compress(b"".join(out), 6, mtime=0)


class _Writer:
    """Tables of a profile that is being written."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {"": 0}
        self.functions: list[bytes] = []
        self._functions: dict[tuple[str, str], int] = {}
        self._mappings: dict[tuple[str, str], tuple[int, int, bool]] = {}

    def text(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))

    def type(self, name: str, unit: str) -> bytes:
        return number(1, self.text(name)) + number(2, self.text(unit))

    def location(self, ident: int, frame: Frame, named: Named) -> bytes:
        names = names_of(frame, named)
        lines = b"".join(content(4, number(1, self._function(name, file)) + number(2, at)) for name, file, at in names)
        mapping = self._mapping(frame, bool(lines)) if frame.kind == "native" else 0
        return number(1, ident) + number(2, mapping) + number(3, frame.address) + lines

    def _function(self, name: str, file: str) -> int:
        if (ident := self._functions.get((name, file))) is None:
            ident = self._functions[name, file] = len(self._functions) + 1
            at = self.text(name)
            self.functions.append(
                content(5, number(1, ident) + number(2, at) + number(3, at) + number(4, self.text(file)))
            )
        return ident

    def _mapping(self, frame: Frame, named: bool) -> int:
        key = (frame.build_id, frame.file)
        ident, limit, all_named = self._mappings.get(key, (len(self._mappings) + 1, 0, True))
        self._mappings[key] = (ident, max(limit, frame.address + 1), all_named and named)
        return ident

    def mappings(self) -> list[bytes]:
        """Files from address 0: addresses are those in the file."""
        return [
            number(1, ident)
            + number(3, limit + 0xFFF & ~0xFFF & (1 << 64) - 1)
            + number(5, self.text(file))
            + number(6, self.text(build_id))
            + (number(7, 1) + number(8, 1) + number(9, 1) + number(10, 1) if named else b"")
            for (build_id, file), (ident, limit, named) in self._mappings.items()
        ]
