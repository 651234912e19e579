"""DWARF's call frame instructions, one function at a time: bytes -> rows. The meaning of every instruction is that of DWARF 5, 6.4; which
of a frame's rules are kept is what the BPF program can follow (`layout.RULE`): the frame's address, the caller's rbp, the return address.
"""

from __future__ import annotations

from typing import NamedTuple

from trimtab.components.profiling.agent import layout

Rule = tuple[int, int, int, int, int, int]
"""cfa, reg, rbp, cfa_offset, rbp_offset, more: as in `layout.RULE`."""
Row = tuple[int, Rule]

RBP, RSP, RIP = 6, 7, 16
RETURN_AT = -8
REGISTERS = 17
REMEMBERED_MAX = 64
ROWS_OF_FUNCTION_MAX = 100_000
INT32 = 1 << 31

GAP: Rule = (layout.CFA_GAP, 0, 0, 0, 0, 0)
END: Rule = (layout.CFA_END, 0, 0, 0, 0, 0)
SIGNAL: Rule = (layout.CFA_SIGNAL, 0, 0, 0, 0, 0)
UNSUPPORTED: Rule = (layout.CFA_UNSUPPORTED, 0, 0, 0, 0, 0)

_BREG = 0x70
_DEREF, _PLUS_UCONST = 0x06, 0x23
_PLT_HEAD, _PLT_TAIL = bytes.fromhex("770880003f1a"), bytes.fromhex("2a332422")
"""rsp + 8 + (((rip & 15) >= N) << 3), where N is between the two: an entry of the procedure linkage table has pushed a word by then."""
_SIGNAL_CFA = bytes.fromhex("77a00106")
"""The word at rsp + 160: the interrupted rsp in the frame of a signal."""


def uleb(data: bytes | memoryview, place: int) -> tuple[int, int]:
    """A LEB128 number and the place behind it. Raises `IndexError`."""
    result = shift = 0
    while True:
        byte = data[place]
        place += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, place
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def sleb(data: bytes, place: int) -> tuple[int, int]:
    began = place
    value, place = uleb(data, place)
    bits = 7 * (place - began)
    return (value - (1 << bits) if data[place - 1] & 0x40 else value), place


class State(NamedTuple):
    """What holds from an address on. `cfa`, `reg`, `offset`, `more`: the frame's address; `rbp`, `rbp_offset`: the caller's frame pointer;
    `rip`: where the return address is, seen from the frame's address, None: nowhere (the stack's end)."""

    cfa: int = layout.CFA_UNSUPPORTED
    reg: int = RSP
    offset: int = 0
    more: int = 0
    rbp: int = layout.RBP_SAME
    rbp_offset: int = 0
    rip: int | None = RETURN_AT
    known: bool = True

    def rule(self) -> Rule:
        if self.rip is None:
            return END
        if self.cfa == layout.CFA_SIGNAL:
            return SIGNAL
        if not self.known or self.cfa == layout.CFA_UNSUPPORTED:
            return UNSUPPORTED
        if self.cfa != layout.CFA_REGISTER and self.rip != RETURN_AT:
            return UNSUPPORTED
        more = self.rip if self.cfa == layout.CFA_REGISTER else self.more
        rule = (self.cfa, self.reg, self.rbp, self.offset, self.rbp_offset, more)
        return rule if self.reg < REGISTERS and all(-INT32 <= part < INT32 for part in rule[3:]) else UNSUPPORTED


def by_expression(state: State, expression: bytes) -> State:
    """The frame's address by one of the expressions that compilers and linkers write."""
    if expression == _SIGNAL_CFA:
        return state._replace(cfa=layout.CFA_SIGNAL)
    if len(expression) == 11 and expression.startswith(_PLT_HEAD) and expression.endswith(_PLT_TAIL):
        return state._replace(cfa=layout.CFA_PLT, reg=RSP, offset=8, more=expression[6] - 0x30)
    unknown = state._replace(cfa=layout.CFA_UNSUPPORTED)
    if not expression or not _BREG <= expression[0] < _BREG + 17:
        return unknown
    offset, place = sleb(expression, 1)
    found = state._replace(cfa=layout.CFA_REGISTER, reg=expression[0] - _BREG, offset=offset, more=0)
    if place < len(expression) and expression[place] == _DEREF:
        found, place = found._replace(cfa=layout.CFA_DEREF), place + 1
        if place < len(expression) and expression[place] == _PLUS_UCONST:
            more, place = uleb(expression, place + 1)
            found = found._replace(more=more)
    return found if place == len(expression) else unknown


def _saved(state: State, register: int, offset: int, initial: State) -> State:
    if register == RBP:
        return state._replace(rbp=layout.RBP_AT_CFA, rbp_offset=offset)
    return state._replace(rip=offset) if register == RIP else state


def _restored(state: State, register: int, initial: State) -> State:
    if register == RBP:
        return state._replace(rbp=initial.rbp, rbp_offset=initial.rbp_offset)
    return state._replace(rip=initial.rip) if register == RIP else state


def _elsewhere(state: State, register: int) -> State:
    """A register whose place cannot be followed."""
    if register == RBP:
        return state._replace(rbp=layout.RBP_LOST, rbp_offset=0)
    return state._replace(known=False) if register == RIP else state


def run(data: bytes, align: tuple[int, int], at: int, initial: State | None) -> tuple[list[Row], State]:
    """The rows of a function that begins at `at`, and the state at its end. `align`: code and data alignment factors. `initial`: the
    state that its CIE gives; None: these are the CIE's own instructions. Raises `ValueError`, `IndexError`, `struct.error`: not whole."""
    code_align, data_align = align
    state = initial or State()
    first = state
    rows: list[Row] = []
    remembered: list[State] = []
    place, end = 0, len(data)
    while place < end:
        byte = data[place]
        place += 1
        high, low = byte & 0xC0, byte & 0x3F
        if high == 0x80:  # offset
            value, place = uleb(data, place)
            state = _saved(state, low, value * data_align, first)
            continue
        if high == 0xC0:  # restore
            state = _restored(state, low, first)
            continue
        step = None
        if high == 0x40:  # advance_loc, 1, 2, 4
            step = low
        elif 0x02 <= byte <= 0x04:
            width = (1, 2, 4)[byte - 2]
            step = int.from_bytes(data[place : place + width], "little")
            if place + width > end:
                raise IndexError("an instruction beyond its end")
            place += width
        if step is not None:
            rows.append((at, state.rule()))
            at += step * code_align
            if len(rows) > ROWS_OF_FUNCTION_MAX:
                raise ValueError(f"more than {ROWS_OF_FUNCTION_MAX} rows of one function")
        elif byte == 0x0A:  # remember_state
            if len(remembered) >= REMEMBERED_MAX:
                raise ValueError(f"more than {REMEMBERED_MAX} remembered states")
            remembered.append(state)
        elif byte == 0x0B:
            state = remembered.pop()
        elif byte == 0x01:  # set_loc: absolute addresses, which no compiler for this machine writes
            raise ValueError("set_loc")
        else:
            state, place = _single(data, place, byte, state, first, data_align)
    if initial is not None:
        rows.append((at, state.rule()))
    return rows, state


def _single(data: bytes, place: int, byte: int, state: State, first: State, data_align: int) -> tuple[State, int]:
    """An instruction that neither moves nor remembers."""
    if byte == 0x00:  # nop
        return state, place
    if byte == 0x2E:  # GNU_args_size
        return state, uleb(data, place)[1]
    if byte in (0x0E, 0x13):  # def_cfa_offset, _sf
        offset, place = uleb(data, place) if byte == 0x0E else sleb(data, place)
        return state._replace(offset=offset * (data_align if byte == 0x13 else 1)), place
    if byte == 0x0F:  # def_cfa_expression
        size, place = uleb(data, place)
        if place + size > len(data):
            raise IndexError("an expression beyond its end")
        return by_expression(state, bytes(data[place : place + size])), place + size
    register, place = uleb(data, place)
    if byte == 0x0D:  # def_cfa_register
        return state._replace(cfa=layout.CFA_REGISTER, reg=register), place
    if byte in (0x0C, 0x12):  # def_cfa, _sf
        offset, place = uleb(data, place) if byte == 0x0C else sleb(data, place)
        offset *= data_align if byte == 0x12 else 1
        return state._replace(cfa=layout.CFA_REGISTER, reg=register, offset=offset), place
    if byte in (0x05, 0x11, 0x2F):  # offset_extended, _sf, GNU_negative_offset_extended
        offset, place = sleb(data, place) if byte == 0x11 else uleb(data, place)
        return _saved(state, register, offset * data_align * (-1 if byte == 0x2F else 1), first), place
    if byte in (0x10, 0x16):  # expression, val_expression
        size, place = uleb(data, place)
        if place + size > len(data):
            raise IndexError("an expression beyond its end")
        expression = bytes(data[place : place + size])
        if byte == 0x10 and register == RBP and expression[:1] == bytes([_BREG + RBP]):
            offset, behind = sleb(expression, 1)
            if behind == size:
                return state._replace(rbp=layout.RBP_AT_RBP, rbp_offset=offset), place + size
        return (state if state.cfa == layout.CFA_SIGNAL else _elsewhere(state, register)), place + size
    if byte == 0x06:  # restore_extended
        return _restored(state, register, first), place
    if byte == 0x08:  # same_value
        return (state._replace(rbp=layout.RBP_SAME) if register == RBP else state), place
    if byte == 0x07:  # undefined
        return (state._replace(rip=None) if register == RIP else _elsewhere(state, register)), place
    if byte in (0x09, 0x14, 0x15):  # register, val_offset, _sf
        return _elsewhere(state, register), uleb(data, place)[1]
    raise ValueError(f"call frame instruction {byte:#04x}")
