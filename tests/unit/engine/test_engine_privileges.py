"""Giving up root: the user, the capabilities, and a program that stands where the user cannot go."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from trimtab.engine import accounts, plan, privileges, procfs
from trimtab.engine.child import Child, execute

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives up root")

REPORT = """
import json, os, sys
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(json.dumps({"uid": os.getresuid(), "groups": os.getgroups(), "caps": status["CapEff"], "bounding": status["CapBnd"],
                  "no_new_privs": status["NoNewPrivs"].strip(), "paths": [os.path.exists(p) for p in sys.argv[1:]]}))
"""


def run_as_user(argv: list[str], readable: list[str], writable: list[str], ambient: list[int]) -> tuple[int, str]:
    """Executes a program the way the supervisor does; returns its exit status and output."""
    accounts.ensure_user("trimtab")
    layout = plan.Plan(
        {"run": "", "data": "", "user": "trimtab", "log_dir": "", "env": {}, "processes": [], "stop": [],
         "readable": readable, "writable": writable}
    )  # fmt: skip
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            os.dup2(write, 1)
            os.dup2(write, 2)
            execute(argv, {"PATH": "/usr/bin:/bin"}, layout, "trimtab", ambient)
        except BaseException as err:
            os.write(2, str(err).encode())
        os._exit(127)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


def report(
    argv: list[str], readable: list[str], writable: list[str], ambient: list[int] | None = None
) -> dict[str, Any]:
    code, said = run_as_user(argv, readable, writable, ambient or [])
    assert code == 0, said
    decoded: dict[str, Any] = json.loads(said)
    return decoded


def test_a_process_becomes_the_user_for_good() -> None:
    seen = report(["/usr/bin/python3", "-I", "-c", REPORT], [], [])

    account = pwd.getpwnam("trimtab")
    assert seen["uid"] == [account.pw_uid] * 3
    assert seen["groups"] == [account.pw_gid]
    assert int(seen["caps"], 16) == 0
    assert int(seen["bounding"], 16) == 0
    assert seen["no_new_privs"] == "1"


def test_an_ambient_capability_is_kept_and_no_other() -> None:
    bind = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 81)); print('bound')"

    seen = report(["/usr/bin/python3", "-I", "-c", REPORT], [], [], [privileges.CAP_NET_BIND_SERVICE])
    assert int(seen["caps"], 16) == 1 << privileges.CAP_NET_BIND_SERVICE
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 81))
        except OSError:
            pytest.skip("port 81 is in use here")
    allowed = run_as_user(["/usr/bin/python3", "-I", "-c", bind], [], [], [privileges.CAP_NET_BIND_SERVICE])
    assert allowed == (0, "bound\n")
    refused = run_as_user(["/usr/bin/python3", "-I", "-c", bind], [], [], [])
    start = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    assert (refused[0] != 0) == (start > 81)


def test_a_program_below_a_closed_directory_runs_and_sees_nothing_else_there(tmp_path: Path) -> None:
    """The case of a clone in /root: sources, environment and data below a directory of mode 0700."""
    home = tmp_path / "home"
    checkout, data = home / "work" / "checkout", home / "data"
    (checkout / "src").mkdir(parents=True)
    data.mkdir()
    accounts.ensure_user("trimtab")
    os.chown(data, *privileges.ids_of("trimtab"))
    shutil.copytree(
        Path(privileges.__file__).parents[2] / "trimtab" / "engine", checkout / "src" / "trimtab" / "engine"
    )
    (checkout / "src" / "trimtab" / "__init__.py").touch()
    subprocess.run(
        ["/usr/bin/python3", "-m", "venv", "--without-pip", "--symlinks", str(checkout / ".venv")], check=True
    )
    purelib = checkout / ".venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (purelib / "src.pth").write_text(str(checkout / "src"))
    (home / "secret").write_text("private")
    home.chmod(0o700)
    script = REPORT + "\nimport trimtab.engine.procfs\nopen(sys.argv[2] + '/written', 'w')\n"

    seen = report(
        [
            str(checkout / ".venv/bin/python"),
            "-I",
            "-c",
            script,
            str(home / "secret"),
            str(data),
            str(checkout / "src"),
        ],
        [str(checkout / ".venv"), str(checkout / "src")],
        [str(data)],
    )

    assert seen["paths"] == [False, True, True]
    assert (data / "written").exists()
    assert (home / "secret").read_text() == "private"  # our own view is what it was
    assert str(home) not in Path("/proc/self/mountinfo").read_text()
    # Nothing that was bound read-only can be written, whatever its mode.
    (checkout / "src").chmod(0o777)
    write = f"open({str(checkout / 'src' / 'planted.py')!r}, 'w')"
    code, said = run_as_user([str(checkout / ".venv/bin/python"), "-I", "-c", write], [str(checkout)], [], [])
    assert code != 0
    assert "Read-only file system" in said


def test_a_closed_program_directory_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "checkout"
    closed.mkdir(mode=0o700)

    code, said = run_as_user(["/bin/true"], [str(closed)], [], [])

    assert code == 127
    assert said == f"{closed} cannot be entered by user trimtab: chmod go+rx {closed}"


def test_where_the_way_is_barred(tmp_path: Path) -> None:
    open_directory, closed = tmp_path / "open", tmp_path / "closed"
    (open_directory / "a").mkdir(parents=True)
    (closed / "b" / "c").mkdir(parents=True)
    closed.chmod(0o700)
    for path in (tmp_path, *tmp_path.parents[:-2]):
        path.chmod(0o755)

    assert privileges.barred_at(str(open_directory / "a"), 12345, {12345}) is None
    assert privileges.barred_at(str(closed / "b" / "c"), 12345, {12345}) == str(closed)
    closed.chmod(0o710)
    assert privileges.barred_at(str(closed / "b"), 12345, {closed.stat().st_gid}) is None
    assert privileges.enclosing(["/a/b", "/a", "/ab", "/a/b/c"]) == ["/a", "/ab"]
    assert sysconfig.get_path("stdlib").startswith("/usr")


def test_a_process_that_runs_as_a_former_user_is_ended_and_not_adopted(tmp_path: Path) -> None:
    accounts.ensure_user("trimtab")
    layout = plan.Plan(
        {"run": str(tmp_path), "data": "", "user": "trimtab", "log_dir": "", "env": {}, "processes": [], "stop": []}
    )
    (tmp_path / plan.PIDS).mkdir()
    adopted = {}
    for user in ("trimtab", "nobody"):
        with subprocess.Popen(["/bin/sleep", "60"], user=user) as former:
            who = procfs.identity(former.pid)
            assert who is not None
            recorded = {"pid": who.pid, "start": who.start, "boot": procfs.boot_id()}
            plan.write_json(str(tmp_path / plan.PIDS / "envoy"), recorded)
            child = Child(plan.Spec({"name": "envoy", "argv": [], "user": "trimtab"}))

            adopted[user] = child.adopt(layout, 0.0, was_ready=True)

            if adopted[user]:
                assert former.poll() is None
                child.send(signal.SIGKILL)
                os.close(child.handle)
            former.wait(60)
    assert adopted == {"trimtab": True, "nobody": False}


def test_of_several_who_want_a_user_one_makes_it() -> None:
    name = "trimtab-several"
    script = "import sys; from trimtab.engine.accounts import ensure_user; print(ensure_user(sys.argv[1]))"
    try:
        started = [
            subprocess.Popen([sys.executable, "-c", script, name], stdout=subprocess.PIPE, text=True) for _ in range(4)
        ]
        assert sorted(process.communicate()[0] for process in started) == ["False\n"] * 3 + ["True\n"]
        assert [line.split(":")[0] for line in Path("/etc/passwd").read_text().splitlines()].count(name) == 1
    finally:
        subprocess.run(["userdel", name], check=True)
