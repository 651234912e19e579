"""Names of the kernel's own functions, from /proc/kallsyms: read once, by root, when the first stack goes through the kernel."""

from __future__ import annotations

from array import array
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
        addresses, places, names = array("Q"), array("I"), bytearray()
        try:
            with open(self._path, "rb") as file:
                for line in file:
                    address, kind, name = line.split(None, 2)
                    if kind in TEXT_TYPES:
                        addresses.append(int(address, 16))
                        places.append(len(names))
                        names += name.replace(b"\t", b" ").rstrip() + b"\n"
        except OSError:
            return np.empty(0, np.uint64), np.empty(0, np.uint32), b""
        order = np.argsort(np.frombuffer(addresses, np.uint64), kind="stable")
        return np.frombuffer(addresses, np.uint64)[order], np.frombuffer(places, np.uint32)[order], bytes(names)

    def name(self, address: int) -> str:
        """Of the function at an address, `name [module]`; `[kernel]` where addresses are not told (kernel.kptr_restrict)."""
        addresses, places, names = self._table
        index = int(np.searchsorted(addresses, np.uint64(address), side="right")) - 1
        if index < 0 or not addresses[index]:
            return "[kernel]"
        place = int(places[index])
        return names[place : names.index(b"\n", place)].decode("utf-8", "replace")
