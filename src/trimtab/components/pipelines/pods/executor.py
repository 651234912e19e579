"""Runs a step as a pod.

    Job, Secret, NetworkPolicy --> pod runs --> attach: orders in, output and events out
                                            --> exec: inputs in, outputs and reports out --> all deleted

What the pod says goes through the runner's own `write`, where secrets are taken out. The key of a step knows nothing of where it runs,
so what a pod has made is found by the sandbox, and the other way round. Nothing of the pod is kept, not even of a failure.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from trimtab.api.core import Pod, Secret
from trimtab.api.jobs import Job as JobObject
from trimtab.api.policies import NetworkPolicy
from trimtab.ci.cache.blobs import Blobs, Lost
from trimtab.ci.cache.index import CacheError, Index
from trimtab.ci.cache.volumes import Volumes
from trimtab.ci.runs.ports import EngineFault, Job, Laid, Outcome, Stop
from trimtab.ci.sandbox.services import READY_S, command_of
from trimtab.client import ApiError, WireClient
from trimtab.client.channels import STATUS, STDERR, STDIN, STDOUT, channels, end_input, exit_status
from trimtab.components.pipelines.pods import follow, objects, script
from trimtab.components.pipelines.pods.archive import CHUNK_BYTES, packed, taken
from trimtab.components.pipelines.pods.conversation import Conversation
from trimtab.components.pipelines.pods.image import StepImage, step_image
from trimtab.components.pipelines.pods.objects import STEP, Part
from trimtab.components.pipelines.pods.place import Place
from trimtab.content import ContentStore

JSON = dict[str, Any]
T = TypeVar("T")

MANAGER = "trimtab-ci"
PING_S = 20.0
"""A silent connection is used so often, before anything on the way takes it for dead."""
LAST_WORDS_BYTES = 4096


class Pods:
    """An `Executor` on a cluster. state: the directory of `trimtab ci`."""

    def __init__(self, state: Path, place: Place) -> None:
        self.state = state.absolute()
        self.place = place
        self.blobs = Blobs(str(self.state))
        self._store = ContentStore(self.state)
        self._lock = threading.Lock()
        self._given: dict[str, tuple[StepImage, str]] = {}
        self.enforces_policies = False
        """Known once a step has looked."""

    def execute(self, job: Job, write: Callable[[bytes], None], stop: Stop) -> Outcome:
        """See `Executor`."""
        began = time.monotonic()
        if "cluster" in job.action:
            raise EngineFault(f"{job.step}: a step with a cluster of its own runs here, not as a pod; leave --on out")
        job.directory.mkdir(parents=True, exist_ok=True)
        try:
            services = objects.parts_of(job)
            parts = {one: self._part(one, job.services[name] if name else job) for one, name in services.items()}
            return asyncio.run(self._run(parts, services, write, stop, began))
        except (ApiError, ConnectionError) as err:
            raise EngineFault(f"{job.step}: {self.place.name}: {err}") from None
        except Lost as err:
            raise EngineFault(f"{job.step}: {err}; run again, what made it is done anew") from None
        except CacheError as err:
            raise EngineFault(str(err)) from None
        except EngineFault as err:
            raise EngineFault(f"{job.step}: {err}") from None
        finally:
            shutil.rmtree(job.directory, ignore_errors=True)

    def _part(self, container: str, job: Job) -> Part:
        with self._lock:  # an image is made and given once, whichever step comes first
            if job.image not in self._given:
                image = step_image(self._store, job.image)
                self._given[job.image] = image, self.place.give(self._store, image.digest)
            image, reference = self._given[job.image]
        return Part(container, job, reference, image)

    async def _run(
        self, parts: dict[str, Part], services: dict[str, str], write: Callable[[bytes], None], stop: Stop, began: float
    ) -> Outcome:
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()

        def ask() -> None:
            with suppress(RuntimeError):  # the loop is closed: the step has ended
                loop.call_soon_threadsafe(asked.set)

        stop.then(ask)
        client = self.place.client()
        execution = Execution(self, client, parts, services, write)
        try:
            outcome = await _unless(asked, execution.run())
        finally:
            try:
                await execution.remove()
            finally:
                await client.close()
        seconds = time.monotonic() - began
        if outcome is None:
            return Outcome(stop.reason or "cancelled", 0, {}, seconds, where=self.place.name)
        return replace(outcome, seconds=seconds, where=self.place.name)


async def _unless(asked: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work gives; None when its end was asked for first."""
    task = asyncio.create_task(work)
    asking = asyncio.create_task(asked.wait())
    try:
        await asyncio.wait((task, asking), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for one in (task, asking):
            one.cancel()
        await asyncio.gather(task, asking, return_exceptions=True)


class Execution:
    """One run of one job. parts: by container; services: by container the service's name, the step's own is ""."""

    def __init__(
        self,
        pods: Pods,
        client: WireClient,
        parts: dict[str, Part],
        services: dict[str, str],
        write: Callable[[bytes], None],
    ) -> None:
        self.pods = pods
        self.client = client
        self.parts = parts
        self.job = parts[STEP].job
        self.services = {container: name for container, name in services.items() if name}
        self.write = write
        self.name = f"ci-{os.urandom(6).hex()}"
        self.namespace = pods.place.namespace
        self.closed = self.job.action.get("net") != "allow"
        self.mark = f"trimtab-{os.urandom(8).hex()}"
        self.made = False
        self.owner: JSON = {}
        self.followed = follow.Followed(client, self.namespace, self.name, f"{objects.EXECUTION}={self.name}")

    async def run(self) -> Outcome:
        await self._create()
        following = asyncio.create_task(self.followed.run())
        telling = asyncio.create_task(self._tell_of_waiting())
        try:
            await asyncio.gather(*(self._start(container) for container in (*self.services, STEP)))
            async with self._attached() as talk:
                if self.closed and not self.pods.enforces_policies:
                    await self._network_closed(talk)
                if (failed := await self._services_ready()) is not None:
                    return failed
                await talk.order("go")
                await talk.until(lambda: talk.done or talk.refused)
                return await self._outcome(talk)
        finally:
            for task in (following, telling):
                task.cancel()
            await asyncio.gather(following, telling, return_exceptions=True)

    # Made and removed

    async def _create(self) -> None:
        made = objects.the_job(self.name, self.namespace, self.parts, self.services, self.job.timeout_s)
        self.made = True
        self.owner = owner = objects.owner_of(await self.client.create(JobObject.resource_type, made, manager=MANAGER))
        if (secret := objects.the_secret(self.name, self.namespace, owner, self.parts)) is not None:
            await self.client.create(Secret.resource_type, secret, manager=MANAGER)
        if self.closed:
            policy = objects.the_policy(self.name, self.namespace, owner)
            await self.client.create(NetworkPolicy.resource_type, policy, manager=MANAGER)

    async def remove(self) -> None:
        """Has all of it deleted. Where that cannot be asked for, the Job ends by itself, since the connection to its pod has."""
        if not self.made:
            return
        with suppress(ApiError, ConnectionError):
            await self.client.delete(JobObject.resource_type, self.name, self.namespace, propagation="Background")
        pod = self.followed.pod
        if pod is not None:  # sooner than the garbage collector would
            with suppress(ApiError, ConnectionError):
                await self.client.delete(
                    Pod.resource_type, pod["metadata"]["name"], self.namespace, uid=pod["metadata"]["uid"]
                )

    async def _tell_of_waiting(self) -> None:
        """Says once in the log why no node takes the pod."""
        why = await self.followed.until(lambda pod: follow.unscheduled(pod) or None)
        self.write(f"trimtab: the pod waits for a node: {why}\n".encode())

    # Begun

    async def _start(self, container: str) -> None:
        """Waits until a container runs, and gives it what its part takes; a service is let go with that."""
        if not await self.followed.until(lambda pod: follow.running(pod, container)):
            raise EngineFault(f"its container {container} ended before it could be given anything")
        part = self.parts[container]
        file = self.job.directory / f"{container}.tar"
        await asyncio.to_thread(self._pack, part, file)
        size = file.stat().st_size
        extract = f"{script.TOOL} head -c {size} | {script.TOOL} tar -x -C / -f -"
        said = bytearray()
        code = await self._exec(container, ["sh", "-c", extract], said.extend, file)
        file.unlink()
        if code != 0:
            lines = said.decode(errors="replace").strip().splitlines() or ["?"]
            raise EngineFault(f"its files cannot be laid into the pod: {lines[-1]}")
        if container != STEP:
            with suppress(ConnectionError, ApiError):  # a service that ends at once takes this down with it
                await self._exec(container, ["sh", "-c", f"echo go >{script.GO}"], said.extend)

    def _pack(self, part: Part, file: Path) -> None:
        job, image = part.job, part.image.runtime
        laid = [*job.inputs, *self._volumes(job)]
        own = [path for one in laid for path in self._paths(one)]
        if part.container == STEP:
            programs = {
                script.STEP: script.step(job, image, part.secrets, self.mark, own),
                script.TAKE: script.TAKE_PROGRAM,
            }
        else:
            name = self.services[part.container]
            argv = command_of(name, job.action, image.entrypoint or (), image.cmd or ())
            programs = {script.STEP: script.service(job, image, argv, part.secrets, own)}
            if words := objects.probe_words(name, job):
                programs[objects.READY] = script.service(job, image, words, part.secrets, ())
        with file.open("wb") as out:
            packed(out, self.pods.blobs, laid, programs)

    def _paths(self, laid: Laid) -> list[str]:
        if laid.to.strip("/"):
            return [laid.to]
        return [f"/{name}" for name, *_ in self.pods.blobs.entries(laid.tree)]

    def _volumes(self, job: Job) -> list[Laid]:
        """The newest of each of its cache volumes."""
        caches = job.action.get("caches", ())
        if not caches:
            return []
        with closing(Index(str(self.pods.state))) as index:
            volumes = Volumes(index, self.pods.blobs)
            return [Laid(cache["path"], volumes.newest(cache["key"])) for cache in caches]

    async def _network_closed(self, talk: Conversation) -> None:
        """Looks, once in a run, whether the policy holds: whether the step's pod reaches one in the open. Raises `EngineFault`."""
        peer = objects.the_peer(self.name, self.namespace, self.owner, self.parts[STEP])
        name, labels = peer["metadata"]["name"], f"{objects.PEER_OF}={self.name}"
        await self.client.create(JobObject.resource_type, peer, manager=MANAGER)
        followed = follow.Followed(self.client, self.namespace, name, labels)
        following = asyncio.create_task(followed.run())
        try:
            await followed.until(lambda pod: follow.running(pod, STEP))
            address = await followed.until(lambda pod: pod["status"].get("podIP"))
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await talk.order(f"check {address}")
        await talk.until(lambda: talk.network)
        await self.client.delete(JobObject.resource_type, name, self.namespace, propagation="Background")
        if talk.network == "open":
            raise EngineFault(
                f"the cluster {self.pods.place.name} enforces no NetworkPolicy, so the step would have a network that it does not "
                "declare; declare it with .network(), or run it elsewhere"
            )
        self.pods.enforces_policies = True

    async def _services_ready(self) -> Outcome | None:
        """None when all are ready; else how the step ends because of one."""
        for container, name in self.services.items():
            if not self.parts[container].job.action.get("ready", ""):
                continue
            try:
                async with asyncio.timeout(READY_S):
                    ended = await self.followed.until(lambda pod, one=container: _ready(pod, one))  # type: ignore[misc]
            except TimeoutError:
                ready = self.parts[container].job.action["ready"]
                said = f"service {name} was not ready ({ready}) after {READY_S:.0f} s"
            else:
                if not ended:
                    continue
                said = f"service {name} ended with {_how(ended)} before it was ready"
            return Outcome("service", 0, {}, 0.0, said=said + await self._last_words(container))
        return None

    async def _last_words(self, container: str) -> str:
        pod = self.followed.pod
        assert pod is not None
        path = Pod.resource_type.path(self.namespace, pod["metadata"]["name"], "log")
        restarted = follow.status_of(pod, container).get("restartCount", 0) > 0
        for previous in ("true", "false") if restarted else ("false",):
            query = {"container": container, "tailLines": "20", "previous": previous}
            with suppress(ApiError):
                text = (await self.client.send("GET", path, query)).body[-LAST_WORDS_BYTES:].decode(errors="replace")
                if lines := [line for line in text.splitlines() if line.strip()]:
                    return f"; it said last: {lines[-1].strip()[:300]}"
        return "; it said nothing"

    # Streams

    def _stream(self, verb: str, container: str, more: list[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
        pod = self.followed.pod
        assert pod is not None
        path = Pod.resource_type.path(self.namespace, pod["metadata"]["name"], verb)
        return path, [("container", container), ("stdout", "true"), ("stderr", "true"), *more]

    @asynccontextmanager
    async def _attached(self) -> AsyncIterator[Conversation]:
        path, query = self._stream("attach", STEP, [("stdin", "true")])
        async with channels(self.pods.place.where, path, query, ping_s=PING_S) as socket:
            talk = Conversation(socket, self.write, self.mark)
            listening = asyncio.create_task(talk.listen())
            keeping = asyncio.create_task(_keep_alive(talk))
            try:
                yield talk
            finally:
                for task in (listening, keeping):
                    task.cancel()
                await asyncio.gather(listening, keeping, return_exceptions=True)

    async def _exec(
        self, container: str, command: list[str], out: Callable[[bytes], object], send: Path | None = None
    ) -> int:
        """Runs a program of busybox in a container; its exit status. out: takes what it prints, errors only where there is input."""
        words = [("command", word) for word in (script.TOOL, *command)]
        path, query = self._stream("exec", container, [*words, *([("stdin", "true")] if send else [])])
        status: JSON | None = None
        async with channels(self.pods.place.where, path, query, ping_s=PING_S) as socket:
            sending = asyncio.create_task(_send(socket, send)) if send else None
            try:
                async for message in socket:
                    if not isinstance(message.data, bytes) or not message.data:
                        continue
                    channel, content = message.data[0], message.data[1:]
                    if channel == STATUS:
                        status = json.loads(content)
                        break
                    if channel == (STDERR if send else STDOUT):
                        out(content)
            finally:
                if sending is not None:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
        return exit_status(status)

    # Ended

    async def _outcome(self, talk: Conversation) -> Outcome:
        if talk.refused:
            raise EngineFault(talk.refused)
        if not talk.done:
            return await self._broken_off()
        ended = Outcome(
            "exit",
            talk.exit,
            {},
            0.0,
            talk.cpu_s,
            talk.rss_bytes,
            failed_run=talk.failed_run,
            reports=await self._reports(),
        )
        if talk.exit != 0:
            if talk.ooms:
                return replace(ended, ended="memory", said=self._too_much())
            return replace(ended, said=await self._dead_services())
        outputs: dict[str, str] = {}
        for declared in self.job.action.get("outputs", ()):
            name, path = declared["name"], declared["path"]
            tree, code = await self._tree(path)
            if code:
                why = f"is not there: no command made {path}" if code == script.MISSING else "cannot be read"
                return replace(ended, ended="output", said=f"the output {name} {why}")
            outputs[name] = tree
        await self._keep_volumes()
        return replace(ended, outputs=outputs)

    async def _broken_off(self) -> Outcome:
        """The connection has ended before the step did: because the container has, or for a reason of its own."""
        try:
            async with asyncio.timeout(READY_S):
                ended = await self.followed.until(lambda pod: follow.terminated(pod, STEP))
        except TimeoutError:
            raise EngineFault(f"the connection to its pod in {self.pods.place.name} broke; run it again") from None
        if ended.get("reason") == "OOMKilled":
            return Outcome("memory", int(ended["exitCode"]), {}, 0.0, said=self._too_much())
        raise EngineFault(f"its pod ended before the step did, with {_how(ended)} ({ended.get('reason', '?')})")

    def _too_much(self) -> str:
        limit = self.job.memory_bytes
        return (
            f"it took more memory than its limit, {limit >> 20:,} MiB"
            if limit
            else "its node had no memory left for it"
        )

    async def _dead_services(self) -> str:
        pod = self.followed.pod or {}
        for container, name in self.services.items():
            if (ended := follow.terminated(pod, container)) is not None:
                return f"service {name} had ended with {_how(ended)} before the step was done" + await self._last_words(
                    container
                )
        return ""

    async def _reports(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        said = (run.get("junit", "") for run in self.job.action["runs"])
        for path in dict.fromkeys((*said, *self.job.reports)):
            data = bytearray()
            code = await self._exec(STEP, ["sh", script.TAKE, "report", path], data.extend) if path else 1
            if code == 0 and len(data) <= script.REPORT_BYTES_MAX:
                found[path] = bytes(data)
        return found

    async def _tree(self, path: str) -> tuple[str, int]:
        """The tree of what is at a path; or how the program that takes it has ended."""
        file = self.job.directory / "taken.tar"
        with file.open("wb") as archive:
            code = await self._exec(STEP, ["sh", script.TAKE, "tree", path], archive.write)
        try:
            return ("", code) if code else (await asyncio.to_thread(taken, file, self.pods.blobs), 0)
        finally:
            file.unlink()

    async def _keep_volumes(self) -> None:
        for cache in self.job.action.get("caches", ()):
            tree, code = await self._tree(cache["path"])
            if not code:
                with closing(Index(str(self.pods.state))) as index:
                    Volumes(index, self.pods.blobs).keep_tree(cache["key"], tree)


def _ready(pod: JSON, container: str) -> JSON | None:
    """Empty when a service is ready, how it ended when it has; None as long as neither."""
    ended = follow.terminated(pod, container)
    return ended if ended is not None else {} if follow.status_of(pod, container).get("ready") else None


def _how(ended: JSON) -> str:
    code = int(ended.get("exitCode", 0))
    return f"signal {code - 128}" if code > 128 else f"status {code}"


async def _keep_alive(talk: Conversation) -> None:
    while True:
        await asyncio.sleep(PING_S)
        await talk.order(".")


async def _send(socket: Any, file: Path) -> None:
    with file.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            await socket.send_bytes(bytes([STDIN]) + chunk)
    await end_input(socket)
