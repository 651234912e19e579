"""The web process: puts server, hub and client together from the engine's settings, and serves until told to stop."""

from __future__ import annotations

import asyncio
import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import uvicorn

from trimtab.client import Client, SocketTransport
from trimtab.engine import procfs
from trimtab.engine.plan import STATE, read_json
from trimtab.engine.registry import COMPONENTS
from trimtab.runtime.settings import Settings
from trimtab.web.hub import Hub
from trimtab.web.overview import ProcessLine
from trimtab.web.server import WebServer

CLOSE_TIMEOUT_S = 2


def process_lines(state_path: Path) -> list[ProcessLine]:
    """The engine's processes as the supervisor last wrote them; empty where there is no supervisor."""
    state = read_json(str(state_path)) or {}
    lines = []
    now = datetime.now(UTC)
    for name, process in state.get("processes", {}).items():
        who = procfs.identity(process["pid"]) if process.get("pid") else None
        lines.append(
            ProcessLine(
                name=name,
                pid=who.pid if who else 0,
                ready=who is not None and process.get("state") == "ready",
                restarts=process.get("restarts", 0),
                memory_bytes=procfs.rss_bytes(who.pid) if who else 0,
                since=(now - timedelta(seconds=round(procfs.age_s(who)))).replace(microsecond=0) if who else None,
            )
        )
    return lines


async def serve(settings: Settings) -> None:
    """Serves the dashboard on `settings.listen:web_port` until SIGTERM."""
    client = Client(SocketTransport(settings.api_socket))
    hub = Hub(client, settings, COMPONENTS, lambda: process_lines(settings.run_path("supervisor", STATE)))
    server = WebServer(hub, client, COMPONENTS, hosts=[socket.gethostname()])
    config = uvicorn.Config(
        server,
        host=settings.listen,
        port=settings.web_port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=CLOSE_TIMEOUT_S,
        server_header=False,
    )
    try:
        await uvicorn.Server(config).serve()
    finally:
        await client.close()


def main() -> None:
    settings = msgspec.json.decode(Path(os.environ["TRIMTAB_SETTINGS"]).read_bytes(), type=Settings)
    asyncio.run(serve(settings))
