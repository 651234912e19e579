"""One step, for real: as an ordinary user and as root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ci_world import World, as_nobody, busybox_image
from ci_world import world as a_world
from trimtab.ci.cache.blobs import Blobs
from trimtab.ci.runs.ports import EngineFault, Job, Laid, Stop
from trimtab.ci.sandbox.roots import forget, tidy
from trimtab.ci.sandbox.steps import Sandbox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with a_world(nobody=getattr(request, "param", "nobody") == "nobody") as made:
        yield made


as_both = pytest.mark.parametrize("world", ["nobody", "root"], indirect=True)


@as_both
def test_commands_run_one_after_the_other_in_one_file_system(world: World) -> None:
    job = world.job("echo one > a", "cat a; echo two", outputs={"a": "/work/a"})

    outcome, said = world.run(job)

    assert (outcome.ended, outcome.exit, said) == ("exit", 0, "one\ntwo\n")
    assert [name for name, _ in Blobs(str(world.state)).files(outcome.outputs["a"])] == ["a"]
    assert not job.directory.exists(), "a success leaves nothing"


@as_both
def test_only_what_is_declared_is_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_TEST_STRAY", "1")
    command = f"""
        echo env: $(env | grep -v -e ^PWD= -e ^SHLVL= | sed s/:.*// 2>/dev/null || env)
        echo root: $(ls /)
        echo host: $(ls {world.state} 2>&1 | grep -c 'No such file')
        echo processes: $(ls /proc | grep -c '^[0-9][0-9]*$')
        echo addresses: $(ip -o addr | grep -c -v -e 127.0.0.1 -e ::1)
        echo user: $(id -u) $(hostname) $PWD $HOME $A $TRIMTAB_TEST_STRAY
        echo devices: $(ls /dev)
    """

    _, said = world.run(world.job(command, env={"A": "b"}))

    lines = dict(line.split(": ", 1) for line in said.splitlines())
    assert lines["root"] == "bin dev etc proc tmp work"
    assert lines["host"] == "1"
    assert int(lines["processes"]) <= 6, "bubblewrap's own, the shell, and those of this line"
    assert lines["addresses"] == "0"
    assert lines["user"] == "0 step /work /root b"
    assert "mem" not in lines["devices"].split()
    assert "TRIMTAB" not in lines["env"]


def test_a_failed_command_ends_the_step_and_its_state_is_kept(world: World) -> None:
    job = world.job("echo here > left", "exit 7", "echo never")

    outcome, said = world.run(job)

    assert (outcome.ended, outcome.exit, outcome.failed_run, said) == ("exit", 7, 1, "")
    assert outcome.kept == job.directory
    assert (job.directory / "upper" / "work" / "left").read_text() == "here\n"


def test_a_command_that_is_not_there_is_named(world: World) -> None:
    outcome, said = world.run(world.job(runs=[{"argv": ["nosuch", "-x"]}]))

    assert outcome.exit != 0
    assert "nosuch: No such file or directory" in said


def test_a_signal_is_an_exit_status_as_shells_have_it(world: World) -> None:
    outcome, _ = world.run(world.job("kill -TERM $$"))

    assert outcome.exit == 128 + 15


def test_each_command_has_its_own_user_directory_and_variables(world: World) -> None:
    runs = [
        {"argv": ["/bin/sh", "-c", "id -u; pwd; echo $A$HOME"], "user": "app", "cwd": "/made/here", "env": {"A": "1"}},
        {"argv": ["/bin/sh", "-c", "id -u:; pwd; echo $A; touch x"], "user": "4711"},
    ]

    outcome, said = world.run(world.job(runs=runs))

    assert said.splitlines()[:3] == ["1000", "/made/here", "1/home/app"]
    assert outcome.exit == 0


def test_a_user_whom_the_image_does_not_have_is_named(world: World) -> None:
    with pytest.raises(EngineFault, match="the image has no user 'ann' in /etc/passwd; name one that it has"):
        world.run(world.job("true", user="ann"))


def test_inputs_are_laid_over_the_image_and_never_written_to(world: World) -> None:
    blobs = Blobs(str(world.state))
    one, other = world.state.parent / "one", world.state.parent / "other"
    (one / "sub").mkdir(parents=True)
    other.mkdir()
    (one / "sub" / "a").write_text("a")
    (one / "b").write_text("one")
    (other / "b").write_text("other")
    trees = [blobs.capture(str(path))[0] for path in (one, other)]
    job = world.job(
        "cat sub/a b; echo changed > b; rm sub/a; cat b; ls sub; ls /bin/sh",
        inputs=[Laid("/work", trees[0]), Laid("/work", trees[1])],
        outputs={"all": "/work"},
    )

    outcome, said = world.run(job)
    again, said_again = world.run(world.job("cat sub/a b", inputs=job.inputs))

    assert said == "aotherchanged\n/bin/sh\n"
    assert [path for path, _ in blobs.files(outcome.outputs["all"])] == ["b"]
    assert (again.exit, said_again) == (0, "aother"), "the trees are as they were"


@as_both
def test_outputs_are_followed_inside_the_step_and_never_out_of_it(world: World) -> None:
    job = world.job(
        "ln -s /etc/passwd link; mkdir -p real/deep; echo x > real/deep/f; ln -s /work/real out",
        outputs={"link": "/work/link", "deep": "/work/out/deep"},
    )

    outcome, _ = world.run(job)

    blobs = Blobs(str(world.state))
    [(name, entry)] = blobs.files(outcome.outputs["link"])
    assert name == "passwd"
    assert blobs.read(f"sha256:{entry[2]}").startswith(b"root:x:0:0")
    assert b"app" in blobs.read(f"sha256:{entry[2]}"), "the step's own, not this machine's"
    assert [name for name, _ in blobs.files(outcome.outputs["deep"])] == ["f"]


def test_an_output_that_nobody_made_fails_the_step(world: World) -> None:
    outcome, _ = world.run(world.job("true", outputs={"venv": "/work/.venv"}))

    assert (outcome.ended, outcome.said) == ("output", "the output venv is not there: no command made /work/.venv")
    assert outcome.kept is not None


def test_reports_are_read_after_a_failure_too(world: World) -> None:
    runs = [{"argv": ["/bin/sh", "-c", "echo '<testsuite/>' > r.xml; exit 1"], "junit": "/work/r.xml"}]

    outcome, _ = world.run(world.job(runs=runs))

    assert outcome.exit == 1
    assert outcome.reports == {"/work/r.xml": b"<testsuite/>\n"}


def test_a_volume_lives_on(world: World) -> None:
    caches = [{"path": "/root/.cache", "key": "uv"}]
    world.run(world.job("echo kept > /root/.cache/x", caches=caches))

    _, said = world.run(world.job("cat /root/.cache/x", caches=caches))

    assert said == "kept\n"


def test_what_a_command_leaves_running_ends_with_it_and_is_named(world: World) -> None:
    job = world.job("setsid sleep 1000 >/dev/null 2>&1 & sleep 0", "ps | grep -c [s]leep || true")

    outcome, said = world.run(job)

    assert outcome.succeeded
    assert said == "trimtab: still running when the command ended, and ended with it: sleep\n0\n"


@as_both
def test_output_comes_as_it_is_printed_and_the_end_can_be_asked_for(world: World) -> None:
    def on_output(data: bytes, stop: Stop) -> None:
        if b"begun" in data:
            stop.ask("timeout")

    job = world.job("echo begun; (sleep 1000 &); sleep 1000")

    outcome, _ = world.run(job, on_output=on_output)

    assert (outcome.ended, outcome.succeeded) == ("timeout", False)
    assert outcome.kept == job.directory


def test_an_end_that_was_asked_for_before_is_heard(world: World) -> None:
    stop = Stop()
    stop.ask("cancelled")

    outcome, _ = world.run(world.job("sleep 1000"), stop=stop)

    assert outcome.ended == "cancelled"


def test_processor_time_and_memory_are_measured(world: World) -> None:
    outcome, _ = world.run(world.job("dd if=/dev/zero of=/dev/null bs=64M count=20"))

    assert outcome.cpu_s > 0
    assert outcome.rss_bytes > 48 << 20


def test_secrets_are_variables_and_stand_in_no_record(world: World) -> None:
    outcome, said = world.run(world.job("echo $TOKEN; exit 1", secrets={"TOKEN": "hunter2"}))

    assert said == "hunter2\n"
    assert outcome.kept is not None
    assert "hunter2" not in (outcome.kept / "kept.json").read_text()


def test_an_image_that_is_not_there_is_named(world: World) -> None:
    digest = "sha256:" + "0" * 64

    with pytest.raises(EngineFault, match=r"the image sha256:000000000000 cannot be used: .* is not in"):
        world.run(world.job("true", image=digest))


def test_the_network_is_the_machines_where_it_is_declared(world: World) -> None:
    command = "cat /proc/net/dev | grep -c :; cat /etc/resolv.conf >/dev/null && echo resolves"
    here = [line for line in Path("/proc/net/dev").read_text().splitlines() if ":" in line]

    assert world.run(world.job(command, net="allow"))[1] == f"{len(here)}\nresolves\n"
    assert world.run(world.job("cat /proc/net/dev | grep -c :"))[1] == "1\n", "lo alone"


def test_several_steps_at_once_do_not_disturb_each_other(world: World) -> None:
    jobs = [world.job(f"echo {number} > x; cat x", outputs={"x": "/work/x"}) for number in range(8)]
    world.hand_over()

    def all_at_once() -> list[str]:
        sandbox = Sandbox(world.state)

        def one(job: Job) -> str:
            said: list[bytes] = []
            outcome = sandbox.execute(job, said.append, Stop())
            assert outcome.succeeded
            return b"".join(said).decode()

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(one, jobs))

    assert as_nobody(all_at_once) == [f"{number}\n" for number in range(8)]
    assert list((world.state / "uppers").iterdir()) == []


def test_an_image_that_nobody_uses_is_unpacked_no_more_and_unpacked_again_when_it_is(world: World) -> None:
    failed = world.job("false")
    world.run(failed)
    other = world.job("echo hello", image=busybox_image(world.state, env=["OTHER=1"]))
    world.run(other)
    shared = sorted(path.name for path in (world.state / "roots").iterdir())
    blobs = Blobs(str(world.state))
    for record in (world.state / "images").glob("*.json"):
        os.utime(record, (0, 0))

    blobs.hold()
    assert forget(world.state, Blobs(str(world.state)), 60.0) == 0, "a run is under way"
    blobs.release()
    assert forget(world.state, blobs, 60.0) == 0, "the failed step stands on it"
    assert sorted(path.name for path in (world.state / "roots").iterdir()) == shared

    (failed.directory / "kept.json").unlink()
    assert forget(world.state, blobs, 60.0) > 0
    assert not list((world.state / "roots").iterdir())
    assert not list((world.state / "images").glob("*.json"))

    outcome, said = world.run(world.job("echo again"))
    assert (outcome.ended, said) == ("exit", "again\n")
    assert forget(world.state, blobs, 60.0) == 0, "it was used just now"
    assert tidy(world.state, blobs) == 0
