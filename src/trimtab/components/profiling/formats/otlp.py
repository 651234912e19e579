"""OTLP profiles, in: `ExportProfilesServiceRequest` of opentelemetry.proto.collector.profiles.v1development, as the
Python package opentelemetry-proto 1.45.2 has it: one dictionary a request, stacks in a table. The signal is alpha: what earlier versions
send is refused, or has no samples, rather than read wrongly.

A request has profiles of many processes, each under its resource. Each becomes samples of one batch, at the time of the earliest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from trimtab.components.profiling.batch import Batch, Frame, Kind, SampleType
from trimtab.components.profiling.formats import limits, wire
from trimtab.components.profiling.formats.intake import Decoded
from trimtab.components.profiling.formats.temporality import without_cumulative
from trimtab.components.profiling.formats.wire import LENGTH, fields, signed
from trimtab.components.profiling.storage.trie import Ints

NANOSECONDS = 1_000_000_000
LABELS = {
    "service.name": "app",
    "k8s.namespace.name": "namespace",
    "k8s.pod.name": "pod",
    "k8s.container.name": "container",
    "container.id": "container_id",
    "container.name": "container",
    "host.name": "node",
    "k8s.node.name": "node",
    "process.executable.name": "process",
    "process.executable.path": "executable",
    "process.pid": "pid",
    "thread.name": "thread",
    "thread.id": "thread_id",
}
"""OpenTelemetry's names of what we have a name for; other attributes keep theirs."""
BUILD_IDS = ("process.executable.build_id.gnu", "process.executable.build_id.go", "process.executable.build_id.htlhash")
FRAME_TYPE = "profile.frame.type"
KINDS: dict[str, Kind] = {"kernel": "kernel", "cpython": "python"}
"""Types of frames that are ours, too; the rest is a name, or a place in a file."""
OFF_CPU = {"off_cpu": "offcpu", "samples": "samples"}

Span = tuple[int, int]


def decode(body: bytes, labels: dict[str, str], now: int, source: str = "otlp") -> Batch:
    """A request, gzipped or not, as a batch; `labels` are added to those of its samples, and win. Raises `ValueError` with one line."""
    return without_cumulative(decode_request(body, labels, now, source))


def decode_request(body: bytes, labels: dict[str, str], now: int, source: str = "otlp") -> Decoded:
    """Like `decode`, with all that is in it."""
    try:
        return _Request(limits.unpacked(body), labels).decoded(now, source)
    except ValueError as err:
        raise ValueError(f"not a request of OTLP profiles: {err}") from err


def packed(body: bytes, labels: dict[str, str], now: int, source: str, *, fds: Sequence[int] = ()) -> bytes:
    """`decode_request` as the sandbox calls it, for `intake.receive`."""
    return msgspec.msgpack.encode(decode_request(body, labels, now, source))


class _Request:
    def __init__(self, data: bytes, given: dict[str, str]) -> None:
        self.data, self.text = data, wire.Text(data)
        self.tables: dict[int, list[Span]] = {number: [] for number in (1, 2, 3, 6, 7)}
        self.stacks, self.labels = limits.Stacks(), limits.Labels(given)
        self.types: list[SampleType] = []
        self.times: list[int] = []
        self.durations: list[int] = []
        self._stack: list[int] = []
        self._rows: list[list[int]] = []
        self._sets: list[int] = []
        self._events: list[int] = []
        """Of each sample: its stack, its values by type, its labels, and how many events it is of."""

    def decoded(self, now: int, source: str) -> Decoded:
        resources = list(self._spans(0, len(self.data), 1))
        for dictionary in self._spans(0, len(self.data), 2):
            for field in fields(self.data, *dictionary):
                if field.number == 5 and field.wire == LENGTH:
                    self.text.add(field.value, field.end)
                elif field.number in self.tables and field.wire == LENGTH:
                    limits.append(
                        self.tables[field.number], (field.value, field.end), limits.ROWS_MAX, "rows of a table"
                    )
        self._attributes = [self._attribute(*span) for span in self.tables[6]]
        for location in self.tables[2]:
            self.stacks.place(self._location(*location))
        flat, counts = wire.packed(self.data, [self._list(*span, 1) for span in self.tables[7]])
        if len(flat) and not 0 <= flat.min() <= flat.max() < len(self.stacks):
            raise ValueError("a stack is of a location that it does not have")
        for resource in resources:
            self._resource(*resource)
        if not self.types:
            raise ValueError("it has no profile with a sample_type")
        return self._made(flat, counts, now, source)

    def _made(self, flat: Ints, counts: Ints, now: int, source: str) -> Decoded:
        """The batch. Samples share the request's stacks, each batch stack has the samples of one."""
        used = np.array(self._stack, np.int64)
        if len(used) and not 0 <= used.min() <= used.max() < max(1, len(counts)):
            raise ValueError("a sample is of a stack that it does not have")
        expanded = self.stacks.expanded(flat, counts) or [[]]
        start = limits.start_of(min(self.times, default=0), now)
        rows = [[*row, *[0] * (len(self.types) - len(row))] for row in self._rows]
        if len(rows) * len(self.types) > limits.REFERENCES_MAX:
            raise ValueError("too many samples of too many types: send a shorter profile")
        stacks = [expanded[stack] for stack in self._stack]
        batch = limits.batch(
            start, source, self.types, self.labels, self.stacks, stacks, rows, self._sets, {}, self._events
        )
        return Decoded(batch, max(self.durations, default=0) / NANOSECONDS)

    def _resource(self, at: int, end: int) -> None:
        own: dict[str, str] = {}
        for resource in self._spans(at, end, 1):
            for attribute in self._spans(*resource, 1):
                name, value = self._key_value(*attribute)
                own[LABELS.get(name, name)] = value
        for scope in self._spans(at, end, 2):
            for profile in self._spans(*scope, 2):
                self._profile(*profile, own)

    def _profile(self, at: int, end: int, resource: dict[str, str]) -> None:
        kind: SampleType | None = None
        period: SampleType | None = None
        step, samples = 0, list[Span]()
        for field in fields(self.data, at, end):
            if field.number == 1 and field.wire == LENGTH:
                kind = self._type(field.value, field.end)
            elif field.number == 2 and field.wire == LENGTH:
                samples.append((field.value, field.end))
            elif field.number == 3:
                self.times.append(field.value)
            elif field.number == 4:
                self.durations.append(field.value)
            elif field.number == 5 and field.wire == LENGTH:
                period = self._type(field.value, field.end)
            elif field.number == 6:
                step = signed(field.value)
        if kind is None:
            return
        # A profiler that counts ticks says how long one is: then it is time.
        timed = kind.unit == "count" and period is not None and period.unit == "nanoseconds" and step > 0
        kind = period if timed and period is not None else kind
        if kind not in self.types:
            limits.append(self.types, kind, 64, "types")
        for sample in samples:
            self._sample(*sample, resource, self.types.index(kind), step if timed else 1)

    def _sample(self, at: int, end: int, resource: dict[str, str], kind: int, step: int) -> None:
        stack, values, moments, own = 0, 0, 0, dict(resource)
        for field in fields(self.data, at, end):
            if field.number == 1:
                stack = field.value
            elif field.number == 2:
                for index in self._many(field):
                    name, text = self._attributes[index] if index < len(self._attributes) else ("", "")
                    if name:
                        own[LABELS.get(name, name)] = text
            elif field.number == 4:
                values += self._sum(field)
            elif field.number == 5:
                moments += (field.end - field.value) // 8 if field.wire == LENGTH else 1
        value = (values or moments) * step
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError("a value of more than 64 bits")
        limits.append(self._stack, stack, limits.ROWS_MAX, "samples")
        self._rows.append([0] * kind + [value])
        self._events.append(values or moments)
        self._sets.append(self.labels.number(own))

    def _location(self, at: int, end: int) -> list[Frame]:
        mapping, address, lines, attributes = 0, 0, list[Span](), dict[str, str]()
        for field in fields(self.data, at, end):
            if field.number == 1:
                mapping = field.value
            elif field.number == 2:
                address = field.value
            elif field.number == 3 and field.wire == LENGTH:
                limits.append(lines, (field.value, field.end), limits.DEPTH_MAX, "lines of a location")
            elif field.number == 4:
                attributes.update(
                    self._attributes[index] for index in self._many(field) if index < len(self._attributes)
                )
        kind: Kind = KINDS.get(attributes.get(FRAME_TYPE, ""), "named")
        found = [frame for line in lines if (frame := self._line(kind, *line)).name]
        return found or [self._place(mapping, address)]

    def _line(self, kind: Kind, at: int, end: int) -> Frame:
        line = self._numbers(at, end)
        table = self.tables[3]
        index = line.get(1, 0)
        function = self._numbers(*table[index]) if index < len(table) else {}
        name = self.text[function.get(1, 0)] or self.text[function.get(2, 0)]
        row = signed(line.get(2, 0))
        return Frame(
            kind,
            name,
            self.text[function.get(3, 0)],
            row if 0 < row < 1 << 31 else 0,
        )

    def _place(self, index: int, address: int) -> Frame:
        """A place in a file: an address that the sender already made one in the file when its mapping has no start."""
        start = offset = name = 0
        build_ids: dict[str, str] = {}
        table = self.tables[1]
        for field in fields(self.data, *table[index]) if index < len(table) else ():
            if field.number == 1:
                start = field.value
            elif field.number == 3:
                offset = field.value
            elif field.number == 4:
                name = field.value
            elif field.number == 5:
                build_ids.update(self._attributes[one] for one in self._many(field) if one < len(self._attributes))
        build_id = next((build_ids[one] for one in BUILD_IDS if one in build_ids), "")
        place = (address - start + offset if start else address) & (1 << 64) - 1
        return Frame("native", file=self.text[name], build_id=build_id, address=place)

    def _attribute(self, at: int, end: int) -> tuple[str, str]:
        """A row of the attribute table: KeyValueAndUnit."""
        name, value = 0, ""
        for field in fields(self.data, at, end):
            if field.number == 1:
                name = field.value
            elif field.number == 2 and field.wire == LENGTH:
                value = self._value(field.value, field.end)
        return self.text[name], value

    def _key_value(self, at: int, end: int) -> tuple[str, str]:
        """An attribute of a resource: KeyValue."""
        name = value = ""
        for field in fields(self.data, at, end):
            if field.number == 1 and field.wire == LENGTH:
                name = self._string(field.value, field.end)[: limits.LABEL_MAX]
            elif field.number == 2 and field.wire == LENGTH:
                value = self._value(field.value, field.end)
            elif field.number == 3:
                name = self.text[field.value]
        return name, value

    def _value(self, at: int, end: int) -> str:
        """AnyValue, of those that are texts, numbers or truths."""
        for field in fields(self.data, at, end):
            if field.number == 1 and field.wire == LENGTH:
                return self._string(field.value, field.end)
            if field.number == 2:
                return "true" if field.value else "false"
            if field.number == 3:
                return str(signed(field.value))
            if field.number == 8 and field.wire != LENGTH:
                return self.text[field.value]
        return ""

    def _string(self, at: int, end: int) -> str:
        return self.data[at : min(end, at + 4 * limits.TEXT_MAX)].decode(errors="replace")[: limits.TEXT_MAX]

    def _type(self, at: int, end: int) -> SampleType:
        numbers = self._numbers(at, end)
        name = self.text[numbers.get(1, 0)]
        return SampleType(OFF_CPU.get(name, name), self.text[numbers.get(2, 0)])

    def _spans(self, at: int, end: int, number: int) -> Iterator[Span]:
        """The messages of a field."""
        return (
            (field.value, field.end)
            for field in fields(self.data, at, end)
            if field.number == number and field.wire == LENGTH
        )

    def _list(self, at: int, end: int, number: int) -> Span:
        """The one packed list of a stack; nothing writes several, or numbers on their own, which are refused."""
        found = [field for field in fields(self.data, at, end) if field.number == number]
        if len(found) > 1 or any(field.wire != LENGTH for field in found):
            raise ValueError("a list that is not packed")
        return (found[0].value, found[0].end) if found else (0, 0)

    def _many(self, field: wire.Field) -> list[int]:
        """The numbers of a list, packed or not."""
        if field.wire != LENGTH:
            return [field.value]
        at, found = field.value, list[int]()
        while at < field.end:
            value, at = wire.varint(self.data, at, field.end)
            limits.append(found, value, limits.LABELS_MAX, "attributes of a sample")
        return found

    def _sum(self, field: wire.Field) -> int:
        if field.wire != LENGTH:
            return signed(field.value)
        return sum(wire.packed(self.data, [(field.value, field.end)])[0].tolist())

    def _numbers(self, at: int, end: int) -> dict[int, int]:
        return {field.number: field.value for field in fields(self.data, at, end) if field.wire != LENGTH}
