"""The `trimtab` command; groups contributed by components.

trimtab [--data DIR] COMMAND      root.py: the command table, imported lazily
                                  target.py: which engine or cluster a command means
                                  failures.py: every failure is one line and an exit status
"""

from __future__ import annotations


def main() -> None:
    """The entry point of the `trimtab` script."""
    from trimtab.cli.failures import run

    run()
