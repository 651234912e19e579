"""The part of Linode's API that Kubernetes clusters need, over HTTP on loopback, for the real provider to talk to. Its clusters are real:
each is an embedded engine with a node of its own, made by `trimtab cluster create`.

    /v4/lke/clusters[/ID]    .../ID/pools[/ID]    .../ID/kubeconfig    .../ID/api-endpoints    .../ID/dashboard    /v4/account/events    /v4/linode/types

Written from the API's public documentation (techdocs.akamai.com/linode-api). The kubeconfig of a cluster that is still being made is answered
once there is one.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine_under_test import TRIMTAB
from json_service import JsonService

CREATED = "2024-01-02T03:04:05"
MAKING_S = 300.0


class Linode(JsonService):
    """Serves until closed. home: where its clusters lie; `load` is told of images by `trimtab cluster --clusters home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.clusters: dict[int, dict[str, Any]] = {}
        self.pools: dict[int, dict[int, dict[str, Any]]] = {}
        self.events: list[dict[str, Any]] = []
        self.order: list[str] = []
        """What changed something, in order: `POST lke clusters`."""
        self.failed: list[str] = []
        """What the commands that make clusters said when they failed."""
        self._made: dict[int, threading.Event] = {}
        self._working: list[threading.Thread] = []
        self._next = 1000
        self._lock = threading.Lock()
        self.listen()

    def numbers(self) -> list[int]:
        with self._lock:
            return sorted(self.clusters)

    def data(self, number: int) -> Path:
        """The data directory of the engine that is this cluster."""
        return self.home / f"lke-{number}" / "data"

    def change(self, number: int, **fields: Any) -> None:
        """What somebody does behind everybody's back."""
        with self._lock:
            self.clusters[number].update(fields)

    def lose(self, number: int) -> None:
        """Likewise: the cluster is gone, with all that ran in it."""
        with self._lock:
            self._delete(number)

    def close(self) -> None:
        super().close()
        for working in self._working:
            working.join()
        self._command("delete", "--all")
        shutil.rmtree(self.home, ignore_errors=True)

    # Requests

    def serve(self, method: str, target: str, login: str, body: Any) -> tuple[int, Any]:
        parts = urlsplit(target).path.removeprefix("/v4/").split("/")
        if login != f"Bearer {'a' * 64}":
            return 401, _error("Invalid Token")
        if parts[-1] == "kubeconfig":
            return self._kubeconfig(int(parts[2]))
        with self._lock:
            if method != "GET":
                self.order.append(" ".join((method, *(one for one in parts if not one.isdigit()))))
            if parts == ["linode", "types"]:  # which the provider asks for to see whether it is let in
                return 200, _page([])
            if parts == ["account", "events"]:
                return 200, _page(self.events[::-1])
            if parts[:2] != ["lke", "clusters"]:
                return 404, _error("Not found")
            if len(parts) == 2:
                return self._create(body) if method == "POST" else (200, _page(list(self.clusters.values())))
            number = int(parts[2])
            if number not in self.clusters:
                return 404, _error("Not found")
            return self._cluster(method, number, parts[3:], body or {})

    def _create(self, body: dict[str, Any]) -> tuple[int, Any]:
        """As version v4 of the API has it: no tier, which the provider would take for one of v4beta."""
        number = self._number()
        given = {name: body.get(name) for name in ("label", "region", "k8s_version")}
        plane = {"high_availability": False} | (body.get("control_plane") or {})
        self.clusters[number] = given | {
            "id": number,
            "status": "ready",
            "tags": body.get("tags") or [],
            "control_plane": plane,
            "created": CREATED,
            "updated": CREATED,
        }
        self.pools[number] = {}
        for pool in body["node_pools"]:
            self._pool(number, pool)
        self._made[number] = threading.Event()
        self._work(self._bring_up, number)
        return 200, self.clusters[number]

    def _cluster(self, method: str, number: int, rest: list[str], body: dict[str, Any]) -> tuple[int, Any]:
        match rest:
            case [] if method == "DELETE":
                self._delete(number)
                return 200, {}
            case []:
                self.clusters[number] |= {name: value for name, value in body.items() if name != "control_plane"}
                return 200, self.clusters[number]
            case ["api-endpoints"]:
                return 200, _page([{"endpoint": f"https://lke-{number}.example:443"}])
            case ["dashboard"]:
                return 200, {"url": f"https://lke-{number}.example/dashboard"}
            case ["pools"] if method == "POST":
                return 200, self._pool(number, body)
            case ["pools"]:
                return 200, _page(list(self.pools[number].values()))
            case ["pools", pool] if int(pool) in self.pools[number]:
                return self._of_pool(method, self.pools[number], int(pool), body)
        return 404, _error("Not found")

    def _of_pool(self, method: str, pools: dict[int, Any], pool: int, body: dict[str, Any]) -> tuple[int, Any]:
        if method == "DELETE":
            self._gone(pools.pop(pool))
            return 200, {}
        pools[pool] |= body
        nodes = pools[pool]["nodes"]
        pools[pool]["nodes"] = [*nodes, *(self._node() for _ in range(len(nodes), pools[pool]["count"]))]
        return 200, pools[pool]

    def _pool(self, number: int, given: dict[str, Any]) -> dict[str, Any]:
        nothing: dict[str, Any] = {"tags": [], "labels": {}, "taints": [], "disks": [], "label": ""}
        nothing |= {"autoscaler": {"enabled": False, "min": 1, "max": 1}, "disk_encryption": "enabled"}
        pool = nothing | {name: value for name, value in given.items() if value is not None} | {"id": self._number()}
        self.pools[number][pool["id"]] = pool | {"nodes": [self._node() for _ in range(given["count"])]}
        return self.pools[number][pool["id"]]

    def _node(self) -> dict[str, Any]:
        number = self._number()
        return {"id": f"node-{number}", "instance_id": number, "status": "ready"}

    def _gone(self, pool: dict[str, Any]) -> None:
        for node in pool["nodes"]:
            entity = {"id": node["instance_id"], "type": "linode", "label": node["id"], "url": ""}
            self.events.append(
                {"id": self._number(), "action": "linode_delete", "entity": entity, "status": "finished"}
                | {"created": CREATED, "username": "somebody", "seen": False, "percent_complete": 100}
            )

    def _number(self) -> int:
        self._next += 1
        return self._next

    # Clusters

    def _delete(self, number: int) -> None:
        del self.clusters[number]
        for pool in self.pools.pop(number).values():
            self._gone(pool)
        self._work(self._take_down, number)

    def _work(self, does: Any, number: int) -> None:
        working = threading.Thread(target=does, args=(number,), daemon=True)
        self._working.append(working)
        working.start()

    def _command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [TRIMTAB, "cluster", "--clusters", self.home, *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=MAKING_S, check=False)

    def _bring_up(self, number: int) -> None:
        done = self._command("create", "--name", f"lke-{number}", "--owner", str(os.getpid()))
        if done.returncode:
            self.failed.append(done.stderr)
        self._made[number].set()

    def _take_down(self, number: int) -> None:
        self._made[number].wait(MAKING_S)
        self._command("delete", f"lke-{number}")

    def _kubeconfig(self, number: int) -> tuple[int, Any]:
        with self._lock:
            made = self._made.get(number) if number in self.clusters else None
        if made is None:
            return 404, _error("Not found")
        path = self.data(number) / "admin.kubeconfig"
        if not made.wait(MAKING_S) or not path.exists():
            return 503, _error("Cluster kubeconfig is not yet available. Please try again later.")
        return 200, {"kubeconfig": base64.b64encode(path.read_bytes()).decode()}


def _page(data: list[Any]) -> dict[str, Any]:
    return {"data": json.loads(json.dumps(data)), "page": 1, "pages": 1, "results": len(data)}


def _error(reason: str) -> dict[str, Any]:
    return {"errors": [{"reason": reason}]}
