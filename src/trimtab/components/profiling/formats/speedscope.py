"""speedscope's JSON (https://www.speedscope.app/file-format-schema.json), which its page opens."""

from __future__ import annotations

from typing import Any

import msgspec

from trimtab.components.profiling.formats.names import Symbolizer, stacks_of_names
from trimtab.components.profiling.storage.selection import Selection

SCHEMA = "https://www.speedscope.app/file-format-schema.json"
UNITS = {"nanoseconds", "microseconds", "milliseconds", "seconds", "bytes"}
"""Those that it knows of ours; the rest is shown as a number."""


def encode(selection: Selection, symbolizer: Symbolizer) -> bytes:
    """A selection as one sampled profile, heaviest stacks first; inlined functions are frames of their own."""
    frames, stacks = stacks_of_names(selection, symbolizer)
    order = sorted(range(len(stacks)), key=lambda index: -int(selection.values[index]))
    profile: dict[str, Any] = {
        "type": "sampled",
        "name": selection.type,
        "unit": selection.unit if selection.unit in UNITS else "none",
        "startValue": 0,
        "endValue": selection.total,
        "samples": [stacks[index][::-1] for index in order],
        "weights": [int(selection.values[index]) for index in order],
    }
    document = {
        "$schema": SCHEMA,
        "exporter": "trimtab",
        "name": f"{selection.type}, {selection.start} to {selection.end}",
        "activeProfileIndex": 0,
        "shared": {"frames": [_frame(*frame) for frame in frames]},
        "profiles": [profile],
    }
    return msgspec.json.encode(document)


def _frame(name: str, file: str, line: int) -> dict[str, Any]:
    return {"name": name} | ({"file": file} if file else {}) | ({"line": line} if line else {})
