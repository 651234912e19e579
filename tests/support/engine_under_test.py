"""An engine of a test's own: a data directory and ports of its own, everything gone afterwards.

Used through the `trimtab` command only, as a user would.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

TRIMTAB = Path(sys.executable).with_name("trimtab")
START_TIMEOUT_S = 120
POLL_S = 0.02
PATIENCE_S = 60.0


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], Any], timeout_s: float, what: str | Callable[[], str]) -> Any:
    """Waits until `condition` gives something true, and returns it; fails with `what` and the last answer.

    `timeout_s` is of a quiet machine; a busy one has `PATIENCE_S` in any case.
    """
    timeout_s = max(timeout_s, PATIENCE_S)
    deadline = time.monotonic() + timeout_s
    answer = condition()
    while not answer:
        if time.monotonic() > deadline:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {timeout_s:.0f} s in vain for {said}; last: {answer!r}")
        time.sleep(POLL_S)
        answer = condition()
    return answer


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str


@dataclass
class EngineUnderTest:
    data: Path
    api_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    https_port: int = field(default_factory=free_port)
    web_port: int = field(default_factory=free_port)

    # The command

    def run(
        self, *arguments: str, check: bool = True, timeout_s: float = 180, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """`trimtab --data ... ARGUMENTS`; fails with its output unless `check` is off."""
        done = subprocess.run(
            [TRIMTAB, "--data", self.data, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            **options,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"trimtab {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
            )
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "-o", "json").stdout)

    def start(self, *more: str) -> None:
        ports = {
            "--port": self.api_port,
            "--http-port": self.http_port,
            "--https-port": self.https_port,
            "--web-port": self.web_port,
        }
        flags = (
            [str(part) for pair in ports.items() for part in pair] if not (self.data / "engine.json").exists() else []
        )
        self.run("start", *flags, *more, timeout_s=START_TIMEOUT_S)

    def remove(self) -> None:
        """Stops it and takes everything away."""
        self.run("uninstall", "--yes", timeout_s=120)
        shutil.rmtree(self.data, ignore_errors=True)

    def logs(self) -> str:
        """The end of each process's log, for a failure's message."""
        ends = []
        for path in sorted((self.data / "log").glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-15:]
            ends.append(f"--- {path.name}\n" + "\n".join(lines))
        return "\n".join(ends)

    def pid(self, process: str) -> int:
        """The pid of one of the engine's processes, as `trimtab status` has it."""
        for line in self.json("status")["processes"]:
            if line["name"] == process:
                return int(line["pid"])
        raise AssertionError(f"no process {process!r} in {self.run('status').stdout}")

    # The app, from outside

    def get(
        self,
        host: str,
        path: str = "/",
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request over TLS, the certificate checked against the engine's CA."""
        context = ssl.create_default_context(cafile=str(self.data / "pki" / "ca.crt"))
        plain = socket.socket()
        plain.settimeout(10)
        # Wrapped before it connects: wrapping a socket that the peer has reset already raises and leaves it open
        with context.wrap_socket(plain, server_hostname=host) as secured:
            secured.connect(("127.0.0.1", self.https_port))
            connection = HTTPConnection(host)
            connection.sock = secured
            connection.request(method, path, body, {"Host": host, **(headers or {})})
            response: HTTPResponse = connection.getresponse()
            text = response.read().decode(errors="replace")
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, text)

    def serves(self, host: str, path: str = "/") -> Answer | None:
        """The answer if it is 200, None for anything else (no connection, no route, an error)."""
        try:
            answer = self.get(host, path)
        except OSError:
            return None
        return answer if answer.status == 200 else None

    def wait_serving(self, host: str, path: str = "/", timeout_s: float = 60) -> Answer:
        return wait_for(lambda: self.serves(host, path), timeout_s, f"https://{host}{path}")  # type: ignore[no-any-return]

    def timeline(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.json("timeline", "--limit", "1000")
        return entries

    def wait_timeline(self, *words: str, timeout_s: float = 30, after: int = 0) -> dict[str, Any]:
        """The first timeline entry beyond id `after` whose message has all the words."""

        def found() -> dict[str, Any] | None:
            for entry in self.timeline():
                if entry.get("id", 0) > after and all(word in entry["message"] for word in words):
                    return entry
            return None

        return wait_for(found, timeout_s, f"a timeline entry with {words}")  # type: ignore[no-any-return]

    def last_entry(self) -> int:
        return max((int(entry["id"]) for entry in self.timeline()), default=0)


@contextmanager
def engine(directory: Path, *flags: str) -> Iterator[EngineUnderTest]:
    """A running engine with its data in `directory`; removed at the end, whatever happened. flags: of `start`."""
    made = EngineUnderTest(directory)
    try:
        made.start(*flags)
        yield made
    finally:
        if os.environ.get("TRIMTAB_KEEP_ENGINE") != "1":
            made.remove()
