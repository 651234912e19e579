"""The system users that everything but the node agent runs as, and doing one thing as such a user.

Root never writes into a directory that belongs to the user: a link planted there would be followed with root's rights.
So what must be made there at boot (keys, certificates) is made by a forked child that has become the user.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import subprocess
from collections.abc import Callable, Sequence
from shutil import which

from trimtab.engine import privileges
from trimtab.engine.errors import EngineError


def ensure_user(name: str) -> bool:
    """Makes the system user when there is none; returns whether it did. As root. Two engines that are made at one time may
    both want it: who comes second waits. (Left to themselves, two useradd may both succeed, with one number after the other.)

    Raises:
        EngineError: useradd is missing or failed.
    """
    if _exists(name):
        return False
    program = which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise EngineError("useradd is missing: apt-get install passwd")
    turn = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if _exists(name):
            return False
        done = subprocess.run(
            [program, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell",
             "/usr/sbin/nologin", name], capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(turn)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise EngineError(f"the system user {name} could not be made: {lines[-1]}")
    return True


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def as_user(name: str, readable: Sequence[str], writable: Sequence[str], function: Callable[[], object]) -> None:
    """Calls the function in a child process that has become the user, and waits for it.

    readable and writable: the directories that it needs, reachable or not (see `privileges.clear_the_way`).

    Raises:
        EngineError: what the function raised, in one line.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        status = 0
        try:
            os.umask(0o022)
            if os.geteuid() == 0:
                uid, gid = privileges.ids_of(name)
                privileges.clear_the_way(uid, gid, readable, writable, ())
                privileges.become(name)
            function()
        except BaseException as err:
            status = 1
            os.write(write, (str(err) or type(err).__name__).encode()[:4000])
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise EngineError(said or f"a step that runs as {name} was killed")
