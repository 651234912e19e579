"""The engine's scraper: a process of the engine's user that ends with its input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from engine_at_rest import engine_at_rest
from engine_under_test import wait_for
from trimtab.components.profiling.storage.store import Profiles, Query

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PROFILE = Path(__file__).parents[2] / "support/profiles/go-cpu.pb.gz"
DEADLINE_S = 60


class Program(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path.startswith("/debug/pprof/profile")
        body = PROFILE.read_bytes() if found else b"no"
        self.send_response(200 if found else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_the_scraper_keeps_what_programs_tell_as_the_engines_user_and_ends_with_its_input(tmp_path: Path) -> None:
    settings = engine_at_rest(tmp_path / "data")
    root = settings.data_path("profiles")
    root.mkdir(exist_ok=True)
    shutil.chown(root, settings.user, settings.user)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Program)
    thread = Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    targets = [
        {"url": f"{url}/debug/pprof/profile", "interval_s": 1, "labels": {"app": "busy"}},
        {"url": f"{url}/gone", "interval_s": 1, "labels": {}},
    ]
    command = [sys.executable, "-m", "trimtab.engine.profiling", settings.data, "scrape", json.dumps(targets)]
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=said, stdout=said)
    try:

        def kept() -> bool:
            query = Query(start=1_700_000_000, end=int(time.time()) + 60, selector='app="busy",job="sum"')
            return process.poll() is not None or Profiles(root).select(query).total > 0

        wait_for(kept, DEADLINE_S, "a profile to be kept")
        wait_for(lambda: "/gone" in (tmp_path / "said").read_text(), DEADLINE_S, "the other's failure to be told")
        said_of_it = {"url": f"{url}/gone", "error": f"{url}/gone: HTTP Error 404: Not Found"}
        assert [json.loads(line) for line in (tmp_path / "said").read_text().splitlines()] == [said_of_it]
        (first, *_) = (root / "incoming").glob("*.batch")
        assert first.stat().st_uid == root.stat().st_uid
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(DEADLINE_S) == 0, (tmp_path / "said").read_text()
    finally:
        process.kill()
        process.wait()
        server.shutdown()
        thread.join()
        server.server_close()
        shutil.rmtree(settings.run, ignore_errors=True)
