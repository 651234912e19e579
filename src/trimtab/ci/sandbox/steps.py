"""Runs one step: as an ordinary user, without a daemon, with nothing in it but what is declared.

    Job -> container(s) on disk -> plan -> launcher (a process of its own, see `launch`) -> events and output -> Outcome

The thread that calls `execute` waits for all of it in one place: what the commands print, what the launcher tells, whether the end
is asked for, and once a second whether the step takes too much. A success leaves nothing behind; a failure leaves its upper
directories and what is needed to enter them again (`kept.json`, see `shell`). A runner that is killed leaves directories
whose lease has ended: the next one sweeps them.
"""

from __future__ import annotations

import array
import marshal
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from trimtab.ci.cache.blobs import NO_ROOM, Blobs, Lost
from trimtab.ci.cache.index import Index
from trimtab.ci.cache.volumes import Volumes
from trimtab.ci.runs.ports import EngineFault, Job, Outcome, Reason, Stop
from trimtab.ci.sandbox import launch
from trimtab.ci.sandbox.clusters import given
from trimtab.ci.sandbox.container import Container, installed, prepare
from trimtab.ci.sandbox.kept import UPPERS, keep, prune
from trimtab.ci.sandbox.limits import LOOK_S, Limits, Watch
from trimtab.ci.sandbox.links import followed
from trimtab.ci.sandbox.plan import Plan, Process
from trimtab.ci.sandbox.rootfs import MAKING
from trimtab.ci.sandbox.services import addresses, service, write_hosts
from trimtab.ci.sandbox.space import Lease, lease, sweep

READ_BYTES = 1 << 16
REPORT_BYTES_MAX = 64 << 20
_EVENT_BYTES = 1 << 16
_BOOT = "import marshal,sys;f=open(int(sys.argv[1]),'rb');exec(marshal.load(f),{'__name__':'__launch__','plan':f})"


def _program() -> bytes:
    loader = launch.__spec__.loader if launch.__spec__ else None
    assert loader is not None
    return marshal.dumps(loader.get_code(launch.__name__))  # type: ignore[attr-defined]


_PROGRAM = _program()


class Sandbox:
    """An `Executor` on this machine. state: the directory of images, trees and steps' own directories."""

    def __init__(self, state: Path, limits: Limits | None = None) -> None:
        self.state = state.absolute()
        self.limits = limits or Limits()
        self._blobs = Blobs(str(self.state))
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in (UPPERS, MAKING):
            sweep(self.state / name)

    def execute(self, job: Job, write: Callable[[bytes], None], stop: Stop) -> Outcome:
        """See `Executor`."""
        installed()
        held = lease(job.directory)
        assert held is not None
        kept = False
        try:
            with _room(self.state):
                execution = _Execution(self, job, write, stop, held)
                try:
                    with given(job, self._blobs, write, stop) as execution.job:
                        outcome = execution.run()
                except Lost as err:
                    raise EngineFault(f"{job.step}: {err}; run again, what made it is done anew") from None
                if not outcome.succeeded:
                    try:
                        keep(job, outcome, execution.lowers)
                    except OSError as err:
                        if err.errno not in NO_ROOM:
                            raise
                        return replace(
                            outcome, said=f"{outcome.said}; there was no room to keep its state".lstrip("; ")
                        )
                    kept = True
                    prune(self.state)
                    return replace(outcome, kept=job.directory)
                return outcome
        finally:
            held.release() if kept else held.remove()


@contextmanager
def _room(state: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        if err.errno in NO_ROOM:
            raise EngineFault(f"no space left in {state}; free some, or see `trimtab ci cache`") from err
        raise


def containers(sandbox_state: Path, blobs: Blobs, job: Job) -> tuple[Container, dict[str, Container], dict[str, str]]:
    """The step's container, those of its services, and the addresses of these."""
    where = addresses(list(job.services))
    hosts = job.directory / "hosts"
    write_hosts(hosts, where)
    beside = {
        name: prepare(sandbox_state, blobs, replace(one, directory=service_directory(job, name)), name, hosts)
        for name, one in job.services.items()
    }
    return prepare(sandbox_state, blobs, job, "step", hosts), beside, where


def service_directory(job: Job, name: str) -> Path:
    """A service's own place, in its step's: it is kept and goes with it."""
    return job.directory / "services" / name


def restore_volumes(state: Path, blobs: Blobs, of: Iterable[Container]) -> None:
    """Gives each container a copy of its cache volumes, unless it has one."""
    wanted = [(one.volumes / cache["key"], cache["key"]) for one in of for cache in one.job.action.get("caches", ())]
    if wanted:
        with closing(Index(str(state))) as index:
            volumes = Volumes(index, blobs)
            for path, key in wanted:
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    volumes.restore(key, str(path))


def keep_volumes(state: Path, blobs: Blobs, step: Container) -> None:
    """Keeps what a step that succeeded has made of its cache volumes; the copies go to the store."""
    caches = step.job.action.get("caches", ())
    if caches:
        with closing(Index(str(state))) as index:
            for key in dict.fromkeys(cache["key"] for cache in caches):
                Volumes(index, blobs).keep(key, str(step.volumes / key))


class Launched:
    """A launcher, and what it tells. roots: the mounted overlays, the step's first, as directories that can be read here."""

    def __init__(self, plan: Plan, pass_on: tuple[int, ...], errors: Path, *, terminal: bool = False) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket = ours
        self.errors = errors
        self.roots: list[int] = []
        plan["socket"] = theirs.fileno()
        program = os.memfd_create("launch")
        try:
            with os.fdopen(os.dup(program), "wb") as file:
                file.write(_PROGRAM)
                file.write(marshal.dumps(dict(plan)))
            os.lseek(program, 0, os.SEEK_SET)
            with errors.open("wb") as said:
                self.process = subprocess.Popen(
                    [_python(), "-I", "-S", "-c", _BOOT, str(program)],
                    stdin=None if terminal else subprocess.DEVNULL,
                    stdout=None if terminal else subprocess.DEVNULL,
                    stderr=None if terminal else said,
                    pass_fds=(theirs.fileno(), program, *pass_on),
                    start_new_session=not terminal,
                    env={},
                )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(program)
        self.rusage: resource.struct_rusage | None = None

    def event(self) -> tuple[Any, ...] | None:
        """The next thing that the launcher tells; None when it has ended. Blocks. Raises `EngineFault` when it was refused."""
        try:
            data, ancillary, _, _ = self.socket.recvmsg(_EVENT_BYTES, socket.CMSG_SPACE(64 * 4))
        except ConnectionResetError:
            return None
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                found = array.array("i")
                found.frombytes(content[: len(content) - len(content) % found.itemsize])
                self.roots.extend(found)
        if not data:
            return None
        event: tuple[Any, ...] = marshal.loads(data)
        if event[0] == "refused":
            raise EngineFault(refusal(event[1], event[2]))
        return event

    def kill(self) -> None:
        """Ends everything of it, at once; the kernel sees to the rest."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        if self.process.returncode is None:
            os.kill(self.process.pid, signal.SIGKILL)  # Popen's own would reap it, and what it has used would be lost

    def close(self) -> None:
        """Waits until nothing of it runs any more."""
        self.kill()
        if self.process.returncode is None:
            _, status, self.rusage = os.wait4(self.process.pid, 0)
            self.process.returncode = os.waitstatus_to_exitcode(status)
        self.socket.close()
        for root in self.roots:
            os.close(root)
        self.roots = []


def _python() -> str:
    return str(getattr(sys, "_base_executable", "") or sys.executable)


def refusal(what: str, number: int) -> str:
    """Why no sandbox can be made here, and what to do."""
    reason = os.strerror(number) if number else what
    if what == "userns":
        return (
            f"the kernel makes no user namespace for this user ({reason}); allow it: "
            "sysctl -w user.max_user_namespaces=15000, kernel.unprivileged_userns_clone=1 or "
            "kernel.apparmor_restrict_unprivileged_userns=0, whichever this system has"
        )
    if what == "overlay":
        return (
            f"no overlay can be mounted in the directory of the cache ({reason}); set TRIMTAB_CI_DIR to a directory on "
            "ext4, xfs, btrfs or tmpfs, not on an overlay or a network file system; Linux 5.11 or later is needed"
        )
    if what == "proc":
        return f"no /proc can be mounted ({reason}): this container hides parts of it; run it with an unmasked /proc"
    return f"the sandbox cannot be made: {what}: {reason}"


class _Execution:
    """One run of one job."""

    def __init__(self, sandbox: Sandbox, job: Job, write: Callable[[bytes], None], stop: Stop, held: Lease) -> None:
        self.sandbox = sandbox
        self.job = job
        self.write = write
        self.stop = stop
        self.held = held
        self.said = ""
        self.exit = 0
        self.failed_run: int | None = None
        self.ended: Reason = "exit"
        self.cpu_s = 0.0
        self.rss_bytes = 0
        self.done = False
        self.lowers: set[Path] = set()

    def run(self) -> Outcome:
        began = time.monotonic()
        limits = self.sandbox.limits
        if self.job.memory_bytes:
            limits = replace(limits, memory_bytes=self.job.memory_bytes)
        step, beside, where = containers(self.sandbox.state, self.sandbox._blobs, self.job)
        restore_volumes(self.sandbox.state, self.sandbox._blobs, (step, *beside.values()))
        self.lowers = {lower for one in (step, *beside.values()) for lower in one.lowers}
        output, output_write = os.pipe()
        opened = [output_write]
        try:
            services = []
            for name, one in beside.items():
                opened.append(os.open(self.log_of(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
                ready = self.job.services[name].action.get("ready", "")
                services.append(service(one, where[name], ready, opened[-1]))
            runs: list[Process] = []
            for run in self.job.action["runs"]:
                argv, env = step.wrap(run["argv"], cwd=run.get("cwd"), user=run.get("user"), env=run.get("env"))
                runs.append({"name": "", "argv": argv, "env": env, "output": output_write})
            plan: Plan = {
                "directory": str(self.sandbox.state),
                "socket": -1,
                "network": not step.network,
                "overlays": [one.overlay for one in (step, *beside.values())],
                "services": services,
                "runs": runs,
                "limits": limits.resources(),
                "patient": False,
                "orderly": False,
            }
            launched = Launched(plan, (*opened, self.held.descriptor), self.job.directory / "launcher.log")
        except BaseException:
            os.close(output)
            raise
        finally:
            for descriptor in opened:
                os.close(descriptor)
        try:
            with os.fdopen(output, "rb", buffering=0):
                self._follow(launched, output, limits)
            outputs, reports = self._take(launched) if launched.roots else ({}, {})
        finally:
            launched.close()
        if self.ended == "exit" and self.exit == 0:
            keep_volumes(self.sandbox.state, self.sandbox._blobs, step)
        usage = launched.rusage
        if usage is not None and self.ended != "exit":
            self.cpu_s = max(
                self.cpu_s, usage.ru_utime + usage.ru_stime
            )  # of a command that was killed nothing else is told
        return Outcome(
            self.ended,
            self.exit,
            outputs,
            time.monotonic() - began,
            self.cpu_s,
            self.rss_bytes,
            self.said,
            failed_run=self.failed_run,
            reports=reports,
        )

    def log_of(self, name: str) -> Path:
        """Where a service's output goes."""
        return service_directory(self.job, name) / "service.log"

    def _follow(self, launched: Launched, output: int, limits: Limits) -> None:
        """Until everything of the step has ended."""
        asked, ask = os.pipe()
        os.set_blocking(ask, False)
        alarm = _Alarm(ask)
        watch = Watch(launched.process.pid, self.job.directory, limits)
        with selectors.DefaultSelector() as selector:
            try:
                selector.register(output, selectors.EVENT_READ)
                selector.register(launched.socket, selectors.EVENT_READ)
                selector.register(asked, selectors.EVENT_READ)
                self.stop.then(alarm.ring)
                self._loop(launched, selector, output, asked, watch)
            finally:
                alarm.close()
                os.close(asked)
        self.rss_bytes = max(self.rss_bytes, watch.peak_bytes)
        if self.exit != 0 and self.done and (found := watch.look_at_disk()) is not None:
            self.ended, self.said = found
        if self.stop.reason is not None and not self.done:
            self.ended = self.stop.reason
        elif not self.done:
            lines = launched.errors.read_text(errors="replace").strip().splitlines()
            raise EngineFault(
                f"{self.job.step}: the sandbox ended before its step did{': ' + lines[-1] if lines else ''}"
            )

    def _loop(
        self, launched: Launched, selector: selectors.BaseSelector, output: int, asked: int, watch: Watch
    ) -> None:
        look_at = time.monotonic() + LOOK_S / 4
        open_ends = 2
        while open_ends:
            for key, _ in selector.select(max(0.0, look_at - time.monotonic())):
                if key.fd == asked:
                    selector.unregister(asked)
                    launched.kill()
                elif key.fd == output:
                    data = os.read(output, READ_BYTES)
                    if data:
                        self.write(data)
                    else:
                        selector.unregister(output)
                        open_ends -= 1
                else:
                    event = launched.event()
                    if event is None:
                        selector.unregister(launched.socket)
                        open_ends -= 1
                    else:
                        self._told(event)
            if time.monotonic() >= look_at and open_ends == 2:
                found = watch.look()
                if found is not None and not self.done:
                    self.said = self.said or found[1]
                    self.stop.ask(found[0])
                look_at = time.monotonic() + LOOK_S
            elif open_ends < 2:
                look_at = time.monotonic() + LOOK_S

    def _told(self, event: tuple[Any, ...]) -> None:
        kind = event[0]
        if kind == "ended":
            _, number, code, user, system, rss, left = event
            self.cpu_s += user + system
            self.rss_bytes = max(self.rss_bytes, rss)
            if left:
                some = ", ".join(sorted(left))
                self.write(f"trimtab: still running when the command ended, and ended with it: {some}\n".encode())
            if code != 0:
                self.exit = code if code > 0 else 128 - code
                self.failed_run = number
        elif kind == "service":
            _, name, what, seconds, code = event
            if what != "ready":
                self._service(name, what, seconds, code)
        elif kind == "done":
            self.done = True

    def _service(self, name: str, what: str, seconds: float, code: int) -> None:
        ready = self.job.services[name].action.get("ready", "")
        how = f"status {code}" if code >= 0 else f"signal {-code}"
        if what == "died":
            self.said = (
                self.said or f"service {name} had ended with {how} before the step was done{self._last_line(name)}"
            )
            return
        self.ended = "service"
        if what == "ended":
            self.said = f"service {name} ended with {how} before it was ready{self._last_line(name)}"
        else:
            self.said = f"service {name} was not ready ({ready}) after {seconds:.0f} s{self._last_line(name)}"

    def _last_line(self, name: str) -> str:
        lines = [line for line in tail(self.log_of(name)) if line.strip()]
        return f"; it said last: {lines[-1].strip()[:300]}" if lines else "; it said nothing"

    # What is taken out

    def _take(self, launched: Launched) -> tuple[dict[str, str], dict[str, bytes]]:
        """The outputs of a success; the reports of tests in any case."""
        outputs: dict[str, str] = {}
        reports: dict[str, bytes] = {}
        root = launched.roots[0]
        said = (run.get("junit", "") for run in self.job.action["runs"])
        for path in dict.fromkeys((*said, *self.job.reports)):
            if path and (data := _read(root, path)) is not None:
                reports[path] = data
        if self.ended != "exit" or self.exit != 0:
            return outputs, reports
        for declared in self.job.action.get("outputs", ()):
            name, path = declared["name"], declared["path"]
            try:
                inside = inside_root(root, path)
                outputs[name], _ = self.sandbox._blobs.capture(f"/proc/self/fd/{root}{inside}")
            except FileNotFoundError:
                self.ended = "output"
                self.said = f"the output {name} is not there: no command made {path}"
                return {}, reports
            except PermissionError as err:
                self.ended = "output"
                self.said = f"the output {name} cannot be read: {err.strerror}"
                return {}, reports
        return outputs, reports


class _Alarm:
    """Wakes a thread that waits; rings once, and never after it is closed."""

    def __init__(self, descriptor: int) -> None:
        import threading

        self._lock = threading.Lock()
        self._descriptor = descriptor

    def ring(self) -> None:
        with self._lock:
            if self._descriptor >= 0:
                os.write(self._descriptor, b"!")

    def close(self) -> None:
        with self._lock:
            os.close(self._descriptor)
            self._descriptor = -1


def inside_root(root: int, path: str) -> str:
    """A path with its links followed as they would be inside the directory `root`."""

    def target(here: str) -> str | None:
        try:
            return os.readlink(here[1:], dir_fd=root)
        except OSError:
            return None

    return followed(path, target)


def _read(root: int, path: str) -> bytes | None:
    """A file of a step, or None."""
    try:
        inside = inside_root(root, path)
        descriptor = os.open(inside[1:], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=root)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(REPORT_BYTES_MAX + 1)
    return data if len(data) <= REPORT_BYTES_MAX else None


def tail(path: Path, size: int = 4096) -> list[str]:
    """The last lines of a file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
