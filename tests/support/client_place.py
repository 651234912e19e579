"""A Kubernetes whose pods run, for clients that nobody here wrote: an embedded engine, or the whole real one of `tests/cluster`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import shell_image
from cluster_process import NODE, ClusterProcess
from engine_under_test import engine
from trimtab.content import ContentStore

CLUSTER_PROGRAMS = ("TRIMTAB_KUBERNETES", "TRIMTAB_KUBERNETES_NODE")


@dataclass(frozen=True)
class Place:
    """A Kubernetes whose pods run. image: with a shell and a web server on port 8080."""

    kubeconfig: Path
    image: str
    node: str

    def run(
        self, *command: str, timeout_s: float = 180.0, fails: bool = False, stdin: str = "", **environment: str
    ) -> str:
        """Runs a program that finds the cluster by KUBECONFIG and returns what it prints, errors included."""
        done = subprocess.run(
            command,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig), **environment},
            check=False,
        )
        assert (done.returncode != 0) is fails, f"{' '.join(command)}: {done.returncode}\n{done.stdout}"
        return done.stdout


@contextmanager
def embedded(folder: Path) -> Iterator[Place]:
    with engine(folder / "data") as running:
        image = shell_image.provide(ContentStore(running.data / "content"))
        node = running.json("get", "nodes")["items"][0]["metadata"]["name"]
        yield Place(running.data / "admin.kubeconfig", image, node)


@contextmanager
def real(folder: Path) -> Iterator[Place]:
    cluster = ClusterProcess(folder, *(Path(os.environ[name]) for name in CLUSTER_PROGRAMS))
    try:
        cluster.start()
        push = [sys.executable, shell_image.__file__, str(folder / "content"), cluster.registry]
        subprocess.run(push, check=True, timeout=300, env=cluster.environment())
        image = f"{cluster.registry}/{shell_image.NAME}"
        yield Place(cluster.kubeconfig(), image, NODE)
    finally:
        cluster.close()
