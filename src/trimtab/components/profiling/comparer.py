"""What the reconciler of comparisons asks of the world: the profiles of an App's two images, side by side.

    compare.py --compare()--> requests.py (a process: the proxy's log, by the minute) --> the query server (profiling.sock) --> CompareAnswer

Nothing of it is loaded here: the query server is started by whoever asks, and ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from trimtab.client import ApiError, SocketTransport
from trimtab.client.transport import Request
from trimtab.components.profiling.queries.shapes import CompareAnswer
from trimtab.runtime.settings import Settings

SOCKET = "profiling.sock"
ANSWER_S = 120.0
"""A question may wait for others, and for the server to start."""
REQUESTS_S = 60.0
REQUESTS_BEFORE_S = 6 * 3600
ANY = "00000000-0000-0000-0000-000000000000"
"""The server answers for the Profiler that the API names; there is one store."""


@dataclass(frozen=True)
class Deploy:
    """An App that got another image. since: Unix seconds; images by digest."""

    uid: str
    namespace: str
    app: str
    processes: tuple[str, ...]
    before: str
    after: str
    since: int
    threshold_percent: float
    min_samples: int


class Comparer(Protocol):
    """The profiles of this machine."""

    async def compare(self, deploy: Deploy) -> CompareAnswer:
        """Raises `ConnectionError` with one line when there is no answer now."""


class SocketComparer:
    """See `Comparer`; on a machine of ours."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def compare(self, deploy: Deploy) -> CompareAnswer:
        asked = {
            "view": "compare",
            "namespace": deploy.namespace,
            "app": deploy.app,
            "since": str(deploy.since),
            "before_image": deploy.before,
            "after_image": deploy.after,
            "threshold_percent": str(deploy.threshold_percent),
            "min_samples": str(deploy.min_samples),
            **await self._requests(deploy),
        }
        request = Request("GET", f"/{deploy.uid or ANY}/query", asked)
        try:
            async with asyncio.timeout(ANSWER_S), SocketTransport(self._settings.run_path(SOCKET)) as server:
                answer = await server.send(request)
                if answer.status != 200:
                    said = answer.body.decode(errors="replace").strip()
                    raise ConnectionError(f"profiles cannot be compared: {said}")
                return msgspec.json.decode(answer.body, type=CompareAnswer)
        except (OSError, TimeoutError, ApiError, msgspec.MsgspecError) as err:
            raise ConnectionError(f"profiles cannot be compared: {err or type(err).__name__}") from err

    async def _requests(self, deploy: Deploy) -> dict[str, str]:
        """The requests that the proxy counted by the minute; empty when it has no log of the time."""
        log = self._settings.data_path("log", "proxy", "access.log")
        # The Services of an App, as the proxy's log names them.
        backends = [f"{deploy.namespace}/{deploy.app}-{process}" for process in deploy.processes]
        start = str(deploy.since - REQUESTS_BEFORE_S)
        counted = await _said("trimtab.components.profiling.requests", str(log), start, *backends)
        if not counted or not any(counted["minutes"]):
            return {}
        return {"requests_start": str(counted["start"]), "requests": ",".join(map(str, counted["minutes"]))}


async def _said(module: str, *arguments: str) -> dict[str, Any]:
    """The line of JSON that a module's process writes; empty when it fails, or takes too long."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-m", module, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(REQUESTS_S):
            out, _ = await process.communicate()
    except TimeoutError:
        out = b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found: dict[str, Any] = json.loads(out) if out else {}
    return found


def digest_of(image: str) -> str:
    """`sha256:...` of `NAME@sha256:...`; empty without."""
    digest = image.rpartition("@")[2]
    return digest if digest.startswith("sha256:") else ""
