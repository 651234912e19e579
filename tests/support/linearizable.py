"""Whether a recorded history of concurrent requests is linearizable: whether each object behaved as if its requests had been
answered one after the other, each at some moment between its call and its answer.

The search is Wing and Gong's ("Testing and Verifying Concurrent Objects", 1993) with Lowe's memory of what was tried
("Testing for linearizability", 2017). Linearizability is local (Herlihy and Wing, 1990), so each object is searched alone. A
request without an answer may have happened at any moment after its call, or never. Values are written once, so that a read says
which write it saw.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

STEPS_MAX = 2_000_000
"""Of one object's search: a history that needs more says nothing."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One request of one object. `verb`: get, create, update, patch, delete.

    outcome: "ok", "absent" (404), "exists" (409 on create), "conflict" (409 on update), "unknown" (no answer).
    value: what was read or written; revision: that of the answer; expected: an update's precondition.
    """

    key: str
    verb: str
    called: float
    answered: float
    outcome: str
    value: int = 0
    revision: int = 0
    expected: int = 0


State = tuple[int, int] | None
"""Of an object: its value and revision (0: not known, since the write's answer was lost); None: it does not exist."""


def _after(state: State, op: Operation) -> tuple[bool, State]:
    """Whether the operation can have had its outcome in this state, and the state that it leaves."""
    if op.outcome == "absent":
        return state is None, None
    if op.verb == "create":
        if op.outcome == "exists":
            return state is not None, state
        return state is None, (op.value, op.revision)
    if state is None:
        return False, None
    value, revision = state
    if op.verb == "get":
        return value == op.value and revision in (0, op.revision), (op.value, op.revision)
    if op.verb == "delete":
        return True, None
    if op.outcome == "conflict":
        return revision != op.expected, state
    if op.verb == "update" and revision not in (0, op.expected):
        return False, None
    return not op.revision or op.revision > revision, (op.value, op.revision)


def violation(history: Iterable[Operation]) -> str | None:
    """The first object that was not linearizable, with the requests around the place where no order explains it; else None."""
    by_key: dict[str, list[Operation]] = defaultdict(list)
    for op in history:
        by_key[op.key].append(op)
    for key, ops in by_key.items():
        stuck = _stuck(sorted(ops, key=lambda op: op.called))
        if stuck:
            told = "\n".join(f"  {op}" for op in stuck)
            return f"{key}: no order of its {len(ops)} requests explains their answers; what came last:\n{told}"
    return None


def _stuck(ops: list[Operation]) -> list[Operation]:
    """Nothing when there is an order; else the operations that could not be placed at the furthest point."""
    ends = [math.inf if op.outcome == "unknown" else op.answered for op in ops]
    answered = [op.outcome != "unknown" for op in ops]
    wanted = sum(answered)
    # A step: how many were placed without a hole, which of the later ones were, the state.
    stack: list[tuple[int, frozenset[int], int, State]] = [(0, frozenset(), 0, None)]
    tried: set[tuple[int, frozenset[int], State]] = set()
    furthest: tuple[int, list[Operation]] = (-1, [])
    for _ in range(STEPS_MAX):
        if not stack:
            return furthest[1] or ops[:5]
        first, placed, done, state = stack.pop()
        if done == wanted:
            return []
        if (first, placed, state) in tried:
            continue
        tried.add((first, placed, state))
        open_ops = _candidates(ops, ends, first, placed)
        if done > furthest[0]:
            furthest = (done, [ops[i] for i in open_ops])
        for index in reversed(open_ops):
            holds, left = _after(state, ops[index])
            if holds:
                ahead, rest = first, placed | {index}
                while ahead in rest:
                    rest -= {ahead}
                    ahead += 1
                stack.append((ahead, rest, done + answered[index], left))
    raise AssertionError(f"the search took more than {STEPS_MAX} steps: record less")


def _candidates(ops: list[Operation], ends: list[float], first: int, placed: frozenset[int]) -> list[int]:
    """Those that may come next: called before any other unplaced one was answered."""
    found: list[int] = []
    soonest = math.inf
    for index in range(first, len(ops)):
        if index in placed:
            continue
        if ops[index].called > soonest:
            break
        found.append(index)
        soonest = min(soonest, ends[index])
    return [index for index in found if ops[index].called <= soonest]
