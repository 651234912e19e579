"""Work of `content`, which is asynchronous, done in a step's thread, and ended when the step is to end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from trimtab.ci.runs.ports import Stop

T = TypeVar("T")


def done(work: Coroutine[Any, Any, T], stop: Stop) -> T | None:
    """Runs it in a loop of its own and returns what it gives; None when `stop` was asked for before that."""

    async def main() -> T | None:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()

        def end() -> None:
            with contextlib.suppress(RuntimeError):  # it is over already
                loop.call_soon_threadsafe(task.cancel)

        stop.then(end)
        try:
            return await task
        except asyncio.CancelledError:
            return None

    return asyncio.run(main())
