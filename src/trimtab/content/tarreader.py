"""Reading layers that somebody else made, without trusting them.

Nothing is ever unpacked here: entries are looked at as they stream by. So what a hostile layer can do is to never end, to name a
great deal, or to claim headers of gigabytes; each has a limit, and each ends in one line that names the layer.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from trimtab.content.errors import Corrupt

HEADER_BYTES_MAX = 1 << 20
"""Of an entry's extended header (a long name, attributes): real ones have a few kilobytes, and they are read into memory."""
ENTRIES_MAX = 2_000_000
"""Names in one layer; the largest images there are have some hundred thousand."""
UNPACKED_BYTES_MAX = 64 << 30
"""What one layer may unpack to. A few megabytes of zeros, compressed, make a terabyte."""

_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class _Entry(tarfile.TarInfo):
    """An entry whose extended headers are bounded."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED and self.size > HEADER_BYTES_MAX:
            raise tarfile.ReadError(f"an entry's header claims {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]


@contextmanager
def open_layer(
    file: IO[bytes], media_type: str, name: str
) -> Iterator[tuple[tarfile.TarFile, Iterator[tarfile.TarInfo]]]:
    """A layer's tar stream and its entries, which can be read in order only.

    Raises:
        Corrupt: it is not a tar archive, breaks off, or exceeds a limit; the line names it.
    """
    mode = "r|gz" if media_type.endswith("gzip") else "r|"
    try:
        with tarfile.open(fileobj=file, mode=mode, tarinfo=_Entry) as tar:  # type: ignore[call-overload]
            yield tar, _bounded(tar, name)
    except (tarfile.TarError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise Corrupt(f"layer {name} is not a whole tar archive: {error}") from None


def _bounded(tar: tarfile.TarFile, name: str) -> Iterator[tarfile.TarInfo]:
    unpacked = 0
    for count, entry in enumerate(tar, 1):
        unpacked += max(0, entry.size)
        if count > ENTRIES_MAX:
            raise Corrupt(f"layer {name} has more than {ENTRIES_MAX} entries")
        if unpacked > UNPACKED_BYTES_MAX:
            raise Corrupt(f"layer {name} unpacks to more than {UNPACKED_BYTES_MAX >> 30} GiB")
        yield entry
        tar.members = []  # type: ignore[attr-defined]  # it keeps every entry, which a long layer would make a great deal
