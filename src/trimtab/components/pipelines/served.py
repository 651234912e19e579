"""What answers at the endpoints of Pipelines and PipelineRuns, in a process that is there while it is used (`gateway.py` starts it).

    API --unix socket--> /UID/git/info/refs, /UID/git/git-receive-pack ...   --> git http-backend, on the bare repository UID.git
                         /UID/webhook                                         --> the gateway, which knows the secret
                         /UID/log[?follow=1], /UID/report, /UID/record        --> files of the run UID
                         /UID/tests                                           --> the heat map of the Pipeline UID
    git's hooks (`hook.py`) --socket--> noted on disk --> the gateway makes PipelineRuns --> what it says goes to who pushed

It runs as the engine's user where nothing else of the engine is in reach: it reads what strangers send. A push is on the disk
before its refs are moved, and until the gateway has said that it knows of it, so none is forgotten, whatever ends in between.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, MutableMapping
from pathlib import Path
from typing import Any

Message = MutableMapping[str, Any]

IDLE_S = 20.0
ANSWER_S = 20.0
"""How long a push waits for what became of it."""
FOLLOW_S = 0.3
CHUNK_BYTES = 64 * 1024
HOOK_BYTES_MAX = 1 << 20
"""Of a webhook's payload; GitHub's own limit is 25 MB, of which the commits of a push are the most."""
RUN_TRAILER = "Trimtab-Run"
"""A commit with this trailer was made by a run (docs/pipelines.md, "The digest in git"), so it makes none."""
GIT_PATHS = ("info/refs", "git-upload-pack", "git-receive-pack")
_UID = re.compile(r"[0-9a-f-]{36}")
_NOTHING = "0" * 40
_PAGES = {"report": ("report.html", "text/html; charset=utf-8"), "record": ("record.json", "application/json")}
_PAGE_POLICY = (
    b"content-security-policy",
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'",
)


class Served:
    """The ASGI application, and the hooks' socket. root: the directory `pipelines`; tell: a line for the gateway."""

    def __init__(self, root: Path, tell: Callable[[dict[str, Any]], None]) -> None:
        self._root = root
        self._tell = tell
        self._spool = root / "pushes"
        self._asked: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._active = 0
        self.idle_since = 0.0

    @property
    def busy(self) -> bool:
        return bool(self._active or self._asked)

    # HTTP

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        self._active += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self._active -= 1
            self.idle_since = asyncio.get_running_loop().time()

    async def _answer(self, scope: Message, receive: Any, send: Any) -> None:
        uid, _, rest = scope["path"].lstrip("/").partition("/")
        what, _, rest = rest.partition("/")
        if not _UID.fullmatch(uid):
            await _text(send, 404, "there is no such endpoint")
        elif what == "git" and rest in GIT_PATHS:
            await self._git(uid, rest, scope, receive, send)
        elif what == "webhook" and not rest and scope["method"] == "POST":
            await self._webhook(scope, receive, send)
        elif what == "log" and scope["method"] == "GET":
            await self._log(uid, b"follow" in scope["query_string"], receive, send)
        elif what in _PAGES and scope["method"] == "GET":
            name, kind = _PAGES[what]
            await _file(
                send, self._root / "runs" / uid / name, kind, "the run has not ended yet, or could not be begun"
            )
        elif what == "tests" and scope["method"] == "GET":
            file = self._root / "work" / f"{uid}.tests.html"
            await _file(send, file, "text/html; charset=utf-8", "no run of this Pipeline has left results of tests yet")
        else:
            await _text(send, 404, "there is no such endpoint")

    async def _git(self, uid: str, path: str, scope: Message, receive: Any, send: Any) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        repository = self._root / "git" / f"{uid}.git"
        if not repository.is_dir():
            await _text(send, 503, "the repository is not made yet: try again in a moment")
            return
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._root),
            "GIT_CONFIG_NOSYSTEM": "1",
            # Not in the repository: it may have come with a backup, from another directory.
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "core.hooksPath",
            "GIT_CONFIG_VALUE_0": str(self._root / "hooks"),
            "GIT_PROJECT_ROOT": str(self._root / "git"),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": f"/{uid}.git/{path}",
            "REQUEST_METHOD": scope["method"],
            "QUERY_STRING": scope["query_string"].decode("latin-1"),
            "CONTENT_TYPE": headers.get("content-type", ""),
            "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
            "GIT_PROTOCOL": headers.get("git-protocol", ""),
            "REMOTE_USER": headers.get("x-trimtab-user", "somebody"),
            "TRIMTAB_PUSH": secrets.token_hex(8),
            "TRIMTAB_OBJECT": headers.get("x-trimtab-object", ""),
        }
        if "content-length" in headers:
            environment["CONTENT_LENGTH"] = headers["content-length"]
        backend = await asyncio.create_subprocess_exec(
            "git", "http-backend", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment
        )
        feeding = asyncio.ensure_future(_feed(backend, receive))
        try:
            await _copy_cgi(backend, send)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                backend.kill()
            raise
        finally:
            feeding.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await feeding
            await backend.wait()

    async def _webhook(self, scope: Message, receive: Any, send: Any) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        body = b""
        async for piece in _pieces(receive):
            body += piece
            if len(body) > HOOK_BYTES_MAX:
                await _text(send, 413, f"a payload has at most {HOOK_BYTES_MAX} bytes")
                return
        told = {
            "object": headers.get("x-trimtab-object", ""),
            "event": headers.get("x-github-event", ""),
            "signature": headers.get("x-hub-signature-256", ""),
            "body": base64.b64encode(body).decode(),
        }
        answer = await self._ask("hook", secrets.token_hex(8), told)
        await _text(send, int(answer.get("status", 503)), answer.get("text", "the engine does not answer: try again"))

    async def _log(self, uid: str, follow: bool, receive: Any, send: Any) -> None:
        directory = self._root / "runs" / uid
        try:
            file = (directory / "log").open("rb")
        except FileNotFoundError:
            await _text(send, 404, "the run has not begun yet")
            return
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await _start(send, 200, "text/plain; charset=utf-8")
            with file:
                while True:
                    ended = not follow or (directory / "outcome.json").exists() or not directory.exists()
                    while piece := file.read(CHUNK_BYTES):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                    if ended or gone.done():
                        break
                    await asyncio.wait({gone}, timeout=FOLLOW_S)
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()

    # The gateway

    async def _ask(self, what: str, name: str, told: dict[str, Any]) -> dict[str, Any]:
        """Tells the gateway, and returns what it says; empty when it says nothing in time."""
        answer = self._asked[name] = asyncio.get_running_loop().create_future()
        self._tell({what: name, **told})
        try:
            return await asyncio.wait_for(answer, ANSWER_S)
        except TimeoutError:
            return {}
        finally:
            self._asked.pop(name, None)

    def answered(self, line: bytes) -> None:
        """Takes a line of the gateway: what became of a push or of a webhook."""
        said = json.loads(line)
        name = said["name"]
        if said.get("known"):
            (self._spool / name).unlink(missing_ok=True)
        if (waiting := self._asked.get(name)) is not None and not waiting.done():
            waiting.set_result(said)

    # Pushes

    async def resume(self) -> None:
        """Tells of the pushes that nobody is known to know of: those whose refs were moved."""
        for file in sorted(self._spool.iterdir()):
            with contextlib.suppress(OSError, ValueError):
                told = json.loads(file.read_bytes())
                if not told.get("moved"):
                    repository = self._repository(told["repository"])
                    told["refs"] = [ref for ref in told["refs"] if await _stands(repository, ref)]
                if told["refs"]:
                    self._tell({"push": file.name, **told})
                    continue
            file.unlink(missing_ok=True)

    async def hooked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One call of a git hook."""
        self._active += 1
        try:
            said = json.loads(await reader.readline())
            text = await self._hook(said)
            writer.write(text.encode())
            await writer.drain()
        except (ValueError, OSError) as err:
            print(f"a hook failed: {err}", file=sys.stderr)
        finally:
            self._active -= 1
            writer.close()

    async def _hook(self, said: dict[str, Any]) -> str:
        repository = self._repository(said["repository"])
        if said["hook"] == "pre-receive":
            refs = [ref for ref in said["refs"] if ref["new"] != _NOTHING]
            self._note(
                said["push"],
                {"repository": str(repository), "object": said["object"], "user": said["user"], "refs": refs},
            )
            return ""
        note = json.loads((self._spool / said["push"]).read_bytes())
        moved = {ref["ref"] for ref in said["refs"]}
        note["refs"] = [await _described(repository, ref) for ref in note["refs"] if ref["ref"] in moved]
        note["moved"] = True
        self._note(said["push"], note)
        answer = await self._ask("push", said["push"], note)
        return str(answer.get("text", "trimtab: the push is here; the engine takes it up as soon as it answers"))

    def _repository(self, said: str) -> Path:
        """The repository of this name, wherever it was when the name was noted."""
        return self._root / "git" / Path(said).name

    def _note(self, name: str, what: dict[str, Any]) -> None:
        file = self._spool / Path(name).name
        temporary = file.with_name(f".{file.name}")
        with temporary.open("w") as out:
            json.dump(what, out)
            out.flush()
            os.fsync(out.fileno())
        temporary.rename(file)


async def _described(repository: Path, ref: dict[str, str]) -> dict[str, str]:
    """The ref with author and subject of its commit; `by_run`: the run that made it, if one did."""
    form = f"--format=%H%n%an%n%s%n%(trailers:key={RUN_TRAILER},valueonly)"
    out = await _output("git", "-C", str(repository), "log", "-1", form, ref["new"])
    commit, author, message, run, *_ = [*out.decode(errors="replace").splitlines(), "", "", "", ""]
    told = {**ref, "commit": commit, "author": author[:200], "message": message[:300]}
    return {**told, "by_run": run[:200]} if run else told


async def _stands(repository: Path, ref: dict[str, str]) -> bool:
    out = await _output("git", "-C", str(repository), "rev-parse", "--verify", "--quiet", ref["ref"])
    return out.decode().strip() == ref["new"]


async def _output(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    return out


# CGI


async def _pieces(receive: Any) -> AsyncIterator[bytes]:
    while (message := await receive())["type"] != "http.disconnect":
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


async def _until_gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _feed(process: asyncio.subprocess.Process, receive: Any) -> None:
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):
        async for piece in _pieces(receive):
            process.stdin.write(piece)
            await process.stdin.drain()
    process.stdin.close()


async def _copy_cgi(process: asyncio.subprocess.Process, send: Any) -> None:
    """A CGI answer: headers, an empty line, the body."""
    assert process.stdout is not None
    status, headers = 200, []
    while (line := (await process.stdout.readline()).rstrip(b"\r\n")) != b"":
        name, _, value = line.partition(b":")
        if name.lower() == b"status":
            status = int(value.split()[0])
        else:
            headers.append((name.lower(), value.strip()))
    if not headers:
        await _text(send, 502, "git http-backend gave no answer: see the node agent's log")
        return
    await send({"type": "http.response.start", "status": status, "headers": headers})
    while piece := await process.stdout.read(CHUNK_BYTES):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _start(send: Any, status: int, kind: str) -> None:
    headers = [(b"content-type", kind.encode()), (b"cache-control", b"no-store"), _PAGE_POLICY]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _text(send: Any, status: int, text: str) -> None:
    await _start(send, status, "text/plain; charset=utf-8")
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})


async def _file(send: Any, path: Path, kind: str, missing: str) -> None:
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        await _text(send, 404, missing)
        return
    await _start(send, 200, kind)
    await send({"type": "http.response.body", "body": body})


# The process


HOOKS = ("pre-receive", "post-receive")
HOOK_SOCKET = "hooks.sock"


def prepare(root: Path) -> None:
    """Makes the directories and git's hooks."""
    for name in ("git", "pushes", "runs", "work", "hooks"):
        (root / name).mkdir(mode=0o700, exist_ok=True)
    program = Path(__file__).with_name("hook.py")
    for name in HOOKS:
        file, temporary = root / "hooks" / name, root / "hooks" / f".{name}"
        temporary.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{program}" {name} "{root / HOOK_SOCKET}"\n')
        temporary.chmod(0o755)
        temporary.rename(file)


async def serve(root: Path, listening: socket.socket, tell: Callable[[dict[str, Any]], None]) -> None:
    """Serves until nobody has wanted anything for a while, or the gateway has gone (its end of our input)."""
    import uvicorn

    prepare(root)
    loop = asyncio.get_running_loop()
    app = Served(root, tell)
    app.idle_since = loop.time()
    (root / HOOK_SOCKET).unlink(missing_ok=True)
    hooks = await asyncio.start_unix_server(app.hooked, root / HOOK_SOCKET, limit=HOOK_BYTES_MAX)
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", server_header=False)
    server = uvicorn.Server(config)
    answers = asyncio.StreamReader(limit=HOOK_BYTES_MAX)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(answers), sys.stdin)

    async def listen_to_gateway() -> None:
        while line := await answers.readline():
            app.answered(line)
        server.should_exit = True

    async def end_when_idle() -> None:
        while app.busy or loop.time() - app.idle_since < IDLE_S:  # noqa: ASYNC110 (it is time alone that passes)
            await asyncio.sleep(IDLE_S / 4)
        server.should_exit = True

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work()) for work in (listen_to_gateway, end_when_idle, app.resume)]
        try:
            await server.serve(sockets=[listening])
        finally:
            for task in tasks:
                task.cancel()
            hooks.close()
            transport.close()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
