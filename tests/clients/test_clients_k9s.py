"""k9s in a terminal: it lists pods and deployments as they come, describes, shows logs and YAML, and deletes."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client_place import Place
from client_programs import until

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(600)]


class Terminal:
    """A tmux server of the test's own, with one program in it."""

    def __init__(self, folder: Path, command: str, environment: dict[str, str]) -> None:
        self._name = f"clients-{secrets.token_hex(3)}"
        settings = [part for name, value in environment.items() for part in ("-e", f"{name}={value}")]
        self._tmux("new-session", "-d", "-x", "180", "-y", "45", "-c", str(folder), *settings, command)

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-L", self._name, "-f", "/dev/null", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    def type(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def shows(self, *words: str) -> None:
        """Waits until all the words are on the screen."""
        until(lambda: all(word in self.screen() for word in words), lambda: f"{words} on the screen:\n{self.screen()}")

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self._name, "kill-server"], capture_output=True, check=False)


@pytest.fixture
def terminal(
    place: Place, program: Callable[[str], str], kubeconfig: Path, namespace: str, tmp_path: Path
) -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        pytest.skip("no tmux: install the Debian package")
    binary = program("k9s")
    home = {f"XDG_{name}_HOME": str(tmp_path) for name in ("CONFIG", "DATA", "STATE", "CACHE")}
    environment = {**home, "KUBECONFIG": str(kubeconfig), "PATH": os.environ["PATH"], "TERM": "xterm-256color"}
    command = f"{binary} -n {namespace} --logFile {tmp_path}/k9s.log --logLevel info --splashless --refresh 1"
    made = Terminal(tmp_path, command, environment)
    yield made
    made.close()


def test_k9s_shows_and_changes_what_is_there(place: Place, terminal: Terminal, namespace: str, tmp_path: Path) -> None:
    terminal.shows(f"pods({namespace})[0]")
    place.run("kubectl", "-n", namespace, "create", "deployment", "web", "--image", place.image)
    terminal.shows(f"pods({namespace})[1]", "web-", "1/1", "Running")

    terminal.type(":deployments", "Enter")
    terminal.shows(f"deployments({namespace})[1]", "1/1")
    terminal.type("y")
    terminal.shows(f"YAML({namespace}/web)", "kind: Deployment")
    terminal.type("Escape")
    terminal.shows(f"deployments({namespace})[1]")
    terminal.type("d")
    terminal.shows(f"Describe({namespace}/web)", "StrategyType:")
    terminal.type("Escape")
    place.run("kubectl", "-n", namespace, "scale", "deployment", "web", "--replicas=2")
    terminal.shows(f"deployments({namespace})[1]", "2/2")

    run = ("kubectl", "-n", namespace, "run", "says", "--restart=Never", "--image", place.image)
    place.run(*run, "--", "echo", "said so")
    terminal.type(":pods", "Enter")
    terminal.shows(f"pods({namespace})[3]", "says", "Completed")
    terminal.type("/says", "Enter")
    terminal.shows(f"pods({namespace})[1]", "</says>")
    terminal.type("l")
    terminal.shows(f"Logs({namespace}/says", "said so")
    terminal.type("Escape")
    terminal.shows(f"pods({namespace})[1]", "Completed")
    terminal.type("C-d")
    terminal.shows(f"Delete pods {namespace}/says?")
    terminal.type("Tab", "Enter")
    gone = ("kubectl", "-n", namespace, "get", "pod", "says", "--ignore-not-found", "-o", "name")
    until(lambda: not place.run(*gone), lambda: f"k9s deletes the pod:\n{terminal.screen()}")

    for command, title in (
        ("nodes", "nodes(all)[1]"),
        ("events", f"events({namespace})["),
        ("crd", "customresourcedef"),
    ):
        terminal.type(f":{command}", "Enter")
        terminal.shows(title)
    told = (tmp_path / "k9s.log").read_text()
    assert [line for line in told.splitlines() if "mERR" in line or "panic" in line.lower()] == []
