"""Making a backup: the same command that a person would give, as a process of its own at low priority.

It is ended with this process; what it had frozen goes on, and the run is asked for again after the next start.
"""

from __future__ import annotations

import asyncio
import os
import sys

import msgspec

from trimtab.components.backups.kinds import LastBackup
from trimtab.components.backups.schedule import BackupFailed, Request
from trimtab.runtime.deeds import terminate
from trimtab.runtime.settings import Settings

COMPLAINT = "trimtab: "
"""How the command begins the line that says what is wrong."""


class _Told(msgspec.Struct, rename="camel"):
    id: str
    bytes: int
    sent_bytes: int
    seconds: float
    frozen_ms: float


class TrimtabBackup:
    """`BackupCommand` by the command line."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def is_here(self) -> bool:
        return self._settings.node_name not in self._settings.nodes

    async def make(self, request: Request) -> LastBackup:
        """See `BackupCommand.make`."""
        arguments = [request.target, "--run", request.run, "-o", "json"]
        if request.keep is not None:
            arguments += ["--keep", str(request.keep)]
        for recipient in request.recipients:
            arguments += ["--recipient", recipient]
        program = ["-I", "-m", "trimtab.cli", "--data", self._settings.data, "backup", "create", *arguments]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *program,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **request.environment},
        )
        try:
            said, complaint = await process.communicate()
        except asyncio.CancelledError:
            await terminate(process)
            raise
        if process.returncode != 0:
            lines = complaint.decode(errors="replace").strip().splitlines()
            told_why = [line for line in lines if line.startswith(COMPLAINT)] or lines[-1:]
            raise BackupFailed(
                told_why[-1].removeprefix(COMPLAINT) if told_why else f"exit status {process.returncode}"
            )
        told = msgspec.json.decode(said, type=_Told)
        return LastBackup(told.id, told.bytes, told.sent_bytes, told.seconds, told.frozen_ms)
