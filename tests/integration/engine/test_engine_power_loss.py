"""A real engine loses power while it works, and is started again as at boot: everything that was acknowledged is there."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import ssl
import subprocess
import threading
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from counting_pod import count_forever, counted, volume_of
from engine_under_test import EngineUnderTest, engine, wait_for
from trimtab.engine import datadir, lifecycle, local, procfs
from trimtab.runtime.settings import Settings

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

TORN_BYTES = 3000
NOT_SYNCED = ("proxy", "node/cni", "node/registries", "node/containerd.toml", "admin.kubeconfig")
"""What a start makes anew: after a power loss, such a file may be there with nothing in it."""


def processes(settings: Settings) -> set[int]:
    """Everything that runs for the engine: its own processes, containers, and their shims."""
    state = lifecycle.state_of(settings)
    found = {state["supervisor"]["pid"], state["guardian"]}
    found |= {process["pid"] for process in state["processes"].values() if process["pid"]}
    found |= set(lifecycle.containers_left(settings))
    for group in Path("/sys/fs/cgroup").glob(f"*/{settings.cgroup.strip('/')}"):
        for folder, _, _ in os.walk(group):
            with contextlib.suppress(OSError):  # it goes with its last process
                found |= {int(pid) for pid in Path(folder, "cgroup.procs").read_text().split()}
    return found


def cut_power(settings: Settings) -> None:
    """Ends everything at once, and takes away what a reboot takes away."""
    state = lifecycle.state_of(settings)
    for watcher in (state["guardian"], state["supervisor"]["pid"]):
        os.kill(watcher, signal.SIGSTOP)  # so that nobody starts anything again in between
    while left := {pid for pid in processes(settings) if procfs.identity(pid) is not None}:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        point = line.split()[4]
        if point.startswith((f"{settings.data}/", f"{settings.run}/")):
            subprocess.run(["umount", "--lazy", point], check=True)
    subprocess.run(["ip", "link", "delete", settings.bridge], check=True)
    subprocess.run(["nft", "delete", "table", "inet", settings.nft_table], check=False, capture_output=True)
    shutil.rmtree(settings.run)


def tear(settings: Settings) -> None:
    """What was being written when the power went: half a page behind each log, files without content."""
    for database in ("store/store.sqlite", "journal/journal.sqlite"):
        with open(settings.data_path(f"{database}-wal"), "ab") as file:
            file.write(os.urandom(TORN_BYTES))
        settings.data_path(f"{database}-shm").unlink()
    for name in NOT_SYNCED:
        top = settings.data_path(name)
        for path in [top, *top.rglob("*")]:
            if path.is_file():
                os.truncate(path, 0)


def acknowledge_forever(settings: Settings, over: threading.Event, acknowledged: list[int]) -> None:
    """Changes an object over and over; notes each change that the API acknowledged."""
    number = 0
    while not over.is_set():
        change = {"data": {"number": str(number)}}
        if local.merge_patch(settings.api_socket, "/api/v1/namespaces/default/configmaps/acked", change) == 200:
            acknowledged.append(number)
            number += 1


def test_everything_comes_back_after_a_power_loss(tmp_path: Path) -> None:
    with engine(tmp_path / "data") as running:
        settings = datadir.load(running.data)
        count_forever(running)
        running.run(
            "apply", "-f", "-", input="apiVersion: v1\nkind: ConfigMap\nmetadata: {name: acked}\ndata: {number: x}\n"
        )
        wait_for(lambda: counted(running) > 20, 60, "the pod to count")
        acknowledged: list[int] = []
        over = threading.Event()
        writer = threading.Thread(target=acknowledge_forever, args=(settings, over, acknowledged))
        writer.start()
        try:
            wait_for(lambda: len(acknowledged) > 50, 30, "acknowledged changes")

            cut_power(settings)
        finally:
            over.set()
            writer.join()
        tear(settings)
        last = counted(running)

        running.start()

        wait_for(lambda: counted(running) > last + 20, 60, "the pod to go on counting")
        assert f"began after {last}" in (volume_of(running) / "history").read_text()
        number = int(running.json("get", "configmap", "acked")["data"]["number"])
        assert number in (acknowledged[-1], acknowledged[-1] + 1)  # the one on its way may or may not have come through
        assert_serves(running)


def assert_serves(running: EngineUnderTest) -> None:
    """API over TLS, and the proxy with its certificate, which was without content."""
    kubeconfig = str(running.data / "admin.kubeconfig")
    done = running.run("--kubeconfig", kubeconfig, "get", "nodes")
    assert "node-1" in done.stdout
    answer = wait_for(lambda: reached(running), 30, "Envoy to serve")
    assert answer == 404  # there is no app; the proxy says so itself


def reached(running: EngineUnderTest) -> int | None:
    """What Envoy answers over TLS for a name that nobody has; it shows its own certificate then."""
    connection = HTTPSConnection("127.0.0.1", running.https_port, timeout=5, context=ssl._create_unverified_context())
    try:
        connection.request("GET", "/", headers={"Host": "nobody.localhost"})
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()
