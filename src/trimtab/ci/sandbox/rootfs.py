"""From an image to the read-only directories that a step's file system is stacked from.

    manifest digest --content--> layers (tars) --unpack, once each--> roots/<layer>/ ... --overlayfs--> a step's root

A layer is unpacked beside its place and renamed, so that it is there whole or not at all. All files belong to whoever runs the
steps, who is root in them. What an image deletes becomes what overlayfs understands: a 0/0 character device for a
whiteout, an extended attribute for an opaque directory; neither needs a privilege. A layer is somebody else's: a path or a hard
link that leads out of it, or a device, is refused; set-user-id bits are dropped, because here they would be those of the user.
"""

from __future__ import annotations

import errno
import json
import os
import posixpath
import signal
import stat
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from trimtab.ci.runs.ports import EngineFault
from trimtab.ci.sandbox.links import CircleOfLinks, followed
from trimtab.ci.sandbox.space import lease, remove_tree

if TYPE_CHECKING:
    import tarfile

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
ROOTS = "roots"
IMAGES = "images"
MAKING = "making"
"""Where layers are while they are unpacked; swept, see `space`."""
_NAME_DIGITS = 32
_one_at_a_time = threading.Lock()  # several steps that begin with one image need it unpacked once
_CHUNK_BYTES = 1 << 20
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Root:
    """An image, unpacked. layers: directories relative to the state's, the topmost first; the rest is its configuration."""

    digest: str
    layers: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    cwd: str = "/"
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    stop_signal: int = int(signal.SIGTERM)


@dataclass(frozen=True)
class Account:
    """Whom a command runs as."""

    uid: int
    gid: int
    name: str
    home: str


def unpacked(state: Path, digest: str) -> Root:
    """The image with this digest, its layers unpacked if they are not yet. Raises `EngineFault`."""
    record = state / IMAGES / f"{digest.removeprefix('sha256:')}.json"
    with _one_at_a_time:
        root = _recorded(state, record)
        if root is None:
            root = _unpack_image(state, digest)
            record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = record.with_name(f".{record.name}-{os.getpid()}-{os.urandom(4).hex()}")
            temporary.write_text(json.dumps(asdict(root)))
            temporary.replace(record)
        else:
            with suppress(OSError):
                os.utime(record)  # see `roots`
        return root


def _recorded(state: Path, record: Path) -> Root | None:
    """An image that was unpacked before; None if it was not, or not by this version, or is gone."""
    try:
        doc = json.loads(record.read_text())
        root = Root(**{**doc, **{name: tuple(doc[name]) for name in ("layers", "entrypoint", "cmd")}})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    return root if all((state / layer).is_dir() for layer in root.layers) else None


def _unpack_image(state: Path, digest: str) -> Root:
    from trimtab.content import ContentError, ContentStore, oci
    from trimtab.content.digest import parse_digest

    try:
        store = ContentStore(state)
        _, manifest = oci.image_manifest(store, parse_digest(digest))
        config = oci.read_config(store, manifest)
        layers: list[str] = []
        for layer in manifest.layers:
            name = f"{ROOTS}/{layer.digest.removeprefix('sha256:')[:_NAME_DIGITS]}"
            if not (state / name).is_dir():
                with store.open(parse_digest(layer.digest)) as file:
                    unpack_layer(file, layer.media_type, state / name, layer.digest, state / MAKING)
            layers.append(name)
    except ContentError as err:
        raise EngineFault(f"the image {digest[:19]} cannot be used: {err}") from None
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EngineFault(f"no space left in {state} for the image {digest[:19]}; free some") from None
        raise
    run = config.config
    return Root(
        digest,
        tuple(reversed(layers)),
        dict(variable.partition("=")[::2] for variable in run.env),
        run.user,
        run.working_dir or "/",
        tuple(run.entrypoint or ()),
        tuple(run.cmd or ()),
        _signal(run.stop_signal),
    )


def _signal(name: str) -> int:
    if name.isdigit():
        return int(name)
    return int(getattr(signal, name if name.startswith("SIG") else f"SIG{name}", signal.SIGTERM))


def unpack_layer(file: IO[bytes], media_type: str, directory: Path, name: str, making: Path) -> None:
    """Unpacks a layer to `directory`, which is there afterwards, whoever made it; on the way it is below `making`, on the same
    disk. Raises Corrupt for a hostile one.
    """
    from trimtab.content.tarreader import open_layer

    directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = lease(making / os.urandom(8).hex())
    assert made is not None
    try:
        temporary = made.directory / "layer"
        temporary.mkdir(mode=0o755)
        with open_layer(file, media_type, name) as (tar, entries):
            unpacking = _Unpacking(str(temporary), tar, name)
            for entry in entries:
                unpacking.add(entry)
            unpacking.finish()
        try:
            os.rename(temporary, directory)
        except OSError as err:
            if err.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    finally:
        made.remove()


class _Unpacking:
    """One layer on its way. Nobody else writes there, so what is known of it here is all there is: `links` leads every path
    to where it really goes, and no path is ever handed to the kernel with a link in the middle."""

    def __init__(self, directory: str, tar: tarfile.TarFile, layer: str) -> None:
        self.directory = directory
        self.tar = tar
        self.layer = layer
        self.links: dict[str, str] = {}
        self.directories: dict[str, tuple[int, float]] = {"": (0o755, 0.0)}
        self.files: set[str] = set()

    def add(self, entry: tarfile.TarInfo) -> None:
        path = self._where(entry.name)
        parent, _, base = path.rpartition("/")
        if base == OPAQUE:
            self._parents(f"{parent}/x" if parent else "x")
            os.setxattr(self._at(parent), "user.overlay.opaque", b"y")
            return
        if base.startswith(WHITEOUT):
            hidden = posixpath.join(parent, base.removeprefix(WHITEOUT))
            if base.removeprefix(WHITEOUT) in ("", ".", ".."):
                raise self._refused(entry, "names nothing to delete")
            self._parents(hidden)
            if hidden not in self.files and hidden not in self.directories and hidden not in self.links:
                os.mknod(self._at(hidden), stat.S_IFCHR, 0)
                self.files.add(hidden)
            return
        if entry.isdir():
            self._directory(path, entry)
            return
        if path == "":
            raise self._refused(entry, "is the root, and no directory")
        if (entry.ischr() or entry.isblk()) and path.split("/")[0] == "dev":
            return  # a step has a /dev of its own
        self._parents(path)
        self._clear(path)
        if entry.isreg():
            self._file(path, entry)
        elif entry.issym():
            os.symlink(entry.linkname, self._at(path))
            self.links[path] = entry.linkname
            os.utime(self._at(path), (entry.mtime, entry.mtime), follow_symlinks=False)
        elif entry.islnk():
            target = self._where(entry.linkname)
            if target not in self.files and target not in self.links:
                raise self._refused(
                    entry, f"is a hard link to {entry.linkname!r}, which is not in this layer before it"
                )
            os.link(self._at(target), self._at(path), follow_symlinks=False)
            if target in self.links:
                self.links[path] = self.links[target]
            else:
                self.files.add(path)
        elif entry.isfifo():
            os.mkfifo(self._at(path), entry.mode & 0o777)
            self.files.add(path)
        else:
            raise self._refused(entry, "is a device" if entry.ischr() or entry.isblk() else "is of an unknown type")

    def finish(self) -> None:
        """The modes and times of directories, which would have been in the way before."""
        for path in sorted(self.directories, key=len, reverse=True):
            mode, mtime = self.directories[path]
            os.chmod(self._at(path), mode)
            os.utime(self._at(path), (mtime, mtime))

    def _file(self, path: str, entry: tarfile.TarInfo) -> None:
        source = self.tar.extractfile(entry)
        descriptor = os.open(self._at(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            while source is not None and (chunk := source.read(_CHUNK_BYTES)):
                while chunk:
                    chunk = chunk[file.write(chunk) :]
            os.fchmod(descriptor, entry.mode & 0o777)
            os.utime(descriptor, (entry.mtime, entry.mtime))
        self.files.add(path)

    def _directory(self, path: str, entry: tarfile.TarInfo) -> None:
        self._parents(path)
        if path not in self.directories:
            self._clear(path)
            os.mkdir(self._at(path), 0o700)
        self.directories[path] = (entry.mode & 0o1777, float(entry.mtime))

    def _parents(self, path: str) -> None:
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            parent = "/".join(parts[:depth])
            if parent not in self.directories:
                self._clear(parent)
                os.mkdir(self._at(parent), 0o700)
                self.directories[parent] = (0o755, 0.0)

    def _clear(self, path: str) -> None:
        """Makes place: a later entry of a name replaces an earlier one."""
        if path in self.directories:
            remove_tree(Path(self._at(path)))
            for known in (self.directories, self.links, self.files):
                for one in [one for one in known if one == path or one.startswith(f"{path}/")]:
                    known.discard(one) if isinstance(known, set) else known.pop(one)
        elif path in self.files or path in self.links:
            os.unlink(self._at(path))
            self.files.discard(path)
            self.links.pop(path, None)

    def _at(self, path: str) -> str:
        return posixpath.join(self.directory, path)

    def _where(self, name: str) -> str:
        """Where a name in the archive leads, links in the middle followed as they would be inside. Raises Corrupt."""
        if ".." in name.split("/") or "\0" in name:
            raise self._refused_name(name, "leads out of the layer")
        *above, last = [part for part in name.split("/") if part not in ("", ".")] or [""]
        try:
            parent = followed("/".join(above), lambda here: self.links.get(here[1:]))
        except CircleOfLinks:
            raise self._refused_name(name, "goes through a circle of links") from None
        return posixpath.join(parent, last)[1:]

    def _refused(self, entry: tarfile.TarInfo, why: str) -> Exception:
        return self._refused_name(entry.name, why)

    def _refused_name(self, name: str, why: str) -> Exception:
        from trimtab.content.errors import Corrupt

        return Corrupt(f"layer {self.layer[:19]} is refused: {name[:200]!r} {why}")


# Looking into a stack of directories without mounting it


def real(lowers: list[Path], path: str) -> str:
    """A path with its links followed as they would be inside, absolute; what is not there is as it was said."""

    def target(here: str) -> str | None:
        found = _topmost(lowers, here)
        return os.readlink(found) if found is not None and found.is_symlink() else None

    try:
        return followed(path, target)
    except CircleOfLinks:
        raise EngineFault(f"{path} goes through a circle of links in the image") from None


def find(lowers: list[Path], path: str) -> Path | None:
    """Where a path is in a stack of directories, the topmost first; None if nowhere."""
    return _topmost(lowers, real(lowers, path))


def _topmost(lowers: list[Path], path: str) -> Path | None:
    """path: without links in the middle. What stands in its way in one directory hides it in all below, as overlayfs has it."""
    parts = [part for part in path.split("/") if part]
    for lower in lowers:
        at = str(lower)
        for number, part in enumerate(parts, 1):
            at = f"{at}/{part}"
            try:
                mode = os.lstat(at).st_mode
            except FileNotFoundError:
                break  # not in this one
            if number == len(parts):
                return None if stat.S_ISCHR(mode) else Path(at)
            if not stat.S_ISDIR(mode):
                return None
        if not parts:
            return lower
    return None


def account(lowers: list[Path], user: str) -> Account:
    """The account of `user` (a name or number, with `:GROUP` or without) as the files of an image say. Raises `EngineFault`."""
    name, _, group = (user or "0").partition(":")
    for row in _rows(lowers, "etc/passwd", 7):
        if name in (row[0], row[2]):
            gid = _group(lowers, group) if group else int(row[3])
            return Account(int(row[2]), gid, row[0], row[5] or "/")
    if not name.isdigit():
        raise EngineFault(f"the image has no user {name!r} in /etc/passwd; name one that it has, or a number")
    home = "/root" if name == "0" else "/"
    return Account(int(name), _group(lowers, group) if group else int(name), name, home)


def _group(lowers: list[Path], group: str) -> int:
    if group.isdigit():
        return int(group)
    for row in _rows(lowers, "etc/group", 4):
        if row[0] == group:
            return int(row[2])
    raise EngineFault(f"the image has no group {group!r} in /etc/group; name one that it has, or a number")


def _rows(lowers: list[Path], path: str, columns: int) -> list[list[str]]:
    found = find(lowers, path)
    if found is None or not found.is_file():
        return []
    rows = (line.split(":") for line in found.read_text(errors="replace").splitlines())
    return [row for row in rows if len(row) >= columns and row[2].isdigit()]
