"""Names of the kernel's own functions, from /proc/kallsyms: read once, by root, when the first stack goes through the kernel."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KALLSYMS = Path("/proc/kallsyms")
TEXT_TYPES = b"tTwW"


class KernelNames:
    """Addresses and names, 5 MB for 150,000 functions: the names stay one text."""

    def __init__(self, path: Path = KALLSYMS) -> None:
        self._path = path

    @cached_property
    def _table(self) -> tuple[NDArray[np.uint64], NDArray[np.uint32], bytes]:
        entries: list[tuple[int, int]] = []
        names = bytearray()
        try:
            with open(self._path, "rb") as file:
                for line in file:
                    address, kind, name = line.split(None, 2)
                    if kind in TEXT_TYPES:
                        entries.append((int(address, 16), len(names)))
                        names += name.replace(b"\t", b" ").rstrip() + b"\n"
        except OSError:
            entries = []
        entries.sort()
        table = np.array(entries, np.uint64).reshape(-1, 2)
        return table[:, 0].copy(), table[:, 1].astype(np.uint32), bytes(names)

    def name(self, address: int) -> str:
        """Of the function at an address, `name [module]`; `[kernel]` where addresses are not told (kernel.kptr_restrict)."""
        addresses, places, names = self._table
        index = int(np.searchsorted(addresses, np.uint64(address), side="right")) - 1
        if index < 0 or not addresses[index]:
            return "[kernel]"
        place = int(places[index])
        return names[place : names.index(b"\n", place)].decode("utf-8", "replace")
