"""Answers each request with so much work in `render` and so much in `digest`: a deploy that changes only DIGEST_ROUNDS makes `digest` slower."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RENDER_ROUNDS = 600_000
DIGEST_ROUNDS = 150_000


def render(rounds: int) -> int:
    total = 0
    for number in range(rounds):
        total = (total * 31 + number) % 1_000_003
    return total


def digest(rounds: int) -> int:
    state = 7
    for _ in range(rounds):
        state = (state * 1_103_515_245 + 12_345) % 2_147_483_648
    return state


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = f"{render(RENDER_ROUNDS)} {digest(DIGEST_ROUNDS)}\n".encode() if self.path == "/" else b"ok\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("", 8000), Shop).serve_forever()
