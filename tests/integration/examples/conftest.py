"""One engine for all examples, with the images that they name, and kubectl on it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from engine_under_test import EngineUnderTest, engine, wait_for
from example_images import provide
from trimtab.content import ContentStore

WAIT_S = 90.0


class Examples:
    """kubectl, as somebody would type it who follows the documentation."""

    def __init__(self, running: EngineUnderTest) -> None:
        self.running = running

    def __call__(self, *args: str, check: bool = True, stdin: str = "") -> str:
        """Runs kubectl; returns what it printed. It must succeed unless `check` is off."""
        config, cache = self.running.data / "admin.kubeconfig", self.running.data / "kubectl"
        done = subprocess.run(
            ["kubectl", f"--kubeconfig={config}", f"--cache-dir={cache}", *args],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(args)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self("apply", "-f", "-", stdin=msgspec.json.encode(listed).decode())

    def until(self, wanted: str, *args: str) -> str:
        """Waits until kubectl's output has these words; returns the output."""
        said = [""]

        def found() -> bool:
            said[0] = self(*args, check=False)
            return wanted in said[0]

        wait_for(found, WAIT_S, f"{wanted!r} from kubectl {' '.join(args)}")
        return said[0]

    def remove(self, *objects: dict[str, Any]) -> None:
        for body in reversed(objects):
            meta = body["metadata"]
            where = ["-n", meta["namespace"]] if "namespace" in meta else []
            self("delete", body["kind"].lower(), meta["name"], "--ignore-not-found", "--wait=false", *where)


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examples]:
    if os.geteuid() != 0 or shutil.which("kubectl") is None:
        pytest.skip("needs root and kubectl")
    folder = tmp_path_factory.mktemp("examples")
    with engine(folder / "data") as running:
        yield Examples(running)


@pytest.fixture(scope="session")
def images(examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Brings images in, each once."""
    workshop = tmp_path_factory.mktemp("workshop")
    there: set[str] = set()

    def bring(*names: str) -> None:
        provide(ContentStore(examples.running.data / "content"), [n for n in names if n not in there], workshop)
        there.update(names)

    return bring


@pytest.fixture(scope="session")
def client(examples: Examples, images: Any) -> Iterator[Examples]:
    """A pod named `client` with busybox in it, to ask others from."""
    images("busybox")
    examples("run", "client", "--image=busybox:1.28", "--restart=Never", "--command", "--", "sleep", "100000")
    examples("wait", "--for=condition=Ready", "pod/client", "--timeout=60s")
    return examples
