"""What profiling hands from who measures to who keeps: batches of samples, each a file that is there whole or not at all.

    agent, pprof and OTLP intake --write--> DATA/profiles/incoming/TIME-SOURCE.batch --roll up, hourly--> Parquet
                                                     '--read directly by queries until then

A batch covers at most some seconds (`TIME_S` when the agent writes it). Stacks are of frames that are not yet names: a native frame is
a place in a file known by its build id, symbolized when it is read. What was known only at the moment of the sample (a Python function,
a kernel symbol, code made at run time) comes as a name.
"""

from __future__ import annotations

import os
import secrets
import zlib
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

TIME_S = 10
"""Samples are known to so many seconds: batches begin at multiples of it, and so does time in the store."""

BATCH_BYTES_MAX = 64 << 20

Kind = Literal["native", "kernel", "python", "jit", "named", "mark"]
"""native: `build_id` and `address`. kernel, python, jit (perf maps, the Erlang VM), named (pprof that came with names): `name`.
mark: no frame, but why there is none; `name` is one of `MARKS`, as the outermost (last) frame of a stack."""

MARKS = {
    "truncated": "the stack is deeper than is kept",
    "no-table": "nothing says how to unwind at this address",
    "unreadable": "the stack could not be read",
    "unknown-mapping": "the address is in no file that is known",
    "unknown-process": "the process ended before it was looked at",
    "expression": "the unwind table asks for what is not done in the kernel",
    "lost": "samples that there was no room for",
}
"""Every way in which a stack is not complete. A stack without a mark reached the start of its thread."""


class Frame(Struct, frozen=True, array_like=True):
    """One frame. Only the fields that its kind has are set."""

    kind: Kind
    name: str = ""
    file: str = ""
    """native: the path of the mapped file as the process sees it; python, named: the source file."""
    line: int = 0
    build_id: str = ""
    """native: hex; of a file without one, `sha256-` and the first 40 digits of the hash of its content."""
    address: int = 0
    """native: the virtual address in the ELF file (not the file offset). Of callers it is the call, not what comes after."""


class SampleType(Struct, frozen=True, array_like=True):
    """What is counted, in pprof's words: `cpu` in `nanoseconds`, `offcpu` in `nanoseconds`, `alloc_space` in `bytes` ..."""

    name: str
    unit: str


class Sample(Struct, frozen=True, array_like=True):
    """A value at a stack, by indexes into its batch."""

    type: int
    labels: int
    stack: int
    value: int
    count: int = 1
    """How many events the value is the sum of."""


class Batch(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Samples of a stretch of time."""

    start: int
    """Unix seconds, a multiple of `TIME_S`."""
    source: str
    """Who measured: `agent`, `push`, `scrape`, `otlp`."""
    types: list[SampleType]
    labels: list[dict[str, str]]
    """node, namespace, pod, container, app, image (a digest), process (comm), pid, executable, build_id, thread; what is unknown is left
    out."""
    frames: list[Frame]
    stacks: list[list[int]]
    """Indexes into `frames`, leaf first."""
    samples: list[Sample]
    lost: dict[str, int] = {}
    """Samples that were not kept, by reason."""


def incoming(root: Path) -> Path:
    return root / "incoming"


def write(root: Path, batch: Batch) -> Path:
    """Puts a batch where queries find it, and returns its file: durable when this returns, and there whole or not at all.
    Raises `OSError` (a full disk), leaving nothing."""
    directory = incoming(root)
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    name = f"{batch.start:011d}-{batch.source}-{secrets.token_hex(4)}"
    path, fresh = directory / f"{name}.batch", directory / f".{name}.part"
    try:
        with open(fresh, "wb") as file:
            file.write(packed(batch))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    return path


_DECODER = msgspec.msgpack.Decoder(Batch)


def packed(batch: Batch) -> bytes:
    """What is in a batch file: msgpack in zlib's quickest, a ninth of the bytes for 2 ms, since frames say much the same."""
    return zlib.compress(msgspec.msgpack.encode(batch), 1)


def content(path: Path) -> bytes:
    """The msgpack of a batch file. Raises `OSError`, and `ValueError` with one line when the file is damaged or too large."""
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(path.read_bytes(), BATCH_BYTES_MAX)
    except zlib.error as err:
        raise ValueError(f"{path}: not a batch of samples ({err}): delete it") from err
    if inflate.unconsumed_tail:
        raise ValueError(f"{path}: more than the {BATCH_BYTES_MAX} bytes of a batch: delete it")
    if not inflate.eof:
        raise ValueError(f"{path}: not a batch of samples (it ends too early): delete it")
    return data


def read(path: Path) -> Batch:
    """Raises `OSError`, and `ValueError` with one line when the file is not a batch."""
    try:
        return _DECODER.decode(content(path))
    except msgspec.MsgspecError as err:
        raise ValueError(f"{path}: not a batch of samples ({err}): delete it") from err
