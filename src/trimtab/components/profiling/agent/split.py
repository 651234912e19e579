"""Parts that a compiler split off a function, in a file without symbols for them: `f.cold` far away from `f`, even when it is the larger part
(what runs a Python program was not what the distribution trained it with).

    ranges that have names --jumps to the middle of another function--> that is none of its own, but a part

Only parts of one function jump to each other's middle; a call in tail position goes to a function's first byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

JUMPS = 2
"""So many at least: any four bytes may look like one."""
CODE_BYTES_MAX = 4 << 20
Range = tuple[int, int]


def parts(ranges: Iterable[Range], functions: NDArray[np.int64], read: Callable[[int, int], bytes]) -> set[Range]:
    """The ranges (first address, one behind the last) of parts that belong to `ranges`. `functions`: first addresses and sizes, ascending;
    `read(address, count)`: code, or `ValueError`."""
    own, found = set(ranges), set[Range]()
    if not len(functions):
        return found
    for first, end in own:
        if not 0 < end - first <= CODE_BYTES_MAX:
            continue
        targets = _targets(np.frombuffer(read(first, end - first), np.uint8), first)
        which = np.searchsorted(functions[:, 0], targets, side="right") - 1
        begins, sizes = functions[which].T
        inside = (which >= 0) & (targets > begins) & (targets < begins + sizes)
        inside &= (begins + sizes <= first) | (begins >= end)
        jumps = Counter(which[inside].tolist())
        found |= {(int(functions[one, 0]), int(functions[one].sum())) for one, count in jumps.items() if count >= JUMPS}
    return found - own


def _targets(code: NDArray[np.uint8], address: int) -> NDArray[np.int64]:
    """Where jumps with 32 bits go, conditional ones (0F 8x) and others (E9)."""
    if len(code) < 5:
        return np.empty(0, np.int64)
    last = len(code) - 4
    opcode = np.nonzero(
        (code[:last] == 0xE9) | ((code[:last] & 0xF0 == 0x80) & (np.r_[np.uint8(0), code[: last - 1]] == 0x0F))
    )[0]
    words = np.stack([code[opcode + 1 + byte] for byte in range(4)], axis=1)
    return opcode + 5 + address + np.ascontiguousarray(words).view("<i4")[:, 0].astype(np.int64)
