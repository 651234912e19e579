"""Test runners that can take a part of the tests, try failed ones again, and let quarantined ones fail: `tests.pytest(shard)`.

    .run(tests.pytest(shard, "tests/unit"), junit="report.xml")

A runner's command gets a plugin of ours (`pytest_plugin.py`, laid into the sandbox beside the step's files) and a table with
what is known of its tests (`Table`). Any other command that leaves a JUnit report has its results recorded as well:
`.run("npm test", junit="report.xml")`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trimtab.ci.cache.tree import encode
from trimtab.ci.definition.evaluate import Shard
from trimtab.ci.definition.site import DefinitionError
from trimtab.ci.definition.values import TestCommand

DIRECTORY = "/.trimtab/tests"
"""Where plugin and table are in the sandbox."""
KNOWN = "/.trimtab/known"
"""Where the functions are that have passed. It is no part of a step's key: with every new test that would be another."""
PLUGIN = "trimtab_tests"
_START = f"import sys; sys.path.insert(0, {DIRECTORY!r}); sys.argv[0] = 'pytest'; import pytest; sys.exit(pytest.console_main())"


def pytest(shard: Shard | str | None = None, *args: str, python: str = "python3") -> TestCommand:
    """pytest with these arguments; with `shard`, the part of the tests that falls to this shard of the step.

    python: the interpreter that has pytest. A first text is an argument, not a shard.
    """
    if isinstance(shard, str):
        args, shard = (shard, *args), None
    if shard is not None and not isinstance(shard, Shard):
        raise DefinitionError("tests.pytest() takes the step's shard first, then pytest's arguments as texts")
    if not all(isinstance(arg, str) for arg in args):
        raise DefinitionError("tests.pytest(): pytest's arguments are texts")
    return TestCommand("pytest", (python, "-c", _START, "-p", PLUGIN, *args), shard is not None)


@dataclass(frozen=True)
class Table:
    """What a runner is told. seconds: by test what it took; quarantined: by test until when and by whom it may fail."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    quarantined: Mapping[str, str] = field(default_factory=dict)

    def files(self) -> dict[str, bytes]:
        """What is laid into the sandbox, by name."""
        table = {"seconds": dict(sorted(self.seconds.items())), "quarantined": dict(sorted(self.quarantined.items()))}
        return {
            f"{PLUGIN}.py": Path(__file__).with_name("pytest_plugin.py").read_bytes(),
            "trimtab_split.py": Path(__file__).with_name("split.py").read_bytes(),
            "table.json": json.dumps(table, sort_keys=True, separators=(",", ":")).encode(),
        }

    def tree(self, put: Callable[[bytes], str]) -> str:
        """The digest of the tree of `files`. put: takes a blob and gives its digest; keeps it, or not."""
        entries = ((name, "f", put(data)[len("sha256:") :], len(data)) for name, data in sorted(self.files().items()))
        return put(encode(entries))


def known(sources: Mapping[str, str], put: Callable[[bytes], str]) -> str:
    """The digest of the tree that is laid at `KNOWN`. sources: by test the digest of the function that has passed."""
    data = json.dumps(dict(sources), sort_keys=True, separators=(",", ":")).encode()
    return put(encode(iter([("known.json", "f", put(data)[len("sha256:") :], len(data))])))


def environment(shard: tuple[int, int] | None, retries: int, burn_in: int = 0) -> dict[str, str]:
    """What a runner's command is given besides its own environment."""
    out = {"TRIMTAB_TESTS": DIRECTORY}
    if shard is not None:
        out["TRIMTAB_SHARD"] = f"{shard[0]}/{shard[1]}"
    if retries:
        out["TRIMTAB_RETRIES"] = str(retries)
    if burn_in:
        out |= {"TRIMTAB_BURN_IN": str(burn_in), "TRIMTAB_KNOWN": KNOWN}
    return out
