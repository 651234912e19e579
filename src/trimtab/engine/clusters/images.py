"""The images that throw-away clusters share: one store beside them, of which each has its own names of the same files.

    HOME/.images (a content store) --hard links--> HOME/NAME/data/content            blobs; the names are copies
    frozen cluster's containerd    --hard links--> HOME/NAME/data/node/containerd    blobs and unpacked layers; databases are copies

The linked files are root's, and nobody writes them: a blob is written once, and the kernel's overlay file system writes into a
container's own directory, never into a layer. A link takes no space: an image is in a cluster as soon as its names are.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from trimtab.content import ContentError, ContentStore
from trimtab.content.garbage import reachable
from trimtab.engine import privileges
from trimtab.engine.clusters.places import IMAGES, Cluster, locked
from trimtab.engine.errors import EngineError
from trimtab.runtime.settings import Settings

_LINKED = ("io.containerd.content.v1.content", "io.containerd.snapshotter.v1.overlayfs")
_COPIED = ("io.containerd.metadata.v1.bolt",)
"""What of containerd's root is its images: https://github.com/containerd/containerd/blob/main/docs/ops.md#base-configuration."""


def store_of(home: Path) -> ContentStore:
    """The store that all clusters here share. As root."""
    directory = home / IMAGES
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    return ContentStore(directory)


def collect(home: Path, source: Path, images: Sequence[str]) -> list[str]:
    """Copies images, by tag, from a content store into the shared one, every blob verified; without any named, all of it, the
    build cache included. Returns the names.

    Raises:
        EngineError: the source has no such image, or a blob of it is damaged.
    """
    if not (source / "tags").is_dir():
        raise EngineError(f"{source} is no content store: give the data directory of an engine as --data")
    theirs = ContentStore(source)
    tags = theirs.tags() | theirs.tags("cache/")
    wanted = {name: tags[name] for name in tags if not images or name in images}
    for name in images:
        if name not in tags:
            known = ", ".join(theirs.tags()) or "none"
            raise EngineError(f"{source} has no image {name!r}; it has {known}")
    try:
        with locked(home):
            ours = store_of(home)
            for digest in reachable(theirs, list(wanted.values())):
                if theirs.has(digest) and not ours.has(digest):
                    ours.put_file(theirs.path(digest), expect=digest)
                for referrer in theirs.referrers(digest):
                    ours.add_referrer(digest, referrer)
            for name, digest in wanted.items():
                ours.tag(name, digest)
    except ContentError as err:
        raise EngineError(str(err)) from None
    return sorted(name for name in wanted if not name.startswith("cache/"))


def give(home: Path, settings: Settings) -> None:
    """Gives a cluster every image of the shared store: its blobs by links, its names as files of the cluster's own."""
    source = home / IMAGES
    if not source.is_dir():
        return
    uid, gid = privileges.ids_of(settings.user)
    target = settings.data_path("content")
    for directory, _, files in os.walk(source):
        there = target / Path(directory).relative_to(source)
        if there.name in ("ingest", "locks"):
            continue
        _directory(there, uid, gid)
        for name in files:
            if name.startswith(".tmp-") or (there / name).exists():
                continue
            if there.name == "sha256":
                os.link(os.path.join(directory, name), there / name)
            else:
                _own_copy(Path(directory, name), there / name, uid, gid)


def _directory(path: Path, uid: int, gid: int) -> None:
    if not path.is_dir():
        path.mkdir(mode=0o755)
        os.chown(path, uid, gid)


def _own_copy(source: Path, target: Path, uid: int, gid: int) -> None:
    temporary = target.with_name(f".tmp-{target.name[:200]}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644), "wb") as file:
        with source.open("rb") as content:
            shutil.copyfileobj(content, file)
        os.fchown(file.fileno(), uid, gid)
    temporary.replace(target)


def load(home: Path, clusters: Sequence[Cluster], images: Iterable[str]) -> None:
    """Gives running clusters the images of the shared store and has each unpack these.

    Raises:
        EngineError: a cluster could not take one; names both.
    """
    for cluster in clusters:
        give(home, cluster.settings())
    names = [name for name in images if not name.partition(":")[2].startswith("former-")]
    asyncio.run(_unpack(home, [one for one in clusters if one.state == "ready"], names))


async def _unpack(home: Path, clusters: Sequence[Cluster], names: Sequence[str]) -> None:
    from trimtab.components.node.cri import Cri
    from trimtab.components.node.sandboxes import RuntimeFailure

    store = store_of(home)

    async def one(cluster: Cluster) -> None:
        settings = cluster.settings()
        cri = Cri(settings.containerd_socket)
        try:
            for name in names:
                repository = name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name
                await cri.pull(f"{settings.image_registry}/{repository}@{store.resolve(name)}", None)
        except (RuntimeFailure, OSError) as err:
            raise EngineError(f"cluster {cluster.name} could not take image {name}: {err}") from None
        finally:
            await cri.close()

    await asyncio.gather(*map(one, clusters))


def clone(source: Settings, target: Settings) -> None:
    """Gives a cluster that never ran the unpacked images of a frozen one: directories are links of what is in them, file by
    file, the databases beside them copies."""
    old, new = (one.data_path("node", "containerd") for one in (source, target))
    target.data_path("node").mkdir(mode=0o700, exist_ok=True)
    new.mkdir(mode=0o711)
    for name in (*_LINKED, *_COPIED):
        if not (old / name).is_dir():
            continue
        (new / name).mkdir(mode=0o700)
        for entry in (old / name).iterdir():
            copy(target.data_path(), entry, new / name / entry.name, linked=entry.is_dir() and name in _LINKED)


def copy(data: Path, source: Path, target: Path, *, linked: bool = False) -> None:
    """A copy with owners, modes, attributes and holes, by reference where the file system can. linked: its files are the same
    files. data: the directory of the cluster that it is for, which stays locked for as long as somebody writes there, even
    when this process is killed.
    """
    target.parent.mkdir(mode=0o700, exist_ok=True)
    argv = ["cp", "-a", "--link" if linked else "--reflink=auto", "-T", str(source), str(target)]
    held = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_SH)
        done = subprocess.run(argv, capture_output=True, text=True, check=False, pass_fds=(held,))
    finally:
        os.close(held)
    if done.returncode != 0:
        raise EngineError(f"{source} could not be copied: {(done.stderr.strip().splitlines() or ['?'])[-1]}")


def copy_content(source: Settings, target: Settings) -> None:
    """Gives a cluster the images of another one that it does not have yet: files of its own."""
    theirs, ours = source.data_path("content"), target.data_path("content")
    uid, gid = privileges.ids_of(target.user)
    for directory, _, files in os.walk(theirs):
        there = ours / Path(directory).relative_to(theirs)
        if "ingest" in there.parts or there.name == "locks":
            continue
        _directory(there, uid, gid)
        for name in files:
            if not name.startswith(".tmp-") and not (there / name).exists():
                _own_copy(Path(directory, name), there / name, uid, gid)
