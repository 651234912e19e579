"""Durations as objects write them."""

from __future__ import annotations

import re


def seconds(duration: str) -> float:
    """`1h30m` -> 5400."""
    units = {"h": 3600, "m": 60, "s": 1}
    return float(sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", duration)))
