"""Ranges of sizes and costs, saturated at 64 bits as cel-go's are."""

from __future__ import annotations

import math
from typing import NamedTuple

MOST = 2**64 - 1


class Range(NamedTuple):
    """From the least to the greatest."""

    least: int
    most: int

    def plus(self, other: Range) -> Range:
        return Range(min(self.least + other.least, MOST), min(self.most + other.most, MOST))

    def times(self, other: Range) -> Range:
        return Range(min(self.least * other.least, MOST), min(self.most * other.most, MOST))

    def scaled(self, factor: float) -> Range:
        """Times a factor, rounded up."""
        return Range(min(math.ceil(self.least * factor), MOST), min(math.ceil(self.most * factor), MOST))

    def union(self, other: Range) -> Range:
        return Range(min(self.least, other.least), max(self.most, other.most))


ZERO, ONE, UNKNOWN = Range(0, 0), Range(1, 1), Range(0, MOST)
