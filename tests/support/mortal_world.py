"""A control plane that is killed: the controllers as a process of their own (mortal_controllers.py), the API server as another.

    Order(at, manner) --arm--> a life --steps--> SIGKILL: dead --the next life--> the goal, and all at rest

What is asked of a life goes over a socket of its own: it says each step before it takes it. All that it started must end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import mortal_controllers
from cloud import Cloud
from infrastructure_engine import READS, provider_program
from managed_world import NAMESPACE, World
from trimtab.api import ObjectMeta
from trimtab.client.errors import NotFound
from trimtab.components.infrastructure import COMPONENT
from trimtab.components.infrastructure.kinds import (
    Managed,
    Provider,
    ProviderConfig,
    ProviderConfigSpec,
    ProviderSpec,
    SecretKey,
)
from trimtab.components.infrastructure.loop.remembering import kept_of
from trimtab.components.infrastructure.programs.shelf import Shelf
from trimtab.components.infrastructure.protocol.provider import Provider as Peer
from trimtab.runtime.crd import ensure_crds
from trimtab.runtime.effects import Effect

Manner = Literal["before", "after", "under way"]
MANNERS: tuple[Manner, ...] = ("before", "after", "under way")
COLLECTIONS = {
    "cloud_server": "servers",
    "cloud_network": "networks",
    "cloud_cluster": "clusters",
    "cloud_bucket": "buckets",
    "cloud_key": "keys",
}
"""By listing, a data source of the name, a data source of all, a known id; of keys nothing tells whether they are there."""
UNSEEABLE = "cloud_key"
FAULTS = ("pins", "plural", "keys")
READY_S = 60.0
ASKS_A_PERSON = ("CreateUnknown", "StateLost")


@dataclass
class Order:
    """When a life ends. at: the step, counted from 1; 0: never. victim: instead of the controllers the provider, or what the step goes over."""

    at: int = 0
    manner: Manner = "after"
    victim: Literal["controllers", "provider", "connection"] = "controllers"
    under_way_s: float = 0.002
    steps: list[str] = field(default_factory=list)
    carried_out: bool = False
    """Whether it came so far."""

    def wire(self) -> dict[str, Any]:
        return {"at": self.at, "manner": self.manner, "victim": self.victim, "under_way_s": self.under_way_s}


class Life:
    """One process of controllers, seen from outside."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.dead = asyncio.Event()
        self.failing: dict[str, str] = {}
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._count = 0

    async def begin(self, zygote: socket.socket) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(zygote, [json.dumps(self.order.wire()).encode()], [theirs.fileno()])
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await self._reader.readline():
                said = json.loads(line)
                if "step" in said:
                    self.order.steps.append(said["step"])
                elif "killed" in said:
                    self.order.carried_out = True
                else:
                    self._asked.pop(said["answer"]).set_result(said)
        self.dead.set()
        for one in self._asked.values():
            one.set_result({"idle": False})
        self._writer.close()

    async def ask(self, **question: Any) -> dict[str, Any]:
        """Its answer; of one that is dead, or dies, that it is not idle."""
        if self.dead.is_set():
            return {"idle": False}
        self._count += 1
        answer = self._asked[self._count] = asyncio.get_running_loop().create_future()
        with contextlib.suppress(ConnectionError):
            self._writer.write(json.dumps({"n": self._count, "joined": len(COLLECTIONS), **question}).encode() + b"\n")
        found = await answer
        self.failing = found.get("failing", self.failing)
        return found


class MortalWorld(World):
    """As `World`, with lives that end. persons: what people had to be asked. deaths: how many lives ended."""

    resources = tuple(COLLECTIONS)

    def __init__(self, folder: Path, cloud: Cloud) -> None:
        super().__init__(folder, cloud, *FAULTS)
        self.persons: list[str] = []
        self.deaths = 0
        self.life: Life | None = None
        self.orphans: dict[str, str] = {}
        """What was just being shut in when the last life ended: the next one ends it, before it starts another."""

    async def work(self) -> None:
        """The zygote, and the provider on its shelf: installed, enabled, with a credential."""
        await ensure_crds(self.client, COMPONENT.kinds)
        settings = mortal_controllers.settings_of(self.folder)
        (self.folder / "run" / "user").mkdir(parents=True)
        shelf = Shelf(settings.data_path("providers"))
        checksum = shelf.put(provider_program(self.folder, *FAULTS).read_bytes(), READS)
        command, sockets, environment = self.command(Provider())
        peer = await Peer.start(command, sockets, environment=environment, name="cloud")
        shelf.keep_schema(checksum, await peer.schema())
        await peer.close()
        await self.make(
            Provider(
                metadata=ObjectMeta(name="cloud"),
                spec=ProviderSpec(source="trimtab/cloud", kinds=list(self.resources), checksum=checksum),
            )
        )
        spec = ProviderConfigSpec(
            provider="cloud",
            config={"url": self.cloud.url},
            secrets={"token": SecretKey(name="cloud", key="token")},
            requests_per_second=1000,
            removals_per_interval=100_000,
        )
        await self.make(ProviderConfig(metadata=ObjectMeta(name="default", namespace=NAMESPACE), spec=spec))
        self._orders, theirs = socket.socketpair()
        with theirs:
            self._zygote = subprocess.Popen(  # noqa: ASYNC220 (it outlives loops, and is waited for at the end)
                [sys.executable, mortal_controllers.__file__, str(self.folder), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
            )
        self._orders.settimeout(READY_S)
        assert await asyncio.to_thread(self._orders.recv, 16) == b"ready\n"

    async def rest(self) -> None:
        await self.kill()
        for pid in self.orphans:
            os.kill(int(pid), signal.SIGKILL)
        self._orders.close()
        self._zygote.wait(READY_S)

    # Lives

    async def living(self, order: Order) -> Life:
        """The life that there is, armed with an order; a new one when there is none."""
        if self.life is None:
            self.life = Life(order)
            await self.life.begin(self._orders)
            return self.life
        self.life.order = order
        await self.life.ask(ask="arm", order=order.wire())
        return self.life

    async def kill(self) -> None:
        """kill -9 at this moment, if there is a life."""
        if self.life is not None:
            pids = Path(f"/proc/{self._zygote.pid}/task/{self._zygote.pid}/children").read_text().split()
            os.kill(int(pids[0]), signal.SIGKILL)
            await self.life.dead.wait()
            await self.buried()

    async def buried(self) -> None:
        """Checks that the life that ended was killed, and that nothing of it goes on."""
        said = json.loads(await asyncio.to_thread(self._orders.recv, 1 << 16))
        self.life = None
        self.deaths += 1
        assert os.WIFSIGNALED(said["status"]), f"it ended by itself: {said}"
        assert os.WTERMSIG(said["status"]) == signal.SIGKILL, said
        assert not self.orphans.keys() & said["left"].keys(), f"it outlived a second life: {said}"
        assert all(words.startswith("bwrap ") for words in said["left"].values()), said
        self.orphans = said["left"]

    async def through(self, order: Order, goal: Callable[[], Awaitable[bool]], what: str) -> bool:
        """Lives until death, or until the goal is reached and all is at rest; whether it died."""
        await self.living(order)
        return await self.through_armed(goal, what)

    async def through_armed(self, goal: Callable[[], Awaitable[bool]], what: str) -> bool:
        """As `through`, by the order of the life that there is."""
        life = self.life
        assert life is not None
        order = life.order

        async def reached() -> bool:
            return life.dead.is_set() or (await goal() and (await life.ask(ask="idle"))["idle"] and await goal())

        await self.until(reached, f"{what}, killed at {order.at} {order.manner}: {order.steps[-3:]}")
        if not life.dead.is_set():
            await life.ask(ask="arm", order=Order().wire())  # what comes later is another's
        if life.dead.is_set():
            await self.buried()
            return True
        assert not [pid for pid in self.orphans if self._lives(pid)], (
            f"they outlived the next life's start: {self.orphans}"
        )
        return False

    def _lives(self, pid: str) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    async def at_rest(self) -> None:
        """Until nothing runs in the life that there is, or in a new one."""

        async def holds() -> bool:
            return True

        await self.through(Order(), holds, "all is at rest")

    async def state(self) -> str:
        failing = self.life.failing if self.life is not None else {}
        return f"{await super().state()}; failing: {failing}; cloud: {self.cloud.objects} {self.cloud.faults}"

    async def restart_api(self) -> None:
        """kill -9, and again on the same data."""
        self.api.kill()
        self.api.start()

        async def answers() -> bool:
            try:
                await self.client.list(Effect, NAMESPACE)
            except ConnectionError:
                return False
            return True

        await self.until(answers, "the API is back")

    # What is to be

    async def good(self, resource: str, name: str) -> bool:
        """Whether an object is as it should be; obeys it when it asks for a person."""
        found = await self.get(resource, name)
        said = {c.type: c for c in found.status.conditions} if found is not None else {}
        if found is None or "Synced" not in said or found.status.observed_generation != found.metadata.generation:
            return False
        if said["Synced"].reason in ASKS_A_PERSON:
            await self.obey(resource, found, said["Synced"].message)
        return said["Synced"].status == "True" and said["Ready"].status == "True"

    async def obey(self, resource: str, found: Managed, message: str) -> None:
        """Does as a message says to somebody who sees in the cloud whether it is there."""
        if message in self.persons:
            return
        self.persons.append(message)
        wanted = found.spec.for_provider["name"]
        there = [one["id"] for one in self.cloud.all(COLLECTIONS[resource]) if one["name"] == wanted]
        take, _, retry = message.partition(". If not: ")
        patch = json.loads(take[take.index("'") + 1 : take.rindex("'")].replace("ITS-ID", there[0] if there else ""))
        key, _, token = retry.split()[-1].partition("=")
        await self.client.patch(found, patch if there else {"metadata": {"annotations": {key: token}}}, manager="test")

    async def over(self, resource: str, name: str) -> bool:
        """Whether nothing is left of an object in the API."""
        found = await self.get(resource, name)
        if found is not None:
            said = {c.type: c for c in found.status.conditions}
            if "Synced" in said and said["Synced"].reason in ASKS_A_PERSON:
                with contextlib.suppress(NotFound):
                    await self.obey(resource, found, said["Synced"].message)
            return False
        left = (await self.client.list(Effect, NAMESPACE)).items
        return await self.secret(self.state_of(resource, name)) is None and not any(
            one.spec.subject["name"] == name for one in left
        )

    def state_of(self, resource: str, name: str) -> str:
        return f"{name}-{resource.removeprefix('cloud_')}-state"

    async def check(self, resource: str) -> None:
        """Nothing is leaked and nothing doubled: the objects, what they remember, and the cloud know of the same."""
        objects = (await self.client.list(self.kinds[resource])).items
        there = sorted(one["id"] for one in self.cloud.all(COLLECTIONS[resource]))
        shown = sorted(one.status.id for one in objects if one.status.id)
        assert there == shown, f"in the cloud: {there}; in the objects: {shown}; {await self.state()}"
        for one in objects:
            secret = await self.secret(self.state_of(resource, one.name))
            kept = kept_of(secret) if secret is not None else None
            assert kept is not None, one.name
            assert (kept.pending, kept.attempt, kept.tainted) == ("", None, False), one.name
            assert kept.state["id"] == one.status.id
