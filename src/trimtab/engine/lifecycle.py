"""Starting and stopping an engine, seen from the command line.

    start: settings, user, directories, keys --> plan --> guardian --> wait: /readyz, node Ready
    stop:  signal the supervisor --> wait until it is done; without one, stop what it left behind

Both can be repeated: starting a running engine and stopping a stopped one succeed and say so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from trimtab.engine import accounts, addresses, datadir, guardian, local, pki, planning, procfs
from trimtab.engine.access import write_kubeconfig
from trimtab.engine.child import recorded
from trimtab.engine.errors import EngineError, NotRunning
from trimtab.engine.plan import PIDS, PLAN, STATE, STOP, STOPPING, read_json, write_json
from trimtab.runtime.component import Component
from trimtab.runtime.settings import Settings

Say = Callable[[str], None]

API_READY_S_MAX = 60.0
NODE_READY_S_MAX = 90.0
STOP_S_MAX = 150.0
"""All steps of a stop but the pods' stay below this together, each with its own limit."""


@dataclass(frozen=True)
class Options:
    """What the user asked of `start`. `chosen`: settings by name (ports, listen)."""

    chosen: dict[str, Any]
    node: bool = True
    foreground: bool = False
    nodes: int | None = None
    """How many nodes there shall be; None: as many as there were."""


def require_root(what: str) -> None:
    """Raises EngineError when this process is not root."""
    if os.geteuid() != 0:
        raise EngineError(f"{what} needs root (it runs containers and networks): run it with sudo")


def state_of(settings: Settings) -> dict[str, Any]:
    """What the supervisor last wrote down; empty where none ever ran."""
    return read_json(str(datadir.supervisor_run(settings) / STATE)) or {}


def supervisor_of(settings: Settings) -> procfs.Identity | None:
    """The running supervisor, if there is one."""
    return guardian.current_supervisor(str(datadir.supervisor_run(settings)))


def running_children(settings: Settings) -> dict[str, procfs.Identity]:
    """The processes of the engine that run, supervised or not, by name."""
    run = datadir.supervisor_run(settings)
    found = {}
    for path in sorted((run / PIDS).glob("*")):
        process = recorded(str(run), path.name)
        if process is not None and procfs.alive(process):
            found[path.name] = process
    return found


# Start


def start(data: Path, options: Options, say: Say) -> Settings:
    """Starts the engine at `data` (making it when there is none) and returns once it serves.

    In the foreground it does not return: this process becomes the supervisor.

    Raises:
        EngineError: one line saying what is in the way.
    """
    require_root("trimtab start")
    began = time.monotonic()
    with _one_at_a_time(data):
        settings, fresh = _settings(data, options, say)
        refuse_copy(settings)
        if supervisor_of(settings) is not None:
            if options.chosen and any(getattr(settings, k) != v for k, v in options.chosen.items()):
                raise EngineError("the engine runs with other settings: stop it first, then start it with these")
            if options.nodes is not None and options.nodes != 1 + len(settings.nodes):
                from trimtab.engine import nodes

                return nodes.change(settings, nodes.names(options.nodes), say)
            say(f"already running: {_addresses(settings)}")
            return settings
        datadir.refuse_newer_store(settings)
        settings = _with_chosen(settings, options, fresh)
        if options.nodes is not None:
            settings = _with_nodes(settings, options.nodes, say)
        _check_ports(settings)
        planning.write_plan(settings, _prepare(settings, options, say))
        (datadir.supervisor_run(settings) / STOP).unlink(missing_ok=True)
        say(f"engine {settings.id} at {settings.data}")
        if settings.nodes:
            from trimtab.engine import nodes

            nodes.renew(settings)
        run = str(datadir.supervisor_run(settings))
        if options.foreground:
            argv = guardian.command("foreground", run)
            os.execve(argv[0], argv, dict(os.environ))
        _forget_stopped_state(settings)
        with open(settings.data_path("log", "supervisor.log"), "a") as log:
            os.fchmod(log.fileno(), 0o640)
            subprocess.Popen(
                guardian.command("guard", run),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            ).returncode = 0  # it outlives us: nobody waits for it here
        wait_until_ready(settings, options, say, began)
    return settings


@contextlib.contextmanager
def _one_at_a_time(data: Path) -> Iterator[None]:
    """Two commands that start the same engine do so one after the other; the second then finds it running."""
    existed = data.exists()
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o755)
        handle = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileExistsError, NotADirectoryError):
        raise EngineError(f"{data} is a file: give a directory as --data") from None
    except OSError as err:
        raise datadir.disk_error(data, err) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    except EngineError:
        if not existed:
            with contextlib.suppress(OSError):  # a refused first start leaves no empty directory
                data.rmdir()
        raise
    finally:
        os.close(handle)


def wait_for_running(data: Path, options: Options, say: Say) -> None:
    """Waits for an engine that somebody else starts (systemd) until it serves."""
    began = time.monotonic()
    while True:
        try:
            settings = datadir.load(data)
        except NotRunning:
            if time.monotonic() - began > API_READY_S_MAX:
                raise EngineError("systemd did not start the engine: see `journalctl -u 'trimtab*'`") from None
            time.sleep(0.05)
            continue
        wait_until_ready(settings, options, say, began)
        return


def _settings(data: Path, options: Options, say: Say) -> tuple[Settings, bool]:
    try:
        return datadir.load(data), False
    except NotRunning:
        made, notes = datadir.create(data, options.chosen)
        for note in notes:
            say(note)
        return made, True


def _with_chosen(settings: Settings, options: Options, fresh: bool) -> Settings:
    changed = msgspec.structs.replace(settings, **options.chosen)
    recorded_data = (read_json(str(settings.data_path(datadir.SETTINGS))) or {}).get("data")
    if not fresh and (changed != settings or recorded_data != settings.data):
        datadir.save(changed)
    return changed


def _with_nodes(settings: Settings, count: int, say: Say) -> Settings:
    """Notes the nodes of an engine that does not run; the disks of those that are not wanted any more go."""
    from trimtab.engine import nodes

    wanted = nodes.names(count)
    for name in set(settings.nodes) - set(wanted):
        nodes.forget(settings, name)
        say(f"{name} removed, its disk with it")
    changed = msgspec.structs.replace(settings, nodes=wanted)
    datadir.save(changed)
    return changed


def refuse_copy(settings: Settings) -> None:
    """Raises EngineError when another engine with the same id runs from another directory: this one is a copy of it, and
    what runs must not be taken for its own."""
    process = supervisor_of(settings)
    state = state_of(settings)
    if process is None and not running_children(settings):
        return
    if state.get("data") and state["data"] != settings.data and Path(state["data"]).exists():
        raise EngineError(
            f"{settings.data} is a copy of {state['data']}, whose engine runs: stop that one first (`trimtab --data {state['data']} stop`)"
        )


def _check_ports(settings: Settings) -> None:
    ours = {p.pid for p in running_children(settings).values()}
    for name, (_, flag, _) in datadir.PORTS.items():
        addresses.require_port(settings.listen, getattr(settings, name), flag, ours)


def _prepare(settings: Settings, options: Options, say: Say) -> dict[str, Any]:
    """Makes user, directories, keys and the components' files; returns the plan."""
    from trimtab.components.ingress import envoy_command, raise_watch_limit, write_bootstrap
    from trimtab.components.node import containerd_command
    from trimtab.engine.bootstrap import write_definitions
    from trimtab.engine.processes import JOURNAL
    from trimtab.engine.registry import COMPONENTS
    from trimtab.runtime.journal import Journal

    require_needs([component for component in COMPONENTS if options.node or component.name != "node"])
    for user in (settings.user, settings.proxy_user, settings.web_user):
        accounts.ensure_user(user)
    compile_program()
    datadir.prepare(settings)
    readable = planning.program_directories()
    writable = [settings.data, settings.run]
    require_readable_program(settings.user, readable)
    if not pki.complete(settings):
        accounts.as_user(settings.user, readable, writable, lambda: pki.ensure(settings))
    write_kubeconfig(settings)
    raise_watch_limit()
    accounts.as_user(settings.user, readable, writable, lambda: write_bootstrap(settings))
    accounts.as_user(settings.user, readable, writable, lambda: Journal(settings.data_path(*JOURNAL)).close())
    write_definitions(settings, COMPONENTS)
    containerd = containerd_command(settings) if options.node else []
    if options.node and settings.nodes:
        from trimtab.engine import nodes

        nodes.prepare(settings, settings.nodes, say)
    return planning.make_plan(settings, node=options.node, containerd=containerd, envoy=envoy_command(settings))


def require_needs(components: Sequence[Component]) -> None:
    """Raises EngineError with everything that the components miss on this machine, in one line."""
    missing = [
        f"{need.name}: {problem}" for c in components for need in c.needs if (problem := need.check()) is not None
    ]
    if missing:
        raise EngineError("; ".join(missing))


def compile_program() -> None:
    """Brings the bytecode of our own modules up to date: the unprivileged processes may not write it, and without it each
    of them would compile its modules at every start. Takes 30 ms when there is nothing to do."""
    import compileall

    sources = Path(__file__).resolve().parents[1]
    if os.access(sources, os.W_OK):
        compileall.compile_dir(sources, quiet=2)


def require_readable_program(user: str, readable: list[str]) -> None:
    """Raises EngineError when the program's own files are closed to the user (cloned or installed with umask 077)."""
    sources = Path(__file__).resolve().parents[1]

    def read() -> None:
        try:
            for path in (sources / "__init__.py", sources / "api" / "__init__.py", Path(msgspec.__file__)):
                path.read_bytes()
        except PermissionError as err:
            raise EngineError(
                f"{err.filename} cannot be read by user {user}: chmod -R go+rX {' '.join(_roots(readable))}"
            ) from None

    accounts.as_user(user, readable, [], read)


def _roots(directories: list[str]) -> list[str]:
    from trimtab.engine.privileges import enclosing

    return [d for d in enclosing(directories) if not d.startswith("/usr")]


def _forget_stopped_state(settings: Settings) -> None:
    """Marks a former run as over, so that the guardian started next does not take it for the present."""
    path = datadir.supervisor_run(settings) / STATE
    state = read_json(str(path))
    if isinstance(state, dict) and state.get("goal") == "done":
        path.unlink(missing_ok=True)


def wait_until_ready(settings: Settings, options: Options, say: Say, began: float) -> None:
    """Waits until the API answers and, with a node, until that is Ready.

    Raises:
        EngineError: a process does not stay up, or the time is over; names the log.
    """
    deadline = began + API_READY_S_MAX
    pause_s = 0.005
    while local.get(settings.api_socket, "/readyz")[0] != 200:
        _raise_if_failing(settings, "api", "the API server")
        if time.monotonic() > deadline:
            raise EngineError(
                f"the API server does not answer after {API_READY_S_MAX:.0f} s: see {_log(settings, 'api')}"
            )
        time.sleep(pause_s)
        pause_s = min(0.05, pause_s * 1.2)
    say(f"API ready after {time.monotonic() - began:.2f} s: https://{settings.listen}:{settings.api_port}")
    if options.node:
        wait_for_nodes(settings, (settings.node_name, *settings.nodes), say, began)
    say(f"dashboard: http://{settings.listen}:{settings.web_port}")


def wait_for_nodes(settings: Settings, names: Sequence[str], say: Say, began: float) -> None:
    """Waits until each of the nodes is Ready.

    Raises:
        EngineError: one is not in time; names its log.
    """
    for name in names:
        _wait_for_node(settings, name, say, began)


def _wait_for_node(settings: Settings, name: str, say: Say, began: float) -> None:
    deadline = began + NODE_READY_S_MAX
    problem = "it has not registered"
    process = name if name in settings.nodes else "node"
    while True:
        # A Node object may still say Ready from before a stop: the agent itself must be there, too.
        agent = state_of(settings).get("processes", {}).get(process, {}).get("state")
        node = None if agent != "ready" else local.get_json(settings.api_socket, f"/api/v1/nodes/{name}")
        for condition in (node or {}).get("status", {}).get("conditions", ()):
            if condition["type"] == "Ready":
                if condition["status"] == "True":
                    say(f"node ready after {time.monotonic() - began:.2f} s: {name}")
                    return
                problem = condition.get("message") or condition.get("reason") or problem
        _raise_if_failing(settings, "containerd", "containerd")
        _raise_if_failing(settings, process, "the node agent" if process == "node" else f"node {name}")
        if time.monotonic() > deadline:
            raise EngineError(
                f"node {name} is not ready after {NODE_READY_S_MAX:.0f} s ({problem}): "
                f"see {_log(settings, process)}; the engine keeps trying"
            )
        time.sleep(0.03)


def _raise_if_failing(settings: Settings, name: str, label: str) -> None:
    process = state_of(settings).get("processes", {}).get(name, {})
    if process.get("restarts", 0) >= 3 and process.get("state") != "ready":
        raise EngineError(
            f"{label} does not stay up ({process.get('last')}): {last_line(settings, name)} (see {_log(settings, name)})"
        )


def _log(settings: Settings, name: str) -> Path:
    return settings.data_path("log", f"{name}.log")


def last_line(settings: Settings, name: str) -> str:
    """The last non-empty line of a process's log, shortened; "" when there is none."""
    try:
        with open(_log(settings, name), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return lines[-1].strip()[:300] if lines else ""


def _addresses(settings: Settings) -> str:
    return f"https://{settings.listen}:{settings.api_port}, dashboard http://{settings.listen}:{settings.web_port}"


# Stop


def stop(settings: Settings, *, keep_pods: bool, say: Say, timeout_s: int = planning.STOP_PODS_S) -> None:
    """Stops the engine and waits until everything has ended. `keep_pods`: containers and Envoy go on. `timeout_s`: what a
    pod's grace period may last at most.

    Raises:
        EngineError: it did not end in time; names the log.
    """
    require_root("trimtab stop")
    refuse_copy(settings)
    began = time.monotonic()
    run = datadir.supervisor_run(settings)
    process = supervisor_of(settings)
    _let_go(settings)
    limit_s = STOP_S_MAX + timeout_s * max(1, len(settings.nodes))
    if run.is_dir():
        write_json(str(run / STOP), {"timeout_s": timeout_s})
        (run / STOPPING).unlink(missing_ok=True)
    if process is None:
        if keep_pods or not is_anything_left(settings):
            say("not running")
            return
        say("no supervisor runs; stopping what it left")
        done = subprocess.run(
            guardian.command("stop", str(run)), capture_output=True, text=True, timeout=limit_s, check=False
        )
        if done.returncode != 0:
            raise EngineError(f"what was left could not be stopped: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    else:
        _signal_and_wait(settings, process, keep_pods, say, limit_s)
    for leftover in () if keep_pods else running_children(settings).values():
        raise EngineError(f"process {leftover.pid} did not end: see {_log(settings, 'supervisor')}")
    say(f"stopped after {time.monotonic() - began:.1f} s" + ("; pods keep running" if keep_pods else ""))


def _let_go(settings: Settings) -> None:
    """A node that is held in a partition could not stop."""
    from trimtab.engine import nodes

    for name in settings.nodes:
        nodes.hold(settings, name, on=False)


def is_anything_left(settings: Settings) -> bool:
    """Whether a former run left processes behind (`stop --keep-pods`, or supervisor and guardian both killed)."""
    if not (datadir.supervisor_run(settings) / PLAN).exists():
        return False
    return bool(running_children(settings)) or bool(containers_left(settings))


def containers_left(settings: Settings) -> list[int]:
    """The pids of containerd's shims of this engine."""
    wanted = str(settings.containerd_socket).encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                arguments = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"containerd-shim" in arguments[0] and wanted in arguments:
                found.append(int(entry))
    return found


def _signal_and_wait(settings: Settings, process: procfs.Identity, keep_pods: bool, say: Say, limit_s: float) -> None:
    handle = procfs.pidfd(process)
    if handle is None:
        return
    try:
        signal.pidfd_send_signal(handle, signal.SIGUSR1 if keep_pods else signal.SIGTERM)
        told: set[str] = set()
        waiting = ""
        deadline = time.monotonic() + limit_s
        while not has_ended(handle, 0.1):
            state = state_of(settings)
            for name, child in state.get("processes", {}).items():
                if child["state"] == "stopped" and name not in told:
                    told.add(name)
                    say(f"stopped {name}")
            if (pods := _pods_left(settings)) and pods != waiting:
                waiting = pods
                say(pods)
            if time.monotonic() > deadline:
                raise EngineError(f"the engine did not stop within {limit_s:.0f} s: see {_log(settings, 'supervisor')}")
    finally:
        os.close(handle)
    if state_of(settings).get("goal") != "done" and (after := supervisor_of(settings)) is not None:
        _signal_and_wait(settings, after, keep_pods, say, limit_s)


PODS_NAMED_MAX = 5


def _pods_left(settings: Settings) -> str:
    """Which pods a stop waits for, and how long at most; "" when for none."""
    left = read_json(str(datadir.supervisor_run(settings) / STOPPING)) or []
    if not left:
        return ""
    names = ", ".join(name for name, _ in left[:PODS_NAMED_MAX])
    more = f" and {len(left) - PODS_NAMED_MAX} more" if len(left) > PODS_NAMED_MAX else ""
    pods = "1 pod" if len(left) == 1 else f"{len(left)} pods"
    return f"waiting for {pods} to end, up to {max(grace for _, grace in left):.0f} s: {names}{more}"


def has_ended(handle: int, timeout_s: float) -> bool:
    """Waits until a pidfd's process has ended; False when the time is over first."""
    import select

    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(int(timeout_s * 1000)))
