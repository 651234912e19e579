"""`trimtab run` beside a cluster, for a test: a process of its own with a state directory of its own, and its commands.

with cluster_of(kubeconfig) as world: world.engine.run("provider", "list")      a fake cloud beside it, as `cloud_engine` has it
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud import Cloud
from engine_under_test import TRIMTAB, EngineUnderTest, wait_for
from infrastructure_engine import CloudEngine

STATEFUL = ("provider", "composition", "uninstall")
"""Commands that take --state."""


@dataclass
class RunUnderTest(EngineUnderTest):
    """`data` is its state directory."""

    kubeconfig: Path = Path()
    user: Path | None = None
    """The kubeconfig with which it runs, if that is another one than that of the commands."""
    only: Sequence[str] = ("infrastructure",)
    process: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> list[str]:
        if arguments[0] in STATEFUL:
            arguments = (arguments[0], "--state", str(self.data), *arguments[1:])
        return [TRIMTAB, "--kubeconfig", str(self.kubeconfig), *arguments]

    def run(
        self, *arguments: str, check: bool = True, timeout_s: float = 180, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=timeout_s, check=False, **options
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"trimtab {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
            )
        return done

    def start(self, *more: str) -> None:
        """Returns once it says for what it runs."""
        begun = self.said().count(" for https://")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._run(*more), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(lambda: self.said().count(" for https://") > begun or self._ended(), 60, self.said)

    def run_once(self) -> subprocess.CompletedProcess[str]:
        """What it says when it refuses to begin."""
        return subprocess.run(self._run(), capture_output=True, text=True, timeout=60, check=False)

    def _run(self, *more: str) -> list[str]:
        named = [part for name in self.only for part in ("--only", name)]
        with_user = [TRIMTAB, "--kubeconfig", str(self.user or self.kubeconfig)]
        return [*with_user, "run", "--state", str(self.data), "--listen", "127.0.0.1", *named, *more]

    def _ended(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        return False

    @property
    def log(self) -> Path:
        return self.data.with_name("run.log")

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def logs(self) -> str:
        return self.said()[-4000:]

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends it, and returns once it has ended."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, number)
            self.process.wait(60)

    def remove(self) -> None:
        self.stop()


@contextmanager
def run_beside(kubeconfig: Path) -> Iterator[CloudEngine]:
    """`trimtab run --only infrastructure`, started, beside a fake cloud; ended at the end, with what it put there left there."""
    with tempfile.TemporaryDirectory(prefix="tt-run-") as folder, Cloud() as cloud:
        runs = RunUnderTest(Path(folder) / "s", kubeconfig=kubeconfig)
        Path(folder).chmod(0o755)
        try:
            runs.start()
            yield CloudEngine(runs, cloud, Path(folder))
        finally:
            runs.remove()
