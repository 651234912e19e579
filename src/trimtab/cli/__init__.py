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
        from trimtab.cli.ci import main as pipelines

        sys.exit(pipelines(sys.argv[2:]))
    from trimtab.cli.failures import run

    run()
