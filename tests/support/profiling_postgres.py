"""PostgreSQL as the distribution ships it (stripped), busy with a query that takes as long as it is given."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from profiling_known_trees import Program

START_S = 60
_QUERY = "SELECT sum(sqrt(a.i * b.i)) FROM generate_series(1, 100000) a(i), generate_series(1, 100000) b(i)"
_CALLS = {
    "main": ("PostmasterMain",),
    "PostmasterMain": ("PostgresMain",),
    "PostgresMain": ("PortalRun",),
    "PortalRun": ("standard_ExecutorRun",),
}


@dataclass
class Busy:
    """A server process with its query."""

    program: Program
    pids: set[int] = field(default_factory=set)
    cpu_s: float = 0.0


class Postgres:
    """A server in a directory of its own, reached by a socket there alone. Where there is none, it does nothing."""

    def __init__(self, directory: Path, programs: Path | None = None) -> None:
        self._directory = directory / "postgres"
        self._programs = programs or self.programs()
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def programs() -> Path | None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        return found[-1].parent if found and shutil.which("setpriv") else None

    @classmethod
    def missing(cls) -> list[str]:
        return [] if cls.programs() else ["PostgreSQL is not there (apt-get install postgresql): left out"]

    def _run(self, name: str, *arguments: str) -> list[str]:
        user = pwd.getpwnam("postgres")
        prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        return [*prefix, str((self._programs or Path()) / name), *arguments]

    def __enter__(self) -> Postgres:
        if not self._programs:
            return self
        data = self._directory / "data"
        if not data.exists():
            self._directory.mkdir(exist_ok=True)
            shutil.chown(self._directory, "postgres", "postgres")
            self._call("initdb", "-D", str(data), "-A", "trust", "-N", "-U", "postgres")
        command = self._run("postgres", "-D", str(data), "-k", str(self._directory), "-c", "listen_addresses=", "-F")
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._call("pg_isready", "-h", str(self._directory), "-t", str(START_S), again=START_S)
        return self

    def _call(self, name: str, *arguments: str, again: int = 0) -> None:
        command = self._run(name, *arguments)
        for _ in range(again + 1):
            if subprocess.run(command, capture_output=True, timeout=START_S, check=False).returncode == 0:
                return
            if again:
                threading.Event().wait(1)
        raise RuntimeError(f"{name} failed")

    @property
    def pid(self) -> int:
        """Of the postmaster, whose children are the backends."""
        assert self._process
        return self._process.pid

    @contextlib.contextmanager
    def benched(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """pgbench at work on tables of its own."""
        reach = ("-h", str(self._directory), "-U", "postgres", "postgres")
        self._call("pgbench", "-i", "-q", "-s", "2", *reach)
        command = self._run("pgbench", *options, *reach)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
            try:
                yield client
            finally:
                client.kill()

    @contextlib.contextmanager
    def busy(self, seconds: float, *, jit: bool) -> Iterator[Busy]:
        """A query that is ended after so many seconds. Its CPU time is that of its process until just before."""
        name = f"PostgreSQL, stripped, jit {'on' if jit else 'off'}"
        busy = Busy(Program(name, (), _CALLS, goal=not jit, note="code made by LLVM"))
        if not self._process:
            yield busy
            return
        settings = f"SET jit = {'on' if jit else 'off'}; SET jit_above_cost = 0; SET statement_timeout = '{seconds}s';"
        command = self._run("psql", "-h", str(self._directory), "-U", "postgres", "-qAt")
        client = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert client.stdin
        assert client.stdout
        client.stdin.write(f"SELECT pg_backend_pid();\n{settings}\n{_QUERY};\n")
        client.stdin.flush()
        pid = int(client.stdout.readline())
        busy.pids.add(pid)
        try:
            yield busy
            parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            busy.cpu_s = sum(int(part) for part in parts[11:13]) / os.sysconf("SC_CLK_TCK")
        finally:
            client.kill()
            client.communicate()

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=START_S)
