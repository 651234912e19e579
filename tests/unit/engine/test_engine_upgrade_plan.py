"""Upgrades without an engine: which program a command becomes, what is refused, what is put back."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from engine_at_rest import stored, write
from release_wheel import release_wheel
from trimtab import __version__
from trimtab.engine import datadir, programs, upgrade
from trimtab.engine.errors import EngineError, NotRunning
from trimtab.engine.programs import Program
from trimtab.engine.upgrade import Known
from trimtab.runtime.settings import Settings
from trimtab.store import FORMAT as STORE_FORMAT

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def say(line: str) -> None:
    """Nobody listens."""


@pytest.mark.parametrize(
    ("older", "newer"), [("0.1.0", "0.2.0"), ("0.9", "0.10"), ("0.2", "0.2.1"), ("1.0rc1", "1.0.1")]
)
def test_versions_are_compared_as_numbers(older: str, newer: str) -> None:
    assert programs.version_key(older) < programs.version_key(newer)


@pytest.mark.parametrize(
    ("arguments", "data"),
    [
        (["--data", "/a", "status"], "/a"),
        (["--data=/a", "status"], "/a"),
        (["status"], "/from-environment"),
        (["exec", "web", "--", "x", "--data", "/b"], "/from-environment"),
        (["--kubeconfig", "f", "--data", "/a", "get"], "/a"),
    ],
)
def test_the_data_directory_is_found_in_the_command_line(
    arguments: list[str], data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_DATA", "/from-environment")

    assert programs._data_of(arguments) == data


def installation(directory: Path, version: str) -> Program:
    """Something that looks like an installed program, and says which it is."""
    (directory / "bin").mkdir(parents=True)
    (directory / "bin" / "python").symlink_to(sys.executable)
    (directory / "bin" / "trimtab").write_text(f"import sys; print('{version} was asked to', *sys.argv[1:])")
    return Program(str(directory), version)


def called(data: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trimtab.cli", "--data", str(data), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_a_command_becomes_the_program_of_the_engine_that_it_means(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    assert "there is no engine" in called(data, "status").stderr

    programs.record(data, installation(tmp_path / "new", "9.0.0"))
    assert called(data, "status").stdout == f"9.0.0 was asked to --data {data} status\n"

    assert "there is no engine" in called(data, "status", TRIMTAB_ITSELF="1").stderr
    assert "there is no engine" in called(tmp_path / "another", "status").stderr


def test_a_newer_command_stays_itself(tmp_path: Path) -> None:
    programs.record(tmp_path, installation(tmp_path / "old", "0.0.1"))

    assert called(tmp_path, "status").returncode == 3


def test_a_program_that_is_gone_is_not_missed(tmp_path: Path) -> None:
    programs.record(tmp_path, Program(str(tmp_path / "gone"), "9.0.0"))

    assert programs.recorded(tmp_path) is None
    assert called(tmp_path, "status").returncode == 3


@needs_root
def test_older_versions_and_versions_that_do_not_know_the_data_are_refused(engine: Settings) -> None:
    old, new = Program("/old", "0.2.0"), Program("/new", "0.1.9")
    with pytest.raises(EngineError) as err:
        upgrade._judge(engine, old, new, Known("0.1.9", datadir.FORMAT, STORE_FORMAT, 5))
    assert str(err.value) == (
        "0.1.9 is older than 0.2.0, which runs: `trimtab upgrade --back` returns to the version before the last upgrade"
    )
    with pytest.raises(EngineError) as err:
        upgrade._judge(engine, old, new, Known("0.1.9", datadir.FORMAT, STORE_FORMAT - 1, 5))
    assert str(err.value) == (
        f"0.1.9 knows data format {datadir.FORMAT} and store format {STORE_FORMAT - 1}, the data here has {datadir.FORMAT} and "
        f"{STORE_FORMAT}: data is never read backwards; restore a backup that it made"
    )


@needs_root
def test_what_cannot_be_an_upgrade_is_one_line(engine: Settings, tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="does not run: start it, so that the new version can be seen to be healthy"):
        upgrade.upgrade(Path(engine.data), "0.2.0", say)
    with pytest.raises(
        EngineError, match="was never upgraded, or the version before is gone: there is nothing to go back to"
    ):
        upgrade.back(Path(engine.data), say, sure=True)
    broken = tmp_path / "trimtab-0.2.0-py3-none-any.whl"
    broken.write_text("no zip")
    with pytest.raises(
        EngineError, match=r"is no wheel: give the path of a trimtab-VERSION-py3-none-any\.whl, or a version"
    ):
        upgrade.install(Path(engine.data), str(broken), say)
    with pytest.raises(EngineError, match="'newest' is neither a wheel nor a version: give one like"):
        upgrade.install(Path(engine.data), "newest", say)
    other = release_wheel(tmp_path, "0.2.0").rename(tmp_path / "other-0.2.0-py3-none-any.whl")
    with pytest.raises(EngineError, match=r"is not Trimtab: give the path of a trimtab-VERSION-py3-none-any\.whl"):
        upgrade.install(Path(engine.data), str(other), say)


def later_format(engine: Settings) -> None:
    """As a later version would migrate the store."""
    db = sqlite3.connect(engine.data_path("store", "store.sqlite"))
    db.execute(f"PRAGMA user_version = {STORE_FORMAT + 1}")
    db.execute("CREATE TABLE later (id INTEGER)")
    db.commit()
    db.close()


@needs_root
def test_a_migrated_store_is_put_back_and_kept_aside(engine: Settings) -> None:
    upgrade._save(engine)
    write(engine, {"/core/configmaps/default/later": b"{}"})
    later_format(engine)

    assert upgrade._put_back(engine, Known(__version__, datadir.FORMAT, STORE_FORMAT, 5))

    assert list(stored(engine)) == ["/core/configmaps/default/first"]
    assert engine.data_path("store", "store.sqlite.newer").exists()
    assert engine.data_path("store", "store.sqlite").stat().st_uid == datadir.ids_of(engine.user)[0]


@needs_root
def test_a_return_that_brings_an_old_store_back_asks_first(engine: Settings, tmp_path: Path) -> None:
    upgrade._save(engine)
    later_format(engine)
    programs.record(Path(engine.data), programs.itself(), programs.FORMER)

    with pytest.raises(EngineError) as err:
        upgrade.back(Path(engine.data), say, sure=False)

    assert str(err.value).startswith(
        f"{__version__} cannot read the store that a newer version has migrated: it would get that of 20"
    )
    assert str(err.value).endswith("what was written since would be kept aside. Add --yes if that is meant")


@needs_root
def test_a_store_that_the_old_version_can_read_stays(engine: Settings) -> None:
    upgrade._save(engine)
    write(engine, {"/core/configmaps/default/later": b"{}"})

    assert not upgrade._put_back(engine, Known(__version__, datadir.FORMAT, STORE_FORMAT, 5))

    assert "/core/configmaps/default/later" in stored(engine)


@needs_root
def test_settings_of_a_newer_format_are_put_back(engine: Settings) -> None:
    upgrade._save(engine)
    path = engine.data_path("engine.json")
    before = path.read_text()
    path.write_text(before.replace('"format": 1', '"format": 2'))

    upgrade._put_back(engine, Known(__version__, 1, STORE_FORMAT, 5))

    assert path.read_text() == before
