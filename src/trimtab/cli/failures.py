"""Every failure that a user can cause or meet becomes one line on stderr and an exit status.

    0 done   1 failed   2 wrong usage   3 the engine does not run   4 no such object   130 interrupted

What is none of these is a bug of ours: it keeps its traceback.
"""

from __future__ import annotations

import os
import sys

import click

from trimtab.engine.errors import EngineError


def run() -> None:
    """Runs the command line of this process and exits with its status; by the program of the engine that it means."""
    from trimtab.engine.programs import delegate

    delegate(sys.argv[1:])
    from trimtab.cli.root import root

    try:
        status = root(standalone_mode=False)
    except click.exceptions.Exit as err:
        status = err.exit_code
    except click.Abort:
        status = 130
    except click.ClickException as err:
        err.show()
        status = err.exit_code
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        # The reader of our output (`| head`) has enough. Nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except Exception as err:
        told = explain(err)
        if told is None:
            raise
        line, status = told
        click.echo(f"trimtab: {line}", err=True)
    sys.exit(status if isinstance(status, int) else 0)


def explain(err: BaseException) -> tuple[str, int] | None:
    """The line and the exit status of a failure; None for a bug."""
    if isinstance(err, EngineError):
        return str(err), err.exit_code
    if isinstance(err, BaseExceptionGroup):
        return explain(err.exceptions[0])
    from trimtab.client import ApiError, KubeconfigError
    from trimtab.secrets.errors import SopsError

    if isinstance(err, SopsError):
        return str(err), 1
    if isinstance(err, ApiError):
        return str(err), 4 if err.status == 404 else 1
    if isinstance(err, KubeconfigError):
        return str(err), 1
    if isinstance(err, ConnectionError):
        return str(err), 3
    return None
