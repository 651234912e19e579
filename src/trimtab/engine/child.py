"""One supervised process: how it is started, recognised again, seen to serve, and seen to end.

    held --dependencies ready--> starting --serves--> ready
      ^                             |                   |
      +--- waiting (back-off) <-----+------ ended <-----+

A child writes its own pid file before it becomes the program, and gives up if its supervisor is gone by then. So a
supervisor that was killed at any moment leaves either no child or one that its successor finds.
"""

from __future__ import annotations

import os
import select
import signal
import sys

from trimtab.engine.plan import PIDS, Plan, Spec, read_json, write_json
from trimtab.engine.procfs import Identity, boot_id, exit_status, identity, pidfd

HELD, STARTING, READY, WAITING, STOPPED = "held", "starting", "ready", "waiting", "stopped"

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
STABLE_S = 3.0
"""A process that served for so long starts with a clean record: its next restart is at once again."""
HOLD_S_MAX = 10.0
"""A process is started without its dependencies when they take longer: it can wait for them itself."""


class Child:
    """The state of one process. Times are monotonic seconds."""

    __slots__ = (
        "beat",
        "down_at",
        "failures",
        "handle",
        "held_until",
        "hung_s",
        "is_ours",
        "last_exit",
        "process",
        "ready_at",
        "restarts",
        "retry_at",
        "spec",
        "started_at",
        "state",
    )

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.state = HELD
        self.process: Identity | None = None
        self.handle = -1
        """Its pidfd: readable once the process has ended. -1 when there is none."""
        self.is_ours = False
        """True when we are its parent, and so are told its exit status."""
        self.started_at = 0.0
        self.ready_at: float | None = None
        self.down_at: float | None = None
        """Since when it is down after having been up; None while it is well or was never up."""
        self.retry_at = 0.0
        self.held_until = 0.0
        self.failures = 0
        self.restarts = 0
        self.last_exit = ""
        self.beat: tuple[int, float] | None = None
        """The health file's last change, and when we first saw it."""
        self.hung_s = 0.0
        """After so long without a sign of life it was killed; 0 when it was not."""

    def start(self, plan: Plan, now: float) -> None:
        """Forks and executes the program. The pid file is on disk before the program runs."""
        supervisor = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become_program(self.spec, plan, supervisor)
        self.is_ours = True
        self.process = identity(pid)
        self.handle = os.pidfd_open(pid)
        if self.process is None:
            self.process = Identity(pid, -1)
        self.started_at = now
        self.ready_at = None
        self.beat, self.hung_s = None, 0.0
        self.state = STARTING

    def silent_s(self, now: float) -> float:
        """For how long the health file has not been touched, by our clock (which stands still while the machine sleeps)."""
        if self.spec.health is None:
            return 0.0
        try:
            changed = os.stat(self.spec.health).st_mtime_ns
        except OSError:
            return 0.0
        if self.beat is None or self.beat[0] != changed:
            self.beat = (changed, now)
        return now - self.beat[1]

    def adopt(self, plan: Plan, now: float, was_ready: bool) -> bool:
        """Takes over the process that a former supervisor left running; False when there is none. One that runs as another
        user than it now should (a former version's) is ended instead."""
        found = recorded(plan.run, self.spec.name)
        handle = pidfd(found) if found is not None else None
        if found is None or handle is None:
            return False
        if self.spec.user is not None and os.geteuid() == 0 and not _runs_as(found.pid, self.spec.user):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            _until_ended(handle)
            os.close(handle)
            return False
        self.process, self.handle, self.is_ours = found, handle, False
        self.started_at = now
        self.state = READY if was_ready else STARTING
        self.ready_at = now if was_ready else None
        return True

    def ended(self, now: float) -> None:
        """Notes that the process has ended, why, and when it may be started again."""
        self.last_exit = self._exit_text()
        os.close(self.handle)
        self.handle = -1
        self.process = None
        if self.ready_at is not None and now - self.ready_at >= STABLE_S:
            self.failures = 0
        if self.down_at is None:
            self.down_at = now
        delay_s = 0.0 if self.failures == 0 else min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** (self.failures - 1))
        self.failures += 1
        self.ready_at = None
        self.retry_at = now + delay_s
        self.held_until = self.retry_at + HOLD_S_MAX
        self.state = WAITING

    def send(self, number: int) -> None:
        if self.handle >= 0:
            try:
                signal.pidfd_send_signal(self.handle, number)
            except ProcessLookupError:
                return

    def _exit_text(self) -> str:
        """ "was killed (signal 9)", "ended (exit status 1)"; of an adopted process only "ended" when another reaped it."""
        if self.process is None:
            return "ended"
        if self.hung_s:
            if self.is_ours:
                os.waitpid(self.process.pid, 0)
            return f"hung for {self.hung_s:.0f} s and was killed"
        status: int | None
        try:
            status = os.waitpid(self.process.pid, 0)[1] if self.is_ours else exit_status(self.process.pid)
        except ChildProcessError:
            status = None
        if status is None:
            return "ended"
        if os.WIFSIGNALED(status):
            return f"was killed (signal {os.WTERMSIG(status)})"
        return f"ended (exit status {os.WEXITSTATUS(status)})"


def _runs_as(pid: int, user: str) -> bool:
    from trimtab.engine.privileges import ids_of

    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            uid = next(line for line in file if line.startswith("Uid:")).split()[2]
    except (OSError, StopIteration):
        return False
    return int(uid) == ids_of(user)[0]


def _until_ended(handle: int) -> None:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.poll(5000)


def recorded(run: str, name: str) -> Identity | None:
    """The process that the pid file names, whether or not it still runs; None after a reboot."""
    raw = read_json(os.path.join(run, PIDS, name))
    if not isinstance(raw, dict) or raw.get("boot") != boot_id():
        return None
    return Identity(raw["pid"], raw["start"])


def _become_program(spec: Spec, plan: Plan, supervisor: int) -> None:
    """In the child: session, log, pid file, privileges, program. Never returns."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.setsid()
        os.umask(0o022)
        redirect_output(plan, spec.name, spec.user)
        me = identity(os.getpid())
        assert me is not None
        who = {"pid": me.pid, "start": me.start, "boot": boot_id()}
        write_json(os.path.join(plan.run, PIDS, spec.name), who, 0o644)
        if os.getppid() != supervisor:
            os._exit(0)
        execute(spec.argv, {**plan.env, **spec.env}, plan, spec.user, spec.ambient)
    except BaseException as err:
        print(f"trimtab: {spec.name} could not be started: {err}", file=sys.stderr, flush=True)
    finally:
        os._exit(127)  # whatever happened: this must never become a second supervisor


def execute(argv: list[str], env: dict[str, str], plan: Plan, user: str | None, ambient: list[int]) -> None:
    """Gives up root for `user` (None: stays root) and becomes the program."""
    os.chdir("/")
    if user is not None and os.geteuid() == 0:
        from trimtab.engine import privileges

        privileges.clear_the_way(*privileges.ids_of(user), plan.readable, plan.writable, plan.hidden)
        privileges.become(user, ambient)
    os.execve(argv[0], argv, env)


def redirect_output(plan: Plan, name: str, user: str | None) -> None:
    """Points stdout and stderr to the end of LOGS/NAME.log and stdin to nothing.

    The file belongs to `user` and can be read by the engine's; the directory is root's, so that nobody else can put a link
    where root opens a file.
    """
    nothing = os.open("/dev/null", os.O_RDONLY)
    log = os.open(
        os.path.join(plan.log_dir, f"{name}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o640
    )
    if user is not None and os.geteuid() == 0:
        from trimtab.engine.privileges import ids_of

        os.fchown(log, ids_of(user)[0], ids_of(plan.user)[1])
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for handle in (nothing, log):
        if handle > 2:
            os.close(handle)
