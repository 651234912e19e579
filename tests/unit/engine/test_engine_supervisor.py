"""The supervisor and its guardian with real child processes: healing, adoption, order, back-off, logs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trimtab.engine import guardian, plan, procfs, supervisor
from trimtab.engine.child import Child, recorded

SERVER = """
import os, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
s = socket.socket(socket.AF_UNIX)
if os.path.exists(sys.argv[1]): os.unlink(sys.argv[1])
s.bind(sys.argv[1]); s.listen(8)
while True:
    c, _ = s.accept(); c.recv(1000); c.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n"); c.close()
"""
NOTIFIER = """
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(1000)
"""
JOURNAL = "import sys; open(sys.argv[1], 'a').write(sys.argv[2] + '\\n')"


def python(script: str, *args: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", script, *args]


def until(condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError(f"not within {timeout_s} s: {what}")


class Engine:
    """An engine of little programs in a temporary directory."""

    def __init__(self, directory: Path) -> None:
        self.run = directory / "run"
        self.data = directory / "data"
        self.journal_file = directory / "journal"
        for path in (self.run / plan.PIDS, self.data / "log"):
            path.mkdir(parents=True)
        self.processes: list[dict[str, Any]] = []
        self.stop: list[dict[str, Any]] = []
        self.started: list[subprocess.Popen[bytes]] = []

    def add(self, name: str, argv: list[str], **more: Any) -> None:
        self.processes.append({"name": name, "argv": argv, **more})
        self.stop.append({"stop": [name]})

    def add_server(self, name: str, **more: Any) -> None:
        socket_path = str(self.run / f"{name}.sock")
        self.add(name, python(SERVER, socket_path), probe={"address": socket_path, "path": "/readyz"}, **more)

    def start(self, argv: list[str] | None = None) -> None:
        plan.write_json(
            str(self.run / plan.PLAN),
            {
                "run": str(self.run),
                "data": str(self.data),
                "user": None,
                "log_dir": str(self.data / "log"),
                "env": {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(self.run / plan.NOTIFY)},
                "processes": self.processes,
                "stop": self.stop,
                "journal": python(JOURNAL, str(self.journal_file)),
            },
        )
        with open(self.data / "log" / "supervisor.log", "a") as log:
            self.started.append(
                subprocess.Popen(
                    argv or guardian.command("guard", str(self.run)),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def state(self) -> dict[str, Any]:
        return plan.read_json(str(self.run / plan.STATE)) or {}

    def process(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.state().get("processes", {}).get(name, {})
        return found

    def ready(self, *names: str) -> bool:
        names = names or tuple(p["name"] for p in self.processes)
        return all(self.process(n).get("state") == "ready" for n in names)

    def supervisor_pid(self) -> int:
        return int(self.state()["supervisor"]["pid"])

    def guardian_pid(self) -> int:
        return int(self.state()["guardian"] or 0)

    def entries(self) -> list[dict[str, Any]]:
        if not self.journal_file.exists():
            return []
        return [entry for line in self.journal_file.read_text().splitlines() for entry in json.loads(line)]

    def messages(self) -> list[str]:
        return [entry["message"] for entry in self.entries()]

    def kill(self, name: str) -> int:
        pid = int(self.process(name)["pid"])
        os.kill(pid, signal.SIGKILL)
        return pid

    def end(self, number: int = signal.SIGTERM) -> None:
        os.kill(self.supervisor_pid(), number)
        until(lambda: self.state().get("goal") == "done" and not self.running(), "stopped")

    def running(self) -> list[int]:
        """Every process of this engine, by the run directory on its command line."""
        found = []
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                ours = entry.isdigit() and str(self.run).encode() in Path(f"/proc/{entry}/cmdline").read_bytes()
                if ours and procfs.identity(int(entry)) is not None:
                    found.append(int(entry))
        return found

    def clean_up(self) -> None:
        pids = [*self.running(), *(int(p["pid"]) for p in self.state().get("processes", {}).values() if p["pid"])]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        for process in self.started:
            process.wait(60)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path)
    yield made
    made.clean_up()


def test_starts_in_order_and_stops_all(engine: Engine) -> None:
    engine.add_server("api")
    engine.add("controllers", python(NOTIFIER), after=["api"])

    engine.start()

    until(engine.ready, "both ready")
    api, controllers = (
        procfs.Identity(engine.process(n)["pid"], engine.process(n)["start"]) for n in ("api", "controllers")
    )
    assert controllers.start >= api.start
    until(lambda: any("engine started: 2 processes ready after" in m for m in engine.messages()), "journal")
    engine.end()
    assert not procfs.alive(api)
    assert not procfs.alive(controllers)
    assert engine.messages()[-1] == "engine stopped"


def test_a_killed_process_is_restarted_alone_and_journaled(engine: Engine) -> None:
    engine.add_server("api", label="API server", serving="answering")
    engine.add_server("web")
    engine.start()
    until(engine.ready, "ready")
    web = engine.process("web")["pid"]

    killed = engine.kill("api")

    until(lambda: engine.ready() and engine.process("api")["pid"] != killed, "healed")
    assert engine.process("web")["pid"] == web
    assert engine.process("api")["restarts"] == 1
    line = until(lambda: [e for e in engine.entries() if e["process"] == "api"], "journal")[0]
    assert line["message"].startswith("API server was killed (signal 9); answering again after ")
    assert line["message"].endswith(f" {line['duration_ms']:.0f} ms")
    engine.end()


def test_a_killed_supervisor_is_replaced_and_adopts_what_runs(engine: Engine) -> None:
    engine.add_server("api")
    engine.add("controllers", python(NOTIFIER))
    engine.start()
    until(engine.ready, "ready")
    pids = {n: engine.process(n)["pid"] for n in ("api", "controllers")}
    supervisor_pid, guardian_pid = engine.supervisor_pid(), engine.guardian_pid()

    os.kill(supervisor_pid, signal.SIGKILL)

    until(lambda: engine.supervisor_pid() != supervisor_pid and engine.ready(), "another supervisor")
    assert {n: engine.process(n)["pid"] for n in pids} == pids
    assert engine.guardian_pid() == guardian_pid
    until(lambda: any(m.startswith("supervisor was killed; running again after") for m in engine.messages()), "journal")
    assert any(m.endswith("2 processes went on meanwhile") for m in engine.messages())
    # What was adopted is supervised like any other.
    engine.kill("controllers")
    until(lambda: engine.ready() and engine.process("controllers")["pid"] != pids["controllers"], "adopted one healed")
    assert engine.process("controllers")["last"] == "was killed (signal 9)"
    engine.end()


def test_a_killed_guardian_is_replaced(engine: Engine) -> None:
    engine.add_server("api")
    engine.start()
    until(engine.ready, "ready")
    first = engine.guardian_pid()

    os.kill(first, signal.SIGKILL)

    second = until(lambda: (pid := engine.guardian_pid()) != first and pid, "another guardian")
    supervisor_pid = engine.supervisor_pid()
    until(lambda: procfs.command_name(second) == "trimtab-guard", "it guards")
    os.kill(supervisor_pid, signal.SIGKILL)
    until(
        lambda: engine.supervisor_pid() != supervisor_pid and engine.ready(), "supervisor replaced by the new guardian"
    )
    engine.end()


def test_all_killed_at_once_heals(engine: Engine) -> None:
    for name in ("api", "web", "node"):
        engine.add_server(name)
    engine.start()
    until(engine.ready, "ready")
    before = {n: engine.kill(n) for n in ("api", "web", "node")}

    os.kill(engine.supervisor_pid(), signal.SIGKILL)

    until(lambda: engine.ready() and all(engine.process(n)["pid"] != p for n, p in before.items()), "all healed")
    until(lambda: len(engine.running()) == 5, "three servers, supervisor, guardian, nothing doubled")
    engine.end()


def test_supervisor_and_guardian_both_killed_a_new_start_adopts(engine: Engine) -> None:
    engine.add_server("api")
    engine.start()
    until(engine.ready, "ready")
    pid = engine.process("api")["pid"]
    both = [engine.guardian_pid(), engine.supervisor_pid()]
    for one in both:
        os.kill(one, signal.SIGSTOP)
    for one in both:
        os.kill(one, signal.SIGKILL)
    until(lambda: not any(procfs.identity(p) for p in both), "both dead")
    assert procfs.identity(pid) is not None

    engine.start()

    until(lambda: engine.supervisor_pid() != both[1] and engine.ready(), "taken over")
    assert engine.process("api")["pid"] == pid
    engine.end()


def test_a_process_that_does_not_stay_up_is_retried_with_growing_pauses(engine: Engine) -> None:
    engine.add("web", python("import sys; print('no module', file=sys.stderr); sys.exit(7)"))
    engine.add_server("api")

    engine.start()

    until(lambda: engine.process("web").get("restarts", 0) >= 3, "three failures")
    complaint = until(lambda: [m for m in engine.messages() if "does not stay up" in m], "complaint")[0]
    assert complaint == (
        f"web does not stay up (ended (exit status 7)); tried again with growing pauses: see {engine.data}/log/web.log"
    )
    assert "no module" in (engine.data / "log" / "web.log").read_text()
    assert engine.ready("api")
    engine.end()


HUNG = ("import sys; sys.path.insert(0, sys.argv[1]); from trimtab.engine import guardian, supervisor; "
        "supervisor.CHECK_S, supervisor.HUNG_S = 0.05, 0.5; sys.argv = ['x', 'foreground', sys.argv[2]]; guardian.main()")  # fmt: skip


def test_a_process_that_hangs_is_killed_and_comes_back(engine: Engine) -> None:
    """Stopped by SIGSTOP: it neither ends nor answers."""
    beating = (
        "import os, sys, time\nwhile True: open(sys.argv[1], 'w').close(); os.utime(sys.argv[1]); time.sleep(0.02)"
    )
    health = str(engine.run / "health")
    engine.add("node", python(NOTIFIER.replace("time.sleep(1000)", "") + beating, health), health=health)
    engine.add_server("api", lively=True, label="API server", serving="answering")
    source = str(Path(supervisor.__file__).parents[2])
    engine.start([sys.executable, "-I", "-S", "-c", HUNG, source, str(engine.run)])
    until(engine.ready, "ready")
    for name in ("node", "api"):
        pid = engine.process(name)["pid"]

        os.kill(pid, signal.SIGSTOP)

        until(lambda pid=pid, name=name: engine.ready() and engine.process(name)["pid"] != pid, "healed")
        assert engine.process(name)["last"].startswith("hung for ")
    until(lambda: any("API server hung for" in m and "answering again" in m for m in engine.messages()), "journal")
    assert engine.process("node")["restarts"] == engine.process("api")["restarts"] == 1
    engine.end()


def test_a_full_disk_hinders_no_healing(small_disk: Path) -> None:
    """Run directory, logs and journal are on it, as where /run is no file system of its own."""
    engine = Engine(small_disk)
    try:
        engine.add_server("api")
        engine.start()
        until(engine.ready, "ready")
        with open(small_disk / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(b"x" * 256)
        supervisor_pid, pid = engine.supervisor_pid(), engine.kill("api")
        until(lambda: engine.ready() and engine.process("api")["pid"] != pid, "healed")
        pid = engine.process("api")["pid"]
        os.kill(supervisor_pid, signal.SIGKILL)
        until(lambda: engine.supervisor_pid() != supervisor_pid and engine.ready(), "taken over")
        assert engine.process("api")["pid"] == pid
        engine.end()
    finally:
        engine.clean_up()


def test_stop_keeps_what_outlives_and_the_next_start_adopts_it(engine: Engine) -> None:
    engine.add_server("envoy", outlives=True)
    engine.add_server("api")
    engine.stop.append(
        {"run": python("import sys; open(sys.argv[1], 'w')", str(engine.data / "removed")), "pods": True}
    )
    engine.start()
    until(engine.ready, "ready")
    envoy = engine.process("envoy")["pid"]
    os.kill(engine.supervisor_pid(), signal.SIGUSR1)
    until(lambda: engine.state().get("goal") == "done", "stopped")
    until(lambda: engine.messages() and engine.messages()[-1] == "engine stopped; pods keep running", "journal")
    assert procfs.identity(envoy) is not None
    assert not (engine.data / "removed").exists()

    until(
        lambda: not any(procfs.command_name(p).startswith("trimtab-") for p in engine.running()), "both tiny ones gone"
    )
    engine.start()
    until(engine.ready, "ready again")

    assert engine.process("envoy")["pid"] == envoy
    engine.end()
    assert (engine.data / "removed").exists()
    assert procfs.identity(envoy) is None


def test_a_supervisor_killed_while_stopping_is_replaced_and_the_stop_goes_on(engine: Engine) -> None:
    slow = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(1000)"
    engine.add("node", python(slow), stop_timeout_s=1.0)
    engine.add_server("api")
    engine.start()
    until(lambda: engine.ready("api") and "deaf" in (engine.data / "log" / "node.log").read_text(), "ready")
    first = engine.supervisor_pid()
    os.kill(first, signal.SIGTERM)
    until(lambda: engine.state().get("goal") == "stop", "stopping")

    os.kill(first, signal.SIGKILL)

    until(lambda: engine.state().get("goal") == "done" and not engine.running(), "stopped all the same")
    assert procfs.identity(engine.process("node")["pid"] or 0) is None


def test_a_second_supervisor_of_one_engine_steps_back(engine: Engine) -> None:
    engine.add_server("api")
    engine.start()
    until(engine.ready, "ready")

    second = subprocess.run(guardian.command("foreground", str(engine.run)), capture_output=True, timeout=60)

    assert second.returncode == guardian.ANOTHER_RUNS
    engine.end()


def test_a_pid_of_another_process_is_never_adopted(tmp_path: Path) -> None:
    (tmp_path / plan.PIDS).mkdir()
    me = procfs.identity(os.getpid())
    assert me is not None
    spec = plan.Spec({"name": "api", "argv": ["/bin/true"]})
    layout = plan.Plan(
        {"run": str(tmp_path), "data": "", "user": None, "log_dir": "", "env": {}, "processes": [], "stop": []}
    )
    for raw in (
        {"pid": me.pid, "start": me.start - 1, "boot": procfs.boot_id()},  # the pid was given to somebody else
        {"pid": me.pid, "start": me.start, "boot": "another boot"},
    ):
        plan.write_json(str(tmp_path / plan.PIDS / "api"), raw)
        assert not Child(spec).adopt(layout, 0.0, True)
    plan.write_json(str(tmp_path / plan.PIDS / "api"), {"pid": me.pid, "start": me.start, "boot": procfs.boot_id()})
    assert recorded(str(tmp_path), "api") == me


def test_logs_are_rotated_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOG_SIZE_BYTES_MAX", 10)
    layout = plan.Plan(
        {"run": "", "data": "", "user": None, "log_dir": str(tmp_path), "env": {}, "stop": [],
         "processes": [{"name": "api", "argv": ["x"]}]}
    )  # fmt: skip
    log = tmp_path / "api.log"
    with open(log, "ab", buffering=0) as writer:
        writer.write(b"first, and long\n")
        supervisor.rotate_logs(layout)
        writer.write(b"second, and long\n")
        supervisor.rotate_logs(layout)
        writer.write(b"short\n")
        supervisor.rotate_logs(layout)
    assert log.read_bytes() == b"short\n"
    assert (tmp_path / "api.log.1").read_bytes() == b"second, and long\n"
    assert (tmp_path / "api.log.2").read_bytes() == b"first, and long\n"


def test_a_process_that_is_to_be_another_program_is_replaced_alone(engine: Engine) -> None:
    engine.add_server("stays")
    engine.add_server("changes")
    engine.start()
    until(engine.ready, "ready")
    before = {name: engine.process(name)["pid"] for name in ("stays", "changes")}
    path = engine.run / plan.PLAN
    written = json.loads(path.read_text())
    written["processes"][1]["argv"] = python("# another version" + SERVER, str(engine.run / "changes.sock"))
    plan.write_json(str(path), written)

    os.kill(engine.supervisor_pid(), signal.SIGUSR2)

    until(lambda: engine.process("changes")["pid"] not in (None, before["changes"]) and engine.ready(), "replaced")
    assert engine.process("stays")["pid"] == before["stays"]
    assert b"# another version" in Path(f"/proc/{engine.process('changes')['pid']}/cmdline").read_bytes()
