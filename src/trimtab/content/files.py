"""The user's own files as a layer: the last and smallest, so that a change of code re-makes nothing else.

Modes are reduced to what counts (executable or not), owners to root: an app cannot rewrite itself. Only the directories
declared `writable` belong to its user.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trimtab.content.accounts import Accounts, Identity
from trimtab.content.bytecode import compile_sources, compiler_for, pyc_path
from trimtab.content.cache import key_of, recall, remember
from trimtab.content.errors import BadSpec, BuildFailed
from trimtab.content.ignore import Ignore, patterns_of, walk
from trimtab.content.spec import ImageSpec
from trimtab.content.store import ContentStore
from trimtab.content.tarwriter import COMPRESSION_LEVEL, Layer, LayerWriter, checked, content_mtime_s
from trimtab.content.tree import Tree

FILES_REVISION = 2  # raised when this module writes anything differently, so that cached layers are made anew


class _Entry(msgspec.Struct, frozen=True):
    """One thing in the layer. `source` is where its bytes are, unless they are `data`."""

    path: str
    kind: str  # file, link
    mode: int
    digest: str
    source: str = ""
    data: bytes = b""
    target: str = ""


async def files_layer(
    store: ContentStore,
    spec: ImageSpec,
    context: Path,
    *,
    accounts: Accounts | None,
    identity: Identity,
    python: str | None,
    tree: Tree | None = None,
) -> tuple[Layer | None, bool]:
    """The layer of `files`, `inline`, `links`, `writable` and the accounts, and whether it was there already.

    None if there is nothing to put in. Raises BadSpec for a source that is not there.
    """
    entries = await asyncio.to_thread(_collect, spec, context)
    if not entries and not spec.writable and accounts is None and not spec.workdir:
        return None, True
    compiled = python if python is not None and compiler_for(python) is not None else None
    key = key_of(
        FILES_REVISION,
        COMPRESSION_LEVEL,
        [(one.path, one.kind, one.mode, one.digest, one.target) for one in entries],
        accounts,
        (identity.uid, identity.gid),
        sorted(spec.writable),
        spec.workdir,
        tree,
        compiled,
    )
    if known := recall(store, "files", key, Layer):
        return known, True
    pycs = await _bytecode(store, entries, compiled)
    made = await asyncio.to_thread(_write, store, spec, entries, accounts, identity, pycs, tree)
    remember(store, "files", key, made, [(made.digest, made.size)])
    return made, False


def _collect(spec: ImageSpec, context: Path) -> list[_Entry]:
    """Everything declared, by path; where two sources give the same path, the more specific declaration wins."""
    found: dict[str, _Entry] = {}
    ignore = Ignore(patterns_of(context, spec.ignore)) if spec.files else Ignore([])
    for destination, source in sorted(spec.files.items(), key=lambda item: item[0].count("/")):
        for one in walk(context, source, ignore):
            into = destination.rstrip("/") if one.path else destination
            if not one.path and destination.endswith("/"):
                into = destination + one.source.name
            path = checked(f"{into}/{one.path}" if one.path else into)
            found[path] = _entry(path, one.source, context)
    for destination, text in spec.inline.items():
        path, data = checked(destination), text.encode()
        mode = 0o755 if text.startswith("#!") else 0o644
        found[path] = _Entry(path, "file", mode, hashlib.sha256(data).hexdigest(), data=data)
    for destination, target in spec.links.items():
        path = checked(destination)
        found[path] = _Entry(path, "link", 0o777, "", target=target)
    return [found[path] for path in sorted(found)]


def _entry(path: str, source: Path, context: Path) -> _Entry:
    if source.is_symlink():
        target = os.readlink(source)
        if os.path.isabs(target) or not (source.parent / target).resolve().is_relative_to(context.resolve()):
            raise BadSpec(
                f"files: the link {source} leads out of the project directory; copy the file, or ignore the link"
            )
        return _Entry(path, "link", 0o777, "", target=target)
    try:
        with source.open("rb") as file:
            mode = 0o755 if os.fstat(file.fileno()).st_mode & stat.S_IXUSR else 0o644
            return _Entry(path, "file", mode, hashlib.file_digest(file, "sha256").hexdigest(), source=str(source))
    except PermissionError:
        raise BadSpec(f"files: {source} cannot be read; fix its permissions, or ignore it") from None


async def _bytecode(store: ContentStore, entries: Sequence[_Entry], version: str | None) -> dict[str, bytes]:
    if version is None:
        return {}
    sources = [(one.path, _bytes(one)) for one in entries if one.kind == "file" and one.path.endswith(".py")]
    if not sources:
        return {}
    compiled = await compile_sources(sources, version, checked=True, directory=store.directory)
    return {pyc_path(path, version): data for (path, _), data in zip(sources, compiled, strict=True) if data}


def _bytes(entry: _Entry) -> bytes:
    """The entry's bytes; a file that changed since it was hashed stops the build."""
    data = Path(entry.source).read_bytes() if entry.source else entry.data
    if hashlib.sha256(data).hexdigest() != entry.digest:
        raise BuildFailed(f"{entry.source} changed while the image was being built; run it again")
    return data


def _write(
    store: ContentStore,
    spec: ImageSpec,
    entries: Sequence[_Entry],
    accounts: Accounts | None,
    identity: Identity,
    pycs: dict[str, bytes],
    tree: Tree | None,
) -> Layer:
    with store.ingest() as ingest:
        writer = LayerWriter(ingest, tree)
        if accounts is not None:
            writer.parents("etc/passwd")
            writer.file("etc/passwd", accounts.passwd.encode())
            writer.file("etc/group", accounts.group.encode())
        if spec.workdir and checked(spec.workdir):
            writer.parents(spec.workdir)
            writer.directory(spec.workdir)
        for path in sorted(spec.writable):
            writer.parents(path)
            writer.own_directory(path, identity.uid, identity.gid)
        for entry in entries:
            writer.parents(entry.path)
            if entry.kind == "link":
                writer.symlink(entry.path, entry.target)
                continue
            data = _bytes(entry)
            mtime_s = content_mtime_s(bytes.fromhex(entry.digest))
            writer.file(entry.path, data, mode=entry.mode, mtime_s=mtime_s)
        for path, data in sorted(pycs.items()):
            writer.parents(path)
            writer.file(path, data)
        return writer.finish()
