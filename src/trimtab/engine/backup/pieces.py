"""Bytes become pieces: named by a keyed hash, compressed, sealed with age, sent unless the store has them.

    bytes --HMAC--> name --already there?--> done
                      '--> zstd -> age (every recipient) -> Objects.put      in a few threads

Each piece is an age file of its own: `age -d -i KEY FILE | zstd -d` reads it without us.
"""

from __future__ import annotations

import hmac
import importlib
import sys
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from trimtab.engine.backup.format import PIECE_BYTES, piece_object
from trimtab.engine.backup.objects import Missing, Objects
from trimtab.engine.errors import EngineError

WORKERS = 4
"""Compression and encryption take a core each; an S3 store is waited for."""
FETCHERS = 8
"""An S3 store answers so many requests at a time as quickly as one."""
ON_THEIR_WAY_MAX = 16
"""Pieces in memory at one time."""
COMPRESSION_LEVEL = 1
UNPACKED_BYTES_MAX = 1 << 30
"""An index larger than this is not one of ours."""


def _zstd() -> Any:
    """The standard library's zstd, from Python 3.14 on; the same module from its backport before. Loaded when it is needed."""
    return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def name_of(key: bytes, data: bytes | memoryview) -> bytes:
    """The name of a piece."""
    return hmac.digest(key, data, "sha256")


def seal(data: bytes | memoryview, recipients: Sequence[Any]) -> bytes:
    """Compressed and encrypted to every recipient (`keys.recipient`)."""
    import pyrage

    return bytes(pyrage.encrypt(_zstd().compress(data, level=COMPRESSION_LEVEL), list(recipients)))


def unseal(data: bytes, identities: Sequence[Any], what: str, size_max: int = PIECE_BYTES) -> bytes:
    """What was sealed.

    Raises:
        EngineError: none of the identities fits, or it is damaged.
    """
    import pyrage

    zstd = _zstd()
    try:
        packed = pyrage.decrypt(data, list(identities))
    except pyrage.DecryptError as err:
        if "No matching keys" in str(err):
            raise EngineError(f"{what} cannot be opened with this key: give the one that it was made for") from None
        raise EngineError(f"{what} is damaged: {err}") from None
    try:
        unpacker = zstd.ZstdDecompressor()
        out: bytes = unpacker.decompress(packed, max_length=size_max + 1)
    except zstd.ZstdError as err:
        raise EngineError(f"{what} is damaged: {err}") from None
    if len(out) > size_max or not unpacker.eof:
        raise EngineError(f"{what} is damaged: it has not the length that it should have")
    return out


class Sender:
    """Sends what the store has not got. `known`: names of the pieces that it has.

    Raises from `add` and `finish` what a thread met.
    """

    def __init__(self, objects: Objects, key: bytes, recipients: Sequence[Any], known: set[bytes]) -> None:
        self._objects = objects
        self.key = key
        self._recipients = recipients
        self.known = known
        self.names: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="backup")
        self._room = threading.Semaphore(ON_THEIR_WAY_MAX)
        self._futures: list[Future[int]] = []
        self.read_bytes = 0
        self.sent_bytes = 0
        self.sent_pieces = 0

    def number(self, name: bytes) -> int:
        """The number of a piece in the index."""
        found = self._numbers.get(name)
        if found is None:
            found = self._numbers[name] = len(self.names)
            self.names.append(name)
        return found

    def add(self, data: bytes) -> int:
        """Sends a piece when it is new; returns its number."""
        self.read_bytes += len(data)
        name = name_of(self.key, data)
        if name not in self.known:
            self.known.add(name)
            self._room.acquire()
            self._futures.append(self._pool.submit(self._send, name, data))
            if len(self._futures) > 4 * ON_THEIR_WAY_MAX:
                self._collect([future for future in self._futures if future.done()])
        return self.number(name)

    def _send(self, name: bytes, data: bytes) -> int:
        try:
            sealed = seal(data, self._recipients)
            self._objects.put(piece_object(name), sealed)
            return len(sealed)
        finally:
            self._room.release()

    def _collect(self, done: list[Future[int]]) -> None:
        for future in done:
            self._futures.remove(future)
            self.sent_bytes += future.result()
            self.sent_pieces += 1

    def finish(self) -> None:
        """Waits until everything is sent."""
        self._collect(list(self._futures))

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class Receiver:
    """Fetches pieces and checks that they are what they were.

    `upcoming`: the names that will be asked for, in order. They are fetched ahead, a few at a time, so that a store that is far
    away is waited for once and not for each piece. What is asked for out of order is fetched by itself.
    """

    def __init__(self, objects: Objects, key: bytes, identities: Sequence[Any], upcoming: Iterable[bytes] = ()) -> None:
        self._objects = objects
        self._key = key
        self._identities = identities
        self._upcoming = iter(upcoming)
        self._ahead: deque[tuple[bytes, Future[bytes]]] = deque()
        self._pool = ThreadPoolExecutor(FETCHERS, thread_name_prefix="restore")

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def get(self, name: bytes) -> bytes:
        """The piece of that name.

        Raises:
            EngineError: it is missing or damaged; names it.
        """
        while len(self._ahead) < ON_THEIR_WAY_MAX and (upcoming := next(self._upcoming, None)) is not None:
            self._ahead.append((upcoming, self._pool.submit(self._fetch, upcoming)))
        if self._ahead and self._ahead[0][0] == name:
            return self._ahead.popleft()[1].result()
        return self._fetch(name)

    def _fetch(self, name: bytes) -> bytes:
        label = f"{self._objects.where}/{piece_object(name)}"
        try:
            sealed = self._objects.get(piece_object(name))
        except Missing:
            raise EngineError(f"{label} is missing: this backup cannot be restored; take another one") from None
        data = unseal(sealed, self._identities, label)
        if not hmac.compare_digest(name_of(self._key, data), name):
            raise EngineError(f"{label} is damaged: it holds something else than it should")
        return data
