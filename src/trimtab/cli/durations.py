"""Durations as people write them: `30s`, `5m`, `2h`, `1d`, `1h30m`."""

from __future__ import annotations

import re

from trimtab.engine.errors import EngineError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """The length of a duration.

    Raises:
        EngineError: it is none; says how to write one.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise EngineError(f"{text!r} is no duration: write 30s, 5m, 2h or 1d")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
