"""A run at the far end of an ssh connection: the same engine there, with the files of this project that it does not have yet.

    here: what the graph selects, and its definition -> one tree, a line with all digests ->
    there:                              <- which of them are missing
    here: their bytes, one after the other ->
    there: a copy of the project, brought to that tree -> `trimtab ci run` in it; what it prints comes back as it is
    there: the run's record, behind a mark that nobody else knows -> here: it is kept in the history, too

What is sent is the content of files by digest, so nothing that the far end's cache has is sent again. The system's own ssh connects, with
all that its configuration says (keys, jumps, kept connections). When this end goes away, the far end's input ends, and the run with it.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from trimtab.ci.cache.blobs import Blobs, Lost
from trimtab.ci.cache.index import CacheError, Index, state_directory
from trimtab.ci.cache.selection import Selection
from trimtab.ci.cache.tree import File, Node, Scanner, TreeError
from trimtab.ci.definition.graph import Graph
from trimtab.ci.runs.ports import EngineFault
from trimtab.ci.runs.record import History, commit_of, packed, unpacked

JSON = dict[str, Any]

VERSION = 2
LINE_BYTES_MAX = 64 << 20
CHUNK_BYTES = 1 << 20
DEFINITION = ("ship.py", "trimtab.lock", "trimtab.quarantine")
PROGRAM = "trimtab"
NO_SSH = "cannot start {}: {}; install an ssh client"
TELLING = ("TRIMTAB_CI_STATUS", "OTEL_", "GITHUB_ACTIONS")


def command(
    address: str,
    verb: str,
    arguments: Sequence[str],
    environ: Mapping[str, str] = os.environ,
    *,
    terminal: bool = False,
) -> list[str]:
    """The call of ssh that does `trimtab ci VERB` at `ssh://[USER@]HOST[:PORT][/PATH/TO/trimtab]`. `$TRIMTAB_SSH` names another program
    than `ssh`."""
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme != "ssh" or not parts.hostname or parts.hostname.startswith("-") or port == -1:
        raise EngineFault(f"--on {address}: write ssh://[USER@]HOST[:PORT][/PATH/TO/trimtab]")
    host = f"{parts.username}@{parts.hostname}" if parts.username else parts.hostname
    program = parts.path if parts.path.strip("/") else PROGRAM
    there = " ".join(shlex.quote(one) for one in (program, "ci", verb, *arguments))
    options = [*(["-t"] if terminal else []), *(["-p", str(port)] if port else [])]
    return [*shlex.split(environ.get("TRIMTAB_SSH", "ssh")), *options, "--", host, there]


def ask(record: JSON, verb: str, arguments: Sequence[str], *, terminal: bool = False) -> int:
    """Does `trimtab ci VERB` where a run was; its input and outputs are ours. Gives the exit status. Raises `EngineFault`."""
    call = command(record["on"], verb, ["-C", record["there"], *arguments], terminal=terminal)
    try:
        return subprocess.call(call)
    except OSError as err:
        raise EngineFault(NO_SSH.format(call[0], err.strerror)) from None


def selected(project: str, graph: Graph, index: Index) -> Node:
    """All files of a project that a run of its graph needs, as one tree. Raises `EngineFault`."""
    places = [action for step in graph.steps.values() for action in _containers(step.action())]
    selections = {
        Selection(tuple(one["from"]["source"]), tuple(one["from"].get("exclude", ())))
        for action in places
        for one in action.get("inputs", ())
        if "source" in one["from"]
    }
    secrets = {value.partition("#")[0] for action in places for value in action.get("secrets", {}).values()}
    modules = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    imported = {os.path.relpath(path, project) for path in modules if path.startswith(project + os.sep)}
    selections.add(Selection((*DEFINITION, *sorted(secrets | imported))))
    try:
        trees = Scanner(project, index).trees(selections)
    except TreeError as err:
        raise EngineFault(str(err)) from None
    whole = Node()
    for tree in trees.values():
        for path, file in tree.files():
            _put(whole, path.split("/"), file)
    return whole


def _containers(action: JSON) -> Iterator[JSON]:
    yield action
    yield from action.get("services", {}).values()


def _put(node: Node, parts: list[str], file: File) -> None:
    for part in parts[:-1]:
        below = node.entries.setdefault(part, Node())
        assert isinstance(below, Node)
        node = below
    node.entries[parts[-1]] = file


# Here


def run(address: str, project: str, graph: Graph, arguments: Sequence[str], id: str) -> tuple[int, JSON | None]:
    """Has a project run at the far end under this id; gives the exit status, and the run's record if it came to one. Raises `EngineFault`."""
    call = command(address, "receive", arguments)
    try:
        index = Index(state_directory())
    except CacheError as err:
        raise EngineFault(str(err)) from None
    try:
        tree = selected(project, graph, index)
    finally:
        index.close()
    try:
        process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as err:
        raise EngineFault(NO_SSH.format(call[0], err.strerror)) from None
    assert process.stdin is not None
    assert isinstance(process.stdout, BufferedReader)
    mark = f"\x1etrimtab-record-{os.urandom(16).hex()} "
    with process:
        try:
            _send(process.stdin, process.stdout, project, tree, address, {"run": id, "mark": mark})
            told = _passed_on(process.stdout, mark.encode(), sys.stdout.buffer)
        except BrokenPipeError:
            status = process.wait()
            raise EngineFault(
                f"{address} ended the connection (status {status}); is trimtab installed there?"
            ) from None
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        return process.wait(), _record(told)


def _passed_on(come: BufferedReader, mark: bytes, to: IO[bytes]) -> bytes:
    """Copies what comes until the mark, at once but for what may be its beginning; gives what is behind it."""
    held = b""
    while chunk := come.read1(CHUNK_BYTES):
        before, found, behind = (held + chunk).partition(mark)
        cut = next((n for n in range(min(len(mark) - 1, len(before)), 0, -1) if before.endswith(mark[:n])), 0)
        cut = 0 if found else cut
        to.write(before[: len(before) - cut])
        to.flush()
        if found:
            return behind + come.read(LINE_BYTES_MAX)
        held = before[len(before) - cut :]
    to.write(held)
    to.flush()
    return b""


def _record(told: bytes) -> JSON | None:
    try:
        return unpacked(base64.b64decode(told)) if told else None
    except (ValueError, OSError, EOFError):
        return None  # the connection ended meanwhile


def keep(record: JSON, address: str, project: str) -> JSON:
    """Takes the record of a run at the far end into this end's history; gives it as it is kept. Raises `EngineFault`."""
    ours = {**record, "project": project, "commit": commit_of(Path(project)), "on": address, "there": record["project"]}
    state = state_directory()
    history = History(state)
    try:
        if history.find(project, record["id"]) is None:  # the far end may be here
            history.add(ours, Blobs(state).put(packed(ours)))
    except CacheError as err:
        raise EngineFault(str(err)) from None
    finally:
        history.close()
    return ours


def _send(to: IO[bytes], back: IO[bytes], project: str, tree: Node, address: str, more: Mapping[str, str]) -> None:
    files: dict[str, File] = {f"sha256:{file.value}": file for _, file in tree.files() if file.kind != "l"}
    lists = {node.digest: node.blob for node in tree.nodes()}
    head: JSON = {
        "v": VERSION,
        "name": os.path.basename(project),
        "id": hashlib.sha256(f"{os.uname().nodename}\0{project}".encode()).hexdigest()[:16],
        "tree": tree.digest,
        **more,
        "blobs": {
            **{digest: len(blob) for digest, blob in lists.items()},
            **{d: file.size for d, file in files.items()},
        },
    }
    to.write(json.dumps(head).encode() + b"\n")
    to.flush()
    line = back.readline(LINE_BYTES_MAX)
    try:
        missing = json.loads(line)["missing"]
    except (ValueError, KeyError, TypeError):
        said = line.decode(errors="replace").strip()
        raise EngineFault(f"{address} does not answer as trimtab does{f': {said}' if said else ''}") from None
    sent = 0
    for digest in missing:
        data = lists[digest] if digest in lists else _content(project, files[digest])
        to.write(data)
        sent += len(data)
    to.flush()
    print(f"sent {len(missing)} of {len(head['blobs'])} files and lists, {sent} bytes, to {address}", file=sys.stderr)


def _content(project: str, file: File) -> bytes:
    path = os.path.join(project, file.path)
    with open(path, "rb") as source:
        data = source.read()
    if hashlib.sha256(data).hexdigest() != file.value:
        raise EngineFault(f"{path} was changed while the run began; start it again")
    return data


# There


def receive(arguments: Sequence[str], come: IO[bytes], back: IO[bytes]) -> int:
    """Takes a project and runs it; gives the exit status. Raises `EngineFault`."""
    try:
        head = json.loads(come.readline(LINE_BYTES_MAX))
        name, id, tree = str(head["name"]), str(head["id"]), str(head["tree"])
        wanted = {str(digest): int(size) for digest, size in head["blobs"].items()}
        run, mark = str(head.get("run", "")), str(head.get("mark", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise EngineFault("nothing that trimtab sends has come; this command is for the far end of --on") from None
    if head.get("v") != VERSION or not id.isalnum() or "/" in name:
        raise EngineFault(f"the other end speaks version {head.get('v')}, this one {VERSION}; install the same trimtab")
    state = state_directory()
    directory = os.path.join(state, "projects", id, name or "project")
    try:
        index = Index(state)
        blobs = Blobs(state)
        blobs.hold()
        try:
            _take(blobs, wanted, come, back)
            _bring(blobs, index, tree, directory)
        finally:
            blobs.release()
            index.close()
    except (CacheError, Lost, OSError) as err:
        raise EngineFault(f"cannot take the project: {err}") from None
    program = [
        sys.executable,
        "-m",
        "trimtab.cli",
        "ci",
        "run",
        "-C",
        directory,
        "--locked",
        "--run-id",
        run,
        *arguments,
    ]
    # What a run came to is told by the end that asked for it.
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(TELLING)}
    process = subprocess.Popen(program, stdin=subprocess.DEVNULL, env=quiet)
    threading.Thread(target=_end_with, args=(come, process), daemon=True).start()
    status = process.wait()
    back.write(mark.encode() + _recorded(state, directory, run))
    back.flush()
    return status


def _recorded(state: str, directory: str, run: str) -> bytes:
    """The record of a run, for the other end; empty where it came to none."""
    history = History(state)
    try:
        past = history.find(directory, run)
    finally:
        history.close()
    try:
        return base64.b64encode(Blobs(state).read(past.record)) if past is not None else b""
    except Lost:
        return b""


def _take(blobs: Blobs, wanted: Mapping[str, int], come: IO[bytes], back: IO[bytes]) -> None:
    missing = []
    for digest, size in wanted.items():
        try:
            blobs.check(digest, size)
        except Lost:
            missing.append(digest)
    back.write(json.dumps({"missing": missing}).encode() + b"\n")
    back.flush()
    for digest in missing:
        with blobs.temporary() as file:
            left = wanted[digest]
            while left:
                chunk = come.read(min(left, CHUNK_BYTES))
                if not chunk:
                    raise EngineFault("the connection ended while files were sent")
                file.write(chunk)
                left -= len(chunk)
            blobs.take(file, digest)


def _bring(blobs: Blobs, index: Index, tree: str, directory: str) -> None:
    """Makes a directory what a tree says; a file that is as it should be is not touched."""
    os.makedirs(directory, exist_ok=True)
    descriptor = os.open(os.path.dirname(directory), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        everything = Selection(("**",))
        there = {
            path: (file.kind, file.value)
            for path, file in Scanner(directory, index).trees([everything])[everything].files()
        }
        wanted = {path: (entry[1], entry[2]) for path, entry in blobs.files(tree)}
        for path in there.keys() - wanted.keys():
            os.unlink(os.path.join(directory, path))
        for path, (kind, value) in wanted.items():
            if there.get(path) != (kind, value):
                _write(blobs, os.path.join(directory, path), kind, value)
    finally:
        os.close(descriptor)


def _write(blobs: Blobs, path: str, kind: str, value: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.new"
    if kind == "l":
        os.symlink(value, temporary)
    else:
        with open(blobs.path(f"sha256:{value}"), "rb") as source, open(temporary, "wb") as target:
            while chunk := source.read(CHUNK_BYTES):
                target.write(chunk)
        os.chmod(temporary, 0o755 if kind == "x" else 0o644)
    os.replace(temporary, path)


def _end_with(come: IO[bytes], process: subprocess.Popen[bytes]) -> None:
    """Interrupts a run whose other end has gone."""
    with contextlib.suppress(OSError, ValueError):
        while come.read(CHUNK_BYTES):
            pass
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
