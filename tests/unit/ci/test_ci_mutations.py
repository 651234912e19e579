"""After a random change exactly those steps run that have to, and each says why. 0 false hits."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci_mutations import STEPS, World


def mutate(directory: Path, *, seed: int, files: int, changes: int) -> None:
    world = World(directory, seed, files)
    first = world.run("begin")
    assert first.problems == []
    assert len(first.executed) == STEPS
    ran = 0
    for number in range(changes):
        after = world.run(world.change())
        where = f"change {number} of seed {seed}: {after.change}"
        assert after.problems == [], where
        assert after.executed == after.expected, where
        ran += len(after.executed)
    assert ran > changes / 4, "the changes changed nothing"
    again = world.run("nothing")
    assert again.executed == set()


def test_what_runs_after_a_change_is_what_has_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    mutate(tmp_path, seed=1, files=400, changes=40)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
def test_a_thousand_changes_of_two_thousand_files(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    mutate(tmp_path, seed=seed, files=2000, changes=250)
