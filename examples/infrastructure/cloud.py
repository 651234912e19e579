#!/usr/bin/env python3
"""A small cloud on this machine, to show and to test with: its clusters are real, each an engine of its own.

    cloud.py --home DIR --port N [--trimtab PROGRAM]      as root; only the standard library

    POST /networks, /clusters {..} -> 201 {"id": ..}      GET, PUT, DELETE /KIND/ID        GET /KIND
    POST /clusters/ID/rotate                              new credentials; the old ones are worth nothing any more
    PUT, GET /buckets/NAME/KEY                            files, which outlive every cluster
    GET, DELETE /buckets/NAME                             their keys, oldest first; all of them go
    PUT /faults {"half": 1, "slow_s": 5, "busy": 2}       the next so many: made half way; answered 429; seconds that making takes longer

Every request carries `Authorization: Bearer TOKEN`. A cluster is `creating` until it serves; its record then has its kubeconfig, in
base64. What is recorded survives a restart. Clusters go when this process ends.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KINDS = ("networks", "clusters")
KEY = re.compile(r"[a-z0-9][-a-z0-9.]{0,62}")
BODY_BYTES_MAX = 64 << 20


class Refused(Exception):
    """What a request is answered with instead."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


class Cloud:
    """What there is, kept in DIR/cloud.json; clusters in DIR/clusters, files in DIR/buckets."""

    def __init__(self, home: Path, token: str, trimtab: str) -> None:
        self.home = home
        self.token = token
        self.trimtab = trimtab
        self.lock = threading.RLock()
        self.faults: dict[str, float] = {}
        self.things: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
        self.last = 100
        home.mkdir(parents=True, exist_ok=True)
        if (home / "cloud.json").exists():
            kept = json.loads((home / "cloud.json").read_text())
            self.things, self.last = kept["things"], kept["last"]
            # Clusters have ended with the process that made them.
            self.things["clusters"].clear()

    def keep(self) -> None:
        new = self.home / "cloud.json.new"
        new.write_text(json.dumps({"things": self.things, "last": self.last}))
        new.replace(self.home / "cloud.json")

    def take(self, fault: str) -> bool:
        left = self.faults.get(fault, 0)
        self.faults[fault] = max(0, left - 1)
        return left > 0

    def do(self, method: str, parts: list[str], body: Any) -> tuple[int, Any]:
        """(status, answer). Raises `Refused`."""
        if parts == ["faults"] and method == "PUT":
            self.faults = dict(body)
            return 200, {}
        if parts[0] not in KINDS:
            raise Refused(404, f"there are no {parts[0]}")
        if self.take("busy"):
            raise Refused(429, "too many requests")
        kind, number = parts[0], parts[1] if len(parts) > 1 else ""
        if not number:
            return (200, list(self.things[kind].values())) if method == "GET" else (201, self.make(kind, body))
        if number not in self.things[kind]:
            raise Refused(404, f"there is no {number}")
        found = self.things[kind][number]
        if parts[2:] == ["rotate"] and method == "POST":
            self.rotate(found)
        elif method == "PUT":
            found.update({name: value for name, value in body.items() if name != "id"})
        elif method == "DELETE":
            self.delete(kind, found)
        self.keep()
        return 200, found

    def make(self, kind: str, body: Any) -> dict[str, Any]:
        if not isinstance(body, dict) or not body.get("name"):
            raise Refused(422, "a name is needed")
        self.last += 1
        made = {**body, "id": f"{kind[0]}-{self.last}"}
        self.things[kind][made["id"]] = made
        if kind == "clusters":
            if body.get("network") and body["network"] not in self.things["networks"]:
                del self.things[kind][made["id"]]
                raise Refused(422, f"there is no network {body['network']}")
            made["status"] = "creating"
            half, slow_s = self.take("half"), self.faults.pop("slow_s", 0)
            threading.Thread(target=self.bring_up, args=(made, half, slow_s), daemon=True).start()
        self.keep()
        return dict(made)

    def delete(self, kind: str, found: dict[str, Any]) -> None:
        using = [
            c["id"] for c in self.things["clusters"].values() if kind == "networks" and c.get("network") == found["id"]
        ]
        if using:
            raise Refused(409, f"{', '.join(using)} are in the network")
        del self.things[kind][found["id"]]
        if kind == "clusters":
            threading.Thread(target=self.command, args=("delete", found["id"]), daemon=True).start()

    # Clusters

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [self.trimtab, "cluster", "--clusters", str(self.home / "clusters"), *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)

    def bring_up(self, made: dict[str, Any], half: bool, slow_s: float) -> None:
        time.sleep(slow_s)
        done = None if half else self.command("create", "--name", made["id"], "--owner", str(os.getpid()))
        with self.lock:
            if done is None or done.returncode != 0:
                said = "no machine was left for it" if done is None else done.stderr.strip().splitlines()[-1]
                made.update(status="failed", error=said)
            else:
                self.rotate(made)
                made["status"] = "running"
            alive = made["id"] in self.things["clusters"]
            self.keep()
        if not alive:
            self.command("delete", made["id"])  # somebody deleted it while it was made

    def rotate(self, cluster: dict[str, Any]) -> None:
        """Credentials of its administrator that are not those before."""
        data = self.home / "clusters" / cluster["id"] / "data"
        before, turn = cluster.get("turn", 0), cluster.get("turn", 0) + 1
        argv = [self.trimtab, "--data", str(data), "token"]
        made = subprocess.run(
            [*argv, "create", f"cloud-{turn}", "--role", "admin"], capture_output=True, text=True, check=False
        )
        if made.returncode != 0:
            raise Refused(500, made.stderr.strip())
        if before:
            subprocess.run([*argv, "revoke", f"cloud-{before}"], capture_output=True, check=False)
        cluster.update(turn=turn, kubeconfig=base64.b64encode(made.stdout.encode()).decode())

    # Files

    def keys(self, parts: list[str]) -> list[str]:
        if len(parts) != 2 or not KEY.fullmatch(parts[1]):
            raise Refused(404, "buckets are at /buckets/NAME")
        found = [one for one in (self.home / "buckets" / parts[1]).glob("*") if KEY.fullmatch(one.name)]
        return [one.name for one in sorted(found, key=lambda one: one.stat().st_mtime_ns)]

    def file(self, parts: list[str]) -> Path:
        if len(parts) != 3 or not all(KEY.fullmatch(part) for part in parts):
            raise Refused(404, "files are at /buckets/NAME/KEY")
        return self.home / "buckets" / parts[1] / parts[2]


def handler(cloud: Cloud) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            if length > BODY_BYTES_MAX:
                self.close_connection = True
                self.answer(413, b'{"error": "too large"}')
                return
            raw = self.rfile.read(length)
            parts = self.path.split("?")[0].strip("/").split("/")
            try:
                if self.headers.get("authorization") != f"Bearer {cloud.token}":
                    raise Refused(401, "the token is not known")
                if parts[0] == "buckets" and len(parts) == 2:
                    keys = cloud.keys(parts)
                    if self.command == "DELETE":
                        shutil.rmtree(cloud.home / "buckets" / parts[1], ignore_errors=True)
                    self.answer(200, json.dumps(keys).encode())
                    return
                if parts[0] == "buckets":
                    self.bucket(cloud.file(parts), raw)
                    return
                with cloud.lock:
                    status, answer = cloud.do(self.command, parts, json.loads(raw) if raw else None)
                self.answer(status, json.dumps(answer).encode())
            except Refused as err:
                self.answer(err.status, json.dumps({"error": str(err)}).encode())
            except (ValueError, TypeError) as err:
                self.answer(400, json.dumps({"error": str(err)}).encode())

        do_GET = do_POST = do_PUT = do_DELETE = handle_any

        def bucket(self, path: Path, raw: bytes) -> None:
            if self.command == "PUT":
                path.parent.mkdir(parents=True, exist_ok=True)
                new = path.with_name(f".{path.name}.{threading.get_ident()}")
                new.write_bytes(raw)
                new.replace(path)
                self.answer(200, b"{}")
                return
            if not path.is_file():
                raise Refused(404, f"there is no file {path.name}")
            self.answer(200, path.read_bytes(), "application/octet-stream")

        def answer(self, status: int, raw: bytes, content_type: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--listen", default="0.0.0.0")
    parser.add_argument("--trimtab", default="trimtab")
    chosen = parser.parse_args()
    cloud = Cloud(chosen.home, os.environ["CLOUD_TOKEN"], chosen.trimtab)
    server = ThreadingHTTPServer((chosen.listen, chosen.port), handler(cloud))
    server.daemon_threads = True
    server.serve_forever(poll_interval=0.5)


if __name__ == "__main__":
    main()
