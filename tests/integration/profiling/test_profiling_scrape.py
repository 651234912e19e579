"""Programs are asked for their own profiles: what they count becomes differences, and what fails is told and asked again."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from trimtab.components.profiling.formats import scrape
from trimtab.components.profiling.formats.wire import content, encoded, number
from trimtab.components.profiling.storage.store import Profiles, Query
from trimtab.components.profiling.symbols.sandbox import Sandbox

DEADLINE_S = 60


def heap(allocated: int) -> bytes:
    """A snapshot: bytes allocated since the start, and 7 in use."""
    texts = ("", "alloc_space", "bytes", "inuse_space", "main")
    return gzip.compress(
        content(1, number(1, 1) + number(2, 2))
        + content(1, number(1, 3) + number(2, 2))
        + content(2, content(1, encoded(1)) + content(2, encoded(allocated) + encoded(7)))
        + content(4, number(1, 1) + content(4, number(1, 1)))
        + content(5, number(1, 1) + number(2, 4))
        + b"".join(content(6, text.encode()) for text in texts)
    )


@contextlib.contextmanager
def program(answer: Callable[[str], tuple[int, bytes]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def scraped(root: Path, targets: list[dict[str, Any]], until: Callable[[list[scrape.State]], bool]) -> None:
    """Scrapes until what is told is as wanted."""
    sandbox, done = Sandbox(), asyncio.Event()
    task = asyncio.create_task(
        scrape.scrape(root, targets, sandbox, lambda states: done.set() if until(states) else None)
    )
    try:
        await asyncio.wait_for(done.wait(), DEADLINE_S)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        sandbox.close()


async def test_a_heap_is_what_came_to_it_between_two_scrapes(tmp_path: Path) -> None:
    counted = {"asked": 0}

    def answer(_: str) -> tuple[int, bytes]:
        counted["asked"] += 1
        return 200, heap(1000 + 100 * counted["asked"])

    with program(answer) as url:
        target = {"url": f"{url}/debug/pprof/heap", "interval_s": 1, "labels": {"app": "shop"}}
        await scraped(tmp_path, [target], lambda _: counted["asked"] >= 3)
    store, now = Profiles(tmp_path), int(time.time())
    query = Query(type="alloc_space", start=now - 600, end=now + 60, selector=f'app="shop",instance="{url[7:]}"')
    selection = store.select(query)
    assert selection.total in (100, 200)  # the second, and the third if it was kept before the end
    assert selection.unit == "bytes"
    assert not selection.lost


async def test_a_target_that_fails_says_why_and_holds_up_no_other(tmp_path: Path) -> None:
    def answer(path: str) -> tuple[int, bytes]:
        if path == "/broken":
            return 200, b"<html>"
        return (200, heap(1)) if path == "/heap" else (404, b"no")

    seen: list[scrape.State] = []

    def until(states: list[scrape.State]) -> bool:
        seen[:] = states
        return all(state.scraped_at or state.failures for state in states)

    with program(answer) as url:
        paths = ("/heap", "/broken", "/gone")
        await scraped(
            tmp_path, [{"url": url + path, "interval_s": 1} for path in paths] + [{"url": "http://127.0.0.1:9"}], until
        )
    fine, broken, gone, refused = seen
    assert (fine.error, fine.samples) == ("", 1)
    assert broken.error.startswith(f"{url}/broken: ")
    assert "not a pprof profile: byte 1: a field of unknown kind 4" in broken.error
    assert gone.error == f"{url}/gone: HTTP Error 404: Not Found"
    assert "Connection refused" in refused.error


async def test_a_cpu_profile_is_asked_for_seconds(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(path: str) -> tuple[int, bytes]:
        asked.append(path)
        return 200, heap(1)

    with program(answer) as url:
        targets = [
            {"url": f"{url}{path}"} for path in ("/debug/pprof/profile", "/debug/pprof/profile?seconds=3", "/heap?gc=1")
        ]
        for target in targets:
            scrape.fetch(scrape.Target(**target))
    assert asked == ["/debug/pprof/profile?seconds=10", "/debug/pprof/profile?seconds=3", "/heap?gc=1"]


async def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (
        program(lambda _: (200, bytes(scrape.BODY_BYTES_MAX + 1))) as url,
        pytest.raises(ValueError, match="more than 16 MiB: ask for fewer seconds"),
    ):
        scrape.fetch(scrape.Target(url))


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ({"url": "file:///etc/passwd"}, "scrape: file:///etc/passwd: give an http or https URL"),
        ({"url": "http://x", "interval_s": 0}, "scrape: Expected `int` >= 1"),
    ],
)
async def test_a_target_that_is_none_is_one_line(tmp_path: Path, target: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        await scrape.scrape(tmp_path, [target], Sandbox())
