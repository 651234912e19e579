"""The runner's side of the connection to a step's agent: orders go in, what the commands print and what the agent tells comes out.

stdout   what is printed, up to a mark       stderr   a line for each event: closed, started N, ended N CODE, usage ..., done
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from trimtab.client.channels import STDERR, STDIN, STDOUT

if TYPE_CHECKING:
    import aiohttp


class Conversation:
    """network: "closed" or "open" once that was looked at. refused: why no command was run. failed_run: which command failed,
    `exit` with what. done: everything was told, and everything printed has come. over: the connection has ended.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, write: Callable[[bytes], None], mark: str) -> None:
        self._socket = socket
        self._write = write
        self._mark = b"\0%s\0" % mark.encode()
        self._held = b""
        self._line = b""
        self._told_all = self._printed_all = False
        self._changed = asyncio.Condition()
        self.network = ""
        self.refused = ""
        self.exit = 0
        self.failed_run: int | None = None
        self.cpu_s = 0.0
        self.rss_bytes = 0
        self.ooms = 0
        self.over = False

    @property
    def done(self) -> bool:
        return self._told_all and self._printed_all

    async def order(self, word: str) -> None:
        """Says a word to the agent."""
        await self._socket.send_bytes(bytes([STDIN]) + f"{word}\n".encode())

    async def listen(self) -> None:
        """Takes what comes until the connection ends."""
        try:
            async for message in self._socket:
                if not isinstance(message.data, bytes) or not message.data:
                    continue
                if message.data[0] == STDOUT:
                    self._print(message.data[1:])
                elif message.data[0] == STDERR:
                    self._tell(message.data[1:])
                await self._notify()
        finally:
            self.over = True
            if self._held:
                self._write(self._held)
                self._held = b""
            await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, said: Callable[[], object]) -> None:
        """Until something was said, or the connection has ended."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.over or said())

    def _print(self, data: bytes) -> None:
        """Passes on what is printed, but for the mark that ends it, which may come in pieces."""
        data = self._held + data
        before, mark, _ = data.partition(self._mark)
        self._held = b""
        if mark:
            self._printed_all = True
        else:
            keep = next((n for n in range(len(self._mark) - 1, 0, -1) if data.endswith(self._mark[:n])), 0)
            before, self._held = data[: len(data) - keep], data[len(data) - keep :]
        if before:
            self._write(before)

    def _tell(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._event(line.decode(errors="replace"))

    def _event(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word in ("closed", "open"):
            self.network = word
        elif word == "refused":
            self.refused = rest
        elif word == "ended":
            number, code, *left = rest.split(" ")
            if left:
                some = ", ".join(sorted(left))
                self._write(f"trimtab: still running when the command ended, and ended with it: {some}\n".encode())
            if code != "0":
                self.failed_run, self.exit = int(number), int(code)
        elif word == "usage":
            user, system, rss, ooms = rest.split(" ")
            self.cpu_s, self.rss_bytes, self.ooms = _seconds(user) + _seconds(system), int(rss), int(ooms)
        elif word == "done":
            self._told_all = True


def _seconds(text: str) -> float:
    """`1m2.30s` as the shell's `times` writes it."""
    minutes, _, seconds = text.rstrip("s").partition("m")
    return 60 * int(minutes) + float(seconds)
