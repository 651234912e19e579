"""What a user of the engine is told when something cannot be done: one line, what is wrong, where, the fix."""

from __future__ import annotations


class EngineError(Exception):
    """A problem with one line for the user. `exit_code` is that of the command: 1 unless said otherwise."""

    exit_code = 1


class NotRunning(EngineError):
    """The command needs a running engine and there is none."""

    exit_code = 3


class NotFound(EngineError):
    """What the command names does not exist."""

    exit_code = 4
