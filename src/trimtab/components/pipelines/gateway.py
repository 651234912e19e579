"""The way in: a socket that costs nothing until somebody comes, and what becomes of a push.

    API --> pipelines.sock --first caller--> a process that serves (`served.py`), until nobody has come for a while
                                                |  {"push": ...}, {"hook": ...} lines            ^  what became of it
                                                '--> PipelineRun, an entry of the timeline ------'

The socket is this process', so callers wait while the server starts, and none is lost when it ends. What it parses is strangers', so
it runs where it reaches nothing of the engine; all that it may do is to tell of a push. This end looks which Pipeline that is, checks
a webhook's signature, and makes the PipelineRun under a name that follows from the push: told twice, it is the same.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import logging
import os
import re
import socket
from typing import Any

import msgspec

from trimtab.api import ObjectMeta
from trimtab.api.core import Secret
from trimtab.api.resource import OwnerReference
from trimtab.client import ApiError
from trimtab.components.pipelines.kinds import Pipeline, PipelineRun, PipelineRunSpec
from trimtab.components.pipelines.served import RUN_TRAILER
from trimtab.runtime import deeds
from trimtab.runtime.journal import Entry
from trimtab.runtime.process import Process
from trimtab.runtime.settings import Settings

SOCKET = "pipelines.sock"
MANAGER = "trimtab-pipelines-gateway"
AGAIN_S = 1.0

log = logging.getLogger(__name__)


async def gateway(process: Process, settings: Settings) -> None:
    """Listens until cancelled."""
    listening = deeds.door(settings, SOCKET)
    try:
        while True:
            if not _pushes(settings):
                await _somebody(listening)
            await Server(process, settings, listening).run()
            if _pushes(settings):  # it ended before all was said
                await asyncio.sleep(AGAIN_S)
    finally:
        listening.close()
        settings.run_path(SOCKET).unlink(missing_ok=True)


async def _somebody(listening: socket.socket) -> None:
    """Returns when somebody waits to be let in."""
    loop, came = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(listening, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(listening)


def _pushes(settings: Settings) -> bool:
    """Whether pushes are noted that nobody is known to know of."""
    try:
        return any(not name.startswith(".") for name in os.listdir(settings.data_path("pipelines", "pushes")))
    except OSError:
        return False


class Server:
    """The serving process, while it runs."""

    def __init__(self, process: Process, settings: Settings, listening: socket.socket) -> None:
        self._process = process
        self._settings = settings
        self._listening = listening

    async def run(self) -> None:
        """Until it ends."""
        # What it says is read to its end; it ends when its input does.
        server = await deeds.begin(
            "pipelines", self._settings, "serve", str(self._listening.fileno()), fds=(self._listening.fileno(),)
        )
        assert server.stdout is not None
        try:
            while line := await server.stdout.readline():
                await self._heard(json.loads(line), server)
            await server.wait()
        finally:
            await deeds.end(server)

    async def _heard(self, told: dict[str, Any], server: asyncio.subprocess.Process) -> None:
        try:
            if "push" in told:
                answer = {"name": told["push"], "known": True, "text": await self._pushed(told)}
            elif "hook" in told:
                status, text = await self._webhook(told)
                answer = {"name": told["hook"], "status": status, "text": text}
            else:
                log.warning("the pipelines' server: %s", told.get("error", told))
                return
        except (ApiError, ConnectionError) as err:
            # Known to nobody: it stays noted, and is told again.
            log.warning("a push was not taken up yet: %s", err)
            return
        assert server.stdin is not None
        with contextlib.suppress(ConnectionError):
            server.stdin.write(json.dumps(answer).encode() + b"\n")
            await server.stdin.drain()

    async def _pipeline(self, named: str) -> Pipeline | None:
        namespace, _, name = named.partition("/")
        return await self._process.client.get(Pipeline, name, namespace)

    # A push

    async def _pushed(self, told: dict[str, Any]) -> str:
        pipeline = await self._pipeline(told["object"])
        if pipeline is None:
            return f"trimtab: there is no Pipeline {told['object']} any more"
        lines = []
        for ref in told["refs"]:
            commit = ref.get("commit") or ref["new"]
            if ref["ref"] != f"refs/heads/{pipeline.spec.branch}":
                self._journal(
                    pipeline, "pushed", f"{ref['ref']} {commit[:12]} by {told['user']}: runs nothing", told["user"]
                )
                lines.append(
                    f"trimtab: {ref['ref']} runs nothing; this Pipeline runs refs/heads/{pipeline.spec.branch}"
                )
                continue
            if ref.get("by_run"):
                lines.append(f"trimtab: {commit[:12]} {BY_RUN.format(ref['by_run'])}")
                continue
            spec = PipelineRunSpec(
                pipeline=pipeline.name,
                commit=commit,
                ref=ref["ref"],
                author=ref.get("author", ""),
                message=ref.get("message", ""),
                trigger="push",
                pusher=told["user"],
            )
            run = await self._make(pipeline, spec, told["push"])
            path = run.resource_type.path(run.namespace, run.name, "log")
            lines += [f"trimtab: run {run.name}", f"  follow it: kubectl get --raw '{path}?follow=1'"]
        return "\n".join(lines)

    async def _make(self, pipeline: Pipeline, spec: PipelineRunSpec, push: str) -> PipelineRun:
        """Makes the run of a push. Its name follows from the push."""
        suffix = hashlib.sha256(f"{push} {spec.ref}".encode()).hexdigest()[:4]
        place = pipeline.resource_type
        run = PipelineRun(
            metadata=ObjectMeta(
                name=f"{pipeline.name}-{spec.commit[:7]}-{suffix}",
                namespace=pipeline.namespace,
                labels={"trimtab.dev/pipeline": pipeline.name},
                owner_references=[
                    OwnerReference(
                        api_version=place.api_version, kind=place.kind, name=pipeline.name, uid=pipeline.metadata.uid
                    )
                ],
            ),
            spec=spec,
        )
        made = await self._process.client.apply(run, manager=MANAGER)
        what = f"{spec.trigger} of {spec.ref.removeprefix('refs/heads/')} {spec.commit[:12]} by {spec.pusher}: {spec.message}"
        self._journal(made, "created", what, spec.pusher, cause=f"{spec.trigger} by {spec.pusher}")
        return made

    def _journal(self, subject: Pipeline | PipelineRun, verb: str, message: str, user: str, cause: str = "") -> None:
        self._process.journal.append(
            Entry(
                at=self._process.clock.now(),
                component="pipelines",
                actor=MANAGER,
                verb=verb,
                object=subject.ref,
                cause=cause or None,
                message=message,
                data={"user": user},
            )
        )

    # A forge's webhook

    async def _webhook(self, told: dict[str, Any]) -> tuple[int, str]:
        pipeline = await self._pipeline(told["object"])
        if pipeline is None or pipeline.spec.webhook is None:
            return 404, "this Pipeline has no spec.webhook"
        secret = await self._process.client.get(Secret, pipeline.spec.webhook.secret, pipeline.namespace)
        key = base64.b64decode(secret.data.get("secret", "")) if secret is not None else b""
        if not key:
            return 503, f"the Secret {pipeline.spec.webhook.secret} with the key `secret` is missing"
        body = base64.b64decode(told["body"])
        if not is_signed(key, body, told["signature"]):
            return 403, "the signature (X-Hub-Signature-256) is not that of the Secret"
        if told["event"] == "ping":
            return 200, "pong"
        if told["event"] != "push":
            return 202, f"nothing to do for {told['event'] or 'an event without a name'}: send pushes"
        try:
            push = msgspec.json.decode(body, type=Payload)
        except msgspec.MsgspecError as err:
            return 400, f"the payload is not a push as GitHub sends it (as application/json): {err}"
        if push.deleted or push.ref != f"refs/heads/{pipeline.spec.branch}":
            return 202, f"{push.ref} runs nothing; this Pipeline runs refs/heads/{pipeline.spec.branch}"
        commit = push.head_commit or HeadCommit()
        if made := _MADE_BY.search(commit.message):
            return 202, f"{push.after[:12]} {BY_RUN.format(made[1])}"
        spec = PipelineRunSpec(
            pipeline=pipeline.name,
            commit=push.after,
            ref=push.ref,
            author=commit.author.name[:200],
            message=next(iter(commit.message.splitlines()), "")[:300],
            trigger="webhook",
            pusher=push.pusher.name[:200],
        )
        # One delivery that comes twice is one run; so is a signed payload that somebody sends again.
        run = await self._make(pipeline, spec, hashlib.sha256(body).hexdigest())
        return 201, f"run {run.name}"


BY_RUN = "was made by the run {}, so it makes none"
_MADE_BY = re.compile(rf"^{RUN_TRAILER}: *(\S.*)$", re.MULTILINE)


class Person(msgspec.Struct):
    name: str = ""


class HeadCommit(msgspec.Struct):
    message: str = ""
    author: Person = msgspec.field(default_factory=Person)


class Payload(msgspec.Struct):
    """What is read of GitHub's push event; Gitea's and Forgejo's is the same."""

    ref: str
    after: str
    deleted: bool = False
    head_commit: HeadCommit | None = None
    pusher: Person = msgspec.field(default_factory=Person)


def is_signed(key: bytes, body: bytes, signature: str) -> bool:
    """Whether `sha256=HEX` is the HMAC of the body."""
    wanted = "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(wanted.encode(), signature.encode())
