"""The `trimtab` command; groups contributed by components.

trimtab [--data DIR] COMMAND      root.py: the command table, imported lazily
                                  target.py: which engine or cluster a command means
                                  failures.py: every failure is one line and an exit status
trimtab ci COMMAND                ci.py: pipelines, which need none of these
"""

from __future__ import annotations


def main() -> None:
    """The entry point of the `trimtab` script."""
    import sys

    if sys.argv[1:2] == ["ci"]:
        _pipelines(sys.argv[2:])
    from trimtab.cli.failures import run

    run()


def _pipelines(arguments: list[str]) -> None:
    """Runs `trimtab ci` and ends the process. A quarter of a run in which nothing has changed would go into collecting garbage
    that there is not yet, and into taking the interpreter down."""
    import gc
    import os
    import sys

    gc.set_threshold(100_000, 20, 20)
    from trimtab.cli.ci import main

    status = main(arguments)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        pass  # the reader has enough
    os._exit(status)
