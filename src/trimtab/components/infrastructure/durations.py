"""Durations as objects and providers write them, which is as Go does."""

from __future__ import annotations

import re

UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def seconds(duration: str) -> float:
    """`1h30m` -> 5400.0, `1.5s` -> 1.5; what is no part of a duration counts for nothing."""
    parts = re.findall(r"(\d+(?:\.\d*)?)(h|ms|m|us|µs|ns|s)", duration)
    return sum((float(number) * UNITS_S[unit] for number, unit in parts), 0.0)
