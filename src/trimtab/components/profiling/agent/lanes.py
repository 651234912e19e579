"""Call frame instructions of thousands of functions at once: each step takes one instruction of every function that has one left.

What compilers write for nearly all functions fits one 64-bit word of state (frame address = register + offset, where rbp was saved, whether
there is a caller). A function with anything else is left to `cfa.run`, and so are the last few long ones, for which a step costs more than
they do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimtab.components.profiling.agent import cfa, layout

LANES_MIN = 96
"""With fewer functions left, one after the other is quicker."""
REMEMBERED_MAX = 4
STEPS_MAX = 100_000

OFFSET_BITS, REG_SHIFT, REG_BITS, RBP_SHIFT, RBP_BIAS, RBP_BITS, END_SHIFT = 27, 28, 6, 35, 1 << 19, 20, 56
"""The word: the frame's offset, its register, rbp's place with its own flag above, and that there is no caller."""
_OFFSET_MASK, _REG_MASK = (1 << OFFSET_BITS) - 1, ((1 << REG_BITS) - 1) << REG_SHIFT
_SAVED = 1 << (RBP_SHIFT + RBP_BITS)
_RBP_MASK = ((1 << (RBP_BITS + 1)) - 1) << RBP_SHIFT
_END = 1 << END_SHIFT

_NOP, _ADVANCE, _ADVANCE_1, _ADVANCE_2, _ADVANCE_4, _SAVE_RBP, _SKIP, _RESTORE_RBP = range(8)
_CFA_OFFSET, _CFA_REGISTER, _CFA, _REMEMBER, _RECALL, _UNDEFINED, _ODD = range(8, 15)


def _classes() -> NDArray[np.uint8]:
    """What each first byte of an instruction is."""
    classes = np.full(256, _ODD, np.uint8)
    classes[0x00] = _NOP
    classes[0x02], classes[0x03], classes[0x04] = _ADVANCE_1, _ADVANCE_2, _ADVANCE_4
    classes[0x07], classes[0x0A], classes[0x0B] = _UNDEFINED, _REMEMBER, _RECALL
    classes[0x0C], classes[0x0D], classes[0x0E], classes[0x2E] = _CFA, _CFA_REGISTER, _CFA_OFFSET, _SKIP
    classes[0x40:0x80] = _ADVANCE
    classes[0x80:0xC0], classes[0xC0:] = _SKIP, _NOP
    classes[0x80 + cfa.RBP], classes[0xC0 + cfa.RBP] = _SAVE_RBP, _RESTORE_RBP
    classes[0x80 + cfa.RIP] = classes[0xC0 + cfa.RIP] = _ODD
    return classes


_CLASSES = _classes()


def word_of(state: cfa.State) -> int | None:
    """The word of a state; None: it does not fit one."""
    plain = state.cfa == layout.CFA_REGISTER and state.known and state.rip in (cfa.RETURN_AT, None)
    if not plain or not 0 <= state.offset <= _OFFSET_MASK or state.reg >= 1 << REG_BITS:
        return None
    word = state.offset | state.reg << REG_SHIFT | (_END if state.rip is None else 0)
    if state.rbp == layout.RBP_SAME:
        return word
    if state.rbp != layout.RBP_AT_CFA or not -RBP_BIAS <= state.rbp_offset < RBP_BIAS:
        return None
    return word | _SAVED | (state.rbp_offset + RBP_BIAS) << RBP_SHIFT


def rule_of(word: int) -> cfa.Rule:
    """As `cfa.State.rule`."""
    if word & _END:
        return cfa.END
    saved = bool(word & _SAVED)
    rbp_offset = (word >> RBP_SHIFT & (1 << RBP_BITS) - 1) - RBP_BIAS if saved else 0
    register = (word & _REG_MASK) >> REG_SHIFT
    if register >= cfa.REGISTERS:
        return cfa.UNSUPPORTED
    rbp = layout.RBP_AT_CFA if saved else layout.RBP_SAME
    return (layout.CFA_REGISTER, register, rbp, word & _OFFSET_MASK, rbp_offset, cfa.RETURN_AT)


class Functions(NamedTuple):
    """Those to be run, by columns."""

    place: NDArray[np.int64]
    """Where the instructions begin."""
    end: NDArray[np.int64]
    address: NDArray[np.int64]
    word: NDArray[np.int64]
    """The state that its CIE gives."""
    code_align: NDArray[np.int64]
    data_align: NDArray[np.int64]


class Result(NamedTuple):
    """Rows in no order, and which functions are left to do."""

    lane: NDArray[np.int64]
    address: NDArray[np.int64]
    word: NDArray[np.int64]
    left: NDArray[np.bool_]


class _Lanes:
    """A run under way. Every array but `data` has an element for each function."""

    def __init__(self, data: NDArray[np.uint8], functions: Functions) -> None:
        self.data, self.functions = data, functions
        self.place, self.address = functions.place.copy(), functions.address.copy()
        self.word = functions.word.copy()
        count = len(self.place)
        self.odd = np.zeros(count, bool)
        self.depth = np.zeros(count, np.int64)
        self.remembered = np.zeros((REMEMBERED_MAX, count), np.int64)
        self.rows: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []

    def emit(self, lanes: NDArray[Any]) -> None:
        self.rows.append((lanes, self.address[lanes], self.word[lanes]))

    def number(self, lanes: NDArray[Any]) -> NDArray[np.int64]:
        """An unsigned LEB128 number of each; a function with one of more than 4 bytes is odd."""
        byte = self.data[self.place[lanes]].astype(np.int64)
        self.place[lanes] += 1
        value: NDArray[np.int64] = byte & 0x7F
        shift = 7
        more = np.nonzero(byte & 0x80)[0]
        while len(more) and shift < 28:
            several = lanes[more]
            byte = self.data[self.place[several]].astype(np.int64)
            self.place[several] += 1
            value[more] |= (byte & 0x7F) << shift
            more, shift = more[(byte & 0x80) != 0], shift + 7
        self.odd[lanes[more]] = True
        return value

    def advance(self, lanes: NDArray[Any], steps: NDArray[Any]) -> None:
        self.emit(lanes)
        self.address[lanes] += steps * self.functions.code_align[lanes]

    def advance_wide(self, lanes: NDArray[Any], width: int) -> None:
        steps = np.zeros(len(lanes), np.int64)
        for byte in range(width):
            steps |= self.data[self.place[lanes] + byte].astype(np.int64) << (8 * byte)
        self.place[lanes] += width
        self.advance(lanes, steps)

    def step(self, lanes: NDArray[Any]) -> None:
        """One instruction of each."""
        byte = self.data[self.place[lanes]]
        self.place[lanes] += 1
        kinds = _CLASSES[byte]
        for kind in np.nonzero(np.bincount(kinds, minlength=_ODD + 1))[0].tolist():
            chosen = kinds == kind
            self.one(kind, lanes[chosen], byte[chosen])

    def one(self, kind: int, lanes: NDArray[Any], byte: NDArray[np.uint8]) -> None:
        word = self.word
        if kind == _ADVANCE:
            self.advance(lanes, (byte & 0x3F).astype(np.int64))
        elif kind in (_ADVANCE_1, _ADVANCE_2, _ADVANCE_4):
            self.advance_wide(lanes, {_ADVANCE_1: 1, _ADVANCE_2: 2, _ADVANCE_4: 4}[kind])
        elif kind == _CFA_OFFSET:
            self.frame(lanes, None, self.number(lanes))
        elif kind == _CFA_REGISTER:
            self.frame(lanes, self.number(lanes), None)
        elif kind == _CFA:
            register = self.number(lanes)
            self.frame(lanes, register, self.number(lanes))
        elif kind == _SAVE_RBP:
            offset = self.number(lanes) * self.functions.data_align[lanes] + RBP_BIAS
            self.odd[lanes[(offset < 0) | (offset >= 2 * RBP_BIAS)]] = True
            word[lanes] = word[lanes] & ~_RBP_MASK | _SAVED | (offset & (2 * RBP_BIAS - 1)) << RBP_SHIFT
        elif kind == _RESTORE_RBP:
            word[lanes] = word[lanes] & ~_RBP_MASK | self.functions.word[lanes] & _RBP_MASK
        elif kind == _SKIP:
            self.number(lanes)
        elif kind == _UNDEFINED:
            register = self.number(lanes)
            self.odd[lanes[register == cfa.RBP]] = True
            word[lanes[register == cfa.RIP]] |= _END
        elif kind == _REMEMBER:
            self.remember(lanes)
        elif kind == _RECALL:
            self.recall(lanes)
        elif kind == _ODD:
            self.odd[lanes] = True

    def frame(self, lanes: NDArray[Any], register: NDArray[Any] | None, offset: NDArray[Any] | None) -> None:
        word = self.word[lanes]
        if register is not None:
            self.odd[lanes[register >= 1 << REG_BITS]] = True
            word = word & ~_REG_MASK | (register << REG_SHIFT) & _REG_MASK
        if offset is not None:
            self.odd[lanes[offset > _OFFSET_MASK]] = True
            word = word & ~_OFFSET_MASK | offset & _OFFSET_MASK
        self.word[lanes] = word

    def remember(self, lanes: NDArray[Any]) -> None:
        deep = self.depth[lanes] >= REMEMBERED_MAX
        self.odd[lanes[deep]] = True
        lanes = lanes[~deep]
        self.remembered[self.depth[lanes], lanes] = self.word[lanes]
        self.depth[lanes] += 1

    def recall(self, lanes: NDArray[Any]) -> None:
        empty = self.depth[lanes] == 0
        self.odd[lanes[empty]] = True
        lanes = lanes[~empty]
        self.depth[lanes] -= 1
        self.word[lanes] = self.remembered[self.depth[lanes], lanes]


def run(data: NDArray[np.uint8], functions: Functions) -> Result:
    """`data`: all of .eh_frame and at least 8 bytes behind it."""
    lanes = _Lanes(data, functions)
    active = np.nonzero(lanes.place < functions.end)[0]
    for _ in range(STEPS_MAX):
        if len(active) < LANES_MIN:
            break
        lanes.step(active)
        active = active[~lanes.odd[active] & (lanes.place[active] < functions.end[active])]
    left = lanes.odd | (lanes.place > functions.end)
    left[active] = True
    lanes.emit(np.nonzero(~left)[0])
    which, address, word = (np.concatenate(columns) for columns in zip(*lanes.rows, strict=True))
    whole = ~left[which]
    return Result(which[whole], address[whole], word[whole], left)
