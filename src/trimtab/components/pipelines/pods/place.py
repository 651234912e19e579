"""Where steps run as pods: a namespace of a cluster, how its API is reached, and how an image gets there.

registry   a cluster pulls from one: the image is pushed there, blobs that it has left out
engine     an engine of this machine has a content store: the image goes into it, and its name is `trimtab.local/...`
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trimtab.ci.runs.ports import EngineFault
from trimtab.client import HttpTransport, SocketTransport, WireClient
from trimtab.client.kubeconfig import ClusterAccess
from trimtab.content import ContentError, ContentStore, Credentials, RegistryClient
from trimtab.content.digest import Digest

REPOSITORY = "ci/pods"
ENGINE_REGISTRY = "trimtab.local"

Give = Callable[[ContentStore, Digest], str]
"""Brings an image to where the cluster pulls from; its reference there. Blocks. Raises `EngineFault`."""


@dataclass(frozen=True)
class Place:
    """name: as whoever runs it has said it. where: the API's socket, or how a cluster is reached."""

    name: str
    namespace: str
    where: Path | ClusterAccess
    give: Give

    def client(self) -> WireClient:
        """A client of its own for one event loop; to be closed."""
        transport = SocketTransport(self.where) if isinstance(self.where, Path) else HttpTransport(self.where)
        return WireClient(transport, agent="trimtab-ci")


def to_registry(registry: str) -> Give:
    """Gives images by a registry that the cluster's nodes pull from, with the login that `docker login` left."""

    def give(store: ContentStore, digest: Digest) -> str:
        there = f"{registry.rstrip('/')}/{REPOSITORY}"

        async def push() -> None:
            async with RegistryClient(store, credentials=Credentials.load()) as client:
                # A tag besides the digest: registries sweep what has none.
                await client.push(digest, f"{there}:{digest.partition(':')[2][:12]}", referrers=False)

        try:
            asyncio.run(push())
        except ContentError as err:
            raise EngineFault(str(err)) from None
        return f"{there}@{digest}"

    return give


def to_engine(data: Path) -> Give:
    """Gives images by the content store of the engine at `data`, on this machine. As root: a process apart takes them in."""

    def give(store: ContentStore, digest: Digest) -> str:
        from trimtab.content.layout import export_directory

        name = f"{ENGINE_REGISTRY}/{REPOSITORY}"
        if not ContentStore(data / "content").has(digest):
            with tempfile.TemporaryDirectory(prefix="trimtab-ci-") as directory:
                Path(directory).chmod(0o755)
                layout = Path(directory, "layout")
                export_directory(store, digest, f"{name}:latest", layout)
                argv = [sys.executable, "-I", "-m", "trimtab.engine.pipelines", str(data), "take", str(layout), name]
                done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
            if done.returncode != 0:
                said = (done.stdout + done.stderr).strip().splitlines() or [f"exit status {done.returncode}"]
                raise EngineFault(f"the engine at {data} does not take the image: {said[-1]}")
        return f"{name}@{digest}"

    return give
