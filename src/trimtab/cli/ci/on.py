"""`trimtab ci receive`, the far end of `trimtab ci run --on ssh://HOST`."""

from __future__ import annotations

import sys

from trimtab.ci.runs import far


def receive(arguments: list[str]) -> int:
    """Takes a project from standard input and runs it. For `--on`, not for people."""
    return far.receive(arguments, sys.stdin.buffer, sys.stdout.buffer)


def forwarded(arguments: list[str]) -> list[str]:
    """What is said of a run, without where it is said to be: `--on` and `-C` are for this end."""
    found: list[str] = []
    rest = iter(arguments)
    for one in rest:
        if one in ("--on", "-C"):
            next(rest, None)
        elif not one.startswith(("--on=", "-C")):
            found.append(one)
    return found
