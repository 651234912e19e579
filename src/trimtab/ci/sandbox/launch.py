"""The program in which the processes of one step live: started by `sandbox`, with nothing but the standard library, as its own process.

    runner --plan--> launcher --fork--> pid 1 of the step --> bwrap (a service) ... bwrap (command 1), bwrap (command 2) ...
              ^                              |
              +------- events, root ---------+

The launcher enters new namespaces for users, mounts, processes and the network, in which it is root over nothing but the step.
Pid 1 mounts the overlays there, starts the services, waits until they are ready, and runs the commands one by one, each in a
bubblewrap of its own. All of it is below pid 1 in one process namespace, so that nothing outlives it: it ends when its work is
done, when the runner closes the socket, or when the runner dies, and the kernel ends the rest.

The source reaches the interpreter compiled, in a file in memory, with the plan behind it: the directory of the program need
not be readable for whoever runs the step. Messages are marshalled tuples, (kind, ...); the plan is `plan.Plan`.
"""

from __future__ import annotations

import _socket
import ctypes
import errno
import fcntl
import marshal
import os
import resource
import select
import signal
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` and `re` alone would take as long to import as all else here
    from typing import Any

    from trimtab.ci.sandbox.plan import Plan, Process, Service

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 16384, 1 << 18
PR_SET_PDEATHSIG = 1

STRAGGLERS_S = 0.2
"""How long what a command has started may take to end by itself before it counts as left behind."""
STOP_S = 5.0
"""How long a service may take to stop in order."""


class Refused(Exception):
    """The kernel does not allow something; (what, errno)."""


libc = ctypes.CDLL(None, use_errno=True)


def _checked(what: str, result: int) -> None:
    if result != 0:
        raise Refused(what, ctypes.get_errno())


def _mount(source: str, at: str, kind: str | None, flags: int, data: str | None, what: str) -> None:
    result = libc.mount(
        source.encode(), at.encode(), kind.encode() if kind else None, flags, data.encode() if data else None
    )
    _checked(what, result)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def enter_namespaces(network: bool) -> None:
    """New namespaces, in which this user is root."""
    uid, gid = os.getuid(), os.getgid()
    _checked("userns", libc.unshare(CLONE_NEWUSER))
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {uid} 1")
    _write("/proc/self/gid_map", f"0 {gid} 1")
    spaces = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | (CLONE_NEWNET if network else 0)
    _checked("namespaces", libc.unshare(spaces))


def loopback_up() -> None:
    """Brings up `lo`, and lets every user listen on every port: the namespace has nobody else in it."""
    with _socket_of(_socket.AF_INET, _socket.SOCK_DGRAM) as probe:
        name_and_flags = struct.pack("16sh14x", b"lo", 1)  # IFF_UP
        fcntl.ioctl(probe.fileno(), 0x8914, name_and_flags)  # SIOCSIFFLAGS
    _write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")


class _socket_of:
    """A C socket that is closed at the end: importing `socket` would take longer than all else here."""

    def __init__(self, family: int, kind: int) -> None:
        self.socket = _socket.socket(family, kind)

    def __enter__(self) -> Any:
        return self.socket

    def __exit__(self, *_: object) -> None:
        self.socket.close()


class Init:
    """Pid 1 of the step."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.runner: Any = _socket.socket(fileno=plan["socket"])
        self.ended: dict[int, tuple[int, float, float, int]] = {}
        self.wake, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        os.set_blocking(self.wake, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def tell(self, *event: Any, descriptors: tuple[int, ...] = ()) -> None:
        ancillary = []
        if descriptors:
            packed = struct.pack(f"{len(descriptors)}i", *descriptors)
            ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)]
        self.runner.sendmsg([marshal.dumps(event)], ancillary)

    # Waiting: everything that waits also hears the runner, and reaps.

    def wait(self, timeout_s: float | None = None) -> None:
        """Until something ended, the runner spoke, or the time is over."""
        readable, _, _ = select.select([self.wake, self.runner.fileno()], [], [], timeout_s)
        if self.runner.fileno() in readable and not self.runner.recv(1):
            os._exit(3)  # the runner is gone, or has had enough
        if self.wake in readable:
            os.read(self.wake, 4096)
        self.reap()

    def reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.ended[pid] = (status, usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024)

    def ended_within(self, pid: int, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while pid not in self.ended:
            rest = until - time.monotonic()
            if rest <= 0:
                return False
            self.wait(rest)
        return True

    # The step's surroundings

    def prepare(self) -> None:
        os.chdir(self.plan["directory"])
        _mount("none", "/", None, MS_REC | MS_PRIVATE, None, "mounts")
        _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None, "proc")
        roots = []
        for one in self.plan["overlays"]:
            options = f"userxattr,lowerdir={':'.join(one['lowers'])},upperdir={one['upper']},workdir={one['work']}"
            _mount("overlay", one["at"], "overlay", MS_NOSUID | MS_NODEV, options, "overlay")
            roots.append(os.open(one["at"], os.O_RDONLY | os.O_DIRECTORY))
        if self.plan["network"]:
            loopback_up()
        self.tell("prepared", descriptors=tuple(roots))
        for root in roots:
            os.close(root)

    # Processes

    def start(self, process: Process, argv: list[str]) -> Started:
        information, write = os.pipe()
        os.set_inheritable(write, True)
        pid = os.fork()
        if pid == 0:
            try:
                self._become(process, [argv[0], "--info-fd", str(write), *argv[1:]])
            finally:
                os._exit(127)
        os.close(write)
        try:
            said = b""
            while chunk := os.read(information, 4096):
                said += chunk
        finally:
            os.close(information)
        inside = said.partition(b'"child-pid":')[2].partition(b"}")[0].partition(b",")[0].strip()
        return Started(pid, int(inside) if inside.isdigit() else 0)

    def _become(self, process: Process, argv: list[str]) -> None:
        signal.set_wakeup_fd(-1)
        for number in (
            signal.SIGCHLD,
            signal.SIGINT,
            signal.SIGQUIT,
            signal.SIGTSTP,
            signal.SIGTERM,
            signal.SIGPIPE,
            signal.SIGTTIN,
            signal.SIGTTOU,
        ):
            signal.signal(number, signal.SIG_DFL)
        if process["output"] >= 0:
            os.dup2(process["output"], 1)
            os.dup2(process["output"], 2)
        for kind, limit in self.plan["limits"].items():
            highest = resource.getrlimit(kind)[1]
            value = limit if highest == resource.RLIM_INFINITY else min(limit, highest)
            resource.setrlimit(kind, (value, value))
        os.execve(argv[0], argv, process["env"])

    def finish(self, started: Started) -> tuple[int, float, float, int, list[str]]:
        """Waits for the command, ends what it left behind: exit status, user and system seconds, bytes, what was left."""
        while started.pid not in self.ended:
            self.wait()
        left: list[str] = []
        if exists(started.inside) and not self.ended_within(started.inside, STRAGGLERS_S):
            left = names_below(started.inside)
            self.end(started)
        user = system = 0.0
        rss = 0
        for pid in (started.pid, started.inside):
            _, one_user, one_system, one_rss = (
                self.ended.pop(pid, (0, 0.0, 0.0, 0)) if pid != started.pid else (self.ended[pid])
            )
            user, system, rss = user + one_user, system + one_system, max(rss, one_rss)
        return os.waitstatus_to_exitcode(self.ended.pop(started.pid)[0]), user, system, rss, left

    def end(self, started: Started) -> None:
        """Kills a sandbox: its own pid 1, and so all in it.

        Who reaps that one is bwrap as long as it is there, and after it we.
        """
        ours = started.pid in self.ended
        victim = started.inside or started.pid
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            victim = started.pid
        while (victim if ours else started.pid) not in self.ended:
            self.wait()

    # Services

    def start_services(self) -> dict[str, Started]:
        """All at once. Ends the step when one is not ready in its time, unless the plan is patient."""
        running: dict[str, Started] = {}
        began = time.monotonic()
        for service in self.plan["services"]:
            running[service["name"]] = self.start(service, service["argv"])
        waiting = list(self.plan["services"])
        pause_s = 0.005
        while waiting:
            for service in list(waiting):
                name, one = service["name"], running[service["name"]]
                passed = time.monotonic() - began
                if one.pid in self.ended:
                    code = os.waitstatus_to_exitcode(self.ended[one.pid][0])
                    self.tell("service", name, "ended", passed, code)
                elif self.is_ready(service):
                    self.tell("service", name, "ready", passed, 0)
                elif passed > service["ready_s"]:
                    self.tell("service", name, "late", passed, 0)
                else:
                    continue
                waiting.remove(service)
                if not self.plan["patient"] and not (one.pid not in self.ended and passed <= service["ready_s"]):
                    self.stop_services(running, orderly=True)
                    self.tell("done")
                    os._exit(0)
            if waiting:
                self.wait(pause_s)
                pause_s = min(pause_s * 1.3, 0.1)
        return running

    def is_ready(self, service: Service) -> bool:
        if service["ready"]:
            probe = self.start(service, service["ready"])
            if not self.ended_within(probe.pid, 5.0):
                self.end(probe)
            code = self.ended[probe.pid][0]
            self.finish(probe)
            return code == 0
        if not service["port"]:
            return True
        with _socket_of(_socket.AF_INET, _socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            return bool(probe.connect_ex((service["host"], service["port"])) == 0)

    def stop_services(self, running: dict[str, Started], orderly: bool) -> None:
        """orderly: with the signal that the image names, so that what they keep is whole when the step is looked at later."""
        signals = {service["name"]: service["stop"] for service in self.plan["services"]}
        if orderly:
            for name, one in running.items():
                for pid in children(one.inside) if one.pid not in self.ended else ():
                    try:
                        os.kill(pid, signals[name])
                    except ProcessLookupError:
                        continue
            until = time.monotonic() + STOP_S
            for one in running.values():
                self.ended_within(one.pid, max(0.0, until - time.monotonic()))
        for one in running.values():
            if one.pid not in self.ended or exists(one.inside):
                self.end(one)

    # All of it

    def work(self) -> None:
        running = self.start_services()
        failed = False
        for number, run in enumerate(self.plan["runs"]):
            started = self.start(run, run["argv"])
            self.tell("started", number)
            code, user, system, rss, left = self.finish(started)
            self.tell("ended", number, code, user, system, rss, left)
            until = time.monotonic() + (STRAGGLERS_S if code != 0 else 0.0)  # the reason may be on its way
            for service in self.plan["services"]:
                one = running[service["name"]]
                if self.ended_within(one.pid, until - time.monotonic()):
                    status = self.ended[one.pid][0]
                    self.tell("service", service["name"], "died", 0.0, os.waitstatus_to_exitcode(status))
            if code != 0:
                failed = True
                break
        self.stop_services(running, orderly=failed or self.plan["orderly"])
        self.tell("done")


class Started:
    """pid: bwrap's own; inside: that of the sandbox's pid 1, or 0 when there is none, both as pid 1 of the step sees them."""

    def __init__(self, pid: int, inside: int) -> None:
        self.pid = pid
        self.inside = inside


def exists(pid: int) -> bool:
    """Whether there is still a process of this number, dead or alive; 0 is none."""
    if pid == 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(one) for one in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def names_below(pid: int, limit: int = 20) -> list[str]:
    """What runs in a sandbox besides its pid 1, by name."""
    names: list[str] = []
    below = children(pid)
    while below and len(names) < limit:
        one = below.pop()
        try:
            with open(f"/proc/{one}/comm") as file:
                names.append(file.read().strip())
        except (FileNotFoundError, ProcessLookupError):
            continue
        below.extend(children(one))
    return names


def main(plan: Plan) -> None:
    """The launcher, and by a fork pid 1. The launcher waits, and so keeps the lease on the step's directory."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTOU, signal.SIGTTIN):
        signal.signal(number, signal.SIG_IGN)
    runner: Any = _socket.socket(fileno=plan["socket"])

    def refused(err: Exception) -> None:
        what, number = err.args if isinstance(err, Refused) else (str(err), getattr(err, "errno", 0) or 0)
        runner.send(marshal.dumps(("refused", what, number)))

    alive, alive_write = os.pipe()
    try:
        enter_namespaces(plan["network"])
    except (Refused, OSError) as err:
        refused(err)
        os._exit(3)
    pid = os.fork()
    if pid:
        os.close(alive)
        runner.close()
        os.waitpid(pid, 0)
        os._exit(0)
    os.close(alive_write)
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if select.select([alive], [], [], 0)[0]:
        os._exit(3)  # the launcher was killed before we asked to go with it
    os.close(alive)
    try:
        init = Init(plan)
        init.prepare()
        init.work()
    except (Refused, OSError) as err:
        if getattr(err, "errno", 0) != errno.EPIPE:
            refused(err)
        os._exit(3)
    os._exit(0)


if __name__ == "__launch__":
    main(marshal.load(globals()["plan"]))
