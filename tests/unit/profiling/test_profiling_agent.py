"""The parts of the agent that need no kernel: its budget, room for rows, whose a process is, what it is told."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.components.profiling.agent import budget, talk
from trimtab.components.profiling.agent.processes import container_of, text_of
from trimtab.components.profiling.agent.ranges import Ranges

MIB = 1 << 20
CONTAINER = "5f" * 32


def advices(spent_percent: float, periods: int, hz: float = 19, memory: int = 0) -> list[str]:
    """What a budget of 1 % and 100 MiB says to that much sampling, ten seconds at a time, with its credit used up."""
    followed = budget.Budget(1.0, 100 * MIB)
    followed.credit_s = 0
    spent = 0.0
    said = []
    for _ in range(periods):
        spent += spent_percent / 100 * 10
        said.append(followed.period(budget.Spent(spent, 0, memory), 10, hz, 19))
    return said


def test_sampling_within_the_budget_is_left_alone() -> None:
    assert advices(0.9, 10) == [""] * 10


def test_sampling_beyond_the_budget_becomes_slower_and_at_last_ends() -> None:
    assert advices(2.0, 4) == ["", "", "slower", ""]
    assert advices(2.0, 3, hz=1) == ["", "", "end"]


def test_what_was_given_up_comes_back_when_there_is_room() -> None:
    assert advices(0.1, 6, hz=9.5)[-1] == "faster"
    assert "faster" not in advices(0.1, 12, hz=19)


def test_too_much_memory_evicts_and_at_last_ends() -> None:
    assert advices(0.1, 4, memory=101 * MIB) == ["evict", "evict", "evict", "end"]


def test_making_tables_uses_credit_and_waits_without_any() -> None:
    followed = budget.Budget(1.0, 100 * MIB)

    followed.period(budget.Spent(0, budget.BURST_S + 1, 0), 10, 19, 19)
    assert not followed.may_parse
    for _ in range(12):
        followed.period(budget.Spent(0, budget.BURST_S + 1, 0), 10, 19, 19)
    assert followed.may_parse


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=60))
def test_stretches_never_overlap_and_come_back_whole(orders: list[tuple[bool, int]]) -> None:
    ranges, held = Ranges(100), list[tuple[int, int]]()
    for take, size in orders:
        if take and (first := ranges.take(size)) is not None:
            assert all(first + size <= other or other + length <= first for other, length in held)
            assert first + size <= 100
            held.append((first, size))
        elif not take and held:
            ranges.give(*held.pop(size % len(held)))
        assert ranges.free == 100 - sum(length for _, length in held)
    for one in held:
        ranges.give(*one)
    assert ranges.take(100) == 0


@pytest.mark.parametrize(
    "cgroups",
    [
        [CONTAINER, "trimtab", ""],
        ["init", f"cri-containerd-{CONTAINER}.scope", "kubepods-burstable.slice"],
        [f"docker-{CONTAINER}.scope", "system.slice"],
        [f"kubepods-besteffort-pod1.slice:cri-containerd:{CONTAINER}", "system.slice"],
    ],
)
def test_the_container_is_in_the_names_of_cgroups(cgroups: list[str]) -> None:
    assert container_of(cgroups) == CONTAINER


def test_no_container_is_seen_where_there_is_none() -> None:
    assert container_of(["session-1.scope", "user.slice", CONTAINER[:40], f"x{CONTAINER}"]) == ""


def test_containers_are_as_they_were_last_told() -> None:
    containers, nodes = talk.Containers(), list[str]()
    containers.node_told = nodes.append
    for line in (
        b'{"node": "node-1"}',
        b'{"containers": {"a": {"pod": "p"}, "b": {"pod": "q"}}}',
        b'{"container": "a", "labels": {"pod": "r"}}',
        b'{"container": "b", "labels": null}',
    ):
        containers.take(msgspec.json.decode(line, type=talk.Order))

    assert nodes == ["node-1"]
    assert containers("a") == {"pod": "r"}
    assert containers("b") is None


def test_names_of_files_are_text_whatever_bytes_they_are() -> None:
    assert text_of("/tmp/a\udcff (deleted)") == "/tmp/a\ufffd"
