"""A project in git that is pushed to an engine, and what becomes of each push: its run, the App's image, what is served."""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import subprocess
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

from engine_under_test import EngineUnderTest, wait_for

RUN_S = 300.0
GROUP = "/apis/trimtab.dev/v1alpha1/namespaces/default"
ENDED = ("Succeeded", "Failed", "Error")


class PushedProject:
    """A git repository whose remote `trimtab` is a Pipeline of the engine; `directory` has the project already."""

    def __init__(self, running: EngineUnderTest, directory: Path, name: str) -> None:
        self.running = running
        self.directory = directory
        self.name = name
        self.git("init", "--quiet", "-b", "main")

    def git(self, *arguments: str) -> str:
        """What git says, both outputs."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
        }
        done = subprocess.run(
            ["git", "-C", str(self.directory), "-c", "user.name=Anna", "-c", "user.email=anna@example.com", *arguments],
            capture_output=True, text=True, env=environment, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"git {arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def remote(self, *flags: str) -> None:
        """`trimtab remote`: the Pipeline, if there is none, and the remote."""
        self.running.run("remote", self.name, "-C", str(self.directory), *flags)

    def push(self, message: str) -> str:
        """Commits what there is and pushes it; returns the name of the run that the pusher is told."""
        self.git("add", ".")
        self.git("commit", "--quiet", "-m", message)
        said = self.git("push", "trimtab", "main")
        told = re.search(r"remote: trimtab: run (\S+)", said)
        assert told is not None, said
        return told[1]

    @property
    def commit(self) -> str:
        return self.git("rev-parse", "HEAD").strip()

    def ended(self, run: str) -> dict[str, Any]:
        """The status of a run, once it has ended."""

        def status() -> dict[str, Any] | None:
            found: dict[str, Any] = self.running.json("get", "pipelinerun", run).get("status", {})
            return found if found.get("phase") in ENDED else None

        return wait_for(status, RUN_S, lambda: f"the end of {run}\n{self.running.logs()}")  # type: ignore[no-any-return]

    def green(self, run: str) -> dict[str, Any]:
        """The status of a run that has to succeed."""
        status = self.ended(run)
        assert status["phase"] == "Succeeded", f"{status}\n{self.of_run(run, 'log')}"
        return status

    def of_run(self, run: str, what: str) -> str:
        """`log`, `record` or `report`, as the API gives it."""
        data = self.running.data
        tls = ssl.create_default_context(cafile=str(data / "pki" / "ca.crt"))
        with contextlib.closing(HTTPSConnection("127.0.0.1", self.running.api_port, timeout=60, context=tls)) as api:
            token = (data / "pki" / "admin.token").read_text()
            api.request("GET", f"{GROUP}/pipelineruns/{run}/{what}", headers={"Authorization": f"Bearer {token}"})
            answer = api.getresponse()
            text = answer.read().decode()
        assert answer.status == 200, text
        return text
