"""Providers as processes: started again later and later, kept within their memory, let finish what they make; reconcilers that come and go."""

from __future__ import annotations

import asyncio
import getpass
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cloud import Cloud
from engine_under_test import wait_for
from managed_world import World
from trimtab.api import ObjectMeta
from trimtab.components.infrastructure import joining
from trimtab.components.infrastructure.kinds import Managed, Provider, ProviderConfig, ProviderSpec
from trimtab.components.infrastructure.loop.remembering import kept_of
from trimtab.components.infrastructure.loop.unhurried import to_its_end
from trimtab.components.infrastructure.programs.pool import Pool
from trimtab.components.infrastructure.programs.shelf import Shelf, ShutIn, confined
from trimtab.components.infrastructure.programs.terms import NotReady

GIVEN: dict[str, Any] = {"name": "web", "region": "eu"}
SERVER = "cloud_server"


class HeldUp(Cloud):
    """A cloud that makes some servers only when it is let: those whose name begins with `slow`."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()
        self.begun: list[str] = []

    def serve(self, method: str, target: str, login: str, body: Any) -> tuple[int, Any]:
        if method == "POST" and body["name"].startswith("slow"):
            self.begun.append(body["name"])
            self.let.wait()
        return super().serve(method, target, login, body)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    with HeldUp() as cloud:
        one = World(tmp_path, cloud)
        await one.start()
        try:
            yield one
        finally:
            cloud.let.set()
            await one.stop()


def held_up(world: World) -> HeldUp:
    assert isinstance(world.cloud, HeldUp)
    return world.cloud


async def test_what_takes_long_to_be_made_holds_up_no_other(world: World) -> None:
    for number in range(20):
        await world.declare(SERVER, f"slow-{number}", GIVEN | {"name": f"slow-{number}"})
    await world.until(lambda: len(held_up(world).begun) == 20, "all of them are being made")

    await world.declare(SERVER, "web", GIVEN)

    await world.until(lambda: world.cloud.all("servers"), "it is made")
    assert [one["name"] for one in world.cloud.all("servers")] == ["web"]


async def test_a_stop_waits_for_what_is_being_made_and_writes_it_down(world: World) -> None:
    await world.declare(SERVER, "web", GIVEN | {"name": "slow"})
    await world.until(lambda: held_up(world).begun, "it is being made")

    stopping = asyncio.create_task(world.rest())
    await asyncio.sleep(0)
    held_up(world).let.set()
    await stopping

    secret = await world.secret("web-server-state")
    assert secret is not None
    kept = kept_of(secret)
    assert kept is not None
    assert (kept.pending, kept.state["id"]) == ("", world.cloud.all("servers")[0]["id"])
    await world.work()
    await world.ready(SERVER, "web")
    assert len(world.cloud.all("servers")) == 1


async def test_a_step_that_does_not_end_is_broken_off() -> None:
    ended = asyncio.Event()

    async def for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(to_its_end(for_ever(), grace_s=0.01))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


# Kinds that come and go


async def test_enabling_a_kind_leaves_the_others_at_work_and_disabling_ends_its_watch(world: World) -> None:
    process = world.process
    assert process is not None
    for controller in [one for one in process.controllers if issubclass(one.reconciler.subject, Managed)]:
        await process.part(controller)
    service = asyncio.create_task(joining.kinds(process))
    try:
        before = set(process.informers)
        await enable(world, "cloud_network")
        (network,) = await joined(world, 1)
        await enable(world, "cloud_network", SERVER)
        both = await joined(world, 2)
        assert network in both

        await enable(world, "cloud_network")
        assert await joined(world, 1) == [network]

        def watched() -> set[str]:
            return {kind.__name__ for kind in set(process.informers) - before}

        await world.until(lambda: "Server" not in watched(), "what is disabled is not watched")
        assert watched() <= {"Network", "Secret", "ProviderConfig", "Effect", "Provider"}
    finally:
        service.cancel()
        await asyncio.wait([service])
    assert not [one for one in process.controllers if issubclass(one.reconciler.subject, Managed)]


async def enable(world: World, *kinds: str) -> None:
    spec = ProviderSpec(source="trimtab/cloud", kinds=list(kinds))
    await world.make(Provider(metadata=ObjectMeta(name="cloud"), spec=spec))


async def joined(world: World, count: int) -> list[Any]:
    process = world.process
    assert process is not None

    def found() -> list[Any]:
        return [one for one in process.controllers if issubclass(one.reconciler.subject, Managed)]

    await world.until(lambda: len(found()) == count, f"{count} kinds have joined")
    return found()


# Programs


class Broken:
    """A command that ends at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.starts = 0

    def __call__(self, provider: Provider) -> tuple[Sequence[str], Path, Mapping[str, str]]:
        self.starts += 1
        sockets = self.folder / f"sockets-{self.starts}"
        sockets.mkdir()
        return ["/bin/sh", "-c", "echo out of luck >&2; exit 3"], sockets, {}


async def test_a_program_that_ends_at_once_is_not_started_with_every_question(tmp_path: Path) -> None:
    command = Broken(tmp_path)
    pool = Pool(command)
    told = []
    for _ in range(3):
        with pytest.raises(NotReady) as refused:
            await pool.talk(Provider(metadata=ObjectMeta(name="cloud")), ProviderConfig(), {})
        told.append(str(refused.value))
    assert told[0] == "cloud: ended with status 3, saying 'out of luck', before it greeted: is it a Terraform provider?"
    assert told[1:] == [f"{told[0]}; it is started again in 1 s"] * 2
    assert command.starts == 1
    assert not list(tmp_path.iterdir())
    await pool.close()


def test_a_program_that_takes_too_much_memory_is_refused_it(tmp_path: Path) -> None:
    program = tmp_path / "greedy"
    program.write_text("#!/usr/bin/perl\nmy $x = 'x' x (512 << 20); print length($x);\n")
    program.chmod(0o755)
    (tmp_path / "sockets").mkdir()

    def run(memory_bytes: int) -> subprocess.CompletedProcess[str]:
        command = confined(program, tmp_path / "sockets", memory_bytes=memory_bytes)
        return subprocess.run(command, capture_output=True, text=True, check=False, env={})

    enough = run(2 << 30)
    if "bwrap" in enough.stderr:
        pytest.skip(f"no sandbox here: {enough.stderr.strip()}")
    assert enough.stdout == str(512 << 20)
    assert "Out of memory" in run(256 << 20).stderr


# What is loaded


def test_an_engine_without_a_provider_loads_none_of_it() -> None:
    program = """
import asyncio, sys
from trimtab.engine.registry import COMPONENTS, adapters
from trimtab.runtime.settings import Settings
adapters(Settings(id="te57ed", data="/nonexistent", run="/nonexistent"), "controllers")
ours = "trimtab.components.infrastructure."
heavy = ("grpc", "google.protobuf", "numpy", "polars")
mine = ("protocol.provider", "protocol.messages", "pool", "keeping", "reconcile", "definition", "asking", "commands", "registry")
print([name for name in (*heavy, *(ours + one for one in mine)) if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


ORPHAN = """
import os, pathlib, signal, sys, time
from trimtab.api import ObjectMeta
from trimtab.components.infrastructure.kinds import Provider, ProviderSpec
from trimtab.components.infrastructure.programs.shelf import Shelf, ShutIn

folder, checksum, user = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
made = Provider(metadata=ObjectMeta(name="cloud"), spec=ProviderSpec(source="trimtab/cloud", checksum=checksum))
command, _, environment = ShutIn(Shelf(folder / "shelf"), folder / "sockets", user)(made)
me = os.getpid()
if os.fork() == 0:
    while os.getppid() == me:
        time.sleep(0.001)
    os.execvpe(command[0], command, environment)
os.kill(me, signal.SIGKILL)
"""
"""A process that is killed just before the provider that it starts is there."""


def test_a_provider_does_not_outlive_who_started_it_however_early_that_ended() -> None:
    with tempfile.TemporaryDirectory(prefix="tt-shelf-", dir="/tmp") as place:
        folder = Path(place)
        folder.chmod(0o755)
        checksum = Shelf(folder / "shelf").put(b"#!/bin/sh\nexec sleep 600\n")
        user = "nobody" if os.geteuid() == 0 else getpass.getuser()
        arguments = [sys.executable, "-c", ORPHAN, place, checksum, user]
        # What is left of it holds the pipe: its end says that nothing is.
        done = subprocess.run(arguments, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (-signal.SIGKILL, b"")
        (left,) = (folder / "sockets").iterdir()

        # What bwrap leaves when it is killed while it makes the inside of it ends with the next start.
        waits = ["bwrap", "-c", "import time; time.sleep(600)", str(left)]
        made = Provider(metadata=ObjectMeta(name="cloud"), spec=ProviderSpec(source="trimtab/cloud", checksum=checksum))
        orphan = subprocess.Popen(waits, executable=sys.executable)
        try:
            # A process that has begun has no arguments yet, for a moment.
            wait_for(lambda: Path(f"/proc/{orphan.pid}/cmdline").read_bytes(), 60, "it says what it is")
            ShutIn(Shelf(folder / "shelf"), folder / "sockets", user)(made)
            assert orphan.wait(60) == -signal.SIGKILL
        finally:
            orphan.kill()
            orphan.wait()
        assert not left.exists()
        start = ShutIn(Shelf(folder / "shelf"), folder / "sockets", user)
        ours = {start(made)[1], start(made)[1]}
        assert set((folder / "sockets").iterdir()) == ours
