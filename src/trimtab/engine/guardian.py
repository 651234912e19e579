"""Who watches the supervisor: a second tiny process. Each holds a pidfd on the other and starts it again.

    trimtab start --> guardian --fork--> supervisor --> api, controllers, node, web, envoy, containerd
                         ^                   |
                         +---- pidfd --------+

The guardian forks the supervisor from its own image, so that the two share most of their memory and a new supervisor is
there within milliseconds. It is also the reaper of orphans (containerd's shims, children of a killed supervisor) where
process 1 of a container reaps nothing. Under systemd there is no guardian: `Restart=always` is.

Run as `python -I -c BOOT guard RUN`, `... foreground RUN` or `... stop RUN`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

from trimtab.engine.plan import STATE, read_json, write_json
from trimtab.engine.procfs import Identity, alive, pidfd

ANOTHER_RUNS = 3
"""The exit status of a supervisor that found another one at work."""
_READABLE_S = 0.05
"""An orphan stays unreaped for so long, so that the supervisor can still read its exit status in /proc."""
_QUICK_S = 5.0
_BACKOFF_FIRST_S = 0.25
_BACKOFF_MAX_S = 30.0


def command(mode: str, run: str) -> list[str]:
    """The command line of a guardian (`guard`), of a supervisor in the foreground (`foreground`), or of one that only
    stops what an ended one left running (`stop`)."""
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    boot = f"import sys; sys.path.insert(0, {source!r}); from trimtab.engine.guardian import main; main()"
    return [sys.executable, "-I", "-S", "-c", boot, mode, run]


def spawn(run: str) -> int:
    """Starts a guardian as a session of its own; returns its pid."""
    argv = command("guard", run)
    pid = os.fork()
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)
            os.setsid()
            os.execve(argv[0], argv, dict(os.environ))
        except BaseException as err:
            print(f"trimtab: the guardian could not be started: {err}", file=sys.stderr, flush=True)
        finally:
            os._exit(127)
    return pid


def current_supervisor(run: str) -> Identity | None:
    """The supervisor that the state file names, if it lives."""
    state = read_json(os.path.join(run, STATE))
    if not isinstance(state, dict) or not isinstance(state.get("supervisor"), dict):
        return None
    process = Identity(state["supervisor"]["pid"], state["supervisor"]["start"])
    return process if alive(process) else None


def guard(run: str) -> int:
    """Keeps a supervisor running until the state file says that the engine was stopped."""
    from trimtab.confinement import calls
    from trimtab.engine.supervisor import DONE, AlreadyRunning, lock

    try:
        lock_handle = lock(os.path.join(run, "guardian.lock"))
    except AlreadyRunning:
        return 0
    calls.name_process("trimtab-guard")
    with contextlib.suppress(OSError):
        calls.adopt_orphans()
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: _pass_on(run, signal.SIGTERM))
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    failures = 0
    while True:
        began = time.monotonic()
        process = current_supervisor(run)
        if process is None:
            fork_supervisor(run, (lock_handle, wake_read, wake_write))
        _wait_for_end(process, wake_read)
        state = read_json(os.path.join(run, STATE))
        if state is None or state.get("goal") == DONE:
            return 0
        state["seen_down"] = time.time()
        with contextlib.suppress(OSError):
            write_json(os.path.join(run, STATE), state, 0o644)
        failures = failures + 1 if time.monotonic() - began < _QUICK_S else 0
        if failures > 1:
            time.sleep(min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S * 2 ** (failures - 2)))


_child = 0


def fork_supervisor(run: str, close: tuple[int, ...]) -> None:
    """Forks this image into a supervisor that knows its guardian."""
    global _child
    me = os.getpid()
    _child = os.fork()
    if _child != 0:
        return
    status = 1
    try:
        from trimtab.confinement import calls
        from trimtab.engine.supervisor import supervise

        signal.set_wakeup_fd(-1)
        for handle in close:
            os.close(handle)
        os.setsid()
        calls.name_process("trimtab-super")
        status = supervise(run, guarded=True, guardian_pid=me)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _wait_for_end(process: Identity | None, wake_read: int) -> None:
    """Sleeps until the supervisor (`process`, or the one just forked) has ended, reaping orphans meanwhile."""
    try:
        handle = pidfd(process) if process is not None else os.pidfd_open(_child)
    except ProcessLookupError:
        handle = None
    if handle is None:
        return
    poll = select.poll()
    poll.register(wake_read, select.POLLIN)
    poll.register(handle, select.POLLIN)
    dead: int | None = None
    reap_at = 0.0
    try:
        while True:
            now = time.monotonic()
            if dead is not None and now >= reap_at:
                os.waitpid(dead, os.WNOHANG)
                dead = None
            if dead is None and (dead := _ended_child()) is not None:
                reap_at = now + _READABLE_S
            timeout_ms = None if dead is None else int((reap_at - now) * 1000) + 1
            ready = {number for number, _ in poll.poll(timeout_ms)}
            if handle in ready:
                return
            with contextlib.suppress(BlockingIOError):
                os.read(wake_read, 512)
    finally:
        os.close(handle)
        _reap_supervisor(process)


def _ended_child() -> int | None:
    """A child that has ended, left unreaped."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except ChildProcessError:
        return None
    return found.si_pid if found is not None else None


def _reap_supervisor(process: Identity | None) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid if process is not None else _child, os.WNOHANG)


def _pass_on(run: str, number: int) -> None:
    process = current_supervisor(run)
    handle = pidfd(process) if process is not None else None
    if handle is not None:
        signal.pidfd_send_signal(handle, number)
        os.close(handle)


def main() -> None:
    """`guard RUN`: watch a supervisor. `foreground RUN`: be one, with nobody watching. `stop RUN`: be one that stops all."""
    mode, run = sys.argv[1:3]
    if mode == "guard":
        sys.exit(guard(run))
    from trimtab.engine.supervisor import supervise

    sys.exit(supervise(run, guarded=False, foreground=True, stop=mode == "stop"))
