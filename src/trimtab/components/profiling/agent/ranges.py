"""Stretches of an array, taken and given back."""

from __future__ import annotations

import bisect


class Ranges:
    """First fit; neighbours that are free become one."""

    def __init__(self, size: int) -> None:
        self._free: list[tuple[int, int]] = [(0, size)]
        self.free = size

    def take(self, size: int) -> int | None:
        """Where `size` places begin; None: there is no such stretch."""
        for index, (first, count) in enumerate(self._free):
            if count >= size:
                self._free[index : index + 1] = [(first + size, count - size)] if count > size else []
                self.free -= size
                return first
        return None

    def give(self, first: int, size: int) -> None:
        """Back what `take` gave."""
        index = bisect.bisect(self._free, (first, 0))
        self.free += size
        if index < len(self._free) and self._free[index][0] == first + size:
            size += self._free.pop(index)[1]
        if index and sum(self._free[index - 1]) == first:
            index -= 1
            first, before = self._free.pop(index)
            size += before
        self._free.insert(index, (first, size))
