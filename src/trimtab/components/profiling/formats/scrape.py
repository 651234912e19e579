"""Asks programs for their own profiles (`/debug/pprof/...`, as Go's net/http/pprof serves them), each at its interval, and keeps them.

    target --HTTP, limited in size and time--> bytes --sandbox--> what was counted since the last time (`temporality.py`) --> store

One target's failure is its own: it is told by `State.error`, and asked again at its next turn.
"""

from __future__ import annotations

import asyncio
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from trimtab.components.profiling.formats.intake import Sandbox, receive
from trimtab.components.profiling.formats.temporality import Differences
from trimtab.components.profiling.storage.store import Profiles

BODY_BYTES_MAX = 16 << 20
TIMEOUT_S = 10.0
"""Beyond the seconds that a target is asked to measure."""
SECONDS = 10
"""What a CPU profile is of when its URL does not say: Go's own 30 s would be half of a minute's interval."""
AT_ONCE_MAX = 4
CHUNK_BYTES = 64 << 10


class Target(Struct, frozen=True):
    url: str
    """http or https, of one profile."""
    interval_s: Annotated[int, Meta(ge=1)] = 60
    labels: dict[str, str] = {}


class State(Struct, kw_only=True):
    """How it goes with a target."""

    url: str
    scraped_at: int = 0
    """When it last answered, Unix seconds."""
    samples: int = 0
    """Of the last answer, as kept."""
    error: str = ""
    """One line, of the last attempt; empty when it succeeded."""
    failures: int = 0
    """In a row."""


async def scrape(
    root: Path,
    targets: Sequence[dict[str, Any]],
    sandbox: Sandbox,
    told: Callable[[list[State]], None] = lambda _: None,
) -> None:
    """Scrapes into the store under `root` until it is cancelled; `told` hears of every attempt. Raises `ValueError` with one line when a
    target is not one."""
    chosen = [_target(one) for one in targets]
    states = [State(url=target.url) for target in chosen]
    turns = asyncio.Semaphore(AT_ONCE_MAX)
    async with asyncio.TaskGroup() as group:
        for target, state in zip(chosen, states, strict=True):
            group.create_task(_keep(Profiles(root), target, state, sandbox, turns, lambda: told(states)))


async def _keep(
    store: Profiles, target: Target, state: State, sandbox: Sandbox, turns: asyncio.Semaphore, told: Callable[[], None]
) -> None:
    differences, clock = Differences(), asyncio.get_running_loop().time
    # Targets of one interval do not all come at once.
    due = clock() + (zlib.crc32(target.url.encode()) % 1000) / 1000 * min(target.interval_s, 10)
    while True:
        await asyncio.sleep(max(0.0, due - clock()))
        due = max(due + target.interval_s, clock())
        async with turns:
            try:
                state.samples = await asyncio.to_thread(_once, store, target, sandbox, differences)
                state.scraped_at, state.error, state.failures = int(time.time()), "", 0
            except (OSError, ValueError, http.client.HTTPException) as err:
                state.error, state.failures = _one_line(target, err), state.failures + 1
        told()


def _once(store: Profiles, target: Target, sandbox: Sandbox, differences: Differences) -> int:
    """Asks a target once; how many samples were kept."""
    body = fetch(target)
    place = urllib.parse.urlsplit(target.url).netloc.rpartition("@")[2]
    decoded = receive(sandbox, "pprof", body, {"instance": place} | target.labels, int(time.time()), "scrape")
    batch = differences.of(decoded)
    if batch.samples:
        store.append(batch)
    return len(batch.samples)


def fetch(target: Target) -> bytes:
    """The profile of a target. Raises `OSError`, `http.client.HTTPException`; `ValueError` when it is too large."""
    url, seconds = _asked(target.url)
    deadline = time.monotonic() + seconds + TIMEOUT_S
    # No proxy of the environment: what is scraped is near.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=seconds + TIMEOUT_S) as response:
        body = bytearray()
        while chunk := response.read1(CHUNK_BYTES):
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                raise ValueError(f"more than {BODY_BYTES_MAX >> 20} MiB: ask for fewer seconds")
            if time.monotonic() > deadline:
                raise TimeoutError(f"not answered whole within {seconds + TIMEOUT_S:.0f} s")
    return bytes(body)


def _asked(url: str) -> tuple[str, int]:
    """The URL with the seconds that a CPU profile is to be of, and these; 0 of other profiles that do not ask for any."""
    parts = urllib.parse.urlsplit(url)
    query = dict(urllib.parse.parse_qsl(parts.query))
    if "seconds" not in query and parts.path.endswith("/profile"):
        query["seconds"] = str(SECONDS)
        parts = parts._replace(query=urllib.parse.urlencode(query))
    seconds = query.get("seconds", "0")
    return urllib.parse.urlunsplit(parts), int(seconds) if seconds.isdecimal() else 0


def _target(given: dict[str, Any]) -> Target:
    try:
        target = msgspec.convert(given, Target)
    except msgspec.ValidationError as err:
        raise ValueError(f"scrape: {err}") from err
    if not target.url.startswith(("http://", "https://")):
        raise ValueError(
            f"scrape: {target.url}: give an http or https URL, such as http://10.0.0.7:6060/debug/pprof/heap"
        )
    return target


def _one_line(target: Target, error: Exception) -> str:
    why = (
        error.reason
        if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError)
        else error
    )
    text = " ".join(str(why).split()) or type(error).__name__
    return f"{target.url}: {text}"[:300]
