"""The supervisor: one small root process that keeps the processes of an engine running.

    plan.json --> held -> started -> ready --pidfd readable--> restarted alone, with back-off
                                                       '--> journal: "controllers was killed (signal 9); running again after 640 ms"

Nothing is polled: it sleeps on pidfds, on one datagram socket, on signals, and on the next deadline. Children do not die
with it. Whoever starts it next, its guardian or `trimtab start`, it adopts what still runs, known by pid and start time.
Supervisor and guardian each hold a pidfd on the other and start it again (guardian.py), so either may be killed.

SIGTERM stops everything in the plan's order; SIGUSR1 too, but keeps the pods. SIGUSR2: the plan was changed. Only the standard library, sparingly:
`json`, `select`, `socket`. No asyncio, no logging: 10 MB instead of 25.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import time

from trimtab.engine import guardian
from trimtab.engine.child import HELD, HOLD_S_MAX, READY, STARTING, STOPPED, WAITING, Child, execute, redirect_output
from trimtab.engine.plan import LOG_SIZE_BYTES_MAX, NOTIFY, STATE, Plan, read_json, write_json
from trimtab.engine.probing import Attempt, notifications, notify_socket
from trimtab.engine.procfs import boot_id, identity
from trimtab.engine.room import shortage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RUN, STOP, STOP_KEEP_PODS, DONE = "run", "stop", "stop-keep-pods", "done"
CHECK_S = 15.0
"""How often sizes of logs and signs of life are looked at."""
HUNG_S = 40.0
"""A process that has shown no sign of life for so long is killed. Health files are touched every 5 s; a busy machine must
not get its processes killed."""
COMPLAIN_AT_FAILURES = 3
"""After so many failures in a row the journal is told that a process does not stay up."""


class AlreadyRunning(RuntimeError):
    """Another supervisor holds this engine."""


def lock(path: str) -> int:
    """Takes an exclusive lock that ends with this process.

    Raises:
        AlreadyRunning: somebody else has it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise AlreadyRunning(path) from None
    return handle


class Supervisor:
    """All children of one engine and what became of them. `guarded`: a guardian watches it, and it the guardian."""

    def __init__(self, plan: Plan, *, guarded: bool, guardian_pid: int = 0) -> None:
        self.plan = plan
        self.locks = [lock(os.path.join(plan.run, "supervisor.lock")), lock(os.path.join(plan.data, "engine.lock"))]
        former = read_json(os.path.join(plan.run, STATE)) or {}
        self.former: dict[str, Any] = former if former.get("boot") == boot_id() else {}
        self.takes_over = self.former.get("goal", DONE) != DONE
        """A former supervisor was killed: its goal, restart counts and start time go on."""
        self.goal: str = self.former["goal"] if self.takes_over else RUN
        self.children = {spec.name: Child(spec) for spec in plan.processes}
        self.attempts: dict[str, Attempt] = {}
        self.guarded = guarded
        self.guardian_handle = -1
        self.guardian_pid = guardian_pid
        self.notify: socket.socket | None = None
        self.entries: list[dict[str, Any]] = []
        self.writer = -1
        self.writer_handle = -1
        self.began_at = time.monotonic()
        self.began_wall = time.time()
        self.boot_told = False
        self.replan = False
        """The plan was changed (SIGUSR2)."""
        self.check_at = self.began_at + CHECK_S
        self.full_at = 0.0
        """Since when the disk of the data is full; 0 when it has room."""
        self.wake_read, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    # The life of an engine

    def run(self) -> None:
        """Supervises until told to stop; returns once everything has stopped."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGUSR2, self._on_replan)
        for number in (signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        self.notify = notify_socket(os.path.join(self.plan.run, NOTIFY))
        self._adopt()
        if self.guarded:
            self._watch_guardian()
        self.save()
        while self.goal == RUN:
            self._advance()
            self._sleep()
        self._stop()

    def _on_signal(self, number: int, _frame: object) -> None:
        if self.goal == RUN:
            self.goal = STOP_KEEP_PODS if number == signal.SIGUSR1 else STOP

    def _on_replan(self, _number: int, _frame: object) -> None:
        self.replan = True

    def _take_plan(self) -> None:
        """Follows a plan that was changed: starts what is new in it, ends what is no longer there, and replaces what is to be
        another program now (an upgrade)."""
        self.replan = False
        self.plan = Plan.load(self.plan.run)
        wanted = {spec.name: spec for spec in self.plan.processes}
        for name, spec in wanted.items():
            if name not in self.children:
                self.children[name] = Child(spec)
                self.children[name].held_until = time.monotonic() + HOLD_S_MAX
            elif self.children[name].spec.argv != spec.argv and not spec.outlives:
                self.children[name].spec = spec
                self.children[name].send(signal.SIGTERM)
        for name in [name for name in self.children if name not in wanted]:
            child = self.children[name]
            if child.handle < 0:
                self._drop(child)
            else:
                child.send(signal.SIGTERM)
        self.save()

    def _drop(self, child: Child) -> None:
        attempt = self.attempts.pop(child.spec.name, None)
        if attempt is not None:
            attempt.close()
        del self.children[child.spec.name]

    def _adopt(self) -> None:
        """Takes over what a former supervisor left running, and notes what ended while none was there."""
        now = time.monotonic()
        adopted = 0
        for name, child in self.children.items():
            was = self.former.get("processes", {}).get(name, {})
            child.held_until = now + HOLD_S_MAX
            if self.takes_over:
                child.restarts = was.get("restarts", 0)
            if child.adopt(self.plan, now, was.get("state") == READY or child.spec.probe is None):
                adopted += 1
                self._expect(child, now)
            elif self.takes_over and was.get("pid"):
                child.down_at = now
                child.restarts += 1
                child.last_exit = "ended while no supervisor ran"
        if self.takes_over and self.goal == RUN:
            self.boot_told = True
            message, duration_ms = "supervisor runs again", None
            if "seen_down" in self.former:
                duration_ms = round((time.time() - self.former["seen_down"]) * 1000, 1)
                message = f"supervisor was killed; running again after {duration_ms:.0f} ms"
            self.tell("supervisor", "healed", f"{message}; {adopted} processes went on meanwhile", duration_ms)

    # One turn of the loop

    def _advance(self) -> None:
        """Does all that is due now."""
        if self.replan:
            self._take_plan()
        now = time.monotonic()
        for child in self.children.values():
            if child.state == WAITING and now >= child.retry_at:
                child.state = HELD
            if child.state == HELD and (self._supported(child) or now >= child.held_until):
                child.start(self.plan, now)
                self._expect(child, now)
                self.save()
            attempt = self.attempts.get(child.spec.name)
            if attempt is not None and now >= attempt.deadline():
                if attempt.fileno() >= 0:
                    attempt.expire(now)
                elif attempt.begin(now):
                    self._ready(child)
        if now >= self.check_at:
            self.check_at = now + CHECK_S
            rotate_logs(self.plan)
            self._look_for_life(now)
            self._look_for_room(now)
        self._write_journal()

    def _look_for_room(self, now: float) -> None:
        """Tells of a full disk when it no longer is: until then the journal cannot be written, either."""
        if shortage(self.plan.data):
            self.full_at = self.full_at or now
        elif self.full_at:
            full_s, self.full_at = now - self.full_at, 0.0
            self.tell("supervisor", "said", f"the disk was full for {full_s:.0f} s or more: writes were refused")

    def _look_for_life(self, now: float) -> None:
        """Kills what hangs, and asks the lively ones for the next sign."""
        for child in self.children.values():
            if child.state != READY:
                continue
            attempt = self.attempts.get(child.spec.name)
            silent_s = child.silent_s(now) if attempt is None else now - attempt.began_at
            if silent_s >= HUNG_S:
                child.hung_s = silent_s
                child.send(signal.SIGKILL)
            elif child.spec.lively and child.spec.probe is not None and attempt is None:
                self.attempts[child.spec.name] = Attempt(child.spec.probe, now)

    def _supported(self, child: Child) -> bool:
        return all(self.children[name].state == READY for name in child.spec.after if name in self.children)

    def _expect(self, child: Child, now: float) -> None:
        if child.state == STARTING and child.spec.probe is not None:
            self.attempts[child.spec.name] = Attempt(child.spec.probe, now)

    def _sleep(self) -> None:
        """Sleeps until something happens or is due, and takes note of what happened."""
        poll = select.poll()
        poll.register(self.wake_read, select.POLLIN)
        assert self.notify is not None
        poll.register(self.notify.fileno(), select.POLLIN)
        by_handle: dict[int, Child] = {}
        for child in self.children.values():
            if child.handle >= 0:
                poll.register(child.handle, select.POLLIN)
                by_handle[child.handle] = child
        by_probe = {a.fileno(): name for name, a in self.attempts.items() if a.fileno() >= 0}
        for handle, name in by_probe.items():
            poll.register(handle, self.attempts[name].events())
        for handle in (self.guardian_handle, self.writer_handle):
            if handle >= 0:
                poll.register(handle, select.POLLIN)
        events = poll.poll(self._timeout_ms())
        for handle, _ in events:
            if handle == self.wake_read:
                os.read(self.wake_read, 512)
            elif handle == self.notify.fileno():
                self._on_notifications()
            elif handle in by_probe:
                name = by_probe[handle]
                if name in self.attempts and self.attempts[name].proceed(time.monotonic()):
                    self._ready(self.children[name])
            elif handle == self.guardian_handle:
                self._on_guardian_end()
            elif handle == self.writer_handle:
                self._reap_writer()
            elif handle in by_handle:
                self._on_end(by_handle[handle])

    def _timeout_ms(self) -> int:
        now = time.monotonic()
        due = [self.check_at]
        for child in self.children.values():
            if child.state == WAITING:
                due.append(child.retry_at)
            elif child.state == HELD:
                due.append(child.held_until)
        due += [attempt.deadline() for attempt in self.attempts.values()]
        return max(0, int((min(due) - now) * 1000) + 1)

    # What happens to children

    def _on_notifications(self) -> None:
        assert self.notify is not None
        for pid, text in notifications(self.notify):
            for child in self.children.values():
                if (
                    child.state == STARTING
                    and child.process
                    and child.process.pid == pid
                    and "READY=1" in text.split("\n")
                ):
                    self._ready(child)

    def _ready(self, child: Child) -> None:
        now = time.monotonic()
        attempt = self.attempts.pop(child.spec.name, None)
        if attempt is not None:
            attempt.close()
        if child.state == READY:
            return  # a sign of life of one that was well anyway
        child.state, child.ready_at = READY, now
        if child.down_at is not None:
            duration_ms = round((now - child.down_at) * 1000, 1)
            self.tell(
                child.spec.name,
                "healed",
                f"{child.spec.label} {child.last_exit}; {child.spec.serving} again after {duration_ms:.0f} ms",
                duration_ms,
            )
            child.down_at = None
        if not self.boot_told and all(c.state == READY for c in self.children.values()):
            self.boot_told = True
            duration_ms = round((now - self.began_at) * 1000, 1)
            self.tell(
                "engine",
                "started",
                f"engine started: {len(self.children)} processes ready after {duration_ms:.0f} ms",
                duration_ms,
            )
        self.save()

    def _on_end(self, child: Child) -> None:
        attempt = self.attempts.pop(child.spec.name, None)
        if attempt is not None:
            attempt.close()
        child.ended(time.monotonic())
        if all(spec.name != child.spec.name for spec in self.plan.processes):
            self._drop(child)
            self.save()
            return
        child.restarts += 1
        if child.failures == COMPLAIN_AT_FAILURES:
            self.tell(
                child.spec.name,
                "failing",
                f"{child.spec.label} does not stay up ({child.last_exit}); tried again with growing pauses: "
                f"see {self.plan.log_dir}/{child.spec.name}.log",
            )
        rotate_logs(self.plan)
        self.save()

    # The journal

    def tell(self, name: str, verb: str, message: str, duration_ms: float | None = None) -> None:
        """Says something on the timeline (when the plan has a journal) and in the supervisor's own log."""
        say(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {message}")
        self.entries.append(
            {"at": time.time(), "process": name, "verb": verb, "message": message, "duration_ms": duration_ms}
        )

    def _write_journal(self) -> None:
        """Hands the waiting entries to a short-lived process, one at a time, so that SQLite never enters this one."""
        if not self.entries or self.writer_handle >= 0:
            return
        entries, self.entries = self.entries, []
        if self.plan.journal:
            import json

            self.writer = self._spawn([*self.plan.journal, json.dumps(entries)], self.plan.user)
            self.writer_handle = os.pidfd_open(self.writer)

    def _reap_writer(self) -> None:
        os.waitpid(self.writer, 0)
        os.close(self.writer_handle)
        self.writer_handle = self.writer = -1

    def _spawn(self, argv: list[str], user: str | None) -> int:
        """Starts a helper that is not supervised; its output goes to the supervisor's log."""
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                for number in (
                    signal.SIGTERM,
                    signal.SIGINT,
                    signal.SIGUSR1,
                    signal.SIGHUP,
                    signal.SIGPIPE,
                    signal.SIGCHLD,
                ):
                    signal.signal(number, signal.SIG_DFL)
                os.setsid()
                execute(argv, self.plan.env, self.plan, user, [])
            except BaseException as err:
                say(f"trimtab: {argv[0]} could not be started: {err}")
            finally:
                os._exit(127)
        return pid

    # The guardian

    def _watch_guardian(self) -> None:
        if not self.guardian_pid or identity(self.guardian_pid) is None:
            self.guardian_pid = guardian.spawn(self.plan.run)
        try:
            self.guardian_handle = os.pidfd_open(self.guardian_pid)
        except ProcessLookupError:
            self.guardian_handle = -1

    def _on_guardian_end(self) -> None:
        os.close(self.guardian_handle)
        self.guardian_handle = -1
        with contextlib.suppress(ChildProcessError):  # it may have been our parent, not our child
            os.waitpid(self.guardian_pid, os.WNOHANG)
        started = time.monotonic()
        self.guardian_pid = 0
        self._watch_guardian()
        duration_ms = round((time.monotonic() - started) * 1000, 1)
        self.tell("guardian", "healed", f"guardian ended; another watches after {duration_ms:.0f} ms", duration_ms)
        self.save()

    # State for others to read

    def save(self) -> None:
        """Writes what `trimtab status` and a successor read."""
        me = identity(os.getpid())
        assert me is not None
        processes = {}
        for name, child in self.children.items():
            processes[name] = {
                "pid": child.process.pid if child.process else None,
                "start": child.process.start if child.process else None,
                "state": child.state,
                "restarts": child.restarts,
                "last": child.last_exit,
            }
        state = {
            "boot": boot_id(),
            "goal": self.goal,
            "data": self.plan.data,
            "supervisor": {"pid": me.pid, "start": me.start},
            "guardian": self.guardian_pid or None,
            "started": self.former.get("started", self.began_wall) if self.takes_over else self.began_wall,
            "processes": processes,
        }
        try:
            write_json(os.path.join(self.plan.run, STATE), state, 0o644)
        except OSError as err:
            say(f"the state could not be written: {err}")

    # The end

    def _stop(self) -> None:
        """Stops everything in the plan's order. A step that hangs is killed after its time."""
        self.save()
        for attempt in self.attempts.values():
            attempt.close()
        self.attempts.clear()
        keep_pods = self.goal == STOP_KEEP_PODS
        for step in self.plan.stop:
            if "run" in step:
                if not (keep_pods and step.get("pods")):
                    self._run_step(step["run"], step.get("timeout_s", 60.0))
                continue
            children = [self.children[n] for n in step["stop"] if n in self.children]
            self._end([c for c in children if not (keep_pods and c.spec.outlives)])
            self.save()
        self.goal = DONE
        self.tell("engine", "stopped", "engine stopped" + ("; pods keep running" if keep_pods else ""))
        while self.entries or self.writer_handle >= 0:
            if self.writer_handle >= 0:
                self._reap_writer()
            self._write_journal()
        self.save()

    def _end(self, children: list[Child]) -> None:
        """Signals all of them at once and waits for each until its own limit."""
        for child in children:
            child.send(signal.SIGTERM)
        began = time.monotonic()
        for child in children:
            if child.handle >= 0:
                if not _wait(child.handle, began + child.spec.stop_timeout_s - time.monotonic()):
                    say(f"{child.spec.name} did not stop within {child.spec.stop_timeout_s:.0f} s: killed")
                    child.send(signal.SIGKILL)
                    _wait(child.handle, 10.0)
                child.ended(time.monotonic())
            child.state = STOPPED

    def _run_step(self, argv: list[str], timeout_s: float) -> None:
        pid = self._spawn(argv, None)
        handle = os.pidfd_open(pid)
        if not _wait(handle, timeout_s):
            say(f"{' '.join(argv)} did not end within {timeout_s:.0f} s: killed")
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(handle)


def say(line: str) -> None:
    """Writes to our own log. A full disk, or a terminal that was closed, is no reason to stop supervising."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _wait(handle: int, timeout_s: float) -> bool:
    """Waits until a pidfd's process has ended; False when the time is over first. Signals do not shorten it."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(max(0, int(timeout_s * 1000))))


def rotate_logs(plan: Plan) -> None:
    """Copies every log that has grown too large to NAME.log.1 (and that to .2) and empties it in place: its writer
    appends, so that it goes on at the start."""
    for name in plan.logs:
        path = os.path.join(plan.log_dir, f"{name}.log")
        try:
            if os.stat(path).st_size <= LOG_SIZE_BYTES_MAX:
                continue
            if os.path.exists(f"{path}.1"):
                os.replace(f"{path}.1", f"{path}.2")
            with open(path, "rb") as source, open(f"{path}.1", "wb") as target:
                while piece := source.read(1 << 20):
                    target.write(piece)
            os.truncate(path, 0)
        except FileNotFoundError:
            continue
        except OSError as err:
            say(f"log {path} could not be rotated: {err.strerror}")


def supervise(run: str, *, guarded: bool, guardian_pid: int = 0, foreground: bool = False, stop: bool = False) -> int:
    """Runs a supervisor in this process until it is told to stop; with `stop` it only stops what still runs.

    Returns the exit status: 0 stopped, 3 already running.
    """
    plan = Plan.load(run)
    try:
        supervisor = Supervisor(plan, guarded=guarded, guardian_pid=guardian_pid)
    except AlreadyRunning:
        return guardian.ANOTHER_RUNS
    if stop:
        supervisor.goal = STOP
    if not foreground:
        redirect_output(plan, "supervisor", None)
    supervisor.run()
    return 0
