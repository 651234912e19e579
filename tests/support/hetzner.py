"""The part of Hetzner Cloud's API that keys, networks and subnets need, over HTTP on loopback: for the real provider to talk to.

    /v1/ssh_keys[/ID]    /v1/networks[/ID]    /v1/networks/ID/actions/add_subnet|delete_subnet    /v1/actions

Written from the API's public documentation (docs.hetzner.cloud). `busy`: so many of the next requests are refused with 429.
"""

from __future__ import annotations

import hashlib
import json
import threading
from base64 import b64decode
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from json_service import JsonService

CREATED = "2024-01-02T03:04:05+00:00"
SINGULAR = {"ssh_keys": "ssh_key", "networks": "network"}


class Hetzner(JsonService):
    """Serves until closed."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in SINGULAR}
        self.calls: Counter[str] = Counter()
        self.order: list[str] = []
        """What changed something, in order: `POST ssh_keys`."""
        self.busy = 0
        self._next = 1000
        self._lock = threading.Lock()
        self.listen()
        self.endpoint = f"{self.url}/v1"

    def all(self, kind: str) -> list[dict[str, Any]]:
        with self._lock:
            return json.loads(json.dumps(list(self.objects[kind].values())))  # type: ignore[no-any-return]

    def remove(self, kind: str, number: int) -> None:
        """What somebody does behind everybody's back."""
        with self._lock:
            del self.objects[kind][number]

    def change(self, kind: str, number: int, **fields: Any) -> None:
        with self._lock:
            self.objects[kind][number].update(fields)

    def serve(self, method: str, target: str, login: str, body: Any) -> tuple[int, Any]:
        with self._lock:
            kind, *rest = urlsplit(target).path.removeprefix("/v1/").split("/")
            self.calls[f"{method} {kind}"] += 1
            if self.busy:
                self.busy -= 1
                return 429, {"error": {"code": "rate_limit_exceeded", "message": "limit of 3600 requests reached"}}
            if kind == "actions":
                return 200, {"actions": []}
            if kind not in SINGULAR:
                return 404, _not_found()
            if method != "GET":
                self.order.append(" ".join((method, kind, *rest[1:])))
            return self._object(method, kind, rest, body or {})

    def _object(self, method: str, kind: str, rest: list[str], body: dict[str, Any]) -> tuple[int, Any]:
        if not rest:
            if method == "POST":
                self._next += 1
                made = _key(body) if kind == "ssh_keys" else _network(body)
                self.objects[kind][self._next] = {"id": self._next, "labels": {}, "created": CREATED} | made
                return 201, {SINGULAR[kind]: self.objects[kind][self._next]}
            return 200, {kind: list(self.objects[kind].values())}
        found = self.objects[kind].get(int(rest[0]))
        if found is None:
            return 404, _not_found()
        if len(rest) > 1:
            return self._action(found, rest[2], body)
        if method == "DELETE":
            del self.objects[kind][found["id"]]
            return 204, None
        found |= body
        return 200, {SINGULAR[kind]: found}

    def _action(self, network: dict[str, Any], command: str, body: dict[str, Any]) -> tuple[int, Any]:
        match command:
            case "add_subnet":
                gateway = body["ip_range"].rsplit(".", 1)[0] + ".1"
                network["subnets"].append({"gateway": gateway, "vswitch_id": None} | body)
            case "delete_subnet":
                network["subnets"] = [one for one in network["subnets"] if one["ip_range"] != body["ip_range"]]
        self._next += 1
        action = {"id": self._next, "command": command, "status": "success", "progress": 100, "error": None}
        resources = [{"id": network["id"], "type": "network"}]
        return 201, {"action": action | {"started": CREATED, "finished": CREATED, "resources": resources}}


def _key(body: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.md5(b64decode(body["public_key"].split()[1]), usedforsecurity=False).hexdigest()
    return body | {"fingerprint": ":".join(digest[i : i + 2] for i in range(0, 32, 2))}


def _network(body: dict[str, Any]) -> dict[str, Any]:
    nothing: dict[str, Any] = {"subnets": [], "routes": [], "servers": [], "load_balancers": []}
    return nothing | {"protection": {"delete": False}, "expose_routes_to_vswitch": False} | body


def _not_found() -> dict[str, Any]:
    return {"error": {"code": "not_found", "message": "resource not found"}}
