"""Room on the disk: unpacked layers of images that no step has begun with for long go; they can be unpacked again.

    images/DIGEST.json   when a step last began with an image is when this file was last touched
    roots/LAYER          stays while such a file names it, or the state of a failed step stands on it

Only while no run is under way (`Blobs.alone`).
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from trimtab.ci.cache.blobs import Blobs
from trimtab.ci.sandbox.kept import UPPERS
from trimtab.ci.sandbox.rootfs import IMAGES, MAKING, ROOTS
from trimtab.ci.sandbox.space import KEPT, lease, used_bytes

UNUSED_S_MAX = 14 * 86400.0
TIDY_EVERY_S = 86400.0
_STAMP = "roots-tidied"


def tidy(state: Path, blobs: Blobs) -> int:
    """`forget` what was not used for two weeks, once a day at most and silently: for the end of a run. Returns bytes freed."""
    stamp = state / _STAMP
    with suppress(OSError):
        if time.time() - stamp.stat().st_mtime < TIDY_EVERY_S:
            return 0
    try:
        stamp.touch()
        return forget(state, blobs, UNUSED_S_MAX)
    except OSError:
        return 0


def forget(state: Path, blobs: Blobs, unused_s: float) -> int:
    """Removes the unpacked layers that only images have which nobody used for so long. Returns the bytes that it freed; 0 while a
    run is under way. Raises `OSError`."""
    with blobs.alone() as alone:
        if not alone:
            return 0
        now = time.time()
        wanted: set[str] = set()
        for record in (state / IMAGES).glob("*.json"):
            with suppress(OSError, ValueError, KeyError):
                if now - record.stat().st_mtime <= unused_s:
                    wanted.update(json.loads(record.read_text())["layers"])
        stood_on = _stood_on(state)
        freed = 0
        for root in _directories(state / ROOTS):
            if f"{ROOTS}/{root.name}" not in wanted and str(root) not in stood_on:
                freed += _remove(root, state / MAKING)
        for record in (state / IMAGES).glob("*.json"):
            with suppress(OSError):
                if now - record.stat().st_mtime > unused_s:
                    record.unlink()
        return freed


def _stood_on(state: Path) -> set[str]:
    found: set[str] = set()
    for path in (state / UPPERS).glob(f"*/{KEPT}"):
        with suppress(OSError, ValueError, KeyError):
            found.update(json.loads(path.read_text())["lowers"])
    return found


def _remove(root: Path, making: Path) -> int:
    """Out of the way in one step, so that a layer is there whole or not at all; then away."""
    freed = used_bytes(root)
    held = lease(making / os.urandom(8).hex())
    assert held is not None
    try:
        root.rename(held.directory / "layer")
    finally:
        held.remove()
    return freed


def _directories(top: Path) -> list[Path]:
    return sorted(path for path in top.iterdir() if path.is_dir()) if top.is_dir() else []
