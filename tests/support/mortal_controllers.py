"""The controllers as a program that kills itself: `mortal_controllers.py FOLDER`, one life after another, each a real process.

    test --order, a socket--> zygote --fork--> a life: API server's socket, infrastructure whole, providers shut in
    test <--each step, before it is taken-- a life --SIGKILL at the n-th--> zygote: everything that it started has ended, or what has not

A step is a write to the API (Events apart) or to that of another cluster, a question to a provider, or the start of one. Three manners. before: the step is not taken.
after: it is taken, and its answer is not heard. under way: it is begun, and a moment later we are dead. The zygote has loaded
everything, so that a life begins within milliseconds; whatever a life leaves running becomes the zygote's, so that it is found.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import getpass
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from trimtab.client import Client, ClusterAccess, SocketTransport, Transport
from trimtab.client.transport import Request, Response
from trimtab.components.infrastructure import COMPONENT, reconcile
from trimtab.components.infrastructure.declaration import adapters
from trimtab.components.infrastructure.loop import keeping, recalling
from trimtab.components.infrastructure.programs import pool, rate
from trimtab.components.infrastructure.programs.pool import Pool, Talk
from trimtab.components.infrastructure.protocol import provider as protocol
from trimtab.components.infrastructure.remote import Clusters, OverHttp
from trimtab.runtime.journal import Journal
from trimtab.runtime.process import Process
from trimtab.runtime.settings import Settings

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
LEFT_S = 5.0
"""So long what a life started may take to end after it; what is left then the next life has to end."""
ASKED = frozenset({"plan", "apply", "read", "import_", "import_identity", "data", "list_", "upgrade"})
ASKED |= {"open_ephemeral", "renew_ephemeral", "close_ephemeral"}
USER = "nobody" if os.geteuid() == 0 else getpass.getuser()
"""Whom the provider runs as."""


def settings_of(folder: Path) -> Settings:
    return Settings(id="te57ed", data=str(folder / "data"), run=str(folder / "run"), user=USER)


class Death:
    """Comes at step `at`, counted from when it was armed; never when that is 0."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._order: dict[str, Any] = {}
        self._steps = 0
        self.peer: protocol.Provider | None = None

    def arm(self, order: dict[str, Any]) -> None:
        self._order, self._steps = order, 0

    def tell(self, **message: Any) -> None:
        self._control.sendall(json.dumps(message).encode() + b"\n")

    async def around(self, step: str, call: Callable[[], Awaitable[Any]]) -> Any:
        self.tell(step=step)
        self._steps += 1
        if self._steps != self._order.get("at", 0):
            return await call()
        manner = self._order["manner"]
        if self._order["victim"] == "connection":
            self.tell(killed="connection")
            if manner != "before":
                await call()
            raise ConnectionError("the connection is cut")
        if manner == "before":
            self._kill()
            return await call()
        running = asyncio.ensure_future(call())
        if manner == "under way":
            await asyncio.wait([running], timeout=self._order["under_way_s"])
            self._kill()
            return await running
        answer = await running
        self._kill()
        return answer

    def _kill(self) -> None:
        self.tell(killed=self._order["victim"])
        if self._order["victim"] == "controllers":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.peer is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.peer.plugin.pid, signal.SIGKILL)


class MortalTransport:
    def __init__(self, inner: SocketTransport, death: Death) -> None:
        self._inner = inner
        self._death = death

    async def send(self, request: Request) -> Response:
        if request.method == "GET" or "/events" in request.path:
            return await self._inner.send(request)
        path, _, part = request.path.removesuffix("/status").partition("/namespaces/default/")
        kind = part.split("/")[0] if part else path.split("/")[-2]
        name = f"{request.method} {kind}" + (" status" if request.path.endswith("/status") else "")
        answer: Response = await self._death.around(name, lambda: self._inner.send(request))
        return answer

    async def close(self) -> None:
        await self._inner.close()


class Within:
    """The API of another cluster, each write to which is a step."""

    def __init__(self, inner: Transport, death: Death) -> None:
        self._inner = inner
        self._death = death

    async def send(self, request: Request) -> Response:
        if request.method == "GET":
            return await self._inner.send(request)
        name = f"in there: {request.method} {request.path.split('/')[-2]}"
        answer: Response = await self._death.around(name, lambda: self._inner.send(request))
        return answer

    async def close(self) -> None:
        await self._inner.close()


class MortalClusters:
    """Implements `Clusters`."""

    def __init__(self, death: Death) -> None:
        self._inner = OverHttp()
        self._death = death

    def transport(self, access: ClusterAccess) -> Transport:
        return Within(self._inner.transport(access), self._death)


class MortalPeer:
    """A provider, each question to which is a step."""

    def __init__(self, peer: protocol.Provider, death: Death) -> None:
        self._peer = peer
        self._death = death

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._peer, name)
        if name not in ASKED:
            return found

        async def ask(*arguments: Any) -> Any:
            return await self._death.around(name, lambda: found(*arguments))

        return ask


def mortal_pool(death: Death) -> type[Pool]:
    class MortalPool(Pool):
        async def _start(self, *arguments: Any) -> Talk:
            talk: Talk = await death.around("start", lambda: super(MortalPool, self)._start(*arguments))
            death.peer, peer = talk.provider, MortalPeer(talk.provider, death)
            talk.provider = peer  # type: ignore[assignment]
            talk.rate.busy_s = rate.BUSY_FIRST_S
            return talk

    return MortalPool


def hasten() -> None:
    """What takes seconds in the world takes less here; what must be longer than what, stays so."""
    keeping.SETTLE_S = 1.5
    recalling.UNSEEN_RETRY_S = reconcile.UNSEEN_RETRY_S = reconcile.RETRY_S = 0.1
    reconcile.GONE_AGAIN_S = 0.01
    pool.AGAIN_FIRST_S, pool.AGAIN_LAST_S = 0.05, 0.2
    rate.BUSY_FIRST_S, rate.BUSY_LAST_S = 0.1, 0.3


async def live(folder: Path, control: socket.socket, order: dict[str, Any]) -> None:
    death = Death(control)
    death.arm(order)
    settings = settings_of(folder)
    pool.Pool = mortal_pool(death)  # type: ignore[misc]
    client = Client(MortalTransport(SocketTransport(folder / "api.sock"), death))
    process = Process(
        client=client,
        journal=Journal(folder / "journal.sqlite"),
        settings=settings,
        adapters={**adapters(settings), Clusters: MortalClusters(death)},
        components=[COMPONENT],
    )

    def asked() -> None:
        raw = control.recv(1 << 16)
        if not raw:  # whoever asked is gone
            os._exit(0)
        for line in raw.splitlines():
            question = json.loads(line)
            if question["ask"] == "arm":
                death.arm(question["order"])
            failing = {str(ref): why for (_, ref), why in process.failing.items()}
            joined = sum(one.identity.label.endswith("-cloud") for one in process.controllers)
            death.tell(answer=question["n"], idle=process.idle and joined >= question["joined"], failing=failing)

    asyncio.get_running_loop().add_reader(control.fileno(), asked)
    await process.run()


def zygote(folder: Path, orders: socket.socket) -> None:
    """Lives, one at a time, until nobody orders any more."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    orders.sendall(b"ready\n")
    while True:
        raw, handles, *_ = socket.recv_fds(orders, 1 << 16, 1)
        if not raw:
            return
        control = socket.socket(fileno=handles[0])
        pid = os.fork()
        if pid == 0:
            orders.close()
            try:
                asyncio.run(live(folder, control, json.loads(raw)))
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(1)
        control.close()
        _, status = os.waitpid(pid, 0)
        orders.sendall(json.dumps({"status": status, "left": left()}).encode() + b"\n")


def left() -> dict[str, str]:
    """What the last life started and has not ended, by process id; everything else is buried."""
    until = time.monotonic() + LEFT_S
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return {}
        if pid == 0 and time.monotonic() > until:
            break
        if pid == 0:
            time.sleep(0.002)
    mine = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return {pid: Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in mine}


def main() -> None:
    import grpc.aio  # noqa: F401 (before the fork)

    from trimtab.components.infrastructure.protocol.messages import messages

    messages(6)
    hasten()
    zygote(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))


if __name__ == "__main__":
    main()
