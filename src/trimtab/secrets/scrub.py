"""Takes secret values out of what is printed: the one choke point between a step and every place where its output goes.

    scrubber = Scrubber({"db": "s3cret..."})
    out = scrubber.stream()
    out.feed(b"... s3c"); out.feed(b"ret ...")     -> "... ***" and " ..."
    out.close()

A value is found as it is, by lines, in base64 (any alignment, both alphabets), hex, URL and JSON escapes, as shells, HTML and Python
quote it; split among writes, wrapped or indented anyhow: text and forms are compared without white space. What is compressed or
encrypted is not found. Values of under four characters are not looked for: they would be found everywhere.

Forms longer than 64 bytes are looked for in pieces, so that at most so much of a stream is held back, and only while it may be the
beginning of one; of those, two bytes may be out already.
"""

from __future__ import annotations

import base64
import html
import json
import shlex
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import quote, quote_plus

MARK = b"***"
LENGTH_MIN = 4
"""Of a value, in characters without white space."""
ENCODED_MIN = 6
"""Of an encoded form: shorter ones stand in any text."""
PIECE = 64
SENT_MAX = 2
"""How many bytes of a form may be out before more of it comes."""

_SPACE = b" \t\r\n\v\f"
_SAFE = ("", "/", "/:", "-_.!~*'()", "/?:@!$&'()*+,;=")


def forms(value: str) -> set[bytes]:
    """Every form in which a value is looked for, without white space."""
    found = {_bare(value.encode())}
    found |= {bare for line in value.splitlines() if len(bare := _bare(line.encode())) >= ENCODED_MIN}
    for text in dict.fromkeys((value, value.strip(), f"{value}\n")):
        found |= {form for form in map(_bare, _encoded(text)) if len(form) >= ENCODED_MIN}
    return {form for form in found if len(form) >= LENGTH_MIN}


def _bare(data: bytes) -> bytes:
    return data.translate(None, _SPACE)


def _encoded(text: str) -> Iterator[bytes]:
    data = text.encode()
    yield from _base64(data)
    yield from (
        data.hex().encode(),
        data.hex().upper().encode(),
        data.hex(":").encode(),
        data.hex(":").upper().encode(),
    )
    yield "".join(f"\\x{byte:02x}" for byte in data).encode()
    yield "".join(f"%{byte:02X}" for byte in data).encode()
    for form in _url(text):
        yield form.encode()
        yield _lower_escapes(form).encode()
    for ascii_only in (True, False):
        once = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        twice = json.dumps(once, ensure_ascii=ascii_only)[1:-1]
        for form in (once, twice, once.replace("/", "\\/"), _html_safe(once)):
            yield form.encode()
    for form in (
        shlex.quote(text)[1:-1],
        repr(text)[1:-1],
        ascii(text)[1:-1],
        html.escape(text),
        html.escape(text, False),
    ):
        yield form.encode()
    yield text.replace("'", "''").encode()
    yield repr(data)[2:-1].encode()


def _base64(data: bytes) -> Iterator[bytes]:
    """The characters that only these bytes decide, wherever they begin in what was encoded; and the whole, padded or not."""
    yield base64.b64encode(data)
    yield base64.urlsafe_b64encode(data)
    for before in range(3):
        coded = base64.b64encode(bytes(before) + data)
        first = -(-before * 8 // 6)
        last = (before + len(data)) * 8 // 6
        core = coded[first:last]
        yield core
        yield core.replace(b"+", b"-").replace(b"/", b"_")


def _url(text: str) -> Iterator[str]:
    for safe in _SAFE:
        yield quote(text, safe=safe)
    yield quote_plus(text)


def _lower_escapes(text: str) -> str:
    parts = text.split("%")
    return "%".join([parts[0], *(part[:2].lower() + part[2:] for part in parts[1:])])


def _html_safe(text: str) -> str:
    """As Go's encoder of JSON writes it."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _pieces(form: bytes) -> Iterator[bytes]:
    count = -(-len(form) // PIECE)
    size = -(-len(form) // count)
    return (form[at : at + size] for at in range(0, len(form), size))


class Scrubber:
    """Knows a run's secrets, by name or not. Made once; gives a `Stream` for each thing that is written to."""

    def __init__(self, secrets: Mapping[str, str] | Iterable[str]) -> None:
        values = secrets.values() if isinstance(secrets, Mapping) else secrets
        every = {form for value in values for form in forms(value)}
        self.pieces = sorted({piece for form in every for piece in _pieces(form)})

    @cached_property
    def pattern(self) -> Any:
        """All pieces as one expression, that takes a time which does not depend on how many they are."""
        import re2

        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.max_mem = 256 << 20
        options.longest_match = True
        return re2.compile(b"|".join(map(re2.escape, self.pieces)), options)

    def stream(self) -> Stream:
        return Stream(self)

    def whole(self, data: bytes) -> bytes:
        """Something whole."""
        stream = self.stream()
        return stream.feed(data) + stream.close()

    def text(self, text: str) -> str:
        """Something whole."""
        return self.whole(text.encode(errors="surrogateescape")).decode(errors="surrogateescape")

    def begun(self, bare: bytes) -> int:
        """How many bytes at the end may be the beginning of a form."""
        for length in range(min(PIECE - 1, len(bare)), 0, -1):
            tail = bare[-length:]
            at = bisect_left(self.pieces, tail)
            while at < len(self.pieces) and self.pieces[at].startswith(tail):
                if len(self.pieces[at]) > length:
                    return length
                at += 1
        return 0


class Stream:
    """What one writer wrote, in pieces as they come."""

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrubber = scrubber
        self._kept = b""
        self._sent = 0

    def feed(self, data: bytes) -> bytes:
        """What may be shown now; the rest comes with later calls."""
        if not self._scrubber.pieces:
            return data
        return self._take(data, last=False)

    def close(self) -> bytes:
        """What was held back."""
        return self._take(b"", last=True) if self._scrubber.pieces else b""

    def _take(self, data: bytes, *, last: bool) -> bytes:
        buffer = self._kept + data
        bare = _bare(buffer)
        found = self._found(bare)
        begun = 0 if last else self._scrubber.begun(bare)
        if not found and not begun:
            out = buffer[self._sent :]
            self._kept, self._sent = b"", 0
            return out
        places = [at for at, byte in enumerate(buffer) if byte not in _SPACE]
        spans = [(places[start], places[end - 1] + 1) for start, end in found]
        kept_from = places[len(bare) - begun] if begun else len(buffer)
        shown = len(buffer)
        if begun > SENT_MAX:
            shown = max(kept_from, self._sent, spans[-1][1] if spans else 0)
        out = self._without(buffer, spans, shown)
        self._kept, self._sent = buffer[kept_from:], shown - kept_from
        return out

    def _found(self, bare: bytes) -> list[tuple[int, int]]:
        """Where forms stand, joined where they touch."""
        spans: list[tuple[int, int]] = []
        at = 0
        while (match := self._scrubber.pattern.search(bare, at)) is not None:
            start, end = match.span()
            if spans and start <= spans[-1][1]:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((start, end))
            at = start + 1
        return spans

    def _without(self, buffer: bytes, spans: list[tuple[int, int]], end: int) -> bytes:
        out, at = [], self._sent
        for start, stop in spans:
            if stop <= at:
                continue
            out += [buffer[at:start] if start > at else b"", MARK]
            at = stop
        return b"".join((*out, buffer[at:end] if end > at else b""))
