"""`trimtab ci` from ship.py to the shell in a failed step, for real, as an ordinary user without capabilities."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pkgutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci_world import World, as_nobody, own
from ci_world import world as a_world
from trimtab import ci
from trimtab.cli.ci import COMMANDS, main
from trimtab.content import ContentStore, parse_digest, parse_reference

# An ordinary user may not be able to read them later.
for _module in pkgutil.walk_packages(ci.__path__, "trimtab.ci."):
    if _module.name != "trimtab.ci.results.pytest_plugin":  # for the inside of a step
        importlib.import_module(_module.name)
for _target, _ in COMMANDS.values():
    importlib.import_module(_target.partition(":")[0])

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")

SHIP = """
from trimtab.ci import image, pipeline, src, step

base = image("busybox:1").workdir("/work")

@step
def build():
    return base.add(src("app/**")).run("mkdir out; cat app/* > out/all").output("out")

@step(shard=2)
def unit(shard):
    return base.add(build(), to="out").run(
        f"echo part {shard}; if grep -q broken out/all; then echo seen > why; exit 3; fi"
    )

@step
def lint():
    return base.add(src("lint.txt")).run("cat lint.txt")

@pipeline
def ci():
    return unit() & lint()
"""


class Place:
    """A project and the state of its user."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.project = world.state.parent / "project"
        (self.project / "app").mkdir(parents=True)
        (self.project / "ship.py").write_text(SHIP)
        (self.project / "app" / "a.txt").write_text("one\n")
        (self.project / "lint.txt").write_text("clean\n")
        digest = parse_digest(world.image)
        ContentStore(world.state).tag(parse_reference(f"busybox@{digest}").tagged, digest)
        (self.project / "trimtab.lock").write_text(f'{{"version": 1, "images": {{"busybox:1": "{digest}"}}}}')
        own(world.state.parent)

    def ci(self, *arguments: str) -> tuple[int, str]:
        """The exit status and what was printed."""

        def run() -> tuple[int, str]:
            out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
            os.environ["TRIMTAB_CI_DIR"] = str(self.world.state)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                status = main([*arguments[:1], "-C", str(self.project), *arguments[1:]])
            out.flush()
            return status, out.buffer.getvalue().decode()  # type: ignore[attr-defined]

        return as_nobody(run)

    def write(self, name: str, text: str) -> None:
        (self.project / name).write_text(text)


@pytest.fixture
def place() -> Iterator[Place]:
    with a_world(nobody=True) as world:
        yield Place(world)


def ran(said: str) -> list[str]:
    return sorted(line.split()[1] for line in said.splitlines() if line.startswith("  ok "))


def test_what_has_changed_runs_and_the_rest_does_not(place: Place) -> None:
    status, said = place.ci("run")
    assert (status, ran(said)) == (0, ["build", "lint", "unit[1/2]", "unit[2/2]"]), said

    status, said = place.ci("run")
    assert (status, ran(said)) == (0, []), said
    assert "ci: 4 steps, 4 unchanged; run " in said

    place.write("lint.txt", "cleaner\n")
    status, said = place.ci("run")
    assert (status, ran(said)) == (0, ["lint"]), said
    assert "  run       lint  input /work: lint.txt changed" in said.splitlines()
    assert place.ci("log", "last/lint") == (0, "cleaner\n")
    assert place.ci("log", "unit[2/2]") == (0, "part 2/2\n")


def test_a_failed_step_is_told_and_entered(place: Place) -> None:
    place.ci("run")
    place.write("app/a.txt", "broken\n")

    status, said = place.ci("run")

    assert status == 1
    lines = said.splitlines()
    run = lines[0].rpartition(" ")[2]
    assert f"  enter it:    trimtab ci shell '{run}/unit[1/2]'" in lines
    assert "  | part 1/2" in lines
    assert "  what is new: input /work/out: all changed" in lines
    assert place.ci("log", f"{run}/unit[1/2]") == (0, "part 1/2\n")

    def look() -> int:
        os.environ["TRIMTAB_CI_DIR"] = str(place.world.state)
        there = f"{run}/unit[1/2]"
        return main(["shell", there, "--", "sh", "-c", 'test "$(cat why)" = seen && test "$(cat out/all)" = broken'])

    assert as_nobody(look) == 0

    place.write("app/a.txt", "one\n")
    status, said = place.ci("run")
    assert (status, ran(said)) == (0, []), "what is as before is known"


def test_nothing_of_a_green_run_is_left_but_what_is_kept(place: Place) -> None:
    place.ci("run")
    left = sorted(path.name for path in (place.world.state / "uppers").iterdir())
    mounts = Path("/proc/self/mounts").read_text()
    assert left == []
    assert str(place.world.state) not in mounts
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(place.world.state) not in listed
