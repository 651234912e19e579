"""Starting a step: how long the sandbox takes by itself, beside plain bubblewrap; and from cold to a step's first command.

Prints milliseconds. "sandbox": `true` in an image of busybox by `Sandbox.execute`, everything included: directories, namespaces,
overlay, bubblewrap, the end of all processes, what is left removed. "bwrap": the same program in the same files by bubblewrap alone,
which has no overlay, no limits and no log. "cold": a new process, the image in the store as layers, nothing unpacked yet; until
the first command has printed. "warm": the same when the layers are unpacked. "shell": a command in the state of a failed step.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from ci_world import World
from trimtab.ci.runs.ports import Stop
from trimtab.ci.sandbox.kept import choose
from trimtab.ci.sandbox.rootfs import unpacked
from trimtab.ci.sandbox.shell import enter
from trimtab.ci.sandbox.space import remove_tree
from trimtab.ci.sandbox.steps import Sandbox

ROUNDS = 20
_FIRST = """
import sys
from pathlib import Path
from trimtab.ci.runs.ports import Job, Stop
from trimtab.ci.sandbox.steps import Sandbox

state = Path(sys.argv[1])
action = {"runs": [{"argv": ["/bin/sh", "-c", "echo begun"]}], "cwd": "/work"}
Sandbox(state).execute(Job("first", action, sys.argv[2], (), state / "uppers" / "first-0"), lambda data: print(data), Stop())
"""


def timed(call: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Milliseconds of each round, sorted."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        found.append((time.perf_counter() - began) * 1000)
    return sorted(found)


def show(name: str, found: list[float]) -> None:
    print(f"{name:<28} min {found[0]:7.1f}  median {statistics.median(found):7.1f}  max {found[-1]:7.1f} ms")


def begun(state: Path, image: str) -> None:
    """A new process whose step has printed; what follows is not counted."""
    command = [sys.executable, "-c", _FIRST, str(state), image]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"b'begun\\n'\n"
        times.append(time.perf_counter())
        process.stdout.read()


times: list[float] = []


def main() -> None:
    top = Path(tempfile.mkdtemp(prefix="trimtab-ci-"))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Linux {os.uname().release}")
    try:
        world = World(top / "ci", nobody=False)
        sandbox = Sandbox(world.state)

        def run() -> None:
            outcome = sandbox.execute(world.job(runs=[{"argv": ["/bin/true"]}]), lambda data: None, Stop())
            assert outcome.succeeded

        run()
        root = world.state / unpacked(world.state, world.image).layers[0]
        plain = [
            "bwrap",
            "--unshare-all",
            "--bind",
            str(root),
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--",
            "/bin/true",
        ]
        alone, ours = timed(lambda: subprocess.run(plain, check=True)), timed(run)
        show("bwrap", alone)
        show("sandbox", ours)
        print(f"{'sandbox : bwrap':<28} {statistics.median(ours) / statistics.median(alone):.1f}")

        cold, warm = [], []
        for found in (cold, warm):
            for _ in range(5):
                if found is cold:
                    for name in ("roots", "images"):
                        remove_tree(world.state / name)
                began = time.perf_counter()
                begun(world.state, world.image)
                found.append((times[-1] - began) * 1000)
        show("first command, cold", sorted(cold))
        show("first command, warm", sorted(warm))

        failing = world.job("exit 1")
        sandbox.execute(failing, lambda data: None, Stop())
        kept = choose(world.state, failing.step)
        show("shell in a failed step", timed(lambda: enter(world.state, kept, ["true"]), 10))
    finally:
        remove_tree(top)


if __name__ == "__main__":
    main()
