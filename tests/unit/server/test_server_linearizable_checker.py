"""The checker of recorded histories finds what a broken server does, and nothing else."""

from __future__ import annotations

import random

import pytest

from linearizable import Operation, violation


def op(verb: str, called: float, answered: float, outcome: str = "ok", **more: int) -> Operation:
    return Operation("a", verb, called, answered, outcome, **more)


CREATED = op("create", 0, 1, value=1, revision=10)


@pytest.mark.parametrize(
    ("what", "history"),
    [
        ("a write that was acknowledged and is lost", [CREATED, op("get", 2, 3, "absent")]),
        ("a stale read", [CREATED, op("patch", 2, 3, value=2, revision=11), op("get", 4, 5, value=1, revision=10)]),
        ("a value that nobody wrote", [CREATED, op("get", 2, 3, value=7, revision=12)]),
        ("two creations", [CREATED, op("create", 2, 3, value=2, revision=11)]),
        ("a lost update", [CREATED, *(op("update", 2, 5, value=n, revision=9 + n, expected=10) for n in (2, 3))]),
        ("a conflict without a reason", [CREATED, op("update", 2, 3, "conflict", value=2, expected=10)]),
        ("a revision that runs backwards", [CREATED, op("patch", 2, 3, value=2, revision=9)]),
        (
            "a lost write that comes and goes",
            [CREATED, op("patch", 2, 3, "unknown", value=2), op("get", 4, 5, value=2, revision=11), op("get", 6, 7, value=1, revision=10)],
        ),
        ("a deletion that did not happen", [CREATED, op("delete", 2, 3), op("get", 4, 5, value=1, revision=10)]),
    ],
)  # fmt: skip
def test_what_a_broken_server_answers_is_found(what: str, history: list[Operation]) -> None:
    assert "no order of its" in (violation(history) or ""), what


@pytest.mark.parametrize(
    "history",
    [
        [CREATED, op("patch", 2, 6, value=2, revision=11), op("get", 3, 4, value=1, revision=10), op("get", 4.5, 5, value=2, revision=11)],
        [op("create", 0, 1, "unknown", value=1), op("get", 2, 3, "absent"), op("get", 4, 5, value=1, revision=10)],
        [op("create", 0, 1, "unknown", value=1), op("get", 2, 3, "absent"), op("create", 4, 5, value=2, revision=12)],
        [CREATED, op("delete", 2, 3, "unknown"), op("create", 4, 5, "exists"), op("create", 6, 7, value=2, revision=12)],
        [CREATED, op("update", 2, 9, value=2, revision=11, expected=10), op("update", 3, 8, "conflict", value=3, expected=10)],
    ],
)  # fmt: skip
def test_what_can_be_explained_is_accepted(history: list[Operation]) -> None:
    assert violation(history) is None


def test_long_histories_of_many_clients_are_searched_in_no_time() -> None:
    rng = random.Random(1)
    history, now = [], 0.0
    for value in range(1, 1_000):  # one after the other in truth, while the calls overlap
        now += 1
        verb = "create" if value == 1 else "patch"
        history.append(op(verb, now - rng.random() * 4, now + rng.random() * 4, value=value, revision=value))
        now += 1
        history.append(op("get", now - rng.random() * 4, now + rng.random() * 4, value=value, revision=value))

    assert violation(history) is None
