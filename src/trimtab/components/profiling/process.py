"""`Measurer` on a machine of ours: the agent as a process, started again when it ends, and what keeps house as processes of their own.

    want() --> python -m trimtab.components.profiling.agent (root) --batches--> DATA/profiles/incoming
                   ^ JSON lines: whose each container is    | JSON lines: how it is --> look()
    every 5 minutes --> python -m trimtab.engine.profiling roll-up    (the engine's user)
    spec.scrape --> python -m trimtab.engine.profiling scrape  (the engine's user)

The agent ends when its input does: with this process, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from trimtab.components.profiling import lock
from trimtab.components.profiling.measurer import Labels, Order, Seen
from trimtab.components.profiling.reasons import REASONS
from trimtab.runtime import deeds
from trimtab.runtime.settings import Settings

DIRECTORY = "profiles"
"""How long the agent may take to write its last batch."""
RETRY_FIRST_S, RETRY_MAX_S = 1.0, 60.0
RETRY_LATER_S = 600.0
"""After a failure that time alone does not mend."""
STEADY_S = 60.0
"""An agent that ran so long starts again without delay."""
ROLL_UP_EVERY_S = 300.0
"""Batches that have come since become a segment of their hour, so that queries open few files."""
LATER = frozenset({"NotSupported", "BudgetExceeded"})
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
"""Threads of numerical libraries cost memory each, and there is nothing here to share out."""

log = logging.getLogger(__name__)


class Told(msgspec.Struct):
    """A line of the agent."""

    state: str = ""
    mode: str = ""
    hz: float = 0
    cpu_percent: float = 0.0
    memory_bytes: int = 0
    processes: int = 0
    samples: int = 0
    types: list[str] = []
    missing: dict[str, str] = {}
    shed: str = ""
    message: str = ""
    lost: dict[str, int] = {}
    error: str = ""
    reason: str = ""


class Scraped(msgspec.Struct):
    """A line of the scraper: what is wrong with a target, or that nothing is any more."""

    url: str = ""
    error: str = ""


_TOLD = msgspec.json.Decoder(Told)
_SCRAPED = msgspec.json.Decoder(Scraped)


@dataclass(frozen=True)
class End:
    """Why an agent ended by itself."""

    reason: str
    message: str


class ProcessMeasurer:
    """See `trimtab.components.profiling.measurer.Measurer`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = settings.data_path(DIRECTORY)
        self._order: Order | None = None
        self._containers: Mapping[str, Labels] = {}
        self._seen = Seen()
        self._agent: asyncio.subprocess.Process | None = None
        self._restarts = 0
        self._scrape_errors: dict[str, str] = {}
        self._changed: Callable[[str], None] = lambda why: None
        self._news: set[asyncio.Event] = set()

    @property
    def is_here(self) -> bool:
        return self._settings.node_name not in self._settings.nodes

    @property
    def order(self) -> Order | None:
        return self._order

    def want(self, order: Order | None) -> None:
        if order == self._order:
            return
        self._order = order
        for event in self._news:
            event.set()

    def contain(self, containers: Mapping[str, Labels]) -> None:
        before, self._containers = self._containers, dict(containers)
        for identifier in sorted({*before, *containers}):
            labels = containers.get(identifier)
            if labels != before.get(identifier):
                self._tell({"container": identifier, "labels": labels})

    def look(self) -> Seen:
        return replace(self._seen, restarts=self._restarts, scrape_errors=dict(self._scrape_errors))

    def tells(self, changed: Callable[[str], None]) -> None:
        self._changed = changed

    async def serve(self, process: Any) -> None:
        from trimtab.components.profiling.gateway import gateway

        if not self.is_here:
            await asyncio.Event().wait()
        await gateway(self, self._settings)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_agent())
            group.create_task(self._keep_house())
            group.create_task(self._keep_scraper())

    # Orders

    @contextlib.contextmanager
    def following(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever another order stands."""
        event = asyncio.Event()
        self._news.add(event)
        try:
            yield event
        finally:
            self._news.discard(event)

    async def _ordered(self, event: asyncio.Event) -> Order:
        """What is wanted, as soon as something is."""
        while self._order is None:
            await event.wait()
            event.clear()
        event.clear()
        return self._order

    async def _pause(self, event: asyncio.Event, pause_s: float) -> None:
        """That long, or until another order stands."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), pause_s)

    # The agent

    async def _keep_agent(self) -> None:
        pause_s = RETRY_FIRST_S
        with self.following() as news:
            while True:
                order = await self._ordered(news)
                self._see(Seen(disk_bytes=self._seen.disk_bytes, rolled_up_at=self._seen.rolled_up_at))
                began = time.monotonic()
                end = await self._measure(order, news)
                if end is None:
                    pause_s = RETRY_FIRST_S
                    continue
                self._restarts += 1
                self._see(replace(self._seen, reason=end.reason, message=end.message))
                if time.monotonic() - began > STEADY_S:
                    pause_s = RETRY_FIRST_S
                if end.reason == "AnotherAgent":
                    await self._until_free(news)
                    continue
                log.warning("the profiling agent: %s", end.message)
                await self._pause(news, RETRY_LATER_S if end.reason in LATER else pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)

    async def _measure(self, order: Order, news: asyncio.Event) -> End | None:
        """Runs an agent until it ends, or until another order stands (None)."""
        agent = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-m", "trimtab.components.profiling.agent", str(self._root), "--talk", "--alone",
            "--hz", str(order.hz), "--types", ",".join(order.types), "--cpu-percent", str(order.cpu_percent), "--memory-bytes", str(order.memory_bytes),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=deeds.LINE_BYTES_MAX,
            env={**os.environ, **ONE_THREAD},
        )  # fmt: skip
        self._agent = agent
        said = asyncio.ensure_future(self._hear(agent))
        other = asyncio.ensure_future(news.wait())
        try:
            self._tell({"node": self._settings.node_name})
            self._tell({"containers": self._containers})
            await asyncio.wait((said, other), return_when=asyncio.FIRST_COMPLETED)
            if not said.done():
                return None
            status = await agent.wait()
            how = f"was killed (signal {-status})" if status < 0 else f"ended with status {status}"
            last = said.result()
            reason = last.reason if last.reason in REASONS else "AgentFailed"
            return End(reason, last.error or f"the agent {how}; it is started again")
        finally:
            self._agent = None
            await deeds.end(agent)
            for task in (said, other):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _hear(self, agent: asyncio.subprocess.Process) -> Told:
        """Takes what it tells until it ends; returns what it said last."""
        assert agent.stdout is not None
        last = Told()
        while line := await agent.stdout.readline():
            try:
                last = _TOLD.decode(line)
            except msgspec.MsgspecError:
                log.warning("the profiling agent said %r", line[:200])
                continue
            if not last.error:
                self._see(seen_of(last, self._seen))
        return last

    def _tell(self, what: Mapping[str, Any]) -> None:
        if self._agent is not None and self._agent.stdin is not None and not self._agent.stdin.is_closing():
            self._agent.stdin.write(json.dumps(what).encode() + b"\n")

    def _see(self, seen: Seen) -> None:
        before, self._seen = self._seen, seen
        # What it costs, and what exactly is left out, changes all the time; that is told every few minutes.
        if (before.reason, before.mode, before.hz, before.types) != (seen.reason, seen.mode, seen.hz, seen.types):
            self._changed(f"profiling: {seen.reason}")

    async def _until_free(self, news: asyncio.Event) -> None:
        tasks = [asyncio.ensure_future(lock.until_free()), asyncio.ensure_future(news.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # What keeps house

    async def _keep_house(self) -> None:
        """While the machine is measured."""
        with self.following() as news:
            while True:
                order = await self._ordered(news)
                await self._pause(news, ROLL_UP_EVERY_S)
                if not news.is_set() and self._has_come():
                    await self._roll_up(order)

    def _has_come(self) -> bool:
        try:
            return any(name.endswith(".batch") for name in os.listdir(self._root / "incoming"))
        except FileNotFoundError:
            return False

    async def _roll_up(self, order: Order) -> None:
        limits = json.dumps({"retention_s": order.retention_s, "disk_bytes": order.disk_bytes})
        process = await deeds.begin("profiling", self._settings, "roll-up", limits, environment=ONE_THREAD)
        try:
            out, _ = await process.communicate()
        except BaseException:
            await deeds.end(process)
            raise
        told = json.loads((out.splitlines() or [b"{}"])[-1])
        if process.returncode != 0 or "error" in told:
            log.warning("profiles were not rolled up: %s", told.get("error", f"exit status {process.returncode}"))
            return
        self._seen = replace(self._seen, disk_bytes=told["disk_bytes"], rolled_up_at=time.time())

    async def _keep_scraper(self) -> None:
        with self.following() as news:
            while True:
                order = await self._ordered(news)
                self._scrape_errors.clear()
                if not order.scrape:
                    await news.wait()
                    continue
                targets = [
                    {"url": url, "interval_s": every, "labels": dict(labels)} for url, every, labels in order.scrape
                ]
                process = await deeds.begin(
                    "profiling", self._settings, "scrape", json.dumps(targets), environment=ONE_THREAD
                )
                exited, other = asyncio.ensure_future(self._hear_scraper(process)), asyncio.ensure_future(news.wait())
                try:
                    await asyncio.wait((exited, other), return_when=asyncio.FIRST_COMPLETED)
                    crashed = exited.done()
                finally:
                    await deeds.end(process)
                    other.cancel()
                    await asyncio.gather(exited, other, return_exceptions=True)
                if crashed:
                    log.warning("scraping of profiles ended with status %s", process.returncode)
                    await self._pause(news, RETRY_MAX_S)

    async def _hear_scraper(self, process: asyncio.subprocess.Process) -> None:
        """Takes what it tells until it ends."""
        assert process.stdout is not None
        while line := await process.stdout.readline():
            try:
                told = _SCRAPED.decode(line)
            except msgspec.MsgspecError:
                log.warning("the scraper of profiles said %r", line[:200])
                continue
            if told.error:
                self._scrape_errors[told.url] = told.error
            else:
                self._scrape_errors.pop(told.url, None)
            log.warning("%s", told.error or f"{told.url}: answers again")
            self._changed(f"profiling: scrape of {told.url}")
        await process.wait()


def seen_of(told: Told, before: Seen) -> Seen:
    """What a line of the agent says about how it is."""
    reason = "Shedding" if told.shed else "Measuring" if told.mode == "bpf" else "FramePointersOnly"
    cost = f"{told.hz:.0f} Hz, {told.cpu_percent:.2f} % of a core, {told.memory_bytes / (1 << 20):.0f} MiB"
    if told.state != "running":
        reason = "Starting"
    lacking = [why for name, why in told.missing.items() if name not in told.shed]
    message = "; ".join(
        text for text in (told.shed, *lacking, told.message, cost if told.state == "running" else "") if text
    )
    return replace(
        before,
        reason=reason,
        message=message,
        mode=told.mode,
        hz=round(told.hz),
        cpu_percent=told.cpu_percent,
        memory_bytes=told.memory_bytes,
        processes=told.processes,
        samples=told.samples,
        types=tuple(told.types),
        missing=told.missing,
        shed=told.shed,
        lost=told.lost,
    )
