"""The process that parses strangers' bytes: what it cannot do, and what becomes of the caller when it dies, hangs or lies."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trimtab.components.profiling.symbols.sandbox import ParseError, Sandbox, one_line
from trimtab.confinement.sandbox import HEADER, INLINE

DEADLINE_S = 60

ATTEMPTS = """
import json, os, resource, socket, sys, threading
from trimtab.confinement import confine
own = confine.enter_namespaces()
read, write = os.pipe()
if os.fork():
    os.close(write)
    sys.stdout.write(os.fdopen(read).read())
    os.wait()
    sys.exit()
confine.give_up_everything(1 << 30, 60)
def tried(do):
    try:
        return f"allowed: {do()!r}"
    except OSError as err:
        return type(err).__name__
def memory():
    try:
        bytes(2 << 30)
    except MemoryError:
        return "refused"
said = []
thread = threading.Thread(target=said.append, args=(1,))
thread.start(); thread.join()
os.write(write, json.dumps({
    "own": own, "uid": os.getuid(), "pid": os.getpid(), "groups": os.getgroups(), "memory": memory(), "thread": said,
    "root": sorted(os.listdir("/")), "passwd": tried(lambda: open("/etc/passwd")), "write": tried(lambda: open("/x", "w")),
    "socket": tried(socket.socket), "fork": tried(os.fork), "exec": tried(lambda: os.execv("/bin/sh", ["sh"])),
    "kill": tried(lambda: os.kill(1, 0)), "root again": tried(lambda: os.setuid(0)), "chroot": tried(lambda: os.chroot("/")),
}).encode())
os._exit(0)
"""


def test_a_confined_process_can_only_think() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", ATTEMPTS], capture_output=True, text=True, timeout=DEADLINE_S)
    can = json.loads(done.stdout)
    assert can["memory"] == "refused"
    assert can["thread"] == [1], "libraries start threads"
    for attempt in ("socket", "fork", "exec", "kill", "root again", "chroot"):
        assert can[attempt] == "PermissionError", attempt
    if not can["own"]:
        pytest.skip("no namespaces of its own are allowed here; what holds without them was checked")
    assert (can["uid"], can["pid"], can["groups"]) in ((65534, 1, []), (65534, 1, [65534]))
    assert can["passwd"] == "FileNotFoundError"
    assert not {"home", "proc", "sys", "dev", "run"} & set(can["root"])
    assert can["write"] in ("OSError", "PermissionError")


@pytest.fixture
def big(tmp_path: Path):
    """A file that takes long to hash, and no room."""
    path = tmp_path / "big"
    path.touch()
    os.truncate(path, 1 << 40)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + b"\x03\0\x3e\0\x01\0\0\0" + bytes(40)
    path.write_bytes(header)
    os.truncate(path, 1 << 40)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def worker_of(sandbox: Sandbox) -> int:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            pid = sandbox.pid
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if pid else []
            if children and b"worker" in Path(f"/proc/{children[0]}/cmdline").read_bytes():
                return int(children[0])
        except OSError:
            continue
    raise AssertionError("there is no worker")


def test_it_answers_and_is_there_again_after_it_was_killed(tmp_path: Path) -> None:
    with open(tmp_path / "text", "w+b") as file, Sandbox() as sandbox:
        file.write(b"text")
        file.flush()
        assert sandbox.run("symbols.elf:facts", fds=[file.fileno()]) == ["not an ELF file"]
        first = worker_of(sandbox)
        os.kill(first, signal.SIGKILL)
        assert sandbox.run("symbols.elf:facts", fds=[file.fileno()] * 2) == ["not an ELF file"] * 2
        assert worker_of(sandbox) != first


def test_what_kills_it_twice_is_one_line(big: int) -> None:
    with Sandbox() as sandbox:
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                sandbox.run("symbols.elf:facts", fds=[big])
            except ParseError as err:
                errors.append(err)

        asking = threading.Thread(target=ask)
        asking.start()
        killed: set[int] = set()
        while asking.is_alive() and len(killed) < 2:
            if (worker := worker_of(sandbox)) not in killed:
                os.kill(worker, signal.SIGKILL)
                killed.add(worker)
        asking.join(DEADLINE_S)
        assert str(errors[0]) == "symbols.elf:facts: the parser was killed (SIGKILL) on this input"
        assert sandbox.run("symbols.elf:facts") == []


def test_a_parser_that_does_not_end_is_ended(big: int) -> None:
    with Sandbox(timeout_s=0.5) as sandbox:
        with pytest.raises(TimeoutError, match=r"^symbols.elf:facts took longer than 0.5 s$"):
            sandbox.run("symbols.elf:facts", fds=[big])
        assert sandbox.pid is None


def test_it_ends_when_nobody_asks_and_starts_when_somebody_does() -> None:
    with Sandbox(idle_s=0.01) as sandbox:
        for _ in range(3):
            assert sandbox.run("symbols.elf:facts") == []
            pid = sandbox.pid
            assert pid is not None
            ended = os.pidfd_open(pid)
            try:
                assert select.select([ended], [], [], DEADLINE_S)[0], "the idle worker is still there"
            finally:
                os.close(ended)


def test_it_dies_with_its_caller() -> None:
    script = (
        "import sys, time\n"
        "from trimtab.components.profiling.symbols.sandbox import Sandbox\n"
        "sandbox = Sandbox(); sandbox.run('symbols.elf:facts')\n"
        "print(sandbox.pid, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        keeper = int(caller.stdout.readline())
        handle = os.pidfd_open(keeper)
        caller.kill()
    try:
        assert select.select([handle], [], [], DEADLINE_S)[0], "the sandbox outlives its caller"
    finally:
        os.close(handle)


def test_what_is_closed_stays_closed() -> None:
    sandbox = Sandbox()
    sandbox.run("symbols.elf:facts")
    sandbox.close()
    with pytest.raises(OSError, match=r"^the sandbox is closed$"):
        sandbox.run("symbols.elf:facts")
    assert sandbox.pid is None


def test_errors_come_as_one_line() -> None:
    with Sandbox() as sandbox:
        with pytest.raises(ParseError, match=r"^AttributeError: module .* has no attribute 'nothing'$"):
            sandbox.run("symbols.elf:nothing")
        with pytest.raises(ParseError, match=r"^TypeError: facts\(\) got multiple values for argument 'fds'$"):
            sandbox.run("symbols.elf:facts", "more")
        with pytest.raises(ValueError, match=r"^17 descriptors: at most 16 go into the sandbox in one call$"):
            sandbox.run("symbols.elf:facts", fds=[0] * 17)
    assert one_line("a\nb\x1b[31m" + "c" * 999) == "a b [31m" + "c" * 292


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (HEADER.pack(1 << 40, INLINE), r"^the parser's answer has 1099511627776 bytes, more than the 536870912 that are taken$"),
        (HEADER.pack(1 << 20, INLINE), r"^the parser's answer is too long$"),
        (HEADER.pack(8, 1), r"^the parser's answer is not whole$"),
        (HEADER.pack(1, INLINE) + b"\xc1", r"^the parser's answer cannot be read: "),
        (HEADER.pack(1, INLINE) + b"\x01", r"^symbols.elf:facts: the parser's answer is none$"),
        (HEADER.pack(4, INLINE) + b"\x92\xc2\xa1\n", r"^not readable$"),
    ],
)  # fmt: skip
def test_a_worker_that_was_taken_over_does_no_harm(answer: bytes, line: str) -> None:
    ours, theirs = socket.socketpair()
    with theirs, Sandbox() as sandbox, subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as process:
        sandbox._process, sandbox._socket = process, ours
        theirs.sendall(answer)
        with pytest.raises(ParseError, match=line):
            sandbox.run("symbols.elf:facts")
        assert process.stdin is not None
        process.stdin.close()
