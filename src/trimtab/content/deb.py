"""Reading a Debian package as data: an `ar` archive of a control tar and a data tar. Nothing of it is ever run.

deb(5) gives the format; the compressions are those that Debian's own archive uses.
"""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from pathlib import Path
from typing import IO

from trimtab.content.errors import Corrupt

_MAGIC = b"!<arch>\n"
_HEADER_BYTES = 60
_CONTROL_BYTES_MAX = 32 << 20


def control_text(path: Path) -> str:
    """The package's control paragraph, without a trailing newline."""
    with path.open("rb") as file:
        name, size = _member(file, "control.tar", path)
        if size > _CONTROL_BYTES_MAX:
            raise Corrupt(f"{path.name}: its control archive is {size} bytes")
        with tarfile.open(fileobj=_decompressed(io.BytesIO(file.read(size)), name, path), mode="r|") as tar:
            for entry in tar:
                if entry.name in ("./control", "control"):
                    extracted = tar.extractfile(entry)
                    assert extracted is not None
                    return extracted.read().decode("utf-8", "replace").strip()
    raise Corrupt(f"{path.name} has no control file")


def open_data(path: Path) -> tarfile.TarFile:
    """The package's files as a tar stream, to be read in order. Close it."""
    file = path.open("rb")
    try:
        name, size = _member(file, "data.tar", path)
        return _OwningTar.open(fileobj=_decompressed(_Section(file, size), name, path), mode="r|")
    except BaseException:
        file.close()
        raise


def fields(control: str) -> dict[str, str]:
    """The fields of a control paragraph; continuation lines are joined to theirs."""
    found: dict[str, str] = {}
    name = ""
    for line in control.splitlines():
        if line[:1] in (" ", "\t"):
            found[name] += "\n" + line
        elif ":" in line:
            name, _, value = line.partition(":")
            found[name] = value.strip()
    return found


class _OwningTar(tarfile.TarFile):
    """Closes what it reads from."""

    def close(self) -> None:
        super().close()
        stream = self.fileobj
        if stream is not None:
            stream.close()


class _Section(io.RawIOBase):
    """The next `size` bytes of a file, as a file."""

    def __init__(self, file: io.BufferedReader, size: int) -> None:
        super().__init__()
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # any writable buffer
        count = self._file.readinto(memoryview(buffer)[: self._left])
        self._left -= count
        return int(count)

    def close(self) -> None:
        self._file.close()
        super().close()


def _member(file: io.BufferedReader, prefix: str, path: Path) -> tuple[str, int]:
    """Leaves the file at the start of the member whose name starts so; returns its name and size."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise Corrupt(f"{path.name} is not a Debian package")
    while len(header := file.read(_HEADER_BYTES)) == _HEADER_BYTES:
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        try:
            size = int(header[48:58])
        except ValueError:
            break
        if name.startswith(prefix):
            return name, size
        file.seek(size + size % 2, io.SEEK_CUR)
    raise Corrupt(f"{path.name} is not a whole Debian package: it has no {prefix}")


def _decompressed(raw: IO[bytes] | io.RawIOBase, name: str, path: Path) -> IO[bytes]:
    buffered = io.BufferedReader(raw) if isinstance(raw, io.RawIOBase) else raw
    if name.endswith(".xz"):
        return _Closing(lzma.LZMAFile(buffered), buffered)  # type: ignore[return-value]
    if name.endswith(".gz"):
        return _Closing(gzip.GzipFile(fileobj=buffered), buffered)  # type: ignore[return-value]
    if name.endswith(".tar"):
        return buffered
    raise Corrupt(f"{path.name}: its {name} is compressed in a way that Debian's archive does not use")


class _Closing:
    """A decompressor that closes the file below it."""

    def __init__(self, stream: lzma.LZMAFile | gzip.GzipFile, below: IO[bytes] | io.BufferedReader) -> None:
        self._stream = stream
        self._below = below

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except (lzma.LZMAError, EOFError, OSError) as error:
            raise Corrupt(f"a Debian package does not unpack: {error}") from None

    def close(self) -> None:
        self._stream.close()
        self._below.close()
