"""`Runner` on a machine of ours: each deed is a process of its own, `python -m trimtab.engine.pipelines DEED`.

That process is root only to give it up: repositories and runs belong to the engine's user, and whatever works on what strangers
have pushed runs where nothing else of the engine is in reach. What it says comes as lines of JSON. It dies with this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from dataclasses import asdict
from typing import Any

from trimtab.components.pipelines.runner import Order, Progress
from trimtab.runtime import deeds
from trimtab.runtime.settings import Settings

PHASE_OF = {"succeeded": "Succeeded", "failed": "Failed"}

log = logging.getLogger(__name__)


class ProcessRunner:
    """See `trimtab.components.pipelines.runner.Runner`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runs: dict[str, tuple[Progress, asyncio.Task[None]]] = {}

    @property
    def is_here(self) -> bool:
        return self._settings.node_name not in self._settings.nodes

    async def serve(self, process: Any) -> None:
        from trimtab.components.pipelines.gateway import gateway

        if not self.is_here:
            await asyncio.Event().wait()
        await gateway(process, self._settings)

    async def repository(self, uid: str) -> bool | None:
        return True if self._settings.data_path("pipelines", "git", f"{uid}.git", "HEAD").exists() else None

    async def make_repository(self, uid: str) -> bool:
        await self._do("make", uid)
        return True

    async def remove_repository(self, uid: str) -> None:
        await self._do("remove", uid)

    def look(self, uid: str) -> Progress | None:
        return self._runs[uid][0] if uid in self._runs else None

    def begin(self, order: Order) -> None:
        progress = Progress()
        task = asyncio.get_running_loop().create_task(self._run(order, progress), name=f"pipeline run {order.uid}")
        self._runs[order.uid] = progress, task

    async def remove_run(self, uid: str) -> None:
        _, task = self._runs.pop(uid, (None, None))
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._settings.data_path("pipelines", "runs", uid).exists():
            await self._do("forget", uid)

    async def _do(self, *deed: str) -> None:
        """Raises `OSError`: what the deed said."""
        process = await deeds.begin("pipelines", self._settings, *deed)
        out, _ = await process.communicate()
        if process.returncode != 0:
            said = [json.loads(line) for line in out.splitlines()]
            raise OSError(said[-1]["error"] if said else f"{deed[0]} ended with status {process.returncode}")

    async def _run(self, order: Order, progress: Progress) -> None:
        steps: dict[str, dict[str, Any]] = {}
        process = await deeds.begin("pipelines", self._settings, "run")
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
            process.stdin.write_eof()
            while line := await process.stdout.readline():
                self._take(json.loads(line), progress, steps)
            await process.wait()
            if not progress.ended:
                progress.message = "the run was killed"
                progress.phase = "Error"
        except asyncio.CancelledError:
            await deeds.terminate(process)
            raise
        except (OSError, ValueError) as err:
            progress.message, progress.phase = f"the run could not be followed: {err}", "Error"

    def _take(self, told: dict[str, Any], progress: Progress, steps: dict[str, dict[str, Any]]) -> None:
        """Takes a line of the run: a step's, or the outcome."""
        if "step" in told:
            name = told["step"]
            steps[name] = {
                "name": name,
                "state": told["state"],
                "seconds": told["seconds"],
                "reason": told["reason"][:300],
            }
            progress.steps = list(steps.values())
        elif "steps" in told:
            progress.run, progress.total = told["run"], told["steps"]
        elif "outcome" in told:
            outcome = told["outcome"]
            progress.seconds, progress.images = outcome["seconds"], outcome["images"]
            progress.message = outcome["message"]
            progress.phase = PHASE_OF.get(outcome["state"], "Error")
        elif "error" in told:
            progress.message, progress.phase = told["error"], "Error"
