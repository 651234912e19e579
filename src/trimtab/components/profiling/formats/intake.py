"""Profiles of strangers: decoded where nothing can be reached, and what comes back is checked before it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from trimtab.components.profiling.batch import Batch

Format = Literal["pprof", "otlp"]


class Decoded(msgspec.Struct, frozen=True, array_like=True):
    batch: Batch
    duration_s: float
    """0 of a snapshot; then some types count since the start of the process (`temporality.py`)."""


class Sandbox(Protocol):
    """`symbols.sandbox.Sandbox`."""

    def run(self, function: str, *arguments: Any, fds: Sequence[int] = ()) -> Any: ...


def receive(
    sandbox: Sandbox, form: Format, body: bytes, labels: dict[str, str], now: int, source: str = "push"
) -> Decoded:
    """A profile, decoded in the sandbox. Raises `ValueError` with one line when it is none, `TimeoutError`."""
    answer = sandbox.run(f"formats.{form}:packed", body, labels, now, source)
    try:
        return msgspec.msgpack.decode(answer, type=Decoded)
    except (msgspec.MsgspecError, TypeError) as err:
        raise ValueError(f"the decoder's answer is no batch ({err})") from err
