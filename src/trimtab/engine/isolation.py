"""Doing something that strangers have a say in (an image build) where it can reach nothing of the engine.

    caller (root) --fork--> keeper (root, waits) --fork--> worker: process 1 of its own process namespace
                                                            |  a file system without engines, but for what it is given
                                                            '- user `trimtab`, no capabilities, no way back
    worker --JSON lines over a pipe--> caller

A build runs the code of packages (setup.py) and of Dockerfiles. As user `trimtab` it would be of one user with the API server,
so that user's files, sockets and processes are taken out of its sight. When the caller dies, however it does, the worker and
all that it started die with it.

With `own_users` the worker is root in a user namespace: its root is `trimtab`, its other users are numbers that nobody else
here has. That is what a Dockerfile's `apt-get install` needs, and all that it gets.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trimtab.confinement import calls
from trimtab.engine import privileges
from trimtab.engine.errors import EngineError

Send = Callable[[Any], None]

SUBORDINATE_FIRST = 0x70000000
"""Where the numbers of a user namespace's other users begin on the host: a range that no distribution hands out."""
SUBORDINATE_COUNT = 65535


def isolated(
    user: str,
    work: Callable[[Send], Any],
    on_message: Callable[[Any], None],
    *,
    readable: Sequence[str],
    writable: Sequence[str],
    concealed: Sequence[str],
    own_users: bool = False,
) -> Any:
    """Runs `work(send)` in a worker of `user` and returns what it returns, as JSON; `on_message` gets what it sends meanwhile.

    readable, writable: the directories that it needs. concealed: directories that are empty for it, but for those of
    `readable` and `writable` that lie in them. As root only, and while this process has one thread.

    Raises:
        EngineError: what `work` raised, in one line.
    """
    read, write = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        os.close(read)
        _keep(user, work, write, readable, writable, concealed, own_users)
    os.close(write)
    outcome: dict[str, Any] = {"error": "the build was killed"}
    try:
        with os.fdopen(read, encoding="utf-8") as lines:
            for line in lines:
                message = json.loads(line)
                if "said" in message:
                    on_message(message["said"])
                else:
                    outcome = message
    except BaseException:
        os.kill(keeper, signal.SIGKILL)
        raise
    finally:
        os.waitpid(keeper, 0)
    if "error" in outcome:
        raise EngineError(outcome["error"])
    return outcome["result"]


def _keep(
    user: str,
    work: Callable[[Send], Any],
    pipe: int,
    readable: Sequence[str],
    writable: Sequence[str],
    concealed: Sequence[str],
    own_users: bool,
) -> None:
    """The keeper: makes the process namespace, and writes the worker's user map, which only its parent may. Never returns."""
    try:
        calls.die_with_parent()
        uid, gid = privileges.ids_of(user)
        calls.own_process_namespace()
        mapped_read, mapped_write = os.pipe()
        alone_read, alone_write = os.pipe()
        worker = os.fork()
        if worker == 0:
            for unused in (mapped_write, alone_read):
                os.close(unused)

            def wait_for_map() -> None:
                os.write(alone_write, b".")
                if os.read(mapped_read, 1) != b".":
                    os._exit(1)

            _work(user, work, pipe, readable, writable, concealed, wait_for_map if own_users else None)
        for unused in (pipe, mapped_read, alone_write):
            os.close(unused)
        if own_users and os.read(alone_read, 1) == b".":
            for name, own in (("uid_map", uid), ("gid_map", gid)):
                Path(f"/proc/{worker}/{name}").write_text(f"0 {own} 1\n1 {SUBORDINATE_FIRST} {SUBORDINATE_COUNT}\n")
            os.write(mapped_write, b".")
        os.waitpid(worker, 0)
    except BaseException as err:
        _write(pipe, {"error": f"the build could not be started: {err}"})
    finally:
        os._exit(0)


def _work(
    user: str,
    work: Callable[[Send], Any],
    pipe: int,
    readable: Sequence[str],
    writable: Sequence[str],
    concealed: Sequence[str],
    wait_for_map: Callable[[], None] | None,
) -> None:
    """The worker. Never returns."""
    try:
        os.umask(0o022)
        privileges.conceal([*concealed], [p for p in (*readable, *writable) if os.path.isdir(p)])
        privileges.clear_the_way(*privileges.ids_of(user), readable, writable, ())
        if wait_for_map is None:
            privileges.become(user)
        else:
            privileges.become_root_of_own_users(wait_for_map)
        calls.die_with_parent()
        result = work(lambda message: _write(pipe, {"said": message}))
        _write(pipe, {"result": result})
    except PermissionError as err:
        name = f"{err.filename} " if err.filename else ""
        _write(
            pipe,
            {"error": f"{name}cannot be read by user {user}, which builds: chmod -R go+rX {' '.join(readable[-1:])}"},
        )
    except BaseException as err:
        _write(pipe, {"error": " ".join(str(err).split("\n")) or type(err).__name__})
    finally:
        os._exit(0)


def _write(pipe: int, message: Any) -> None:
    text = (json.dumps(message) + "\n").encode()
    while text:
        text = text[os.write(pipe, text) :]
