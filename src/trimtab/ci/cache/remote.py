"""A cache that machines share: results and what belongs to them as named objects, on any server that takes PUT and GET.

    SCOPE/r/KEY     a record: the components of a key, its result, and in which objects the blobs lie
    SCOPE/d/KEY     for a definition key the content key
    SCOPE/n/SHA256  for a step of a project (its name and the project's, hashed) the key of its latest record
    SCOPE/b/SHA256  a large blob, or a pack of small ones

Results are asked for when this machine has none; their blobs are fetched when a step takes them, so that a run in which nothing has
changed moves only records. What is sent is what is not there yet. Everything is compared with its digest when it comes.

Who may write `trusted` is the server's to say. A pull request reads `trusted` and its own `pr/N`, and writes only the latter; no
other scope reads that. A server that is dead or slow is named once, and the run goes on without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from io import BufferedRandom, BytesIO
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

from trimtab.ci.cache.blobs import Blobs, Lost
from trimtab.ci.cache.identity import said
from trimtab.ci.cache.index import CacheError, Index, pull_request
from trimtab.ci.cache.keys import is_tree, key_of
from trimtab.ci.cache.local import Record
from trimtab.ci.runs.ports import EngineFault, Result

VERSION = 1
PACKED_BYTES_MAX = 1 << 20
"""A larger blob is an object of its own."""
PACK_BYTES = 16 << 20
RECORD_BYTES_MAX = 64 << 20
ASK_S = 10.0
"""How long a run waits for all answers to a question together."""
CONNECTIONS = 8
TRUSTED = "trusted"

Tell = Callable[[str], None]


class RemoteError(Exception):
    """The server does not answer, or answers nonsense: one line."""


class Transport(Protocol):
    """Named objects on a server. For several threads at once. Raises `RemoteError`."""

    name: str

    def get(self, name: str, write: Callable[[bytes], object]) -> bool:
        """Gives the bytes of an object to `write`; False for one that is not there."""

    def has(self, name: str) -> bool:
        """Whether it is there."""

    def put(self, name: str, body: BinaryIO, size_bytes: int, sha256: str) -> None:
        """Writes an object."""

    def close(self) -> None:
        """Ends what is open."""


def scope_of(environ: Mapping[str, str] = os.environ) -> str:
    """What may be written: `trusted`, `pr/N`, or "" for nothing. `$TRIMTAB_CI_SCOPE`; a pull request of GitHub is known by its ref."""
    if pull := pull_request(environ):
        return f"pr/{pull}"
    said = environ.get("TRIMTAB_CI_SCOPE", "")
    if said not in ("", TRUSTED):
        raise EngineFault(f"TRIMTAB_CI_SCOPE is {said!r}; write trusted, pr/NUMBER, or leave it away to write nothing")
    return said


def transport_of(address: str, environ: Mapping[str, str] = os.environ) -> Transport:
    """What speaks to `http(s)://HOST/PATH`, `s3://BUCKET/PREFIX` or `oci://REGISTRY/REPOSITORY`."""
    scheme = urlsplit(address).scheme
    if scheme in ("http", "https", "s3"):
        from trimtab.ci.cache.remote_http import http_server, s3_server

        return s3_server(address, environ) if scheme == "s3" else http_server(address, environ)
    if scheme == "oci":
        from trimtab.ci.cache.remote_oci import Registry

        return Registry(address)
    raise EngineFault(
        f"TRIMTAB_CI_CACHE is {address!r}; write http(s)://HOST/PATH, s3://BUCKET/PREFIX or oci://REGISTRY/REPOSITORY"
    )


class RemoteCache:
    """The shared cache of one run. Close it: that waits for what is being sent."""

    def __init__(self, transport: Transport, scope: str, index: Index, blobs: Blobs, tell: Tell) -> None:
        self.transport = transport
        self.scope = scope
        self.reads = (TRUSTED,) if scope in ("", TRUSTED) else (scope, TRUSTED)
        self.sent_bytes = 0
        self.fetched_bytes = 0
        self._index = index
        self._blobs = blobs
        self._tell = tell
        self._dead = False
        self._lock = threading.Lock()
        self._fetching = threading.Lock()
        self._askers = ThreadPoolExecutor(CONNECTIONS, "cache-ask")
        self._sender = ThreadPoolExecutor(1, "cache-send")
        self._sending: list[Future[None]] = []
        index.write(
            (
                "create table if not exists far (remote text, scope text, digest text, object text, primary key"
                " (remote, digest, scope)) without rowid",
                (),
            )
        )

    # Asking

    def find(self, keys: Sequence[str]) -> dict[str, tuple[Record, Result]]:
        """The results under definition or content keys that others have kept; their blobs stay where they are until they are wanted."""
        if self._dead or not keys:
            return {}
        asked = {self._askers.submit(self._ask, key): key for key in keys}
        done, late = wait(asked, ASK_S)
        for one in late:
            one.cancel()
        if late:
            self._give_up(f"it took more than {ASK_S:.0f} s to answer")
        found = {}
        for one in done:
            try:
                record = one.result()
            except RemoteError as err:
                self._give_up(str(err))
                continue
            if record is not None:
                found[asked[one]] = record
        return found

    def _ask(self, key: str) -> tuple[Record, Result] | None:
        if self._dead:
            return None
        for scope in self.reads:
            text = self._document(f"{scope}/r/{key}")
            if text is None:
                pointer = self._document(f"{scope}/d/{key}")
                if pointer is None or not re.fullmatch(rb"[0-9a-f]{64}", pointer):
                    continue
                text = self._document(f"{scope}/r/{pointer.decode()}")
            if text is not None and (known := self._record(text, scope)) is not None:
                return known
        return None

    def latest(self, project: str, step: str) -> tuple[Record, Result] | None:
        """The latest record of a step, as whoever wants to compare with it."""
        try:
            for scope in self.reads if not self._dead else ():
                pointer = self._document(f"{scope}/n/{_of_step(project, step)}")
                if pointer is not None and re.fullmatch(rb"[0-9a-f]{64}", pointer):
                    return self._ask(pointer.decode())
        except RemoteError as err:
            self._give_up(str(err))
        return None

    def _document(self, name: str) -> bytes | None:
        parts: list[bytes] = []
        size = 0

        def write(data: bytes) -> None:
            nonlocal size
            size += len(data)
            if size > RECORD_BYTES_MAX:
                raise RemoteError(f"{name} is larger than {RECORD_BYTES_MAX >> 20} MiB")
            parts.append(data)

        if not self.transport.get(name, write):
            return None
        self.fetched_bytes += size
        return b"".join(parts)

    def _record(self, data: bytes, scope: str) -> tuple[Record, Result] | None:
        """A record as it was sent; None for one that is damaged, or that is not of the components that it names."""
        try:
            doc = json.loads(zlib.decompress(data))
            components = dict(doc["components"])
            if doc["v"] != VERSION or key_of(components) != doc["key"]:
                return None
            result = Result(**doc["result"])
            record = Record(doc["key"], doc["project"], doc["step"], components, float(doc["made"]))
            rows = [
                (self.transport.name, scope, f"sha256:{blob}", place)
                for place, held in doc["objects"].items()
                for blob in held
            ]
        except (zlib.error, ValueError, KeyError, TypeError):
            return None
        self._index.write_many("insert or replace into far values (?, ?, ?, ?)", rows)
        return record, result

    # Fetching

    def knows(self, digest: str) -> bool:
        """Whether a blob can be had from there."""
        return not self._dead and self._place(digest) is not None

    def _place(self, digest: str) -> tuple[str, str] | None:
        marks = ",".join("?" * len(self.reads))
        rows = self._index.rows(
            f"select scope, object from far where remote = ? and digest = ? and scope in ({marks})",
            (self.transport.name, digest, *self.reads),
        )
        return (rows[0][0], rows[0][1]) if rows else None

    def fetch(self, digest: str) -> bool:
        """Brings a blob, with all that was sent together with it. False when it cannot be had."""
        place = None if self._dead else self._place(digest)
        if place is None:
            return False
        with self._fetching:
            if os.path.exists(self._blobs.path(digest)):
                return True
            known, name = place
            try:
                with self._blobs.temporary() as file:
                    # What a pull request's record names may lie where it found it.
                    scopes = dict.fromkeys((known, *self.reads))
                    there = any(self.transport.get(f"{scope}/b/{name}", file.write) for scope in scopes)
                    self.fetched_bytes += file.tell()
                    if there and f"sha256:{name}" == digest:
                        self._blobs.take(file, digest)
                    elif there:
                        self._unpack(file)
            except RemoteError as err:
                self._give_up(str(err))
                return False
            except (Lost, ValueError):
                there = False
            if not there or not os.path.exists(self._blobs.path(digest)):
                self._index.write(("delete from far where remote = ? and object = ?", (self.transport.name, name)))
                return False
        return True

    def _unpack(self, file: BufferedRandom) -> None:
        file.seek(0)
        head = file.readline(RECORD_BYTES_MAX)
        for size in json.loads(head):
            if not isinstance(size, int) or not 0 <= size <= PACKED_BYTES_MAX:
                raise ValueError("a pack with a blob of no size")
            data = file.read(size)
            if len(data) != size:
                raise ValueError("a pack that is cut off")
            self._blobs.put(data)

    # Sending

    def send(self, record: Record, result: Result, def_key: str) -> None:
        """Has a result sent, with those of its blobs that are not there, while the run goes on."""
        if self.scope and not self._dead:
            self._sending.append(self._sender.submit(self._send, record, result, def_key))

    def _send(self, record: Record, result: Result, def_key: str) -> None:
        if self._dead:
            return
        try:
            objects = self._send_blobs(record, result)
            doc = {
                "v": VERSION,
                "key": record.key,
                "project": said(record.project),
                "step": record.step,
                "components": list(record.components.items()),
                "result": asdict(result),
                "made": record.at,
                "objects": objects,
            }
            self._put(f"{self.scope}/r/{record.key}", zlib.compress(json.dumps(doc).encode()))
            if def_key != record.key:
                self._put(f"{self.scope}/d/{def_key}", record.key.encode())
            self._put(f"{self.scope}/n/{_of_step(said(record.project), record.step)}", record.key.encode())
        except RemoteError as err:
            self._give_up(str(err))
        except (Lost, CacheError, sqlite3.DatabaseError) as err:
            self._give_up(f"a result could not be sent: {err}")

    def _send_blobs(self, record: Record, result: Result) -> dict[str, list[str]]:
        """Sends what is not there; gives by object which blobs of the result it holds. Of inputs the lists alone: `why` compares them."""
        wanted: dict[str, int] = {}
        seen: set[str] = set()
        for tree in result.outputs.values():
            for digest, size in self._blobs.reached(tree, seen):
                wanted[digest] = size if size >= 0 else self._blobs.size(digest)
        for digest in (result.log, result.tests):
            if digest:
                wanted[digest] = self._blobs.size(digest)
        for name, value in record.components.items():
            if is_tree(name, value):
                wanted |= {digest: self._blobs.size(digest) for digest in self._blobs.directories(value)}
        objects: dict[str, list[str]] = {}
        small: list[str] = []
        for digest, size in wanted.items():
            place = self._place(digest)
            if place is not None and place[0] in (self.scope, TRUSTED):
                objects.setdefault(place[1], []).append(digest[7:])
            elif size > PACKED_BYTES_MAX:
                self._send_large(digest, size)
                objects[digest[7:]] = [digest[7:]]
            else:
                small.append(digest)
        for pack in _packs(small, wanted):
            name = self._send_pack(pack)
            objects[name] = [digest[7:] for digest in pack]
        return objects

    def _send_large(self, digest: str, size: int) -> None:
        name = f"{self.scope}/b/{digest[7:]}"
        if not self.transport.has(name):
            with open(self._blobs.path(digest), "rb") as file:
                self.transport.put(name, file, size, digest[7:])
            self.sent_bytes += size
        self._note([digest], digest[7:])

    def _send_pack(self, pack: list[str]) -> str:
        contents = [self._blobs.read(digest) for digest in pack]
        data = json.dumps([len(one) for one in contents]).encode() + b"\n" + b"".join(contents)
        name = hashlib.sha256(data).hexdigest()
        self._put(f"{self.scope}/b/{name}", data)
        self._note(pack, name)
        return name

    def _put(self, name: str, data: bytes) -> None:
        self.transport.put(name, BytesIO(data), len(data), hashlib.sha256(data).hexdigest())
        self.sent_bytes += len(data)

    def _note(self, digests: Iterable[str], name: str) -> None:
        rows = [(self.transport.name, self.scope, digest, name) for digest in digests]
        self._index.write_many("insert or replace into far values (?, ?, ?, ?)", rows)

    # Its end

    def _give_up(self, why: str) -> None:
        with self._lock:
            if self._dead:
                return
            self._dead = True
        self._tell(f"the shared cache {self.transport.name} is not used in this run: {why}")

    def close(self) -> None:
        """Waits for what is being sent; that it goes on is the transport's to see to."""
        for one in self._sending:
            one.result()
        self._sender.shutdown(cancel_futures=True)
        self._askers.shutdown(cancel_futures=True)
        self.transport.close()


def _packs(digests: list[str], sizes: Mapping[str, int]) -> Iterable[list[str]]:
    """Small blobs by the pack."""
    pack: list[str] = []
    size = 0
    for digest in sorted(digests):
        if pack and size + sizes[digest] > PACK_BYTES:
            yield pack
            pack, size = [], 0
        pack.append(digest)
        size += sizes[digest]
    if pack:
        yield pack


def _of_step(project: str, step: str) -> str:
    return hashlib.sha256(f"{project}\0{step}".encode()).hexdigest()
