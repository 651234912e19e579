"""Lengths of time and amounts as a Profiler writes them: `14d`, `12h`, `10Gi`."""

from __future__ import annotations

import re

from trimtab.api.quantity import whole

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds(text: str) -> int:
    """The length of `90s`, `15m`, `12h`, `14d`, `8w` or `1h30m`.

    Raises:
        ValueError: it is none; one line that says how to write one.
    """
    parts = re.findall(r"(\d+)([smhdw])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no length of time: write one like 90s, 12h or 14d")
    return sum(int(number) * _UNITS_S[unit] for number, unit in parts)


def size_bytes(text: str) -> int:
    """The bytes of `150Mi` or `10Gi`. Raises `ValueError` with one line."""
    return whole(text)
