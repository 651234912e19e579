"""One small image with a shell, a web server and tar, for tests of clients that need a running pod: Debian's busybox.

`python shell_image.py DIRECTORY REGISTRY` builds it in the content store at DIRECTORY and pushes it to REGISTRY.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from trimtab.content import ContentStore, Digest, ImageSpec, RegistryClient, build
from trimtab.content.layout import export_directory, import_directory

NAME = "clients/shell:1"
APPLETS = [
    "awk",
    "cat",
    "date",
    "echo",
    "env",
    "false",
    "grep",
    "head",
    "hostname",
    "httpd",
    "id",
    "ls",
    "mkdir",
    "nc",
    "ps",
    "rm",
    "sed",
    "seq",
    "sh",
    "sleep",
    "stty",
    "tail",
    "tar",
    "test",
    "touch",
    "tr",
    "true",
    "tty",
    "wc",
    "wget",
]
PAGE = "served\n"
SPEC = ImageSpec(
    name="clients/shell",
    debian=["busybox"],
    links={f"/usr/bin/{name}": "busybox" for name in APPLETS},
    inline={"/www/index.html": PAGE},
    cmd=["httpd", "-f", "-p", "8080", "-h", "/www"],
)


def provide(store: ContentStore) -> str:
    """Brings the image into an engine's store and returns the name to ask for it by."""
    with tempfile.TemporaryDirectory() as folder:
        own = ContentStore(Path(folder) / "content")
        built = asyncio.run(build(SPEC, own))
        export_directory(own, built.digest, built.ref, Path(folder) / "image")
        import_directory(store, Path(folder) / "image")
        store.tag(f"registry.example/{NAME}", built.digest)
    return f"registry.example/{NAME}"


async def push(directory: Path, registry: str) -> None:
    store = ContentStore(directory)
    digest: Digest = (await build(SPEC, store)).digest
    async with RegistryClient(store) as client:
        await client.push(digest, f"{registry}/{NAME}")


if __name__ == "__main__":
    asyncio.run(push(Path(sys.argv[1]), sys.argv[2]))
