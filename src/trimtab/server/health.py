"""`/livez`, `/readyz` and `/healthz`: whether the server lives, and whether it answers requests; each made of named checks.

`?verbose` tells each of them, `/readyz/NAME` one alone, `?exclude=NAME` leaves some out, as the real server has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trimtab.server import errors
from trimtab.server.http import Reply, Request

if TYPE_CHECKING:
    from trimtab.server.server import ApiServer

TEXT = "text/plain; charset=utf-8"
LIVE = ("ping", "store")
READY = (*LIVE, "bootstrap", "shutdown")
ENDPOINTS = {"livez": LIVE, "healthz": LIVE, "readyz": READY}


def health_reply(server: ApiServer, request: Request, path: str) -> Reply | None:
    """The answer of one of the endpoints; None: the path is none of them. Raises `StatusError` 404 for an unknown check."""
    endpoint, _, single = path[1:].partition("/")
    names = ENDPOINTS.get(endpoint)
    if names is None:
        return None
    if single:
        if single not in names:
            raise errors.no_such_path()
        names = (single,)
    skipped = request.values("exclude")
    lines, failed = [], False
    for name in names:
        problem = "" if name in skipped else _problem(server, name)
        failed = failed or bool(problem)
        told = f"[-]{name} failed: {problem}" if problem else f"[+]{name} {'excluded: ok' if name in skipped else 'ok'}"
        lines.append(told)
    if failed or "verbose" in request.query:
        lines.append(f"{endpoint} check {'failed' if failed else 'passed'}")
        return Reply(("\n".join(lines) + "\n").encode(), 503 if failed else 200, TEXT)
    return Reply(b"ok", content_type=TEXT)


def _problem(server: ApiServer, name: str) -> str:
    """Why a check fails; empty when it does not."""
    if name == "store" and server.store.closed:
        return "the store is closed"
    if name == "bootstrap" and not server.ready and not server.stopping:
        return "the API server is starting"
    if name == "shutdown" and server.stopping:
        return "the API server is stopping"
    return ""
