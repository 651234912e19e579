"""Who may do what on an engine: each of its users tries the API's socket, the proxy's, and everybody's files."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine_under_test import TRIMTAB, EngineUnderTest, engine, wait_for
from passable import passable_directory
from trimtab.engine import datadir

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ASK = """
import http.client, json, socket, sys
address, requests = sys.argv[1], json.loads(sys.argv[2])
answers = []
for method, path, headers in requests:
    connection = http.client.HTTPConnection("api", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(10)
    try:
        connection.sock.connect(address)
        connection.request(method, path, "{}" if method == "POST" else None, headers)
        answer = connection.getresponse()
        body = answer.read().decode()
        answers.append([answer.status, json.loads(body).get("message", "") if body.startswith("{") else body])
    except OSError as err:
        answers.append([0, type(err).__name__])
print(json.dumps(answers))
"""
READABLE = """
import json, sys
found = []
for path in sys.argv[1:]:
    try:
        open(path, "rb").close()
        found.append(path)
    except PermissionError:
        pass
print(json.dumps(found))
"""
PODS, SECRETS = "/api/v1/pods", "/api/v1/secrets"
NEW = "/api/v1/namespaces/default/configmaps"


@pytest.fixture(scope="module")
def running() -> Iterator[EngineUnderTest]:
    with passable_directory() as base, engine(base / "data") as made:
        yield made


def as_user(name: str, script: str, *arguments: str, group: str | None = None) -> Any:
    account = pwd.getpwnam(name)
    gid = pwd.getpwnam(group).pw_gid if group else account.pw_gid
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-c", script, *arguments],
        user=account.pw_uid, group=gid, extra_groups=[], cwd="/", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ask(
    running: EngineUnderTest, user: str, *requests: tuple[str, str], headers: dict[str, str] | None = None, **named: Any
) -> list[tuple[int, str]]:
    wanted = [[method, path, headers or {}] for method, path in requests]
    socket = str(datadir.load(running.data).api_socket)
    return [(status, text) for status, text in as_user(user, ASK, socket, json.dumps(wanted), **named)]


def test_root_may_do_everything(running: EngineUnderTest) -> None:
    assert [status for status, _ in ask(running, "root", ("GET", SECRETS), ("GET", PODS))] == [200, 200]


def test_the_dashboard_may_read_and_nothing_else(running: EngineUnderTest) -> None:
    pods, secrets, written, deleted = ask(
        running, "trimtab-web", ("GET", PODS), ("GET", SECRETS), ("POST", NEW), ("DELETE", "/api/v1/nodes/node-1")
    )

    assert pods[0] == 200
    assert secrets == (
        403,
        'secrets is forbidden: User "system:trimtab:web" cannot list resource "secrets" in API group "" at the cluster scope',
    )
    assert (written[0], deleted[0]) == (403, 403)
    [(status, text)] = ask(running, "trimtab-web", ("GET", SECRETS), headers={"Impersonate-User": "system:admin"})
    assert (status, "cannot impersonate" in text) == (403, True)


def test_the_controllers_may_do_what_their_components_declare(running: EngineUnderTest) -> None:
    pods, roles, node = ask(
        running,
        "trimtab",
        ("GET", PODS),
        ("DELETE", "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin"),
        ("POST", "/api/v1/namespaces/default/serviceaccounts/default/token"),
    )

    assert pods[0] == 200
    assert (roles[0], 'User "system:trimtab:controllers" cannot delete' in roles[1]) == (403, True)
    assert node[0] == 403


@pytest.mark.parametrize("user", ["trimtab-proxy", "nobody"])
def test_nobody_else_reaches_the_socket(running: EngineUnderTest, user: str) -> None:
    assert ask(running, user, ("GET", PODS)) == [(0, "PermissionError")]


def test_a_uid_that_the_api_does_not_know_is_refused_even_behind_the_door(running: EngineUnderTest) -> None:
    [(status, text)] = ask(running, "nobody", ("GET", "/readyz"), group="trimtab-web")

    uid = pwd.getpwnam("nobody").pw_uid
    assert status == 403
    assert text == (
        f"user nobody (uid {uid}) may not use the engine's socket: "
        "give a kubeconfig (`sudo trimtab kubeconfig` prints one)"
    )


def test_the_proxys_admin_socket_is_for_the_controllers(running: EngineUnderTest) -> None:
    socket = str(datadir.load(running.data).envoy_admin_socket)
    wanted = json.dumps([["GET", "/ready", {}]])

    assert as_user("trimtab", ASK, socket, wanted)[0][0] == 200
    for user in ("trimtab-web", "nobody"):
        assert as_user(user, ASK, socket, wanted) == [[0, "PermissionError"]]


def test_each_user_reads_its_own_files(running: EngineUnderTest) -> None:
    data = running.data
    files = {
        "store": data / "store" / "store.sqlite",
        "token": data / "pki" / "admin.token",
        "ca key": data / "pki" / "ca.key",
        "image key": data / "pki" / "images.key",
        "kubeconfig": data / "admin.kubeconfig",
        "journal": data / "journal" / "journal.sqlite",
        "proxy": data / "proxy" / "lds.json",
        "tls keys": next((data / "proxy" / "sds").iterdir()),
        "api log": data / "log" / "api.log",
        "envoy log": data / "log" / "envoy.log",
        "access log": data / "log" / "proxy" / "access.log",
        "settings": data / "engine.json",
    }

    def read_by(user: str) -> set[str]:
        found = as_user(user, READABLE, *map(str, files.values()))
        return {name for name, path in files.items() if str(path) in found}

    assert read_by("trimtab") == set(files) - {"kubeconfig"}
    assert read_by("trimtab-proxy") == {"proxy", "tls keys", "envoy log", "access log", "settings"}
    assert read_by("trimtab-web") == {"journal", "settings"}
    assert read_by("nobody") == {"settings"}


def test_data_of_a_version_with_one_user_is_taken_over(running: EngineUnderTest) -> None:
    running.run("stop")
    everything = pwd.getpwnam("trimtab")
    for name in ("proxy", "journal", "log/proxy"):
        folder = running.data / name
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, everything.pw_uid, everything.pw_gid)
            path.chmod(0o700 if path.is_dir() else 0o644 if name == "journal" else 0o600)
    before = {path.name for path in (running.data / "proxy").rglob("*")}

    running.run("start")

    web = f"http://127.0.0.1:{running.web_port}/api/stream"

    def timeline() -> bool:
        stream = subprocess.run(["curl", "-sN", "-m", "1", web], capture_output=True, text=True, check=False)
        return "engine started" in stream.stdout

    wait_for(timeline, 20, "the dashboard's timeline")
    assert {path.name for path in (running.data / "proxy").rglob("*")} == before
    proxy = pwd.getpwnam("trimtab-proxy")
    assert {path.stat().st_gid for path in Path(running.data / "proxy").rglob("*")} == {proxy.pw_gid}
    log = running.data / "log" / "proxy" / "access.log"
    wait_for(lambda: log.exists() and log.stat().st_uid == proxy.pw_uid, 10, "Envoy's own access log")


AS_NOBODY = """
import os, sys
from trimtab.engine import planning, privileges
data, program, *arguments = sys.argv[1:]
privileges.clear_the_way(*privileges.ids_of("nobody"), planning.program_directories(), [data], ())
privileges.become("nobody")
os.environ["HOME"] = "/nonexistent"
os.chdir("/")
os.execv(program, [program, "--data", data, *arguments])
"""


def as_nobody(running: EngineUnderTest, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", AS_NOBODY, str(running.data), str(TRIMTAB), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["start"], "trimtab start needs root (it runs containers and networks): run it with sudo"),
        (["stop"], "trimtab stop needs root (it runs containers and networks): run it with sudo"),
        (["uninstall"], "trimtab uninstall needs root (it runs containers and networks): run it with sudo"),
        (["timeline"], "{data}/journal/journal.sqlite cannot be read: run this with sudo"),
        (["why", "pod/x"], "{data}/journal/journal.sqlite cannot be read: run this with sudo"),
        (["kubeconfig"], "{data}/pki/ca.crt cannot be read: run this as root"),
        (
            ["get", "pods"],
            "{data}/admin.kubeconfig cannot be read: run this with sudo, or give a --kubeconfig that you may read",
        ),
        (["up", "{app}"], "up puts images into {data}/content, which you may not write: run it with sudo"),
    ],
)
def test_without_root_each_command_says_what_it_lacks(
    running: EngineUnderTest, arguments: list[str], line: str
) -> None:
    app = running.data.parent / "app"
    app.mkdir(exist_ok=True)
    (app / "ship.yaml").write_text("name: a\nprocesses: {web: {command: 'true', port: 80}}\n")
    done = as_nobody(running, *(part.format(app=app) for part in arguments))
    assert done.stderr == f"trimtab: {line.format(data=running.data)}\n"
    assert done.returncode == 1


def test_without_root_the_processes_are_shown(running: EngineUnderTest) -> None:
    done = as_nobody(running, "status")
    assert "Traceback" not in done.stderr
    assert "controllers" in done.stdout
    assert "node and apps are shown to root only: run this with sudo" in done.stdout


def test_a_damaged_kubeconfig_is_put_right(running: EngineUnderTest) -> None:
    config = running.data / "admin.kubeconfig"
    good = config.read_text()
    config.write_text("{{{")

    assert running.run("kubeconfig").stdout == good

    assert config.read_text() == good
    assert config.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")
def test_kubectl_says_that_there_is_no_such_kind(running: EngineUnderTest) -> None:
    manifest = '{"apiVersion": "v1", "kind": "Pood", "metadata": {"name": "x"}}'
    done = subprocess.run(
        ["kubectl", "--kubeconfig", str(running.data / "admin.kubeconfig"), "apply", "-f", "-"],
        input=manifest, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'no matches for kind "Pood" in version "v1"' in done.stderr


# What strangers push

DEADLINE_S = 120
ENDED = ("Succeeded", "Failed", "Error")
PEEKS = 'x = open("/etc/passwd").read()\n'


def git(repository: Path, *arguments: str) -> str:
    """What git says; with no configuration but the repository's."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    clean |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0"}
    command = ["git", "-C", str(repository), "-c", "user.name=Anna", "-c", "user.email=anna@example.com", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False, env=clean)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def ended(running: EngineUnderTest) -> Any:
    """The only run, once it has ended."""
    found = running.json("get", "pipelineruns")["items"]
    return found[0] if len(found) == 1 and found[0].get("status", {}).get("phase") in ENDED else None


def kept(running: EngineUnderTest) -> list[str]:
    """What is on the disk of Pipelines and their runs."""
    places = [running.data / "pipelines" / name for name in ("git", "runs", "work", "pushes")]
    return [f"{place.name}/{name}" for place in places if place.is_dir() for name in os.listdir(place)]


def test_a_push_is_run_apart_and_leaves_nothing(running: EngineUnderTest, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "-b", "main")
    (tmp_path / "ship.py").write_text(PEEKS)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "Peek")
    running.run("remote", "peek", "-C", str(tmp_path))

    said = git(tmp_path, "push", "trimtab", "main")

    run = wait_for(lambda: ended(running), DEADLINE_S, "the end of the run")
    assert f"remote: trimtab: run {run['metadata']['name']}" in said
    assert run["status"]["phase"] == "Error"
    assert run["status"]["message"].startswith("ship.py:1: reads or writes /etc/passwd while the pipeline is defined")
    assert running.wait_timeline("push of main", "by system:admin: Peek")

    page = (
        f"http://127.0.0.1:{running.web_port}/api/pages/pipelines/pipelineruns/default/{run['metadata']['name']}/report"
    )
    shown = subprocess.run(["curl", "-s", page], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert "the run has not ended yet, or could not be begun" in shown.stdout, "the dashboard may read it"

    running.run("delete", "pipeline", "peek")
    wait_for(lambda: not kept(running), DEADLINE_S, "nothing to be left of the Pipeline and its run")
