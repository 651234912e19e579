"""Protobuf's wire format, read and written without generated code (https://protobuf.dev/programming-guides/encoding/).

Reading is two-fold: `fields` walks a message field by field, and `packed` decodes all numbers of thousands of packed fields in one
vectorized pass, for that is what most of a profile is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimtab.components.profiling.formats import limits
from trimtab.components.profiling.storage.trie import Ints

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_MASK = (1 << 64) - 1


class Field(NamedTuple):
    number: int
    wire: int
    value: int
    """The number, unsigned; of a LENGTH field, where its content begins."""
    end: int
    """Of a LENGTH field, where its content ends."""


def fields(data: bytes, at: int, end: int) -> Iterator[Field]:
    """The fields of the message in data[at:end]. Raises `ValueError` with one line that names the byte."""
    while at < end:
        tag, at = varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = varint(data, at, end)
            yield Field(number, wire, value, at)
        elif wire == LENGTH:
            length, at = varint(data, at, end)
            if length > end - at:
                raise ValueError(f"byte {at}: a field of {length} bytes where {end - at} are left")
            yield Field(number, wire, at, at + length)
            at += length
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
            if size > end - at:
                raise ValueError(f"byte {at}: a field of {size} bytes where {end - at} are left")
            yield Field(number, wire, int.from_bytes(data[at : at + size], "little"), at + size)
            at += size
        else:
            raise ValueError(f"byte {at}: a field of unknown kind {wire}")


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number at a byte, and the byte after it."""
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK, at
        shift += 7
        if shift > 63:
            break
    raise ValueError(f"byte {at}: a number without an end")


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def packed(data: bytes, spans: Sequence[tuple[int, int]]) -> tuple[Ints, Ints]:
    """The numbers of packed fields, as int64 one after the other, and how many are in each. Raises `ValueError`."""
    lengths = np.fromiter((end - at for at, end in spans), np.int64, len(spans))
    if len(spans) and int(lengths.sum()) > limits.PACKED_BYTES_MAX:
        raise ValueError(f"more than {limits.PACKED_BYTES_MAX >> 20} MiB of numbers: send a shorter profile")
    raw: NDArray[np.uint8] = np.frombuffer(b"".join([data[at:end] for at, end in spans]), np.uint8)
    final = raw < 0x80
    ends = np.flatnonzero(final)
    spans_end = np.cumsum(lengths)
    filled = spans_end[lengths > 0]
    if len(filled) and not final[filled - 1].all():
        raise ValueError("a list of numbers that ends within one")
    starts = np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1] + 1])
    sizes = ends - starts + 1
    if len(sizes) and sizes.max() > 10:
        raise ValueError("a number without an end in a list")
    values = np.zeros(len(ends), np.uint64)
    for index in range(int(sizes.max()) if len(sizes) else 0):
        live = np.flatnonzero(sizes > index)
        values[live] |= (raw[starts[live] + index].astype(np.uint64) & np.uint64(0x7F)) << np.uint64(7 * index)
    counts = np.diff(np.searchsorted(ends, np.concatenate([np.zeros(1, np.int64), spans_end])))
    return values.view(np.int64), counts.astype(np.int64)


class Text:
    """A string table: spans of bytes, decoded when first looked at."""

    def __init__(self, data: bytes) -> None:
        self._data, self._max = data, limits.TEXT_MAX
        self._spans: list[tuple[int, int]] = []
        self._texts: dict[int, str] = {}

    def add(self, at: int, end: int) -> None:
        limits.append(self._spans, (at, end), limits.TEXTS_MAX, "strings")

    def __getitem__(self, index: int) -> str:
        """Raises `ValueError` when there is none."""
        if (text := self._texts.get(index)) is None:
            if not 0 <= index < max(1, len(self._spans)):
                raise ValueError(f"string {index} of {len(self._spans)}")
            at, end = self._spans[index] if self._spans else (0, 0)
            text = self._data[at : min(end, at + 4 * self._max)].decode(errors="replace")[: self._max]
            self._texts[index] = text
        return text


def number(field: int, value: int) -> bytes:
    """A field of a number; nothing for 0, which readers assume."""
    return encoded(field << 3) + encoded(value & _MASK) if value else b""


def content(field: int, data: bytes) -> bytes:
    """A field of bytes, a text or a message."""
    return encoded(field << 3 | LENGTH) + encoded(len(data)) + data


def encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
