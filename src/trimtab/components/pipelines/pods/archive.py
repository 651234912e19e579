"""Trees as streams: what a step takes goes out as one archive, what it leaves comes back as one, into the store by content.

Nothing of what comes back is unpacked: each file becomes a blob, and a directory the list of what is in it, so no name in it can
lead anywhere.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from trimtab.ci.cache.blobs import TIME_NS, Blobs
from trimtab.ci.cache.tree import Entry, encode
from trimtab.ci.runs.ports import EngineFault, Laid

CHUNK_BYTES = 1 << 20
_TIME_S = TIME_NS // 1_000_000_000


def packed(to: IO[bytes], blobs: Blobs, laid: Iterable[Laid], programs: Mapping[str, str]) -> None:
    """Writes trees, one over the other, and programs by their path. Raises `Lost`."""
    with tarfile.open(fileobj=to, mode="w|", format=tarfile.GNU_FORMAT, bufsize=CHUNK_BYTES) as tar:
        for one in laid:
            above = ""
            for part in one.to.strip("/").split("/"):
                above = f"{above}{part}/" if part else above
                _add(tar, above, tarfile.DIRTYPE, 0o755)
            _tree(tar, blobs, one.tree, above)
        for path, text in programs.items():
            data = text.encode("utf-8", "surrogateescape")
            _add(tar, path.lstrip("/"), tarfile.REGTYPE, 0o644, len(data), io.BytesIO(data))


def _tree(tar: tarfile.TarFile, blobs: Blobs, tree: str, above: str) -> None:
    for name, kind, value, size in blobs.entries(tree):
        path = above + name
        if kind == "d":
            _add(tar, f"{path}/", tarfile.DIRTYPE, 0o755)
            _tree(tar, blobs, f"sha256:{value}", f"{path}/")
        elif kind == "l":
            _add(tar, path, tarfile.SYMTYPE, 0o777, link=value)
        else:
            digest = f"sha256:{value}"
            blobs.check(digest, size)
            with open(blobs.path(digest), "rb") as file:
                _add(tar, path, tarfile.REGTYPE, 0o755 if kind == "x" else 0o644, size, file)


def _add(
    tar: tarfile.TarFile,
    path: str,
    kind: bytes,
    mode: int,
    size: int = 0,
    data: IO[bytes] | None = None,
    link: str = "",
) -> None:
    if not path:
        return
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.size, info.linkname, info.mtime = kind, mode, size, link, _TIME_S
    tar.addfile(info, data)


class _Directory(dict[str, "Entry | _Directory"]):
    """What is in a directory, by name."""


def taken(archive: Path, blobs: Blobs) -> str:
    """Keeps what is in an archive; gives the tree's digest. Raises `EngineFault` for one that is not whole."""
    root = _Directory()
    try:
        with tarfile.open(archive, mode="r:") as tar:
            for entry in tar:
                _take(root, tar, entry, blobs)
    except (tarfile.TarError, EOFError) as err:
        raise EngineFault(f"what came back of the pod is not whole: {err}; run it again") from None
    return _kept(root, blobs)


def _take(root: _Directory, tar: tarfile.TarFile, entry: tarfile.TarInfo, blobs: Blobs) -> None:
    parts = [part for part in entry.name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise tarfile.TarError(f"it names {entry.name[:200]!r}")
    if entry.isdir():
        _below(root, parts)
        return
    if not parts:
        return
    found: Entry | None = None
    name = parts[-1]
    if entry.issym():
        found = name, "l", entry.linkname, 0
    elif entry.islnk():
        found = _linked(root, name, entry)
    elif entry.isreg():
        file = tar.extractfile(entry)
        assert file is not None
        found = name, "x" if entry.mode & 0o100 else "f", _blob(file, blobs)[7:], entry.size
    if found is not None:
        _below(root, parts[:-1])[name] = found


def _linked(root: _Directory, name: str, entry: tarfile.TarInfo) -> Entry:
    """Another name of a file that came before."""
    *above, base = [part for part in entry.linkname.split("/") if part not in ("", ".")]
    target = _below(root, above).get(base)
    if not isinstance(target, tuple):
        raise tarfile.TarError(f"{entry.name[:200]!r} is a link to nothing")
    return name, *target[1:]


def _below(root: _Directory, parts: list[str]) -> _Directory:
    for part in parts:
        found = root.setdefault(part, _Directory())
        if not isinstance(found, _Directory):
            raise tarfile.TarError(f"{part[:200]!r} is a file and a directory")
        root = found
    return root


def _blob(file: IO[bytes], blobs: Blobs) -> str:
    total = hashlib.sha256()
    with blobs.temporary() as kept:
        while chunk := file.read(CHUNK_BYTES):
            total.update(chunk)
            kept.write(chunk)
        digest = f"sha256:{total.hexdigest()}"
        if not Path(blobs.path(digest)).exists():
            blobs.take(kept, digest)
    return digest


def _kept(directory: _Directory, blobs: Blobs) -> str:
    entries: list[Entry] = []
    for name, entry in directory.items():
        entries.append((name, "d", _kept(entry, blobs)[7:], 0) if isinstance(entry, _Directory) else entry)
    return blobs.put(encode(entries))
