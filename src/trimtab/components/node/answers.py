"""Answers that DNS keeps ready: by the question's own bytes, so that a known question costs one look-up.

    question without its id -> answer without its id, the places of its TTLs, and how long it holds

TTLs are counted down as an answer ages (RFC 2181, 5.2; RFC 2308 for what does not exist). What does not parse, is cut
short or is a failure is not kept.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass

KEPT_MAX = 4096
KEPT_BYTES_MAX = 4096
"""Of one answer: larger ones are rare, and worth asking for again."""
TTL_S_MAX = 30
"""Longest that an answer of others is kept: as long as CoreDNS does in clusters."""
HEADER_BYTES = 12
TRUNCATED = 0x0200
RCODE, NOERROR, NXDOMAIN = 0x000F, 0, 3
SOA, OPT = 6, 41


@dataclass(slots=True)
class _Kept:
    body: bytes
    ttls: list[tuple[int, int]]
    """Offset in `body` and value of each TTL to count down."""
    since: float
    until: float


class Answers:
    """A bounded cache; the longest unused answer goes first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, question: bytes, now: float) -> bytes | None:
        """A ready answer to a whole question, with its id."""
        key = question[2:]
        kept = self._kept.get(key)
        if kept is None:
            return None
        if now >= kept.until:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        if not kept.ttls or now < kept.since + 1:
            return question[:2] + kept.body
        aged, body = int(now - kept.since), bytearray(kept.body)
        for offset, ttl in kept.ttls:
            struct.pack_into("!I", body, offset, max(0, ttl - aged))
        return question[:2] + bytes(body)

    def keep(self, question: bytes, answer: bytes, now: float, *, ours_s: float | None = None) -> None:
        """Keeps an answer for as long as its TTLs say, or one of our own, unaged, for `ours_s`."""
        if len(answer) > KEPT_BYTES_MAX:
            return
        if ours_s is not None:
            self._put(question[2:], _Kept(answer[2:], [], now, now + ours_s))
            return
        lasting = lifetimes(answer)
        if lasting is not None:
            hold_s, ttls = lasting
            places = [(offset - 2, ttl) for offset, ttl in ttls]
            self._put(question[2:], _Kept(answer[2:], places, now, now + min(hold_s, TTL_S_MAX)))

    def _put(self, key: bytes, kept: _Kept) -> None:
        self._kept[key] = kept
        self._kept.move_to_end(key)
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        self._kept.clear()


def lifetimes(answer: bytes) -> tuple[int, list[tuple[int, int]]] | None:
    """How long an answer holds in s, and offset and value of each of its TTLs; None for what must not be kept."""
    try:
        _, flags, questions, answers, authorities, more = struct.unpack_from("!6H", answer)
        if flags & TRUNCATED or flags & RCODE not in (NOERROR, NXDOMAIN):
            return None
        at = HEADER_BYTES
        for _ in range(questions):
            at = _after_name(answer, at) + 4
        found: list[tuple[int, int]] = []
        holds: list[int] = []
        for number in range(answers + authorities + more):
            at = _after_name(answer, at)
            kind, _, ttl, size = struct.unpack_from("!HHIH", answer, at)
            if kind != OPT:
                found.append((at + 4, ttl))
                if number < answers:
                    holds.append(ttl)
                elif kind == SOA and not answers:
                    holds.append(min(ttl, int(struct.unpack_from("!I", answer, at + 10 + size - 4)[0])))
            at += 10 + size
    except (struct.error, IndexError):
        return None
    return (min(holds), found) if holds and min(holds) > 0 and at <= len(answer) else None


def _after_name(data: bytes, at: int) -> int:
    while True:
        size = data[at]
        if size == 0:
            return at + 1
        if size & 0xC0:
            return at + 2
        at += size + 1
