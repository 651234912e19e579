"""Patroni, as it is published, keeps its state in Endpoints or ConfigMaps: three members with real PostgreSQL, the leader
killed, the API server killed meanwhile. At no moment may two members write.

Each member runs in a user namespace in which the tests' user is not root, since PostgreSQL refuses to be run by root.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from api_process import free_port
from client_programs import OWN_SERVER, PROGRAMS, own_server, until

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not POSTGRES, reason="no PostgreSQL: install the Debian package postgresql"),
    pytest.mark.skipif(not (PROGRAMS / "patroni").exists(), reason="no build/clients: make setup-test"),
]
LABELS = {"application": "patroni", "cluster-name": "fleet"}
NOT_ROOT = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
# Patroni gives up the leadership within `ttl`; a crowded machine may take its time to elect.
DEADLINE_S = 180.0


class Member:
    """One Patroni with its PostgreSQL."""

    def __init__(self, name: str, folder: Path, kubeconfig: Path, use_endpoints: bool) -> None:
        self.name = name
        self.folder = folder
        folder.mkdir()
        self.port, self.postgres_port = free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None
        accounts = {role: {"username": role, "password": "x"} for role in ("superuser", "replication", "rewind")}
        self._config = folder / "patroni.json"
        self._config.write_text(
            json.dumps(
                {
                    "scope": "fleet",
                    "name": name,
                    "restapi": {"listen": f"127.0.0.1:{self.port}", "connect_address": f"127.0.0.1:{self.port}"},
                    "kubernetes": {
                        "namespace": "default",
                        "context": json.loads(kubeconfig.read_text())["current-context"],
                        "labels": {"application": "patroni"},
                        "use_endpoints": use_endpoints,
                        "pod_ip": "127.0.0.1",
                        "ports": [{"port": self.postgres_port, "name": "postgresql"}],
                    },
                    "bootstrap": {
                        "dcs": {"ttl": 20, "loop_wait": 2, "retry_timeout": 5, "postgresql": {"use_pg_rewind": True}},
                        "initdb": ["data-checksums", {"encoding": "UTF8"}, "no-sync"],
                    },
                    "postgresql": {
                        "listen": f"127.0.0.1:{self.postgres_port}",
                        "connect_address": f"127.0.0.1:{self.postgres_port}",
                        "data_dir": str(folder / "data"),
                        "bin_dir": str(POSTGRES[-1]),
                        "pgpass": str(folder / "pgpass"),
                        "authentication": accounts,
                        "parameters": {"unix_socket_directories": "", "fsync": "off", "shared_buffers": "16MB"},
                        "pg_hba": ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
                    },
                }
            )
        )
        self._environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "LC_ALL": "C.UTF-8"}

    def start(self) -> None:
        with (self.folder / "patroni.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*NOT_ROOT, str(PROGRAMS / "patroni"), str(self._config)],
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    def kill(self) -> None:
        """kill -9 of Patroni and of its PostgreSQL, as a machine that goes dark."""
        if self.process is not None:
            postmaster = self.folder / "data/postmaster.pid"
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            if postmaster.exists():
                for number in _tree(int(postmaster.read_text().split()[0]), str(self.folder)):
                    # Without the first one, the others end by themselves.
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(number, signal.SIGKILL)

    def role(self) -> str:
        """`primary`, `replica` ...; empty when it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/patroni", timeout=5) as answer:
                return str(json.load(answer).get("role", ""))
        except urllib.error.HTTPError as err:
            with err:
                return str(json.load(err).get("role", ""))
        except (OSError, ValueError):
            return ""

    def sql(self, query: str) -> str | None:
        """What PostgreSQL answers; None when it does not, or refuses."""
        where = f"host=127.0.0.1 port={self.postgres_port} user=superuser dbname=postgres connect_timeout=5"
        command = [str(POSTGRES[-1] / "psql"), "-qAtX", where, "-c", query]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    def last_words(self) -> str:
        return f"{self.name}: {(self.folder / 'patroni.log').read_text()[-1500:]}"


def _tree(first: int, folder: str) -> list[int]:
    """A postmaster and its children, if that process is the one of this folder."""
    command = Path(f"/proc/{first}/cmdline")
    if not command.exists() or folder.encode() not in command.read_bytes():
        return []
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    return [first, *map(int, children)]


class WriteEverywhere(threading.Thread):
    """Writes to every member again and again and notes which accepted it when: two at once is a split brain."""

    def __init__(self, members: list[Member]) -> None:
        super().__init__()
        self._members = members
        self._done = threading.Event()
        self.accepted: list[tuple[float, float, str, int]] = []

    def run(self) -> None:
        number = 0
        while not self._done.wait(0.2):
            for member in self._members:
                number += 1
                began = time.monotonic()
                timeline = member.sql(
                    f"INSERT INTO written VALUES ({number}); SELECT timeline_id FROM pg_control_checkpoint()"
                )
                if timeline is not None:
                    self.accepted.append((began, time.monotonic(), member.name, number))

    def finish(self) -> None:
        self._done.set()
        self.join()


@OWN_SERVER
@pytest.mark.parametrize("use_endpoints", [True, False], ids=["endpoints", "configmaps"])
def test_patroni_fails_over_and_never_splits(use_endpoints: bool, tmp_path: Path) -> None:
    with own_server(tmp_path) as server:
        client = kubernetes.config.new_client_from_config(str(server.kubeconfig()))
        members = [Member(f"m{n}", tmp_path / f"m{n}", server.kubeconfig(), use_endpoints) for n in range(3)]
        writer = WriteEverywhere(members)
        try:
            _make_pods(client, members)
            for member in members:
                member.start()
            first = _leader(members, "the first leader")
            until(
                lambda: sorted(m.role() for m in members) == ["primary", "replica", "replica"],
                _words(members),
                DEADLINE_S,
            )
            assert first.sql("CREATE TABLE written (number int)") is not None
            assert first.sql("ALTER SYSTEM RESET ALL") is not None
            writer.start()

            # The API server dies and comes back: the leader may step down, but nobody else may write beside it.
            server.kill()
            server.start()
            before = _leader(members, "a leader after the API server came back")

            dark = time.monotonic()
            before.kill()
            rest = [m for m in members if m is not before]
            after = _leader(rest, "a leader in its stead")
            until(
                lambda: any(began > dark for began, _, name, _ in writer.accepted if name == after.name),
                "it takes writes",
                DEADLINE_S,
            )
            failover_s = (
                next(end for began, end, name, _ in writer.accepted if name == after.name and began > dark) - dark
            )

            before.start()
            until(lambda: before.role() == "replica", _words(members), DEADLINE_S)
            writer.finish()
            _check_one_writer(writer.accepted)
            assert _holder(client, use_endpoints) == after.name
            print(f"failover took {failover_s:.1f} s")
            # What the new leader acknowledged is there.
            kept = set((after.sql("SELECT number FROM written") or "").split())
            late = {str(number) for began, _, name, number in writer.accepted if name == after.name}
            assert late <= kept
        finally:
            if writer.is_alive():
                writer.finish()
            for member in members:
                member.kill()
            client.rest_client.pool_manager.clear()
            client.close()


def _make_pods(client: Any, members: list[Member]) -> None:
    """Patroni tells of a member in its pod's annotations, so there must be pods."""
    core = kubernetes.client.CoreV1Api(client)
    until(lambda: core.list_namespaced_service_account("default").items or _make_account(core), "an account")
    for member in members:
        spec = {"containers": [{"name": "postgres", "image": "postgres"}], "automountServiceAccountToken": False}
        core.create_namespaced_pod("default", {"metadata": {"name": member.name, "labels": LABELS}, "spec": spec})


def _make_account(core: Any) -> bool:
    core.create_namespaced_service_account("default", {"metadata": {"name": "default"}})
    return True


def _leader(members: list[Member], which: str) -> Member:
    def leading() -> list[Member]:
        return [m for m in members if m.role() == "primary" and m.sql("SELECT pg_is_in_recovery()") == "f"]

    until(leading, _words(members, which), DEADLINE_S)
    return leading()[0]


def _words(members: list[Member], wanted: str = "one primary and replicas") -> Callable[[], str]:
    return lambda: "\n".join([wanted, *(member.last_words() for member in members)])


def _holder(client: Any, use_endpoints: bool) -> str:
    core = kubernetes.client.CoreV1Api(client)
    read = core.read_namespaced_endpoints if use_endpoints else core.read_namespaced_config_map
    found = read("fleet" if use_endpoints else "fleet-leader", "default")
    return str(found.metadata.annotations["leader"])


def _check_one_writer(accepted: list[tuple[float, float, str, int]]) -> None:
    """Each turn of writers is an election: the API server's death may cost one, the leader's one. The members are asked in
    turns, so with two writers it would go to and fro."""
    order = [name for _, _, name, _ in accepted]
    turns = [name for position, name in enumerate(order) if position == 0 or order[position - 1] != name]
    assert len(turns) <= 3, turns
