"""`trimtab` as a program that kills itself: orders on stdin, a process for each, what came of it on stdout.

    {"arguments": [..], "at": n, "manner": ..} --fork--> trimtab ARGUMENTS --n-th step--> SIGKILL --> {"status": .., "steps": [..], "said": ..}

A step is a request that is no GET, a change of a file of the engine's (before it), or the start of a program. As a module: who orders.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNDER_WAY_S = 0.002
CHANGES = frozenset({"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.chown", "subprocess.Popen"})
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Death:
    """The n-th step of this process is its last."""

    def __init__(self, at: int, manner: str, steps: int, folders: tuple[str, ...]) -> None:
        self._at, self._manner, self._steps, self._folders = at, manner, steps, folders
        self._count = 0

    def step(self, name: str) -> bool:
        """Whether this is the one."""
        os.write(self._steps, name.encode() + b"\n")
        self._count += 1
        return self._count == self._at

    def changes(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Of the interpreter's audit: it is told before it is done."""
        if event != "open" and event not in CHANGES:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
            return
        if event != "subprocess.Popen" and not str(arguments[0]).startswith(self._folders):
            return
        if self.step(event):
            os.kill(os.getpid(), signal.SIGKILL)

    async def around(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        if not self.step(name):
            return await call()
        if self._manner == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        asking = asyncio.ensure_future(call())
        await asyncio.wait([asking], timeout=UNDER_WAY_S if self._manner == "under way" else None)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")


def run(order: dict[str, Any], said: int, steps: int) -> None:
    """The command, in a process of its own. Never returns."""
    from trimtab.cli import main as trimtab
    from trimtab.client import WireClient

    death = Death(order["at"], order["manner"], steps, tuple(order["folders"]))
    send = WireClient.send

    async def mortal(self: WireClient, method: str, path: str, *arguments: Any, **named: Any) -> Any:
        if method == "GET":
            return await send(self, method, path, *arguments, **named)
        what = f"{method} {path.rstrip('/').split('/')[-2]}"
        return await death.around(what, lambda: send(self, method, path, *arguments, **named))

    WireClient.send = mortal  # type: ignore[method-assign]
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.argv = ["trimtab", *order["arguments"]]
    sys.addaudithook(death.changes)
    status = 1
    try:
        trimtab()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException as err:
        print(repr(err))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    import trimtab.components.infrastructure.commands.provider  # noqa: F401 (before the fork)

    for line in sys.stdin:
        order = json.loads(line)
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as steps:
            pid = os.fork()
            if pid == 0:
                run(order, said.fileno(), steps.fileno())
            _, status = os.waitpid(pid, 0)
            said.seek(0)
            steps.seek(0)
            out = {"status": os.waitstatus_to_exitcode(status), "steps": steps.read().decode().splitlines()}
            print(json.dumps({**out, "said": said.read().decode()}), flush=True)


# Who orders


@dataclass
class Done:
    """status: of exit; negative: the signal that ended it."""

    status: int
    steps: list[str]
    said: str


class Commands:
    """Runs `trimtab --data DATA ...`, to its end or to one of its steps."""

    def __init__(self, data: Path, run: Path, process: subprocess.Popen[str]) -> None:
        self._data, self._run, self._process = data, run, process

    def run(self, *arguments: str, at: int = 0, manner: str = "before") -> Done:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        folders = [str(self._data), str(self._run)]
        order = {"arguments": ["--data", str(self._data), *arguments], "at": at, "manner": manner, "folders": folders}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))


@contextmanager
def commands(data: Path, run: Path) -> Iterator[Commands]:
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
    ) as process:
        yield Commands(data, run, process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


if __name__ == "__main__":
    main()
