"""A real engine: it boots, heals whatever is killed, stops, starts, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from engine_under_test import TRIMTAB, EngineUnderTest, engine, free_port, wait_for
from node_world import busybox_image
from trimtab.content import ContentStore
from trimtab.engine import datadir, lifecycle, procfs
from trimtab.engine.plan import STATE, read_json
from trimtab.runtime.settings import Settings

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PROCESSES = ("api", "containerd", "controllers", "envoy", "node", "web")
HEALED_S = 60.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with engine(tmp_path_factory.mktemp("engine") / "data") as made:
        yield made


def settings_of(under_test: EngineUnderTest) -> Settings:
    return datadir.load(under_test.data)


def state(under_test: EngineUnderTest) -> dict[str, Any]:
    found = read_json(str(datadir.supervisor_run(settings_of(under_test)) / STATE))
    assert isinstance(found, dict)
    return found


def pids(under_test: EngineUnderTest) -> dict[str, int]:
    return {name: process["pid"] for name, process in state(under_test)["processes"].items()}


def all_ready(under_test: EngineUnderTest) -> bool:
    return all(process["state"] == "ready" for process in state(under_test)["processes"].values())


def run_pod(under_test: EngineUnderTest, name: str) -> None:
    """Runs a pod that says something every second, and waits until it is Ready."""
    image = busybox_image(ContentStore(under_test.data / "content"))
    script = "trap 'exit 0' TERM; while true; do echo alive; sleep 1 & wait $!; done"
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": image, "command": ["/bin/sh", "-c", script]}]},
    }
    under_test.run("apply", "-f", "-", input=json.dumps(manifest))
    wait_for(lambda: container_of(under_test, name), 30, f"pod {name} is ready")


def container_of(under_test: EngineUnderTest, name: str) -> tuple[str, int] | None:
    """The pod's container id and restart count, once it is ready."""
    done = under_test.run("get", "pod", name, "-o", "json", check=False)
    if done.returncode != 0:
        return None
    statuses = json.loads(done.stdout).get("status", {}).get("containerStatuses", [])
    if not statuses or not statuses[0]["ready"]:
        return None
    return statuses[0]["containerID"], statuses[0]["restartCount"]


def traces(settings: Settings) -> list[str]:
    """Everything on this machine that bears the engine's name."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and procfs.identity(int(entry)) is not None:
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if (settings.run in line or settings.data in line) and int(entry) != os.getpid():
                found.append(f"process {entry}: {line}")
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line.split()[4]}" for line in mounts if settings.run in line or settings.data in line]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    found += [f"nft {line}" for line in tables.splitlines() if settings.id in line]
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    found += [f"link {line}" for line in links.splitlines() if settings.id in line]
    for base in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
        found += [f"cgroup {path}" for path in base.glob(f"trimtab-{settings.id}*")]
    return found


def test_the_engine_boots_and_its_numbers_are_told(running: EngineUnderTest) -> None:
    report = running.json("status")
    assert report["state"] == "running"
    assert {p["name"] for p in report["processes"]} == {"supervisor", "guardian", *PROCESSES}
    assert [node["ready"] for node in report["nodes"]] == ["Ready"]
    users = {p["name"]: os.stat(f"/proc/{p['pid']}").st_uid for p in report["processes"]}
    assert {name for name, uid in users.items() if uid == 0} >= {"supervisor", "guardian", "containerd", "node"}
    accounts = {"api": "trimtab", "controllers": "trimtab", "web": "trimtab-web", "envoy": "trimtab-proxy"}
    for name, account in accounts.items():
        status = Path(f"/proc/{running.pid(name)}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert f"Uid:\t{datadir.ids_of(account)[0]}" in status
    supervisor = next(p for p in report["processes"] if p["name"] == "supervisor")
    assert supervisor["rss_bytes"] < 15_000_000
    entry = running.wait_timeline("engine started: 6 processes ready after")
    assert entry["duration_ms"] > 0


def test_a_certificate_is_renewed_while_connections_go_on(running: EngineUnderTest) -> None:
    settings = settings_of(running)
    token = settings.data_path("pki", "admin.token").read_text().strip()
    trusting = ssl.create_default_context(cafile=str(settings.data_path("pki", "ca.crt")))
    address = ("127.0.0.1", settings.api_port)

    def served() -> Any:
        with trusting.wrap_socket(socket.socket(), server_hostname=address[0]) as secured:
            secured.connect(address)
            return secured.getpeercert()

    with http_watch(address, trusting, token) as lines:
        before, api = served(), pids(running)["api"]
        settings.data_path("pki", "apiserver.crt").unlink()

        os.kill(api, signal.SIGHUP)

        wait_for(lambda: served()["serialNumber"] != before["serialNumber"], 10, "a new certificate")
        running.run("apply", "-f", "-", input="apiVersion: v1\nkind: ConfigMap\nmetadata: {name: after-renewal}\n")
        assert any(b'"after-renewal"' in line for line in lines)
        assert pids(running)["api"] == api


@contextmanager
def http_watch(address: tuple[str, int], trusting: ssl.SSLContext, token: str) -> Iterator[Iterator[bytes]]:
    """The lines of an open watch of ConfigMaps."""
    connection = HTTPSConnection(*address, timeout=60, context=trusting)
    path = "/api/v1/namespaces/default/configmaps?watch=true"
    connection.request("GET", path, headers={"authorization": f"Bearer {token}"})
    with closing(connection), connection.getresponse() as response:
        assert response.status == 200
        yield iter(response.readline, b"")


def test_starting_a_running_engine_says_so(running: EngineUnderTest) -> None:
    done = running.run("start")
    assert done.stdout.startswith(f"already running: https://127.0.0.1:{running.api_port}")
    refused = running.run("start", "--port", str(free_port()), check=False)
    assert refused.returncode == 1
    assert refused.stderr == ("trimtab: the engine runs with other settings: stop it first, then start it with these\n")


def test_kubectl_reads_the_kubeconfig(running: EngineUnderTest, tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here")
    (tmp_path / "config").write_text(running.run("kubeconfig").stdout)
    (tmp_path / "config").chmod(0o600)
    done = subprocess.run(
        ["kubectl", "--kubeconfig", str(tmp_path / "config"), "get", "nodes"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert " Ready " in done.stdout


@pytest.mark.parametrize("name", PROCESSES)
def test_a_killed_process_heals_alone_and_the_pod_does_not_notice(running: EngineUnderTest, name: str) -> None:
    if not container_of(running, "steady"):
        run_pod(running, "steady")
    wait_for(lambda: all_ready(running), HEALED_S, "all processes are ready")
    container, before, last = container_of(running, "steady"), pids(running), running.last_entry()

    os.kill(before[name], signal.SIGKILL)

    entry = running.wait_timeline("was killed (signal 9)", "again after", "ms", after=last)
    assert entry["object"] == f"Process {name}"
    assert entry["duration_ms"] < HEALED_S * 1000
    after = pids(running)
    assert {n for n in PROCESSES if after[n] != before[n]} == {name}
    wait_for(lambda: container_of(running, "steady") == container, HEALED_S, "the same container, not restarted")


def test_all_killed_at_once_heal(running: EngineUnderTest) -> None:
    if not container_of(running, "steady"):
        run_pod(running, "steady")
    container, before, last = container_of(running, "steady"), pids(running), running.last_entry()

    for pid in before.values():
        os.kill(pid, signal.SIGKILL)

    for name in PROCESSES:
        wait_for(lambda name=name: pids(running)[name] not in (None, before[name]), HEALED_S, f"a new {name}")
    wait_for(lambda: all_ready(running), HEALED_S, "all ready")
    wait_for(lambda: container_of(running, "steady") == container, HEALED_S, "the pod went on")
    healed = {e["object"] for e in running.timeline() if e["id"] > last and e["verb"] == "healed"}
    assert healed >= {f"Process {name}" for name in PROCESSES}


def test_the_supervisor_and_its_guardian_heal_and_double_nothing(running: EngineUnderTest) -> None:
    wait_for(lambda: all_ready(running), HEALED_S, "all ready")
    before, last = pids(running), running.last_entry()
    for victim in ("supervisor", "guardian"):
        found = state(running)
        pid = found["supervisor"]["pid"] if victim == "supervisor" else found["guardian"]
        os.kill(pid, signal.SIGKILL)
        wait_for(
            lambda pid=pid: pid not in (state(running)["supervisor"]["pid"], state(running)["guardian"]),
            HEALED_S,
            f"another {victim}",
        )
    running.wait_timeline("supervisor was killed; running again after", "6 processes went on", after=last)
    assert pids(running) == before
    # An adopted process is healed as any other, and told with its signal.
    last = running.last_entry()
    os.kill(before["controllers"], signal.SIGKILL)
    running.wait_timeline("controllers was killed (signal 9); running again after", after=last)


def test_supervisor_and_guardian_killed_together_start_takes_over(running: EngineUnderTest) -> None:
    wait_for(lambda: all_ready(running), HEALED_S, "all ready")
    before, found = pids(running), state(running)
    both = [found["guardian"], found["supervisor"]["pid"]]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in both:
            os.kill(pid, number)
    wait_for(lambda: not any(procfs.identity(pid) for pid in both), HEALED_S, "both gone")
    report = json.loads(running.run("status", "-o", "json", check=False).stdout)
    assert report["state"] == "unsupervised"
    assert report["problems"] == [f"no supervisor runs; take over with `trimtab --data {running.data} start`"]

    running.start()

    assert pids(running) == before


def test_stop_keeping_pods_and_start_again(running: EngineUnderTest) -> None:
    if not container_of(running, "steady"):
        run_pod(running, "steady")
    container, envoy = container_of(running, "steady"), pids(running)["envoy"]

    done = running.run("stop", "--keep-pods")

    assert "pods keep running" in done.stdout
    assert procfs.identity(envoy) is not None
    assert lifecycle.containers_left(settings_of(running))
    running.start()
    assert pids(running)["envoy"] == envoy
    wait_for(lambda: container_of(running, "steady") == container, HEALED_S, "the same container")


def test_stop_leaves_nothing_and_the_next_start_brings_the_pods_back(running: EngineUnderTest) -> None:
    if not container_of(running, "steady"):
        run_pod(running, "steady")
    container = container_of(running, "steady")
    settings = settings_of(running)
    assert traces(settings)

    done = running.run("stop")

    assert "stopped after" in done.stdout
    assert traces(settings) == []
    assert running.run("stop").stdout == "not running\n"
    assert running.run("status", check=False).returncode == 3
    running.start()
    wait_for(
        lambda: container_of(running, "steady") not in (None, container), 30, "the pod runs again, in a new container"
    )


def test_what_was_left_without_supervisor_is_stopped_too(running: EngineUnderTest) -> None:
    settings = settings_of(running)
    found = state(running)
    both = [found["guardian"], found["supervisor"]["pid"]]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in both:
            os.kill(pid, number)
    wait_for(lambda: not any(procfs.identity(pid) for pid in both), HEALED_S, "both gone")

    done = running.run("stop")

    assert done.stdout.startswith("no supervisor runs; stopping what it left\n")
    assert traces(settings) == []
    running.start()


def test_a_taken_port_is_named_with_its_owner(running: EngineUnderTest) -> None:
    running.run("stop")
    try:
        with socket.socket() as squatter:
            squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            squatter.bind(("127.0.0.1", running.api_port))
            squatter.listen(1)
            refused = running.run("start", check=False)
        name = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
        assert refused.stderr == (
            f"trimtab: port {running.api_port} is in use by {name} (pid {os.getpid()}): "
            "stop that, or start with another --port\n"
        )
        assert refused.returncode == 1
    finally:
        running.start()


def test_a_copy_of_a_running_engine_is_refused(running: EngineUnderTest, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    shutil.copy(running.data / "engine.json", tmp_path / "copy" / "engine.json")

    refused = EngineUnderTest(tmp_path / "copy").run("start", check=False)

    assert refused.stderr == (
        f"trimtab: {tmp_path}/copy is a copy of {running.data}, whose engine runs: "
        f"stop that one first (`trimtab --data {running.data} stop`)\n"
    )
    assert EngineUnderTest(tmp_path / "copy").run("uninstall", "--yes", check=False).stderr == refused.stderr
    assert all_ready(running)


def test_uninstall_without_yes_keeps_the_data(tmp_path: Path) -> None:
    made = EngineUnderTest(tmp_path / "data")
    try:
        made.start()
        settings = settings_of(made)
        run_pod(made, "steady")

        done = made.run("uninstall")

        assert traces(settings) == []
        assert not Path(settings.run).exists()
        assert f"Delete it with `trimtab --data {made.data} uninstall --yes`" in done.stdout
        assert (made.data / "store" / "store.sqlite").exists()
    finally:
        made.run("uninstall", "--yes")
    assert not made.data.exists()


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """The same file under another name where one file system holds both, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def port_flags(under_test: EngineUnderTest) -> list[str]:
    ports = [under_test.api_port, under_test.http_port, under_test.https_port, under_test.web_port]
    names = ("port", "http-port", "https-port", "web-port")
    return [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]


def test_two_starts_at_once_make_one_engine(tmp_path: Path) -> None:
    made = EngineUnderTest(tmp_path / "data")
    command = [str(TRIMTAB), "--data", str(made.data), "start", *port_flags(made)]
    try:
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = [process.communicate(timeout=120)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0]
        assert sorted("already running" in text for text in said) == [False, True]
    finally:
        made.remove()


def test_the_foreground_engine_ends_with_its_signal_and_is_taken_over(tmp_path: Path) -> None:
    made = EngineUnderTest(tmp_path / "data")
    command = [str(TRIMTAB), "--data", str(made.data), "start", "--foreground"]
    try:
        with subprocess.Popen([*command, *port_flags(made)], stdout=subprocess.DEVNULL) as first:
            wait_for(lambda: (made.data / "engine.json").exists() and state_or_none(made), 30, "a state")
            wait_for(lambda: all_ready(made), 60, "all ready")
            assert state(made)["guardian"] is None
            before = pids(made)
            first.kill()  # as systemd would see it: the supervisor is gone, and is started again
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as second:
            wait_for(lambda: state(made)["supervisor"]["pid"] == second.pid and all_ready(made), 60, "taken over")
            assert pids(made) == before
            second.terminate()
            assert second.wait(60) == 0
        assert traces(settings_of(made)) == []
    finally:
        made.remove()


def state_or_none(under_test: EngineUnderTest) -> dict[str, Any] | None:
    return read_json(str(datadir.supervisor_run(settings_of(under_test)) / STATE))  # type: ignore[no-any-return]


def test_no_node_boots_without_containerd(tmp_path: Path) -> None:
    made = EngineUnderTest(tmp_path / "data")
    try:
        done = made.run("start", "--no-node", *port_flags(made))
        assert "API ready after" in done.stdout
        assert set(pids(made)) == {"api", "controllers", "envoy", "web"}
        assert "default" in made.run("get", "ns").stdout
    finally:
        made.run("uninstall", "--yes")


def test_a_program_and_data_below_a_closed_directory(tmp_path: Path) -> None:
    """The clone in /root: environment, sources and data below a directory that only root may enter."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    source = Path(lifecycle.__file__).parents[2]
    shutil.copytree(source / "trimtab", home / "src" / "trimtab", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home / "venv")], check=True)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = home / "venv" / "lib" / version / "site-packages"
    for entry in Path(json.__file__ and procfs.__file__ and sys.prefix, "lib", version, "site-packages").iterdir():
        if not entry.name.startswith(("_editable_impl", "kubernetes_validate", "nodejs", "mypy", "hypothesis")):
            if entry.is_dir():
                shutil.copytree(entry, packages / entry.name, copy_function=link_or_copy)
            else:
                link_or_copy(entry, packages / entry.name)
    (packages / "trimtab.pth").write_text(f"{home}/src\n")
    made = EngineUnderTest(home / "data")
    python = str(home / "venv" / "bin" / "python")

    def trimtab(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-m", "trimtab.cli", "--data", str(made.data), *arguments],
            capture_output=True, text=True, check=False, timeout=120, cwd="/",
        )  # fmt: skip

    try:
        done = trimtab("start", *port_flags(made))
        assert done.returncode == 0, done.stderr + made.logs()
        wait_for(lambda: all_ready(made), HEALED_S, "all ready")
        for name in ("api", "controllers", "web", "envoy"):
            pid = pids(made)[name]
            view = Path(f"/proc/{pid}/root{home}")
            assert {entry.name for entry in view.iterdir()} <= {"venv", "src", "data"}
        assert trimtab("get", "ns").returncode == 0
    finally:
        gone = trimtab("uninstall", "--yes")
    assert gone.returncode == 0, gone.stderr
    assert str(home) not in Path("/proc/self/mountinfo").read_text()
