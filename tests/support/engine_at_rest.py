"""An engine that has everything on disk and runs no process: what backups are made of, within milliseconds."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine_under_test import free_port, wait_for
from trimtab.engine import accounts, datadir, pki, planning
from trimtab.engine.backup import create as creating
from trimtab.engine.backup import keeping, keys
from trimtab.engine.backup import restore as restoring
from trimtab.engine.backup.format import Commit
from trimtab.engine.backup.objects import Objects
from trimtab.engine.processes import JOURNAL
from trimtab.runtime.journal import Journal
from trimtab.runtime.settings import Settings
from trimtab.store import Put, Store

ROOT = Path(__file__).parents[2]
S3_SERVER = ROOT / "build" / "s3" / "bin" / "moto_server"


def engine_at_rest(data: Path) -> Settings:
    """A new engine with keys, a store and a journal. As root."""
    ports = {name: free_port() for name in datadir.PORTS}
    settings, _ = datadir.create(data, ports)
    for user in (settings.user, settings.proxy_user, settings.web_user):
        accounts.ensure_user(user)
    datadir.prepare(settings)
    write(settings, {"/core/configmaps/default/first": b'{"data":{"kept":"yes"}}'})

    def make() -> None:
        Journal(settings.data_path(*JOURNAL)).close()
        pki.ensure(settings)

    accounts.as_user(settings.user, planning.program_directories(), [settings.data], make)
    return settings


def write(settings: Settings, records: dict[str, bytes]) -> None:
    """Puts records into the store, as its user."""

    async def put() -> None:
        store = await Store.open(settings.data_path("store", "store.sqlite"))
        await store.write([Put(key, value) for key, value in records.items()])
        await store.close()

    accounts.as_user(settings.user, planning.program_directories(), [settings.data], lambda: asyncio.run(put()))


def stored(settings: Settings) -> dict[str, bytes]:
    """Every live record of the store, read as root from a copy."""

    async def read() -> dict[str, bytes]:
        store = await Store.open(settings.data_path("store", "store.sqlite"))
        found = {record.key: record.value for record in store.list("")}
        await store.close()
        return found

    return asyncio.run(read())


def say(line: str) -> None:
    """Nobody listens."""


def backup(engine: Settings, place: Objects, *recipients: str) -> Commit:
    return creating.create(engine, place, recipients, say)


def identity(engine: Settings) -> list[object]:
    return keys.identities(keys.directory(engine) / keys.IDENTITY)


def restore(engine: Settings, place: Objects, target: Path, wanted: str = keeping.LATEST) -> Settings:
    restoring.restore(target, place, wanted, identity(engine), say)
    return datadir.load(target)


def wait_a_second(commit: Commit) -> None:
    """Ids of backups differ by the second."""
    while time.time() < commit.created.timestamp() + 1:
        time.sleep(0.02)


@contextmanager
def s3_server() -> Iterator[str]:
    """A real S3 server in a process; its address."""
    port = free_port()
    server = subprocess.Popen(
        [S3_SERVER, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        import socket

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listens, 30, "the S3 server to listen")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()
