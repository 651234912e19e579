"""Services beside a step, and the shell that brings both back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from ci_world import World, as_nobody, busybox_image, layer_of
from ci_world import world as a_world
from trimtab.ci.runs.ports import EngineFault, Job, Outcome
from trimtab.ci.sandbox.kept import choose, failures, prune
from trimtab.ci.sandbox.shell import enter
from trimtab.ci.sandbox.space import KEPT, lease
from trimtab.cli.ci import shell as ci_shell

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")

ECHO = "nc -ll -p 7000 -e /bin/cat"


@pytest.fixture
def world() -> Iterator[World]:
    with a_world(nobody=True) as made:
        yield made


def echo(world: World, ready: str = ":7000", command: str = ECHO, **action: Any) -> Job:
    return world.job(entrypoint=["/bin/sh", "-c", command], ready=ready, runs=[], **action)


def test_a_service_is_reached_by_its_name_when_it_is_ready(world: World) -> None:
    job = world.job("echo hello | nc echo 7000", services={"echo": echo(world)})

    outcome, said = world.run(job)

    assert (outcome.exit, said) == (0, "hello\n")
    assert not job.directory.exists()


def test_several_services_each_have_an_address_and_a_file_system(world: World) -> None:
    one = echo(world, ready=":7001", command="echo one > /work/x; nc -ll -p 7001 -e cat /work/x")
    two = echo(world, ready=":7002", command="echo two > /work/x; nc -ll -p 7002 -e cat /work/x")

    outcome, said = world.run(
        world.job(
            "nc one 7001 </dev/null; nc two 7002 </dev/null; ls /work",
            services={"one": one, "two": two},
        )
    )

    assert (outcome.exit, said) == (0, "one\ntwo\n")


def test_a_service_that_ends_before_it_is_ready_fails_the_step_with_its_last_words(world: World) -> None:
    broken = echo(world, command="echo no such database >&2; exit 3")

    outcome, _ = world.run(world.job("echo never", services={"db": broken}))

    assert outcome.ended == "service"
    assert outcome.said == "service db ended with status 3 before it was ready; it said last: no such database"


def test_a_command_tells_when_a_service_is_ready(world: World) -> None:
    slow = echo(world, ready="test -e /work/ready", command="sleep 0.3; touch /work/ready; sleep 1000")

    outcome, said = world.run(world.job("echo ran", services={"slow": slow}))

    assert (outcome.exit, said) == (0, "ran\n")


def test_a_service_that_dies_under_its_step_is_told_of(world: World) -> None:
    dying = echo(world, ready="true", command="read line < /work/pipe; exit 9")
    dying.action["entrypoint"] = ["/bin/sh", "-c", "nc -l -p 7000; exit 9"]

    outcome, _ = world.run(
        world.job(
            "echo | nc db 7000; while nc db 7000 </dev/null 2>/dev/null; do :; done; sleep 1; exit 1",
            services={"db": dying},
        )
    )

    assert outcome.exit == 1
    assert outcome.said.startswith("service db had ended with status 9 before the step was done")


def test_a_service_that_starts_nothing_is_refused(world: World) -> None:
    with pytest.raises(EngineFault, match=r"service db: its image starts nothing; say .entrypoint\(...\)"):
        world.run(world.job("true", services={"db": world.job(runs=[], ready=":1")}))


# The shell


def failed(world: World, command: str, **more: Any) -> Outcome:
    outcome, _ = world.run(world.job(command, **more))
    assert outcome.kept is not None
    return outcome


def shell(world: World, name: str, *argv: str, secrets: dict[str, str] | None = None) -> tuple[int, str]:
    """What a command in the state of a failed step gives: its exit status, and what it prints."""

    def inside() -> tuple[int, str]:
        os.environ["TRIMTAB_CI_DIR"] = str(world.state)
        os.chdir(world.state)
        read, write = os.pipe()
        before = os.dup(1)
        os.dup2(write, 1)
        try:
            if secrets is None:
                code = ci_shell.shell([name, "--", *argv])
            else:
                code = enter(world.state, choose(world.state, name), argv, secrets=secrets)
        finally:
            os.dup2(before, 1)
            os.close(write)
            os.close(before)
        with os.fdopen(read, "rb") as file:
            return code, file.read().decode()

    return as_nobody(inside)


def test_the_state_of_a_failed_step_is_entered_as_it_was_left(world: World) -> None:
    failed(world, "echo here > left; cd /tmp; exit 3", env={"A": "b"}, user="app", secrets={"S": "x"})

    code, said = shell(
        world, "last/step1", "sh", "-c", "cat left; pwd; id -u; echo $A; ls /dev/trimtab/ls; exit 5", secrets={"S": "x"}
    )

    assert (code, said) == (5, "here\n/work\n1000\nb\n/dev/trimtab/ls\n")
    assert shell(world, "step1", "cat", "left") == (0, "here\n"), "and again"


def test_what_a_service_has_written_is_there_again(world: World) -> None:
    service = echo(
        world,
        command=f"[ -e /work/x ] || echo $$ > /work/x; echo started >> /work/n; {ECHO.replace('/bin/cat', '/bin/cat /work/n')}",
    )
    failed(world, "exit 1", services={"echo": service})

    code, said = shell(world, "last/step2", "sh", "-c", "nc echo 7000 </dev/null")

    assert (code, said) == (0, "started\nstarted\n")


def test_an_image_without_a_shell_is_entered_by_a_busybox_of_ours(world: World) -> None:
    image = busybox_image(world.state, layer_of(*((f"bin/.wh.{name}", {}, b"") for name in ("sh", "ls", "cat"))))
    job = world.job(image=image, runs=[{"argv": ["/bin/busybox", "false"]}])
    world.run(job)

    code, said = shell(world, "last/step1", "ls", "/bin/sh")
    assert code == 1
    assert said == ""
    assert shell(world, "last/step1", "sh", "-c", "echo shell; cat /etc/passwd | head -n 1")[1].startswith(
        "shell\nroot:"
    )
    assert not (job.directory / "upper" / "dev" / "trimtab").exists(), "nothing of it is in the state"


def test_a_failure_is_named_by_run_and_step(world: World) -> None:
    with pytest.raises(EngineFault, match="no failed step is kept here"):
        choose(world.state, "last/unit")
    failed(world, "exit 1")

    with pytest.raises(EngineFault, match="no failed step 'last/unit' is kept; there is run/step1"):
        choose(world.state, "last/unit")


def test_one_shell_at_a_time(world: World) -> None:
    outcome = failed(world, "exit 1")
    assert outcome.kept is not None
    held = lease(outcome.kept)
    assert held is not None
    try:
        with pytest.raises(EngineFault, match="step1 is entered already; leave the other shell first"):
            shell(world, "step1", "true")
    finally:
        held.release()


def test_failures_are_bounded_in_number_and_size_and_the_newest_stays(world: World) -> None:
    for number in range(4):
        failed(world, f"dd if=/dev/zero of=x bs=1M count={number + 1}; exit 1")
    newest = [one.step for one in failures(world.state)]

    assert newest == ["step4", "step3", "step2", "step1"]
    assert [name.split("/")[1] for name in prune(world.state, count_max=3)] == ["step1"]
    assert [name.split("/")[1] for name in prune(world.state, bytes_max=8 << 20)] == ["step2"]
    assert [name.split("/")[1] for name in prune(world.state, bytes_max=1)] == ["step3"]
    assert [one.step for one in failures(world.state)] == ["step4"]
    assert (failures(world.state)[0].directory / KEPT).exists()
