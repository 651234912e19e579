"""Debian packages as a layer: their files, put where dpkg would put them, plus what maintainer scripts would have made.

The files stream from each .deb into the tar, one after the other, in the order of names. On the way: `/bin`, `/lib`,
`/sbin` and `/lib64` become `/usr/...` (merged /usr, as Debian 12 has it); documentation, manuals and translations stay
behind, but each package's copyright file comes along. Maintainer scripts never run; the little of their work that a
container needs is done here by hand: accounts, the name service switch, the time zone, the bundle of CA certificates, and a
dpkg status file, by which security scanners and later builds know what is inside.
"""

from __future__ import annotations

import fnmatch
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from trimtab.content import deb
from trimtab.content.accounts import Accounts
from trimtab.content.apt import Deb
from trimtab.content.bytecode import compile_sources, compiler_for, pyc_path
from trimtab.content.cache import key_of, recall, remember
from trimtab.content.digest import Digest
from trimtab.content.errors import BuildFailed
from trimtab.content.store import ContentStore
from trimtab.content.tarwriter import COMPRESSION_LEVEL, Layer, LayerWriter
from trimtab.content.tree import Tree

PACKAGES_REVISION = 4  # raised when this module writes anything differently, so that cached layers are made anew

_MERGED = ("bin", "sbin", "lib", "lib64")
_DROPPED = re.compile(
    r"usr/share/(?:man|info|locale|lintian|bug|doc-base|menu|gtk-doc|bash-completion|zsh|fish|applications|pixmaps|icons)/"
    r"|usr/share/doc/(?!.*/copyright$)"
    r"|usr/lib/python3[.0-9]*/(?:test|idlelib|lib2to3|turtledemo|ensurepip)/"
    r"|.*/__pycache__/"
)
_PYTHON_SOURCE = re.compile(r"usr/lib/python(3\.[0-9]+)/.*\.py|usr/lib/python3/dist-packages/.*\.py")
_STATUS = "var/lib/dpkg/status"
_NSSWITCH = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n"
_CERTIFICATES = "usr/share/ca-certificates/mozilla/"
_REMEMBERED = ("usr/share/base-passwd/passwd.master", "usr/share/base-passwd/group.master")


class PackagesLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer of Debian packages, and what those who build on it need to know."""

    layer: Layer
    status: str
    """The dpkg status after this layer."""
    accounts: Accounts | None
    """Debian's own accounts, if base-passwd is in this layer."""
    python: str | None
    """The version of Python up to this layer, `3.11`."""
    tree: Tree
    """The directories up to this layer."""


async def packages_layer(
    store: ContentStore,
    debs: Sequence[Deb],
    *,
    architecture: str,
    below: str = "",
    tree: Tree | None = None,
    python: str | None = None,
    exclude: Sequence[str] = (),
    progress: Callable[[str, float | None], None] = lambda detail, fraction: None,
) -> tuple[PackagesLayer, bool]:
    """The layer of these packages, and whether it was there already. `below`, `tree`, `python`: the dpkg status,
    the directories and the version of Python of the layers below; without a tree there are none, and this is the base.
    """
    version = next((match[1] for one in debs if (match := re.fullmatch(r"python(3\.\d+)", one.name))), python)
    compiled = version is not None and compiler_for(version) is not None
    digests = [one.digest for one in debs]
    key = key_of(PACKAGES_REVISION, COMPRESSION_LEVEL, digests, below, tree, architecture, sorted(exclude), compiled)
    if known := recall(store, "packages", key, PackagesLayer):
        return known, True
    with store.ingest() as ingest:
        rootfs = _Rootfs(LayerWriter(ingest, tree), architecture, exclude)
        if tree is None:
            rootfs.skeleton()
        for position, one in enumerate(debs):
            progress(f"unpacking {one.name}", position / len(debs))
            await rootfs.add(store.path(Digest(one.digest)))
        progress("finishing", 1.0)
        await rootfs.finish_python(version, store.directory)
        made = rootfs.finish(below, tree is None, version)
    remember(store, "packages", key, made, [(made.layer.digest, made.layer.size)])
    return made, False


class _Rootfs:
    """The file tree being written, and what was seen of it."""

    def __init__(self, writer: LayerWriter, architecture: str, exclude: Sequence[str]) -> None:
        self._writer = writer
        self._architecture = architecture
        self._excluded = re.compile("|".join(fnmatch.translate(pattern.lstrip("/")) for pattern in exclude) or r"(?!)")
        self._sources: list[tuple[str, bytes]] = []
        self._certificates: dict[str, bytes] = {}
        self._remembered: dict[str, str] = {}
        self._paragraphs: list[str] = []
        self._names: set[str] = set()
        self._written: set[str] = set()

    def skeleton(self) -> None:
        """What an empty Debian has before any package: merged /usr, and the directories that scripts make."""
        for path in ("etc", "usr", "usr/bin", "usr/sbin", "usr/lib", "var", "run", "home"):
            self._writer.directory(path)
        self._writer.directory("root", mode=0o700)
        self._writer.directory("tmp", mode=0o1777)
        self._writer.directory("run/lock", mode=0o1777)
        self._writer.symlink("var/run", "/run")
        self._writer.symlink("var/lock", "/run/lock")
        for name in _MERGED:
            if name != "lib64" or self._architecture == "amd64":
                self._writer.directory(f"usr/{name}")
                self._writer.symlink(name, f"usr/{name}")

    async def add(self, path: Path) -> None:
        """One package: its files into the tar, its control paragraph into the status."""
        import asyncio

        await asyncio.to_thread(self._add, path)

    def _add(self, path: Path) -> None:
        control = deb.control_text(path)
        self._names.add(deb.fields(control)["Package"])
        lines = control.splitlines()
        self._paragraphs.append("\n".join([lines[0], "Status: install ok installed", *lines[1:]]))
        with deb.open_data(path) as tar:
            for entry in tar:
                self._entry(tar, entry)

    def _entry(self, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        path = self._writer.place(entry.name)
        if not path or _DROPPED.match(path + "/" if entry.isdir() else path) or self._excluded.match(path):
            return
        if entry.isdir():
            self._writer.directory(path, mode=entry.mode, uid=entry.uid, gid=entry.gid)
            return
        self._writer.parents(path)
        self._written.add(path)
        if entry.issym():
            self._writer.symlink(path, entry.linkname, uid=entry.uid, gid=entry.gid)
        elif entry.islnk():
            target = self._writer.place(entry.linkname)
            if target in self._written:
                self._writer.hardlink(path, target)
        elif entry.isreg():
            extracted = tar.extractfile(entry)
            assert extracted is not None
            if _PYTHON_SOURCE.fullmatch(path) or path.startswith(_CERTIFICATES) or path in _REMEMBERED:
                data = extracted.read()
                self._notice(path, data)
                self._writer.file(path, data, mode=entry.mode, uid=entry.uid, gid=entry.gid)
            else:
                self._writer.file(path, extracted, entry.size, mode=entry.mode, uid=entry.uid, gid=entry.gid)
        else:
            raise BuildFailed(f"a Debian package brings {path}, which is neither file, directory nor link")

    def _notice(self, path: str, data: bytes) -> None:
        if path in _REMEMBERED:
            self._remembered[path] = data.decode()
        elif path.startswith(_CERTIFICATES):
            self._certificates[path] = data
        else:
            self._sources.append((path, data))

    async def finish_python(self, version: str | None, directory: Path) -> None:
        """Bytecode next to the sources."""
        if version is None or not self._sources:
            return
        compiled = await compile_sources(self._sources, version, checked=False, directory=directory)
        for (path, _), data in zip(self._sources, compiled, strict=True):
            if data:
                target = pyc_path(path, version)
                self._writer.parents(target)
                self._writer.file(target, data)

    def finish(self, below: str, is_base: bool, version: str | None) -> PackagesLayer:
        """What maintainer scripts would have left behind; then the layer is closed."""
        accounts = None
        if all(path in self._remembered for path in _REMEMBERED):
            accounts = Accounts(self._remembered[_REMEMBERED[0]], self._remembered[_REMEMBERED[1]])
        if accounts is not None:
            self._text("etc/passwd", accounts.passwd)
            self._text("etc/group", accounts.group)
        if is_base and "etc/nsswitch.conf" not in self._written:
            self._text("etc/nsswitch.conf", _NSSWITCH)
        if "tzdata" in self._names:
            self._text("etc/timezone", "Etc/UTC\n")
            self._link("etc/localtime", "/usr/share/zoneinfo/Etc/UTC")
        if self._certificates:
            self._certificate_bundle()
        status = _merge_status(below, self._paragraphs)
        self._text(_STATUS, status)
        tree = self._writer.tree
        return PackagesLayer(layer=self._writer.finish(), status=status, accounts=accounts, python=version, tree=tree)

    def _certificate_bundle(self) -> None:
        """What update-ca-certificates makes, and the links by which OpenSSL and Python find it."""
        bundle = b"".join(data.strip() + b"\n" for _, data in sorted(self._certificates.items()))
        self._writer.parents("etc/ssl/certs/ca-certificates.crt")
        self._writer.file("etc/ssl/certs/ca-certificates.crt", bundle)
        self._link("usr/lib/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt")
        self._link("usr/lib/ssl/certs", "/etc/ssl/certs")

    def _text(self, path: str, text: str) -> None:
        self._writer.parents(path)
        self._writer.file(path, text.encode())
        self._written.add(path)

    def _link(self, path: str, target: str) -> None:
        if path not in self._written:
            self._writer.parents(path)
            self._writer.symlink(path, target)


def _merge_status(below: str, paragraphs: Sequence[str]) -> str:
    """One paragraph a package, sorted by name; what is installed now replaces what was there before."""
    found: dict[str, str] = {}
    for paragraph in [*re.split(r"\n\n+", below.strip()), *paragraphs]:
        if paragraph.strip():
            found[deb.fields(paragraph)["Package"]] = paragraph.strip()
    return "".join(found[name] + "\n\n" for name in sorted(found))
