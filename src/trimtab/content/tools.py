"""Running the tools of the host (apt, pip, buildah): as an unprivileged user where we are root, in a private environment,
killed when the build is cancelled, their last words kept for the error line.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trimtab.content.errors import BuildFailed, DiskFull

_TAIL_LINES = 60
# What a tool may know of our environment: how to reach the network, and which indexes and mirrors to use.
_PASSED_ON = ("PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_PASSED_ON_PREFIXES = ("PIP_",)
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


class ToolFailed(BuildFailed):
    """A tool ended with an error; `lines` are the last it wrote."""

    def __init__(self, argv: Sequence[str], code: int, lines: Sequence[str]) -> None:
        self.code = code
        self.lines = list(lines)
        super().__init__(f"{Path(argv[0]).name} failed ({code}): {lines[-1] if lines else 'it said nothing'}")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a tool: locale and time zone fixed, proxies and indexes passed on, `extra` on top."""
    passed = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES) or name.lower() in _PROXIES
    }
    return {"PATH": os.defpath, **passed, "LC_ALL": "C.UTF-8", "TZ": "UTC", **(extra or {})}


def unprivileged(directory: Path) -> dict[str, object]:
    """Arguments of `subprocess` that make a tool run as the owner of this directory, where we are root and it is not."""
    owner = directory.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return {}
    return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}


async def run(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    stdin: bytes | None = None,
    as_owner_of: Path | None = None,
) -> bytes:
    """Runs a tool to its end and returns what it wrote to stdout. Raises ToolFailed.

    `on_line` sees each line of stdout as it comes, in this thread's loop.
    """
    loop = asyncio.get_running_loop()
    try:
        process = subprocess.Popen(  # noqa: ASYNC220
            argv,
            cwd=cwd,
            env=environment(env),
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **(unprivileged(as_owner_of) if as_owner_of is not None else {}),  # type: ignore[call-overload]
        )
    except FileNotFoundError:
        raise BuildFailed(f"{argv[0]} is not installed on this machine") from None
    work = loop.run_in_executor(None, _communicate, process, stdin, on_line, loop)
    try:
        code, out, tail = await asyncio.shield(work)
    except asyncio.CancelledError:
        _kill(process)
        await asyncio.wait([work])
        raise
    if code != 0:
        if any(os.strerror(errno.ENOSPC) in line for line in tail):
            raise DiskFull(f"{Path(argv[0]).name} found no space left on the disk of {cwd.parent}; free some")
        raise ToolFailed(argv, code, tail)
    return out


def _communicate(
    process: subprocess.Popen[bytes],
    stdin: bytes | None,
    on_line: Callable[[str], None] | None,
    loop: asyncio.AbstractEventLoop,
) -> tuple[int, bytes, list[str]]:
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    assert process.stdout is not None
    assert process.stderr is not None
    errors = threading.Thread(target=_drain, args=(process.stderr, tail))
    errors.start()
    feeder = None
    if stdin is not None:
        feeder = threading.Thread(target=_feed, args=(process, stdin))
        feeder.start()
    out: list[bytes] = []
    with process.stdout:
        if on_line is None:
            out.append(process.stdout.read())
        else:
            for raw in process.stdout:
                out.append(raw)
                loop.call_soon_threadsafe(on_line, raw.decode("utf-8", "replace").rstrip())
    errors.join()
    if feeder is not None:
        feeder.join()
    code = process.wait()
    said = b"".join(out)
    lines = said.decode("utf-8", "replace").splitlines()[-_TAIL_LINES:] if code != 0 else []
    return code, said, [line.strip() for line in lines if line.strip()] + list(tail)


def _drain(stream, tail: deque[str]) -> None:  # type: ignore[no-untyped-def]  # a pipe
    with stream:
        for raw in stream:
            line = raw.decode("utf-8", "replace").strip()
            if line:
                tail.append(line)


def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            pipe.write(data)
    except BrokenPipeError:
        return


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
