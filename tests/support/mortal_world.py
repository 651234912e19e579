"""A control plane that is killed: at the n-th thing that it does to the API or to the provider, in one of three manners.

    Death(at, manner) --transport, provider--> from that step on all that it does hangs, and `died` says so --life--> buried; the next life

before: the step is not taken. after: it is taken, and its answer is not heard. under way: it is begun, and goes on when we are dead.
The API server and the provider are real processes; of a life nothing goes on but what it left there, as after kill -9.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn

from managed_world import NAMESPACE, World
from trimtab.client import Client, SocketTransport
from trimtab.client.transport import Request, Response
from trimtab.components.infrastructure.kinds import Managed, Provider, ProviderConfig
from trimtab.components.infrastructure.loop.remembering import kept_of
from trimtab.components.infrastructure.programs.pool import Rate, Talk
from trimtab.components.infrastructure.programs.terms import Providers
from trimtab.components.infrastructure.protocol.provider import Provider as Peer
from trimtab.components.infrastructure.reconcile import managed
from trimtab.runtime.effects import Effect
from trimtab.runtime.journal import Journal
from trimtab.runtime.process import Process
from trimtab.runtime.settings import Settings

Manner = Literal["before", "after", "under way"]
ASKED = frozenset({"plan", "apply", "read", "import_", "import_identity", "data", "list_", "upgrade"})
COLLECTIONS = {
    "cloud_server": "servers",
    "cloud_network": "networks",
    "cloud_cluster": "clusters",
    "cloud_bucket": "buckets",
}


class Death:
    """Comes at step `at`, counted from 1; never when it is 0. steps: what was done, by name."""

    def __init__(self, at: int = 0, manner: Manner = "after") -> None:
        self.at, self.manner = at, manner
        self.steps: list[str] = []
        self.died = asyncio.Event()
        self.buried = False
        """What it still tries on its way out fails at once."""
        self._resting: list[asyncio.Future[NoReturn]] = []
        self.loose: list[asyncio.Task[Any]] = []
        self.kills_peer: Callable[[], None] | None = None
        """Instead of us, the provider dies."""

    def bury(self) -> None:
        self.buried = True
        self.died.set()
        for one in self._resting:
            if not one.done():
                one.set_exception(ConnectionError("this process is dead"))

    async def around(self, step: str, call: Callable[[], Awaitable[Any]]) -> Any:
        if self.buried:
            raise ConnectionError("this process is dead")
        if self.died.is_set():
            await self._rest()
        self.steps.append(step)
        mine = len(self.steps) == self.at
        if mine and self.kills_peer is not None:
            return await self._without_peer(call)
        if mine and self.manner == "before":
            await self._die()
        if mine and self.manner == "under way":
            self.loose.append(asyncio.ensure_future(call()))
            await asyncio.sleep(0)
            await self._die()
        answer = await call()
        if mine:
            await self._die()
        if self.died.is_set():
            await self._rest()
        return answer

    async def _without_peer(self, call: Callable[[], Awaitable[Any]]) -> Any:
        assert self.kills_peer is not None
        if self.manner == "before":
            self.kills_peer()
            return await call()
        running = asyncio.ensure_future(call())
        await asyncio.sleep(0 if self.manner == "under way" else 0.02)
        self.kills_peer()
        return await running

    async def _die(self) -> NoReturn:
        self.died.set()
        await self._rest()

    async def _rest(self) -> NoReturn:
        resting: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()
        self._resting.append(resting)
        await resting
        raise AssertionError("unreachable")


class MortalTransport:
    def __init__(self, inner: SocketTransport, death: Death) -> None:
        self._inner = inner
        self._death = death

    async def send(self, request: Request) -> Response:
        if request.method == "GET" or "/events" in request.path:
            return await self._inner.send(request)
        kind = request.path.split("/namespaces/default/")[-1].split("/")[0]
        part = "status" if request.path.endswith("/status") else ""
        name = " ".join(filter(None, (request.method, kind, part)))
        answer: Response = await self._death.around(name, lambda: self._inner.send(request))
        return answer

    async def close(self) -> None:
        await self._inner.close()


class MortalPeer:
    """A provider, each question to which is a step."""

    def __init__(self, peer: Peer, death: Death) -> None:
        self._peer = peer
        self._death = death

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._peer, name)
        if name not in ASKED:
            return found

        async def ask(*arguments: Any) -> Any:
            return await self._death.around(name, lambda: found(*arguments))

        return ask


class OnePeer:
    """Providers: one process for all lives, started anew when it was killed."""

    def __init__(self, world: MortalWorld) -> None:
        self._world = world
        self.peer: Peer | None = None
        self._death = Death()
        self._talk: Talk | None = None
        self._lock = asyncio.Lock()

    def begin(self, death: Death) -> None:
        self._death, self._talk = death, None

    async def talk(self, provider: Provider, config: ProviderConfig, secrets: Mapping[str, str]) -> Talk:
        async with self._lock:
            if self.peer is None or not self.peer.plugin.running:
                await self.close()
                command, sockets, environment = self._world.command(provider)
                self.peer = await Peer.start(command, sockets, environment=environment, name="cloud", timeout_s=120)
                await self.peer.configure({**config.spec.config, **secrets})
                self._talk = None
            if self._talk is None:
                clock = asyncio.get_running_loop().time
                peer: Any = MortalPeer(self.peer, self._death)
                self._talk = Talk(
                    peer, await self.peer.schema(), Rate(10_000, clock), 10_000, clock, self._world.folder / "none"
                )
            return self._talk

    def kill(self) -> None:
        assert self.peer is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.peer.plugin.pid, signal.SIGKILL)

    async def close(self) -> None:
        if self.peer is not None:
            await self.peer.close()
            self.peer = None

    async def run(self) -> None:
        await asyncio.get_running_loop().create_future()


class MortalWorld(World):
    """As `World`, with lives that end. persons: what people had to be asked."""

    resources = tuple(COLLECTIONS)

    def __init__(self, folder: Path, *arguments: Any) -> None:
        super().__init__(folder, *arguments)
        self.persons: list[str] = []

    async def work(self) -> None:
        self.peers = OnePeer(self)

    async def rest(self) -> None:
        await self.peers.close()

    @asynccontextmanager
    async def life(self, death: Death) -> AsyncIterator[None]:
        self.peers.begin(death)
        client = Client(MortalTransport(SocketTransport(self.api.socket), death))
        settings = Settings(id="te57ed", data=str(self.folder), run=str(self.folder))
        self.process = Process(
            client=client, journal=Journal(None), settings=settings, adapters={Providers: self.peers}, components=[]
        )
        running = asyncio.create_task(self.process.run())
        await asyncio.sleep(0)
        for name, kind in self.kinds.items():
            self.process.join("infrastructure", managed(kind, name))
        try:
            yield
        finally:
            death.bury()
            running.cancel()
            await asyncio.wait([running])
            await asyncio.gather(*death.loose, return_exceptions=True)
            self.process = None
            await client.close()

    async def through(self, death: Death, goal: Callable[[], Awaitable[bool]], what: str) -> bool:
        """Lives until death, or until the goal is reached and all is at rest; whether it died."""

        async def reached() -> bool:
            return death.died.is_set() or (self.process is not None and await goal() and self.process.idle)

        async with self.life(death):
            await self.until(reached, f"{what}, killed at {death.at} {death.manner}: {death.steps[-3:]}")
            return death.died.is_set()

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
        if said["Synced"].reason in ("CreateUnknown", "StateLost"):
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
            if "Synced" in said and said["Synced"].reason in ("CreateUnknown", "StateLost"):
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
