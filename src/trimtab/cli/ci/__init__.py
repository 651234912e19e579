"""`trimtab ci`: pipelines. Here is only which command is where, and what becomes of an error.

    trimtab.cli.main -> ci.main(arguments) -> the command's module, loaded when it is used

It does without the root of the command tree and all that comes with it: whether anything has changed is to be known before that
would be loaded. Exit status: 0 green, 1 a step failed, 2 the definition or the usage is wrong, 3 the engine could not run it,
130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from trimtab.ci.definition.site import DefinitionError
from trimtab.ci.runs.ports import EngineFault

GREEN, FAILED, WRONG, FAULT, INTERRUPTED = 0, 1, 2, 3, 130

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("trimtab.cli.ci.run:run", "Run a pipeline: what has not changed is not done again."),
    "plan": ("trimtab.cli.ci.run:plan", "Say what would run, and why; run nothing."),
    "check": ("trimtab.cli.ci.check:check", "Find everything that is wrong before anything runs."),
    "lock": ("trimtab.cli.ci.check:lock", "Resolve the images into trimtab.lock."),
    "why": ("trimtab.cli.ci.why:why", "Say why a step ran, or would run."),
    "history": ("trimtab.cli.ci.history:history", "List the runs of this project."),
    "log": ("trimtab.cli.ci.history:log", "Print what a step printed."),
    "tests": ("trimtab.cli.ci.tests:tests", "Which tests are slow, fail, flake; and which may fail for a while."),
    "report": ("trimtab.cli.ci.history:report", "Write a run as one HTML page, with its timeline."),
    "cache": ("trimtab.cli.ci.cache:cache", "What the cache holds, and what to keep of it."),
    "key": ("trimtab.cli.ci.key:key", "Make a key that signs images."),
    "shell": ("trimtab.cli.ci.shell:shell", "Enter the state in which a step has failed."),
}
"""By name `module:function` and one line of help. A function takes the arguments and returns the exit status."""

HELP = """Usage: trimtab ci [COMMAND] [OPTIONS]

Pipelines of ship.py. Without a command: run.

{commands}

`trimtab ci COMMAND --help` says more. Exit status: 0 green, 1 a step failed, 2 the definition is wrong,
3 the engine could not run it, 130 interrupted."""


class UsageError(Exception):
    """What was asked for is not there: one line."""


NOT_LISTED = {"receive": "trimtab.cli.ci.on:receive"}
"""What programs use, not people."""


def main(arguments: Sequence[str]) -> int:
    """Runs a command line, without `trimtab ci`, and returns the exit status."""
    name, rest = "run", list(arguments)
    if rest and rest[0] in ("-h", "--help"):
        print(HELP.format(commands="\n".join(f"  {name:<9} {text}" for name, (_, text) in COMMANDS.items())))
        return GREEN
    if rest and not rest[0].startswith("-"):
        name = rest.pop(0)
    if name not in COMMANDS and name not in NOT_LISTED:
        import difflib

        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `trimtab ci {close[0]}`?" if close else "`trimtab ci --help` lists all"
        return _said(f"there is no command {name!r}: {hint}", WRONG)
    module, _, function = (NOT_LISTED.get(name) or COMMANDS[name][0]).partition(":")
    command: Callable[[list[str]], int] = getattr(importlib.import_module(module), function)
    try:
        return command(rest)
    except DefinitionError as err:
        if os.environ.get("GITHUB_ACTIONS") == "true":
            from trimtab.ci.runs import actions

            print(actions.note(err.message, err.site.file, str(err.site.line)), file=sys.stderr)
        return _said(str(err), WRONG)
    except UsageError as err:
        return _said(str(err), WRONG)
    except EngineFault as err:
        return _said(str(err), FAULT)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (`| head`) has enough. Nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return GREEN


def _said(line: str, status: int) -> int:
    print(f"trimtab: {line}", file=sys.stderr)
    return status
