"""A server that takes PUT and GET, as any static one does, and ways in which servers fail."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Objects:
    """What the server holds, and what it was asked. token: what it wants to be shown; status: what it answers instead."""

    held: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    token: str = ""
    status: int = 0

    def count(self, method: str) -> int:
        return sum(one == method for one, _ in self.asked)


@contextlib.contextmanager
def object_server(objects: Objects) -> Iterator[str]:
    """The address of a server that serves `objects`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            objects.asked.append((self.command, self.path))
            if objects.status:
                self.answer(objects.status)
            elif objects.token and self.headers.get("Authorization") != f"Bearer {objects.token}":
                self.answer(403)
            elif self.command == "PUT":
                objects.held[self.path] = body
                self.answer(201)
            elif self.path in objects.held:
                self.answer(200, objects.held[self.path])
            else:
                self.answer(404)

        do_GET = do_HEAD = do_PUT = handle_one

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/cache"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """The address of a server that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/cache"
