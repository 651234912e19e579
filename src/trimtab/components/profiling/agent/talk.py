"""What the agent and whoever started it tell each other: lines of JSON.

    in:  {"node": NAME}, {"containers": {ID: {namespace, pod, container, app, image}}} (all of them), {"container": ID, "labels": {...} or null}
    out: `State`, at the start, when state, mode or what is shed changes, else once a minute; before an end by itself `Failure`

The end of the input is the order to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, Literal

import msgspec

LINE_BYTES_MAX = 8 << 20
EVERY_S = 60.0
AT_ONCE = ("mode", "shed", "hz", "message", "types")

log = logging.getLogger(__name__)


class Order(msgspec.Struct):
    """A line of the input; what is not in it stays as it was."""

    node: str | None = None
    containers: dict[str, dict[str, str]] | None = None
    container: str | None = None
    labels: dict[str, str] | None = None


class State(msgspec.Struct, kw_only=True):
    """How the agent is."""

    state: Literal["running"] = "running"
    mode: Literal["bpf", "perf"]
    hz: float
    cpu_percent: float = 0.0
    """Of a core, in the last period: this process, the sandbox, the BPF program."""
    memory_bytes: int = 0
    samples: int = 0
    """Since the start, as is what was lost."""
    processes: int = 0
    lost: dict[str, int] = {}
    shed: str = ""
    message: str = ""
    types: list[str] = []
    """What is measured now."""
    missing: dict[str, str] = {}
    """What is not, of what was asked for, and why."""
    files: dict[str, int] = {}
    """Files that stacks went through: opened, gone before they could be, tables built, from disk, refused, evicted."""
    sample_us: float = 0.0
    """Mean time of the BPF program for a sample, microseconds."""


class Failure(msgspec.Struct, kw_only=True):
    """Why it ends by itself."""

    error: str
    reason: Literal["AnotherAgent", "NotSupported", "BudgetExceeded", "Failed"]


class Containers:
    """Whose each container is, as told: a `processes.Provider`."""

    def __init__(self) -> None:
        self.node_told: Callable[[str], None] = lambda node: None
        self._labels: dict[str, dict[str, str]] = {}

    def __call__(self, identity: str) -> dict[str, str] | None:
        return self._labels.get(identity)

    def take(self, order: Order) -> None:
        if order.node is not None:
            self.node_told(order.node)
        if order.containers is not None:
            self._labels = order.containers
        if order.container is not None:
            if order.labels is None:
                self._labels.pop(order.container, None)
            else:
                self._labels[order.container] = order.labels


async def listen(containers: Containers, stop: asyncio.Event) -> None:
    """Takes orders until the input ends, and then says stop."""
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    decoder = msgspec.json.Decoder(Order)
    try:
        with contextlib.suppress(ValueError):  # a line that is too long: nobody that may order writes one
            while line := await reader.readline():
                try:
                    containers.take(decoder.decode(line))
                except msgspec.MsgspecError as err:
                    log.warning("an order that is not understood: %s", err)
    finally:
        transport.close()
        stop.set()


def tell(what: State | Failure) -> None:
    """Nobody may be listening any more."""
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), msgspec.json.encode(what) + b"\n")


def same(before: Any, now: State) -> bool:
    """Whether nothing has changed that is to be told at once."""
    return isinstance(before, State) and all(getattr(before, name) == getattr(now, name) for name in AT_ONCE)
