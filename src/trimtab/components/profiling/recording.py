"""`trimtab profile record`: measures now, without an engine: a few seconds of the machine, of a process, or of a command.

    agent (root) --batches--> /var/cache/trimtab/profile --> the same queries as the engine's --> table, pprof, speedscope, folded, HTML
                                       '-- unwind tables and symbols, by build id, stay there

The command is held until the agent measures, so that its first milliseconds are seen. Its exit status is ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click

from trimtab.components.profiling import lock
from trimtab.components.profiling.agent import types
from trimtab.components.profiling.asking import format_of, hidden, native, save, selector_of
from trimtab.runtime.commands import Refused

START_S = 60.0
END_S = 30.0
PROGRESS_S = 1.0
SECONDS = 10.0
"""How long is measured when nothing else says so."""
ON_DEMAND_HZ = 99
NAMES_S = 30.0
"""How long it may take to read the symbols of all that was seen."""
LOOK_S = 0.2
PAD_S = 60
"""Batches begin on multiples of some seconds: more than was measured is asked for, and nothing else is there."""
HTML = ".html"


@click.command()
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 86400),
    help=f"How long.  [default: {SECONDS:.0f}; of a command, until it ends]",
)
@click.option("--pid", type=click.IntRange(1), help="This process and those that it starts; not the whole machine.")
@click.option(
    "--hz",
    type=click.IntRange(1, 1000),
    default=ON_DEMAND_HZ,
    show_default=True,
    help="How often each CPU is looked at, a second.",
)
@click.option("-n", "--limit", type=click.IntRange(1), default=30, show_default=True, help="Lines of the table.")
@click.option(
    "--type",
    "kind",
    type=click.Choice(types.NAMES),
    default="cpu",
    show_default=True,
    help="What is counted: time on a CPU; time waiting; memory when it is touched first; bytes of disks, of the network, of memory "
    "that was asked for.",
)
@click.option(
    "--sort",
    type=click.Choice(["self", "total"]),
    default="self",
    show_default=True,
    help="The table's order.",
)
@native
@click.option("--addresses", is_flag=True, help="What has no name by its address; otherwise it is one line a binary.")
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(dir_okay=False),
    help="FILE.pb.gz, .speedscope.json, .folded, .html; - is pprof on the standard output.",
)
@click.argument("selectors_and_command", nargs=-1, type=click.UNPROCESSED, metavar="[LABEL=VALUE]... [-- COMMAND...]")
@click.pass_context
def record(
    ctx: click.Context, seconds: float | None, pid: int | None, hz: int, limit: int, kind: str, sort: str, interpreter: bool, addresses: bool, file: str | None,
    selectors_and_command: tuple[str, ...],
) -> None:  # fmt: skip
    """Measure now, and show what costs most. Needs root, and no engine.

    \b
    trimtab profile record                                       the whole machine for 10 s
    trimtab profile record --seconds 30 --pid 4711 -o out.pb.gz  then: go tool pprof out.pb.gz
    trimtab profile record --hz 499 -- python3 slow.py
    trimtab profile record --type offcpu --pid 4711              what it waits for
    trimtab profile record process=postgres -o - > pg.pb.gz

    DEBUGINFOD_URLS names servers that are asked for debug information that is not on this machine.
    """
    selectors, command = _divided(selectors_and_command)
    if os.geteuid() != 0:
        raise Refused("the kernel lets only root look at all processes: run it with sudo")
    if pid is not None and command:
        raise click.UsageError("give --pid or a command")
    if pid is not None and not Path(f"/proc/{pid}").exists():
        raise Refused(f"there is no process {pid}")
    selector = selector_of(selectors)
    if file is not None and not file.endswith(HTML):
        format_of(file)
    with place() as root:
        recording = Recording(root, hz, kind)
        status = recording.run(pid, command, seconds)
        table = {"limit": str(limit), "sort": sort}
        table |= {} if addresses else {"anonymous": "1"}
        table["hide"] = hidden("", interpreter)
        recording.show(selector, file, table)
    ctx.exit(status)


def _divided(words: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Selectors, and the command behind `--`, which click has taken out of the words: it is looked up where it still stands."""
    given = sys.argv
    if "--" not in given:
        return words, ()
    count = len(given) - given.index("--") - 1
    return (words[: len(words) - count], words[len(words) - count :]) if count else (words, ())


@dataclass
class Held:
    """A command that waits to be let go. pid; go: the pipe that it reads."""

    pid: int
    go: int

    def release(self) -> None:
        os.write(self.go, b".")
        os.close(self.go)


def held(command: tuple[str, ...]) -> Held:
    """Starts a process that becomes the command when it is released, or nothing when we end first."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(read)
        return Held(pid, write)
    try:
        os.close(write)
        if os.read(read, 1) == b".":
            os.close(read)
            os.execvp(command[0], command)
    except OSError as err:
        sys.stderr.write(f"trimtab: {command[0]}: {err.strerror}\n")
        sys.stderr.flush()
    finally:
        os._exit(127)


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A directory for one recording, whose samples go with it: the cache, or where that is in use or not to be written, a new one."""
    with contextlib.ExitStack() as held:
        try:
            turn = lock.take_recorded(lock.RECORDED)
        except OSError:
            turn = None
        if turn is not None:
            held.enter_context(turn)
            root = lock.RECORDED
        else:
            root = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="trimtab-profile-")))
        held.callback(shutil.rmtree, root / "incoming", ignore_errors=True)
        shutil.rmtree(root / "incoming", ignore_errors=True)  # of one that was killed
        yield root


class Recording:
    """One measurement, in a directory of its own. After `run`, `show`."""

    def __init__(self, root: Path, hz: int, kind: str) -> None:
        self._root = root
        self._hz = hz
        self._kind = kind
        self._began = time.time()
        self._lost: dict[str, int] = {}

    def run(self, pid: int | None, command: tuple[str, ...], seconds: float | None) -> int:
        """Measures; returns the exit status of the command, or 0.

        Raises:
            Refused: the agent cannot measure here; one line why.
        """
        child = held(command) if command else None
        status = 0
        try:
            with self._agent(child.pid if child is not None else pid):
                self._began = time.time()
                if child is not None:
                    child.release()
                    status = self._follow(child.pid, seconds, " ".join(command))
                    child = None
                else:
                    self._follow(
                        None,
                        seconds if seconds is not None else SECONDS,
                        f"process {pid}" if pid else "the machine",
                        pid,
                    )
        finally:
            if child is not None:
                os.close(child.go)
                os.waitpid(child.pid, 0)
        return status

    @contextlib.contextmanager
    def _agent(self, pid: int | None) -> Iterator[None]:
        command = [
            sys.executable,
            "-I",
            "-m",
            "trimtab.components.profiling.agent",
            str(self._root),
            "--talk",
            "--hz",
            str(self._hz),
        ]
        if pid is not None:
            command += ["--pid", str(pid)]
        if self._kind != "cpu":
            command += ["--types", f"cpu,{self._kind}"]
        # A terminal's interrupt is for us: the agent ends when its input does, with its last batch written.
        agent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        try:
            assert agent.stdout is not None
            self._wait_for(agent.stdout)
            yield
        finally:
            assert agent.stdin is not None
            assert agent.stdout is not None
            agent.stdin.close()
            try:
                agent.wait(END_S)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()
            agent.stdout.close()

    def _wait_for(self, said: IO[bytes]) -> None:
        """Returns when the agent measures. Raises `Refused`: what it said instead."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if not select.select([said], [], [], max(0.0, deadline - time.monotonic()))[0]:
                break
            line = said.readline()
            if not line:
                raise Refused(
                    "the agent ended before it measured: what it wrote stands above; `trimtab check` says what is missing"
                )
            told = json.loads(line)
            if "error" in told:
                raise Refused(told["error"])
            if why := told.get("missing", {}).get(self._kind):
                raise Refused(why)
            if told.get("state") == "running":
                return
        raise Refused(f"the agent did not begin to measure within {START_S:.0f} s")

    def _follow(self, child: int | None, seconds: float | None, what: str, pid: int | None = None) -> int:
        """Until the time is over, the process has ended, or somebody interrupts. Returns the child's exit status."""
        began = time.monotonic()
        watched = os.pidfd_open(process) if (process := child or pid) is not None else -1
        poll = select.poll()
        if watched >= 0:
            poll.register(watched, select.POLLIN)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                while (left := (seconds or float("inf")) - (time.monotonic() - began)) > 0:
                    _progress(what, time.monotonic() - began, seconds)
                    if poll.poll(min(left, PROGRESS_S) * 1000):
                        break
            if child is None:
                return 0
            over = not poll.poll(0)
            if over:
                os.kill(child, signal.SIGTERM)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            return 0 if over else status if status >= 0 else 128 - status
        finally:
            _progress_over()
            if watched >= 0:
                os.close(watched)

    def show(self, selector: str, file: str | None, table: dict[str, str]) -> None:
        """Prints the table, and writes the file."""
        from trimtab.components.profiling.answering import Answers
        from trimtab.components.profiling.asking import show

        now = int(time.time()) + PAD_S
        asked = {"type": self._kind, "selector": selector, "start": str(int(self._began) - PAD_S), "end": str(now)}
        urls = os.environ.get("DEBUGINFOD_URLS", "").split()
        with Answers(self._root, urls, lambda: now) as answers:
            try:
                told = answers.query(asked | {"view": "top"} | table).body
                deadline = time.monotonic() + NAMES_S
                while (left := answers.left) and time.monotonic() < deadline:
                    _say(f"looking for names: {left} {'programs' if left > 1 else 'program'} left")
                    time.sleep(LOOK_S)
                    told = b"" if not answers.left else told
                told = told or answers.query(asked | {"view": "top"} | table).body
            except ValueError as err:
                raise Refused(str(err)) from None
            finally:
                _progress_over()
            if file != "-":
                click.echo(f"functions by {table['sort']}")
                show(told, "table", rows=int(table["limit"]))
            if file is None:
                return
            if file.endswith(HTML):
                save(file, answers.page(asked | {"embed": "1"}).body)
            else:
                save(file, answers.export(asked | {"format": format_of(file)}).body)


def _progress(what: str, so_far: float, seconds: float | None) -> None:
    of = f" of {seconds:.0f}" if seconds is not None else ""
    _say(f"measuring {what[:60]}: {so_far:.0f}{of} s")


def _say(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{text}\x1b[K", nl=False, err=True)


def _progress_over() -> None:
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
