"""Steps that take all there is, hang, or lose their runner: a clear line, nothing left behind, and the next step is right."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ci_world import World, as_nobody, own, stop_after
from ci_world import world as a_world
from small_disk import small_disk
from trimtab.ci.runs.ports import EngineFault, Stop
from trimtab.ci.sandbox.kept import failures
from trimtab.ci.sandbox.limits import Limits
from trimtab.ci.sandbox.space import KEPT
from trimtab.ci.sandbox.steps import Sandbox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")

DEADLINE_S = 60.0


@pytest.fixture
def world() -> Iterator[World]:
    with a_world(nobody=True) as made:
        yield made
        assert eventually(lambda: not running(made.state)), running(made.state)


def running(state: Path) -> list[str]:
    """The command lines of processes that work for a state directory, by what is mounted or named in them."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            mounts = Path(f"/proc/{entry}/mountinfo").read_text()
            if f"{state}/uppers" in mounts or str(state) in Path(f"/proc/{entry}/cmdline").read_text():
                found.append(Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def eventually(condition: Callable[[], Any]) -> Any:
    until = time.monotonic() + DEADLINE_S
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.02)
    return found


def nothing_after_a_sweep(world: World) -> bool:
    """The launcher may still be on its way out: what it holds is the next sweep's."""
    as_nobody(lambda: Sandbox(world.state) and None)
    return not [*(world.state / "uppers").iterdir(), *(world.state / "making").iterdir()]


def works(world: World, limits: Limits | None = None) -> None:
    outcome, said = world.run(world.job("echo well"), limits)
    assert (outcome.succeeded, said) == (True, "well\n")


def test_a_fork_bomb_stays_in_its_step(world: World) -> None:
    job = world.job("bomb() { while :; do bomb & done; }; bomb")

    outcome, said = world.run(job, Limits(processes=32))

    assert outcome.exit != 0 or outcome.ended == "processes"
    assert "can't fork" in said
    works(world)


def test_a_step_that_stays_at_its_limit_of_processes_is_ended_and_named(world: World) -> None:
    job = world.job("i=0; while [ $i -lt 27 ]; do sleep 1000 & i=$((i+1)); done; wait")

    outcome, _ = world.run(job, Limits(processes=32))

    assert outcome.ended == "processes"
    assert outcome.said.endswith(" processes, its limit is 32")
    works(world)


def test_a_command_that_cannot_start_another_says_so_itself(world: World) -> None:
    job = world.job("i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done")

    outcome, said = world.run(job, Limits(processes=32))

    assert outcome.exit != 0
    assert "can't fork: Resource temporarily unavailable" in said
    works(world)


def test_a_step_that_takes_too_much_memory_is_ended_and_named(world: World) -> None:
    job = world.job("dd if=/dev/zero of=/dev/null bs=200M count=1000000", memory_bytes=100 << 20)

    outcome, _ = world.run(job)

    assert outcome.ended == "memory"
    assert outcome.said.startswith("it took ")
    assert outcome.said.endswith(" of memory, its limit is 100 MiB")
    works(world)


def test_a_step_that_writes_too_much_is_ended_and_named(world: World) -> None:
    job = world.job(
        "i=0; while :; do dd if=/dev/zero of=f$i bs=1M count=4 2>/dev/null; i=$((i+1)); [ $i -lt 20 ] || sleep 1000; done"
    )

    outcome, _ = world.run(job, Limits(disk_bytes=32 << 20))

    assert outcome.ended == "disk"
    assert outcome.said.endswith(", its limit is 32 MiB")
    works(world)


def test_a_step_that_says_nothing_more_and_its_children_are_ended(world: World) -> None:
    stop = Stop()
    job = world.job(
        "(trap '' TERM INT HUP; sleep 1000) & setsid sh -c 'sleep 1000 & sleep 1000' & trap '' TERM; sleep 1000"
    )

    def hung() -> Any:
        stop_after(stop, 1.0, "timeout")
        return Sandbox(world.state).execute(job, lambda data: None, stop)

    world.hand_over()
    outcome = as_nobody(hung)

    assert outcome.ended == "timeout"
    assert eventually(lambda: not running(world.state))
    works(world)


def test_a_full_disk_is_said_and_everything_works_when_there_is_room_again() -> None:
    with tempfile.TemporaryDirectory(prefix="trimtab-ci-") as top, small_disk(Path(top) / "disk", 48) as disk:
        Path(top).chmod(0o755)
        world = World(disk / "ci", nobody=True)
        own(disk)

        limits = Limits(disk_free_bytes=4 << 20)

        outcome, _ = world.run(world.job("dd if=/dev/zero of=big bs=1M; sleep 1000"), limits)

        assert outcome.ended == "disk"
        assert "is full: " in outcome.said
        with pytest.raises(EngineFault, match=f"no space left in {world.state}; free some"):
            as_nobody(lambda: filled(world))
        for one in failures(world.state):
            (one.directory / KEPT).unlink()  # somebody makes room
        works(world, limits)


def filled(world: World) -> None:
    """What an execution comes to when there is no room even to begin."""
    Path(world.state / "last").write_bytes(b"")
    with contextlib.suppress(OSError), (world.state / "last").open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    try:
        Sandbox(world.state).execute(world.job("true"), lambda data: None, Stop())
    finally:
        (world.state / "last").unlink()


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(n, marks=pytest.mark.long) for n in range(3, 30))])
def test_a_runner_that_is_killed_at_any_time_leaves_nothing_that_stays(world: World, seed: int) -> None:
    world.hand_over()
    job = world.job(
        "i=0; while [ $i -lt 50 ]; do echo $i > f$i; i=$((i+1)); done; sleep 0.2; (sleep 1000 &); sleep 1000"
    )
    delay_s = random.Random(seed).random() * 0.5
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        with contextlib.suppress(BaseException):
            as_nobody(lambda: Sandbox(world.state).execute(job, lambda data: None, Stop()))
        os._exit(0)
    with contextlib.suppress(ProcessLookupError):
        os.setpgid(pid, pid)
    time.sleep(delay_s)  # the point at which it is killed, not a wait for anything

    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

    assert eventually(lambda: not running(world.state)), running(world.state)
    works(world)
    assert eventually(lambda: nothing_after_a_sweep(world)), sorted(world.state.glob("*/*/*"))


def test_what_is_missing_on_this_machine_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.ci.sandbox.container.BWRAP", "/nowhere/bwrap")

    with pytest.raises(
        EngineFault, match=r"/nowhere/bwrap is not there; install bubblewrap \(`apt-get install bubblewrap`\)"
    ):
        world.run(world.job("true"))
