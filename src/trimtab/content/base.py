"""What an image is built on: its layers, and what has to be known of them to add packages and users on top.

For an image from elsewhere the layers are read once, in order, for a handful of files: the accounts, the dpkg status,
and where its Python lives. What was found is recorded by the image's digest.
"""

from __future__ import annotations

import asyncio
import re
import tarfile
from collections.abc import Callable

import msgspec

from trimtab.content import oci
from trimtab.content.accounts import Accounts
from trimtab.content.cache import key_of, recall, remember
from trimtab.content.credentials import Credentials
from trimtab.content.digest import Digest, parse_digest
from trimtab.content.errors import BuildFailed, NoSuchImage
from trimtab.content.reference import Reference, parse_reference
from trimtab.content.spec import LOCAL_REGISTRY
from trimtab.content.store import ContentStore
from trimtab.content.tarreader import open_layer
from trimtab.content.tarwriter import checked
from trimtab.content.tree import GrowingTree, Tree
from trimtab.content.wheels import PythonHome

_WANTED = re.compile(r"etc/(?:passwd|group)|var/lib/dpkg/status|var/lib/dpkg/status\.d/[^/.]+")
_INTERPRETER = re.compile(r"(?P<prefix>usr/local|usr)/bin/python(?P<version>3\.\d+)")
_FILE_BYTES_MAX = 16 << 20
BASE_REVISION = 1  # raised when this module looks for more


class Ground(msgspec.Struct, kw_only=True):
    """What the layers so far amount to. The builder adds to it."""

    reference: str = ""
    """The image below with its digest; empty if there is none."""
    layers: list[oci.Descriptor] = []
    diff_ids: list[str] = []
    history: list[oci.History] = []
    runtime: oci.Runtime = oci.Runtime()
    status: str = ""
    """The dpkg status; empty where there is no dpkg."""
    accounts: Accounts | None = None
    python: PythonHome | None = None
    tree: Tree | None = None
    """The directories; None while there are no layers."""


class _Facts(msgspec.Struct, frozen=True):
    """What reading the layers of an image found."""

    status: str
    accounts: Accounts | None
    python: PythonHome | None
    tree: Tree


async def load_base(
    store: ContentStore,
    text: str,
    platform: oci.Platform,
    *,
    refresh: bool,
    credentials: Credentials | None,
    progress: Callable[[str, float | None], None],
) -> Ground:
    """The image of this reference as the ground to build on, pulled if the store does not have it or `refresh` asks."""
    reference = parse_reference(text)
    digest = await _find(store, reference, platform, refresh, credentials, progress)
    descriptor, manifest = oci.image_manifest(store, digest, platform)
    config = oci.read_config(store, manifest)
    key = key_of(BASE_REVISION, descriptor.digest)
    facts = recall(store, "base", key, _Facts)
    if facts is None:
        progress("reading its layers", None)
        facts = await asyncio.to_thread(_read, store, manifest.layers)
        remember(store, "base", key, facts)
    return Ground(
        reference=f"{reference.name}@{descriptor.digest}",
        layers=oci.as_oci_layers(manifest.layers),
        diff_ids=list(config.rootfs.diff_ids),
        history=list(config.history),
        runtime=config.config,
        status=facts.status,
        accounts=facts.accounts,
        python=facts.python,
        tree=facts.tree,
    )


async def _find(
    store: ContentStore,
    reference: Reference,
    platform: oci.Platform,
    refresh: bool,
    credentials: Credentials | None,
    progress: Callable[[str, float | None], None],
) -> Digest:
    local = reference.registry == LOCAL_REGISTRY
    name = reference.tagged if local else f"{reference.tagged}#{platform}"
    known = store.resolve(name)
    if local and known is None and reference.digest is not None and store.has(reference.digest):
        known = reference.digest
    if known is not None and (local or not refresh):
        return known
    if local:
        raise NoSuchImage(f"from: {reference} is not in {store.directory}; build it first")
    from trimtab.content.registry import RegistryClient

    async with RegistryClient(store, credentials=credentials) as client:
        digest = await client.pull(
            reference, platform=platform, progress=lambda done, total: progress("pulling", done / max(total, 1))
        )
    store.tag(name, digest)
    return digest


def _read(store: ContentStore, layers: list[oci.Descriptor]) -> _Facts:
    texts: dict[str, str] = {}
    pythons: dict[str, PythonHome] = {}
    tree = GrowingTree()
    links: dict[str, str] = {}
    for layer in layers:
        if layer.media_type.endswith("zstd"):
            raise BuildFailed("from: the base image's layers are compressed with zstd, which cannot be read here")
        with (
            store.open(parse_digest(layer.digest)) as file,
            open_layer(file, layer.media_type, layer.digest[:19]) as (tar, listed),
        ):
            for entry in listed:
                _look_at(tar, entry, texts, pythons)
                _note(tree, links, entry)
    tree.add_links(links)
    status = texts.pop("var/lib/dpkg/status", "")
    pieces = [status, *(text for path, text in sorted(texts.items()) if path.startswith("var/lib/dpkg/"))]
    accounts = None
    if "etc/passwd" in texts:
        accounts = Accounts(texts["etc/passwd"], texts.get("etc/group", ""))
    status = "\n\n".join(piece.strip() for piece in pieces if piece.strip())
    return _Facts(status, accounts, _preferred(pythons), tree.frozen())


def _note(tree: GrowingTree, links: dict[str, str], entry: tarfile.TarInfo) -> None:
    """What this entry says of directories and links; a whiteout takes back."""
    path = checked(entry.name)
    directory, _, name = path.rpartition("/")
    if name == ".wh..wh..opq":
        tree.remove(directory, only_children=True)
    elif name.startswith(".wh."):
        removed = f"{directory}/{name[4:]}".lstrip("/")
        tree.remove(removed)
        links.pop(removed, None)
    elif path:
        tree.add_parents(path)
        links.pop(path, None)
        if entry.isdir():
            tree.add_directory(path)
        elif entry.issym():
            links[path] = entry.linkname


def _look_at(
    tar: tarfile.TarFile, entry: tarfile.TarInfo, texts: dict[str, str], pythons: dict[str, PythonHome]
) -> None:
    path = checked(entry.name)
    removed = path.replace("/.wh.", "/")
    if removed != path:
        texts.pop(removed, None)
        pythons.pop(removed, None)
    elif _WANTED.fullmatch(path) and entry.isreg() and entry.size <= _FILE_BYTES_MAX:
        extracted = tar.extractfile(entry)
        assert extracted is not None
        texts[path] = extracted.read().decode("utf-8", "replace")
    elif match := _INTERPRETER.fullmatch(path):
        prefix, version = match["prefix"], match["version"]
        debian = prefix == "usr"
        pythons[path] = PythonHome(
            version=version,
            interpreter=f"/{path}",
            site=f"usr/local/lib/python{version}/{'dist' if debian else 'site'}-packages",
            scripts="usr/local/bin",
        )


def _preferred(pythons: dict[str, PythonHome]) -> PythonHome | None:
    """An image's own Python in /usr/local before the distribution's."""
    ranked = sorted(pythons.items(), key=lambda item: (item[0].startswith("usr/local/"), item[1].version))
    return ranked[-1][1] if ranked else None
