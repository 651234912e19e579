"""Unwind rows as they are in the kernel: a word of 32 bits each, the offset within a block of 64 KB in the upper half, the rule in the lower.

    [where each block's rows begin, and where the last one's end][rows of block 0][rows of block 1] ...

Every block begins with a row for its own first byte, so that a search never leaves it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK_SHIFT = 16


def pack(offsets: NDArray[np.uint32], rules: NDArray[np.uint32], nothing: int) -> tuple[NDArray[np.uint32], int]:
    """The words, and how many blocks there are. `offsets`: ascending; `rules`: by row, less than 65536; `nothing`: the rule that holds
    before the first row."""
    if not len(offsets):
        return np.empty(0, np.uint32), 0
    blocks = (int(offsets[-1]) >> BLOCK_SHIFT) + 1
    begins = np.arange(blocks, dtype=np.uint32) << BLOCK_SHIFT
    before = np.searchsorted(offsets, begins, side="right") - 1
    missing = (before < 0) | (offsets[np.maximum(before, 0)] != begins)
    held = np.where(before < 0, nothing, rules[np.maximum(before, 0)])
    behind = before[missing] + 1
    places = np.insert(offsets, behind, begins[missing])
    which = np.insert(rules, behind, held[missing].astype(np.uint32))
    index = np.concatenate([np.searchsorted(places, begins), [len(places)]]) + blocks + 1
    words = np.empty(len(index) + len(places), np.uint32)
    words[: len(index)] = index
    np.left_shift(places, BLOCK_SHIFT, out=words[len(index) :])
    words[len(index) :] |= which
    return words, blocks
