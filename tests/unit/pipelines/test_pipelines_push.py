"""A push with git itself: what the engine is told of it, what the pusher is told, and what is left when nobody listens."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn

from api_in_process import running_api
from trimtab.api import ObjectMeta
from trimtab.api.core import Secret
from trimtab.client import AsgiTransport, Client
from trimtab.client.clock import SystemClock
from trimtab.components.pipelines import COMPONENT, gateway
from trimtab.components.pipelines.admission import check_pipeline
from trimtab.components.pipelines.kinds import Pipeline, PipelineRun, PipelineSpec, PipelineWebhook
from trimtab.components.pipelines.served import HOOK_SOCKET, Served
from trimtab.engine import pipelines
from trimtab.engine.errors import EngineError
from trimtab.runtime import Denied
from trimtab.runtime.crd import ensure_crds
from trimtab.runtime.journal import Journal
from trimtab.server import create_app

UID = "5b7c709a-cb17-4a5a-bb82-860deabca8d0"
DEADLINE_S = 60.0
CLEAN = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0"}
AUTHOR = ("-c", "user.name=Anna", "-c", "user.email=anna@example.com")


@dataclass
class Door:
    """A serving process' parts, in this one. answer: what the engine says of a push; None: nothing."""

    root: Path
    port: int = 0
    answer: str | None = "run shop-1"
    told: list[dict[str, Any]] = field(default_factory=list)
    app: Served = field(init=False)

    def __post_init__(self) -> None:
        self.app = Served(self.root, self.hear)

    def hear(self, told: dict[str, Any]) -> None:
        self.told.append(told)
        name = told.get("push") or told.get("hook")
        if self.answer is not None:
            said = json.dumps({"name": name, "known": True, "text": self.answer}).encode()
            asyncio.get_running_loop().call_soon(self.app.answered, said)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{UID}"

    def noted(self) -> list[str]:
        return [name for name in os.listdir(self.root / "pushes") if not name.startswith(".")]


@asynccontextmanager
async def door(root: Path) -> AsyncIterator[Door]:
    pipelines.made(root, UID)
    here = Door(root)
    hooks = await asyncio.start_unix_server(here.app.hooked, root / HOOK_SOCKET)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    here.port = listening.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(here.app, log_level="warning", lifespan="off"))
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    try:
        yield here
    finally:
        server.should_exit = True
        await serving
        hooks.close()
        await hooks.wait_closed()
        listening.close()


async def git(*arguments: str | Path, fails: bool = False) -> str:
    process = await asyncio.create_subprocess_exec(
        "git", *map(str, arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=CLEAN
    )
    out, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert (process.returncode != 0) is fails, out.decode()
    return out.decode()


async def repository(path: Path, message: str = "First words") -> str:
    """A repository with one commit; returns the commit."""
    await git("init", "--quiet", "-b", "main", path)
    (path / "ship.py").write_text("# nothing yet\n")
    await git("-C", path, "add", ".")
    await git("-C", path, *AUTHOR, "commit", "--quiet", "-m", message)
    return (await git("-C", path, "rev-parse", "HEAD")).strip()


async def test_a_push_is_told_and_answered(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    async with door(tmp_path / "data") as here:
        commit = await repository(tmp_path / "work")

        said = await git("-C", tmp_path / "work", "push", f"{here.url}/git", "main")

        assert "remote: run shop-1" in said
        (told,) = here.told
        assert told["refs"] == [
            {
                "old": "0" * 40,
                "new": commit,
                "ref": "refs/heads/main",
                "commit": commit,
                "author": "Anna",
                "message": "First words",
            }
        ]
        assert here.noted() == []
        await git("clone", "--quiet", f"{here.url}/git", tmp_path / "copy")
        assert (tmp_path / "copy" / "ship.py").read_text() == "# nothing yet\n"


async def test_a_push_that_nobody_took_up_is_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.components.pipelines.served.ANSWER_S", 0.05)
    (tmp_path / "data").mkdir()
    async with door(tmp_path / "data") as here:
        here.answer = None
        await repository(tmp_path / "work")
        said = await git("-C", tmp_path / "work", "push", f"{here.url}/git", "main")
        assert "takes it up as soon as it answers" in said
        assert len(here.noted()) == 1

        here.answer = "run shop-1"
        await here.app.resume()
        await asyncio.sleep(0)

        first, second = here.told
        assert first == second
        assert here.noted() == []


async def test_a_push_whose_refs_did_not_move_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    async with door(tmp_path / "data") as here:
        refs = [{"old": "0" * 40, "new": "1" * 40, "ref": "refs/heads/main"}]
        place = str(tmp_path / "data" / "git" / f"{UID}.git")
        said = {
            "hook": "pre-receive",
            "push": "p1",
            "repository": place,
            "object": "default/shop",
            "user": "anna",
            "refs": refs,
        }
        assert await here.app._hook(said) == ""
        assert here.noted() == ["p1"]

        await here.app.resume()

        assert (here.told, here.noted()) == ([], [])


async def test_only_what_is_served_is_served(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    async with door(tmp_path / "data") as here:
        kept = tmp_path / "data" / "runs" / UID
        kept.mkdir()
        (kept / "log").write_text("one\ntwo\n")
        (kept / "outcome.json").write_text("{}")

        assert await fetched(here, "/log?follow=1") == (200, "one\ntwo\n")
        assert await fetched(here, "/report") == (404, "the run has not ended yet, or could not be begun\n")
        for path in ("/git/config", "/git/../../../etc/passwd", "/git/objects/info/packs", "/other", ""):
            assert (await fetched(here, path))[0] == 404, path


async def fetched(here: Door, path: str) -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        with contextlib.closing(HTTPConnection("127.0.0.1", here.port, timeout=DEADLINE_S)) as connection:
            connection.request("GET", f"/{UID}{path}")
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    return await asyncio.to_thread(ask)


# The gateway's end


@dataclass
class Answers:
    """The input of a serving process."""

    lines: list[Any] = field(default_factory=list)

    def write(self, line: bytes) -> None:
        self.lines.append(json.loads(line))

    async def drain(self) -> None:
        """Nothing waits."""


@asynccontextmanager
async def engine() -> AsyncIterator[tuple[Client, gateway.Server, Answers]]:
    async with running_api() as api:
        client = Client(AsgiTransport(create_app(api.server)))
        await ensure_crds(client, COMPONENT.kinds)
        spec = PipelineSpec(webhook=PipelineWebhook(repository="https://forge.example/shop.git", secret="hook"))
        await client.apply(Pipeline(metadata=ObjectMeta(name="shop", namespace="default"), spec=spec), manager="t")
        key = base64.b64encode(b"between us").decode()
        await client.apply(
            Secret(metadata=ObjectMeta(name="hook", namespace="default"), data={"secret": key}), manager="t"
        )
        journal = Journal(None)
        process = SimpleNamespace(client=client, journal=journal, clock=SystemClock())
        listening = socket.socket(socket.AF_UNIX)
        try:
            yield client, gateway.Server(cast(Any, process), cast(Any, None), listening), Answers()
        finally:
            listening.close()
            journal.close()


async def heard(server: gateway.Server, answers: Answers, told: dict[str, Any]) -> dict[str, Any]:
    await server._heard(told, cast(Any, SimpleNamespace(stdin=answers)))
    return cast(dict[str, Any], answers.lines[-1])


def a_push(ref: str = "refs/heads/main") -> dict[str, Any]:
    one = {"old": "0" * 40, "new": "a" * 40, "ref": ref, "commit": "a" * 40, "author": "Anna", "message": "First words"}
    return {"push": "p1", "object": "default/shop", "user": "anna", "refs": [one]}


async def test_a_push_told_twice_is_one_run() -> None:
    async with engine() as (client, server, answers):
        first = await heard(server, answers, a_push())
        again = await heard(server, answers, a_push())

        (run,) = (await client.list(PipelineRun)).items
        assert first == again
        assert f"run {run.name}\n" in first["text"]
        assert (run.spec.commit, run.spec.pusher, run.spec.message) == ("a" * 40, "anna", "First words")
        assert [owner.name for owner in run.metadata.owner_references] == ["shop"]


async def test_other_branches_run_nothing() -> None:
    async with engine() as (client, server, answers):
        said = await heard(server, answers, a_push("refs/heads/try"))

        assert said["text"] == "trimtab: refs/heads/try runs nothing; this Pipeline runs refs/heads/main"
        assert list((await client.list(PipelineRun)).items) == []


async def test_a_commit_that_a_run_made_makes_none(tmp_path: Path) -> None:
    async with engine() as (client, server, answers):
        push = a_push()
        push["refs"][0]["by_run"] = "run-7"
        said = await heard(server, answers, push)
        assert said["text"] == "trimtab: aaaaaaaaaaaa was made by the run run-7, so it makes none"

        own = {**PAYLOAD, "head_commit": {"message": "Deploy app\n\nTrimtab-Run: run-7\nTrimtab-Built-From: c\n"}}
        said = await heard(server, answers, a_hook(json.dumps(own).encode()))
        assert (said["status"], said["text"]) == (202, "bbbbbbbbbbbb was made by the run run-7, so it makes none")

        assert list((await client.list(PipelineRun)).items) == []
    (tmp_path / "data").mkdir()
    async with door(tmp_path / "data") as here:
        await repository(tmp_path / "work")
        work = tmp_path / "work"
        await git("-C", work, *AUTHOR, "commit", "--quiet", "--allow-empty", "-m", "Deploy", "-m", "Trimtab-Run: run-7")
        await git("-C", work, "push", f"{here.url}/git", "main")
        assert [ref["by_run"] for ref in here.told[0]["refs"]] == ["run-7"]


def a_hook(body: bytes, key: bytes = b"between us", event: str = "push") -> dict[str, Any]:
    signature = "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()
    encoded = base64.b64encode(body).decode()
    return {"hook": "h1", "object": "default/shop", "event": event, "signature": signature, "body": encoded}


PAYLOAD = {
    "ref": "refs/heads/main",
    "after": "b" * 40,
    "head_commit": {"message": "Second words\n\nand more", "author": {"name": "Bert"}},
    "pusher": {"name": "bert"},
    "repository": {"clone_url": "https://elsewhere.example/evil.git"},
}


async def test_a_signed_webhook_makes_one_run() -> None:
    async with engine() as (client, server, answers):
        body = json.dumps(PAYLOAD).encode()
        said = await heard(server, answers, a_hook(body))
        await heard(server, answers, a_hook(body))

        (run,) = (await client.list(PipelineRun)).items
        assert (said["status"], said["text"]) == (201, f"run {run.name}")
        assert (run.spec.trigger, run.spec.commit, run.spec.message) == ("webhook", "b" * 40, "Second words")


@pytest.mark.parametrize(
    ("told", "status", "text"),
    [
        (a_hook(b"{}", key=b"guessed"), 403, "the signature (X-Hub-Signature-256) is not that of the Secret"),
        (a_hook(b"{}", event="ping"), 200, "pong"),
        (a_hook(b"{}", event="issues"), 202, "nothing to do for issues: send pushes"),
        (a_hook(b"{}"), 400, "the payload is not a push as GitHub sends it (as application/json): "),
        (a_hook(json.dumps({**PAYLOAD, "ref": "refs/tags/v1"}).encode()), 202, "refs/tags/v1 runs nothing"),
        (a_hook(json.dumps({**PAYLOAD, "deleted": True}).encode()), 202, "refs/heads/main runs nothing"),
    ],
)
async def test_what_a_webhook_is_told(told: dict[str, Any], status: int, text: str) -> None:
    async with engine() as (client, server, answers):
        said = await heard(server, answers, told)

        assert said["status"] == status
        assert said["text"].startswith(text)
        assert list((await client.list(PipelineRun)).items) == []


# Fetching from a forge that asks who it is


TOKEN = "a-token-that-nobody-sees"
FAKE_SSH = """#!/bin/sh
# ssh -F /dev/null -i KEY -o ... HOST COMMAND: as a server would that knows the key, and is known by its own
[ "$1 $2 $3" = "-F /dev/null -i" ] && [ "$(stat -c %a "$4")" = 600 ] && grep -q 'the key' "$4" || exit 97
for one; do case "$one" in UserKnownHostsFile=*) grep -q '^forge.example ssh-ed25519' "${one#*=}" || exit 98;; esac; last=$one; done
eval "git-upload-pack ${last#git-upload-pack}"
"""


def order_of(commit: str, fetch: str) -> dict[str, Any]:
    return {"uid": "run", "repository": UID, "commit": commit, "fetch": fetch, "directory": ""}


@asynccontextmanager
async def forge(root: Path) -> AsyncIterator[tuple[str, str]]:
    """A repository that lets in who shows the token: its address, and a commit."""
    root.mkdir()
    async with door(root) as here:
        commit = await repository(root / "theirs")
        await git("-C", root / "theirs", "push", "--quiet", f"{here.url}/git", "main")
        inner = here.app.__class__.__call__
        wanted = "Basic " + base64.b64encode(f"ci:{TOKEN}".encode()).decode()

        async def guarded(self: Served, scope: Any, receive: Any, send: Any) -> None:
            if dict(scope["headers"]).get(b"authorization", b"").decode() == wanted:
                await inner(self, scope, receive, send)
                return
            await send({"type": "http.response.start", "status": 401, "headers": [(b"www-authenticate", b"Basic")]})
            await send({"type": "http.response.body", "body": b""})

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Served, "__call__", guarded)
            yield f"{here.url}/git", commit


async def test_a_repository_that_asks_for_a_login_is_fetched_from(tmp_path: Path) -> None:
    async with forge(tmp_path / "forge") as (url, commit):
        root = tmp_path / "pipelines"
        root.mkdir()
        pipelines.made(root, UID)
        order = order_of(commit, url)
        for login in ({}, {"username": "ci", "password": "guessed"}):
            with pytest.raises(EngineError, match="git fetch: fatal: "):
                await asyncio.to_thread(pipelines.fetched, root, order, login)
        with pytest.raises(EngineError, match=r"the Secret of spec.webhook.login has no password \(a token\), which "):
            await asyncio.to_thread(pipelines.fetched, root, order, {"username": "ci"})

        await asyncio.to_thread(pipelines.fetched, root, order, {"username": "ci", "password": f"{TOKEN}\n"})

        work = await asyncio.to_thread(pipelines.checked_out, root, order)
        assert (work / "ship.py").read_text() == "# nothing yet\n"
        kept = [path for path in root.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
        assert kept == []


async def test_a_repository_is_fetched_by_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = await repository(tmp_path / "theirs")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(FAKE_SSH)
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    root = tmp_path / "pipelines"
    root.mkdir()
    pipelines.made(root, UID)
    order = order_of(commit, f"ssh://git@forge.example{tmp_path / 'theirs'}")
    login = {"ssh-privatekey": "the key", "known_hosts": "forge.example ssh-ed25519 AAAA"}
    with pytest.raises(EngineError, match=r"the Secret of spec.webhook.login has no known_hosts, which ssh://"):
        pipelines.fetched(root, order, {"ssh-privatekey": "the key"})

    pipelines.fetched(root, order, login)

    assert (pipelines.checked_out(root, order) / "ship.py").exists()
    assert list((root / "home").iterdir()) == []


async def test_a_commit_that_cannot_be_fetched_is_said_in_the_log(tmp_path: Path) -> None:
    root = tmp_path / "pipelines"
    root.mkdir()
    pipelines.made(root, UID)
    order = {**order_of("a" * 40, "https://forge.example/x"), "unfetched": "git fetch: fatal: no"}

    outcome = pipelines.carried_out(root, order, lambda told: None)

    assert (outcome["state"], outcome["message"]) == ("fault", "git fetch: fatal: no")
    assert (root / "runs" / "run" / "log").read_text() == "git fetch: fatal: no\n"


@pytest.mark.parametrize(
    ("repository", "login", "said"),
    [
        (
            "ssh://git@forge.example/shop",
            "",
            "ssh:// asks for a key: name a Secret with ssh-privatekey and known_hosts",
        ),
        ("http://forge.example/shop", "forge", "would be sent the login without TLS: write https:// or ssh://"),
        ("https://ci:x@forge.example/shop", "", "it has a password in it: put that into a Secret"),
        ("file:///etc", "", "give an https:// or ssh:// URL that git can fetch from"),
    ],
)
def test_what_of_a_webhook_is_refused(repository: str, login: str, said: str) -> None:
    spec = {"webhook": {"repository": repository, "secret": "hook", "login": login}}
    with pytest.raises(Denied, match=re.escape(said)):
        check_pipeline({"metadata": {"name": "shop"}, "spec": spec}, None)
