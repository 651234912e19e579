"""SPDY/3.1 frames: what `kubectl port-forward` speaks within its WebSocket (`SPDY/3.1+portforward.k8s.io`).

Each forwarded connection is two streams that the client opens, one for data and one for an error text. Only what that needs
is here: no flow control (Kubernetes' clients have none), no streams of ours. Format: the SPDY/3.1 draft of the Chromium
project; the compression dictionary is its section 2.6.10.1, told from its Adler-32 there.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

VERSION = 3
SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7
FIN = 1
FRAME_BYTES_MAX = 1 << 20
HEADERS_BYTES_MAX = 64 * 1024

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_PHRASES = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = (
    b"".join(struct.pack("!I", len(word)) + word.replace("_", " ").encode() for word in _WORDS.split())
    + _PHRASES.encode()
)


class SpdyError(ValueError):
    """The peer does not speak SPDY/3.1."""


@dataclass(frozen=True)
class Opened:
    stream: int
    headers: Mapping[str, str]
    ended: bool


@dataclass(frozen=True)
class Data:
    stream: int
    data: bytes
    ended: bool


@dataclass(frozen=True)
class Reset:
    stream: int


@dataclass(frozen=True)
class Ping:
    ident: int


@dataclass(frozen=True)
class Leaving:
    """The peer opens no more streams."""


Event = Opened | Data | Reset | Ping | Leaving


class Spdy:
    """One connection: bytes in, events out; and the bytes of our own frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> list[Event]:
        """The events of all frames that are complete.

        Raises:
            SpdyError: the bytes are no SPDY/3.1.
        """
        self._buffer += data
        events: list[Event] = []
        while len(self._buffer) >= 8:
            head, rest = struct.unpack("!II", self._buffer[:8])
            flags, size = rest >> 24, rest & 0xFFFFFF
            if size > FRAME_BYTES_MAX:
                raise SpdyError(f"a frame of {size} bytes is too large")
            if len(self._buffer) < 8 + size:
                break
            body = bytes(self._buffer[8 : 8 + size])
            del self._buffer[: 8 + size]
            if not head >> 31:
                events.append(Data(head, body, bool(flags & FIN)))
                continue
            if head >> 16 & 0x7FFF != VERSION:
                raise SpdyError(f"version {head >> 16 & 0x7FFF} is not spoken here")
            event = self._control(head & 0xFFFF, flags, body)
            if event is not None:
                events.append(event)
        return events

    def _control(self, kind: int, flags: int, body: bytes) -> Event | None:
        try:
            match kind:
                case 1:
                    stream = struct.unpack("!I", body[:4])[0] & 0x7FFFFFFF
                    return Opened(stream, self._headers(body[10:]), bool(flags & FIN))
                case 3:
                    return Reset(struct.unpack("!I", body[:4])[0] & 0x7FFFFFFF)
                case 6:
                    return Ping(struct.unpack("!I", body[:4])[0])
                case 7:
                    return Leaving()
        except (struct.error, zlib.error, UnicodeDecodeError) as err:
            raise SpdyError(f"a control frame of type {kind} is damaged: {err}") from None
        return None  # settings, headers and window updates change nothing here

    def _headers(self, block: bytes) -> dict[str, str]:
        text = self._inflate.decompress(block, HEADERS_BYTES_MAX)
        count, at = struct.unpack_from("!I", text)[0], 4
        out: dict[str, str] = {}
        for _ in range(count):
            pair = []
            for _ in range(2):
                size = struct.unpack_from("!I", text, at)[0]
                pair.append(text[at + 4 : at + 4 + size].decode())
                at += 4 + size
            out[pair[0].lower()] = pair[1]
        return out

    def accept(self, stream: int) -> bytes:
        """Answers that a stream is open."""
        block = self._deflate.compress(struct.pack("!I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _frame(SYN_REPLY, struct.pack("!I", stream) + block)

    @staticmethod
    def data(stream: int, data: bytes, *, ended: bool = False) -> bytes:
        return struct.pack("!II", stream, (FIN if ended else 0) << 24 | len(data)) + data

    @staticmethod
    def pong(ident: int) -> bytes:
        return _frame(PING, struct.pack("!I", ident))


def _frame(kind: int, body: bytes) -> bytes:
    return struct.pack("!II", 1 << 31 | VERSION << 16 | kind, len(body)) + body
