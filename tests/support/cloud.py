"""A cloud to test with: servers, networks, clusters, buckets (whose names are their ids) and keys over HTTP, with faults on demand.

    POST /KIND {..} -> 201 {"id": ..}    GET /KIND?name=    GET|PUT|DELETE /KIND/ID        PUT /faults {..}    GET /calls
    POST /tokens {"ttl_s": ..} -> 201 {"id", "token"}    PUT /tokens/ID, renewed    DELETE /tokens/ID, given back

A token that was made is as good as the first until its time is over. A request carries `Authorization: Bearer TOKEN`; a token without a scope reads 404 everywhere, as with real ones. Faults, each for the
next so many requests: `gone` (404), `busy` (429), `broken` (500), `lost` (does it, then hangs up), `stale` (reads do not see the last
write), `hidden` (reads of one thing say 404, though lists have it), `kept` (a deletion is answered 404, and nothing is deleted), `half` (made, but not started), `late` (a write is done a while
after it was asked for, whoever waits for it); `slow_s`: seconds before each answer.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from json_service import JsonService

KINDS = ("servers", "networks", "clusters", "buckets", "keys")
LATE_S = 0.2


@dataclass
class Token:
    """A credential for a while. until: by the monotonic clock; 0 once it was given back."""

    text: str
    ttl_s: float
    until: float
    scope: str = ""
    renewed: int = 0

    @property
    def live(self) -> bool:
        return time.monotonic() < self.until


class Cloud(JsonService):
    """Serves on a port of loopback until closed. Safe to use from any thread."""

    def __init__(self, token: str = "secret") -> None:
        self.token = token
        self.objects: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
        self.before: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
        self.faults: dict[str, float] = {}
        self.calls: Counter[str] = Counter()
        self.log: list[tuple[float, str, str]] = []
        """(time, method, path) of every request."""
        self.kubeconfig = "apiVersion: v1\nkind: Config\n"
        self.tokens: dict[str, Token] = {}
        """All that were ever made."""
        self._next = 100
        self._lock = threading.RLock()
        self._doing = threading.Event()
        self._doing.set()
        self.listen()

    def all(self, kind: str) -> list[dict[str, Any]]:
        with self._lock:
            return [dict(one) for one in self.objects[kind].values()]

    def live_tokens(self) -> list[Token]:
        with self._lock:
            return [one for one in self.tokens.values() if one.live]

    # What happens behind everybody's back

    def remove(self, kind: str, number: str) -> None:
        with self._lock:
            del self.objects[kind][number]

    def change(self, kind: str, number: str, **fields: Any) -> None:
        with self._lock:
            self.objects[kind][number].update(fields)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """What is to be written is taken in, and not done before the end of this."""
        self._doing.clear()
        try:
            yield
        finally:
            self._doing.set()

    # Requests

    def serve(self, method: str, target: str, login: str, body: Any) -> tuple[int, Any]:
        url = urlsplit(target)
        with self._lock:
            self.log.append((time.monotonic(), method, url.path))
            self.calls[f"{method} {url.path.split('/')[1]}"] += 1
            slow = self.faults.get("slow_s", 0)
            if method != "GET" and url.path != "/faults" and self._take("late"):
                slow += LATE_S
        if slow:
            threading.Event().wait(slow)
        if method != "GET":
            self._doing.wait()
        with self._lock:
            if url.path == "/faults":
                self.faults = dict(body)
                return 200, {}
            if login != f"Bearer {self.token}" and login not in {f"Bearer {one.text}" for one in self.live_tokens()}:
                return (
                    (404, {"error": "not found"})
                    if login == "Bearer without-scope"
                    else (401, {"error": "the token has expired"})
                )
            for fault, status in (("gone", 404), ("busy", 429), ("broken", 500)):
                if self._take(fault):
                    return status, {"error": fault}
            status, answer = self._do(method, url.path.strip("/").split("/"), parse_qs(url.query), body)
            return (0, None) if method != "GET" and self._take("lost") else (status, answer)

    def _take(self, fault: str) -> bool:
        left = self.faults.get(fault, 0)
        if left:
            self.faults[fault] = left - 1
        return bool(left)

    def _do(self, method: str, parts: list[str], query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        kind, number = parts[0], parts[1] if len(parts) > 1 else None
        if kind == "tokens":
            return self._token(method, number, body)
        if kind not in KINDS:
            return 404, {"error": f"there are no {kind}"}
        seen = self.before if method == "GET" and self._take("stale") else self.objects
        if method == "GET" and number is None:
            wanted = query.get("name")
            return 200, [one for one in seen[kind].values() if not wanted or one["name"] in wanted]
        if method == "POST":
            if not body.get("name"):
                return 422, {"error": "a name is needed"}
            self._next += 1
            number = body["name"] if kind == "buckets" else str(self._next)
            if number in self.objects[kind]:
                return 409, {"error": f"there is a bucket {number} already"}
            self._remember()
            given = {name: value for name, value in body.items() if value is not None}
            self.objects[kind][number] = {**self._made(kind, number), **given, "id": number}
            return 201, {**self.objects[kind][number], **({"half": True} if self._take("half") else {})}
        if (method == "GET" and self._take("hidden")) or (method == "DELETE" and self._take("kept")):
            return 404, {"error": "not found"}
        if number not in seen[kind]:
            return 404, {"error": "not found"}
        if method == "GET":
            return 200, seen[kind][number]
        self._remember()
        if method == "DELETE":
            if kind == "networks" and any(one.get("network") == number for one in self.objects["servers"].values()):
                return 409, {"error": "servers are in the network"}
            return 200, self.objects[kind].pop(number)
        changed = {**self.objects[kind][number], **body}
        self.objects[kind][number] = {name: value for name, value in changed.items() if value is not None}
        return 200, self.objects[kind][number]

    def _token(self, method: str, number: str | None, body: Any) -> tuple[int, Any]:
        if number is None:
            number, ttl_s = f"t{len(self.tokens) + 1}", body.get("ttl_s") or 60
            text = f"{number}-{secrets.token_hex(16)}"
            self.tokens[number] = Token(text, ttl_s, time.monotonic() + ttl_s, body.get("scope", ""))
            return 201, {"id": number, "token": text}
        one = self.tokens.get(number)
        if one is None or not one.live:
            return 404, {"error": "not found"}
        one.renewed += method == "PUT"
        one.until = time.monotonic() + one.ttl_s if method == "PUT" else 0.0
        return 200, {}

    def _remember(self) -> None:
        self.before = json.loads(json.dumps(self.objects))

    def _made(self, kind: str, number: str) -> dict[str, Any]:
        match kind:
            case "servers":
                return {"address": f"10.0.0.{int(number) % 250}", "size": "small"}
            case "clusters":
                return {"nodes": 1, "kubeconfig": base64.b64encode(self.kubeconfig.encode()).decode()}
            case "networks":
                return {"range": "10.0.0.0/8"}
            case _:
                return {}
