"""Types of samples: what a Profiler may ask for, what the budget leaves out first, what a sample is worth, CPUs that come and go."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import get_args

import pytest

from trimtab.components.profiling import kinds
from trimtab.components.profiling.agent import budget, perf, sampler, types
from trimtab.components.profiling.measurer import Seen
from trimtab.components.profiling.process import Told, seen_of
from trimtab.components.profiling.recording import Recording
from trimtab.runtime.commands import Refused

MIB = 1 << 20


def test_a_profiler_may_ask_for_what_the_agent_knows() -> None:
    assert get_args(kinds.Type) == types.NAMES
    assert kinds.ProfilerSpec().types == list(types.DEFAULT)


def test_bytes_are_worth_what_the_kernel_summed_up_and_carry_their_direction() -> None:
    told = {(kind.type.name, *kind.labels): types.value(index, 3, 7, 1000) for index, kind in enumerate(types.KINDS)}
    assert told == {
        ("cpu",): 3000,
        ("offcpu",): 7,
        ("pagefaults",): 3 * types.FAULTS,
        ("disk", ("direction", "read")): 7,
        ("disk", ("direction", "write")): 7,
        ("network", ("direction", "sent")): 7,
        ("network", ("direction", "received")): 7,
        ("allocations",): 7,
    }


def advices(spent_percent: float, periods: int, hz: float, measured: int) -> list[str]:
    """What a budget of 1 % says to that much sampling of some of three types, ten seconds at a time, with its credit used up."""
    followed = budget.Budget(1.0, 100 * MIB)
    followed.credit_s = 0
    return [
        followed.period(budget.Spent(n * spent_percent / 10, 0, 0), 10, hz, 19, measured, 3)
        for n in range(1, periods + 1)
    ]


def test_the_budget_leaves_out_types_before_it_looks_less_often() -> None:
    assert advices(2.0, 3, 19, 3) == ["", "", "fewer"]
    assert advices(2.0, 3, 19, 1) == ["", "", "slower"]
    assert advices(2.0, 3, budget.HZ_MIN, 2) == ["", "", "fewer"]


def test_what_was_left_out_last_comes_back_first() -> None:
    assert advices(0.1, 6, 9.5, 1)[-1] == "faster"
    assert advices(0.1, 6, 19, 1)[-1] == "more"
    assert set(advices(0.1, 12, 19, 3)) == {""}


def test_what_is_not_measured_is_said_with_its_reason_and_once() -> None:
    told = Told(
        state="running", mode="bpf", hz=19, types=["cpu"], shed="no samples of disk",
        missing={"network": sampler_says("network"), "disk": "disk: left out to stay in the budget"},
    )  # fmt: skip
    seen = seen_of(told, Seen())
    assert (seen.reason, seen.types) == ("Shedding", ("cpu",))
    assert seen.message == (
        "no samples of disk; network: this kernel has no tracepoint sock_send_length nor sock_recv_length: "
        "boot Linux 6.3 or later; 19 Hz, 0.00 % of a core, 0 MiB"
    )


def sampler_says(name: str) -> str:
    """What a kernel without any tracepoint is said to lack."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler.libbpf, "has_tracepoint", lambda point: False)
        return sampler.missing(name)


def test_types_without_tracepoints_lack_nothing() -> None:
    assert [name for name in types.NAMES if not sampler_says(name)] == ["cpu", "pagefaults"]


def test_cpus_are_those_that_the_kernel_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf, "ONLINE", tmp_path / "online")
    (tmp_path / "online").write_text("0-2,5\n")
    assert perf.online() == [0, 1, 2, 5]


def test_a_recording_of_what_this_kernel_cannot_measure_is_refused_in_one_line(tmp_path: Path) -> None:
    why = sampler_says("network")
    read, write = os.pipe()
    with open(read, "rb") as said, open(write, "wb") as agent:
        told = {"state": "running", "mode": "bpf", "types": ["cpu"], "missing": {"network": why}}
        agent.write(json.dumps(told).encode() + b"\n")
        agent.flush()
        with pytest.raises(Refused) as refused:
            Recording(tmp_path, 99, "network")._wait_for(said)
        assert str(refused.value.message) == why
        agent.write(json.dumps(told).encode() + b"\n")
        agent.flush()
        Recording(tmp_path, 99, "cpu")._wait_for(said)
