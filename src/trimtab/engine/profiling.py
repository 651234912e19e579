"""The deeds of profiling, each as a process: `python -m trimtab.engine.profiling DATA DEED ...`, started by the node agent as root.

    serve FD,.. JSON    queries, pages, pprof in and out, debuginfod, on sockets that listen already   (profiling/served.py)
    roll-up JSON        what has come in becomes Parquet, and what is too old or too much goes         (profiling/storage)
    scrape JSON         asks for pprof profiles, until its input ends                                  (profiling/formats)

    root --isolated--> user `trimtab`, its own processes and file system: DATA/profiles alone --JSON lines--> output

What is parsed here comes from programs of strangers.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from trimtab.engine.deeds import Deed, apart, main, say
from trimtab.engine.errors import EngineError
from trimtab.engine.isolation import Send
from trimtab.runtime.settings import Settings


def profiles(settings: Settings) -> Path:
    return settings.data_path("profiles")


def serve(settings: Settings, arguments: list[str]) -> int:
    """Serves on the sockets of these numbers."""
    handles, given = arguments
    root, options = profiles(settings), json.loads(given)

    def work(_: Send) -> None:
        import asyncio

        from trimtab.components.profiling import served

        listening = [socket.socket(fileno=int(number)) for number in handles.split(",")]
        asyncio.run(served.serve(root, listening, options["urls"]))

    apart(settings, work, writable=[root])
    return 0


def roll_up(settings: Settings, arguments: list[str]) -> int:
    """Puts together what has come in, and says what the store then takes."""
    root, limits = profiles(settings), json.loads(arguments[0])
    command = [sys.executable, "-I", "-m", "trimtab.components.profiling.storage.rollup", str(root)]
    command += ["--retention-s", str(limits["retention_s"]), "--max-bytes", str(limits["disk_bytes"])]

    def work(_: Send) -> Any:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if complaint := done.stderr.strip():
            print(complaint, file=sys.stderr)
        if done.returncode != 0:
            raise EngineError((complaint.splitlines() or [f"it ended with status {done.returncode}"])[-1])
        return {"disk_bytes": size_bytes(root)}

    say(apart(settings, work, writable=[root]))
    return 0


def scrape(settings: Settings, arguments: list[str]) -> int:
    """Asks programs for their profiles until its input ends. Says what fails, and when it answers again: a line
    `{"url": ..., "error": ...}`, once."""
    root, targets = profiles(settings), json.loads(arguments[0])

    def work(send: Send) -> None:
        import asyncio

        from trimtab.components.profiling.formats import scrape as scraping
        from trimtab.components.profiling.symbols.sandbox import Sandbox

        said: dict[str, str] = {}

        def told(states: list[scraping.State]) -> None:
            for state in states:
                if state.error != said.get(state.url, ""):
                    said[state.url] = state.error
                    send({"url": state.url, "error": state.error})

        async def until_input_ends(sandbox: Sandbox) -> None:
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()

            def readable() -> None:
                if not os.read(0, 4096):
                    loop.remove_reader(0)
                    ended.set()

            loop.add_reader(0, readable)
            scraper = asyncio.create_task(scraping.scrape(root, targets, sandbox, told))
            end = asyncio.create_task(ended.wait())
            await asyncio.wait((scraper, end), return_when=asyncio.FIRST_COMPLETED)
            if scraper.done():
                await scraper  # raises what ended it
            scraper.cancel()
            end.cancel()
            await asyncio.gather(scraper, end, return_exceptions=True)
            sandbox.close()

        asyncio.run(until_input_ends(Sandbox()))

    apart(settings, work, writable=[root])
    return 0


def size_bytes(root: Path) -> int:
    """What the files below a directory take on the disk."""
    total = 0
    for directory, _, names in os.walk(root):
        for name in names:
            with suppress(OSError):  # it has just been replaced
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total


DEEDS: dict[str, Deed] = {"serve": serve, "roll-up": roll_up, "scrape": scrape}


if __name__ == "__main__":
    main(DEEDS)
