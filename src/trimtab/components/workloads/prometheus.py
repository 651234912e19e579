"""The text format in which programs offer their metrics: `NAME{LABEL="VALUE",...} NUMBER`, one series a line.

After the exposition format 0.0.4 of Prometheus. Lines that are none are skipped: one odd line of a program must not hide the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE = re.compile(r"([a-zA-Z_:][\w:]*)\s*(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*")
_LABEL = re.compile(r'\s*([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*,?')
_ESCAPES = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}
_ESCAPED = re.compile(r'\\[n"\\]')
_DURATION = re.compile(r"([\d.]+)(h|ms|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True)
class Series:
    name: str
    labels: dict[str, str]
    value: float


def parse(page: str) -> Iterator[Series]:
    """The series of a page that have a finite value."""
    for line in page.splitlines():
        found = None if line.startswith("#") else _LINE.fullmatch(line)
        if found is None:
            continue
        try:
            value = float(found[3])
        except ValueError:
            continue
        if math.isfinite(value):
            labels = {
                name: _ESCAPED.sub(lambda m: _ESCAPES[m[0]], text) for name, text in _LABEL.findall(found[2] or "")
            }
            yield Series(found[1], labels, value)


def seconds(text: str) -> float:
    """A duration as Go writes it (`1m30s`, `15.2s`) in seconds."""
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))
