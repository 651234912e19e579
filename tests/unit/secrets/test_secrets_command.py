"""`trimtab secret` as a person uses it: a key, a value, an editor, others who may read, and every mistake in one line."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trimtab.cli.failures import explain
from trimtab.cli.secret import secret
from trimtab.secrets import sops


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("SOPS_") or name in ("XDG_CONFIG_HOME", "VISUAL"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str, stdin: str = "", status: int = 0) -> str:
    """What the command prints; a failure's one line."""
    result: Result = CliRunner().invoke(secret, list(args), input=stdin)
    told = explain(result.exception) if result.exception and not isinstance(result.exception, SystemExit) else None
    if told is None and result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert (told[1] if told else result.exit_code) == status, result.output
    return told[0] if told else result.output


@pytest.fixture
def own(home: Path) -> str:
    """The test's own public key, made by the command."""
    return run("key", "--new").splitlines()[-1]


def test_a_key_is_made_once_and_for_oneself(home: Path, own: str) -> None:
    path = home / ".config/sops/age/keys.txt"

    assert own.startswith("age1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert run("key", "--new").strip() == own
    assert run("key").strip() == own


def test_values_one_by_one(own: str) -> None:
    run("set", "s.yaml", "registry.password", stdin="hunter22\n")
    run("set", "s.yaml", "registry.port", "--json", stdin="5000")
    run("set", "s.yaml", "tls.key", stdin="one\ntwo\n\n")
    run("set", "s.yaml", "registry.password", stdin="hunter23")

    assert "hunter" not in Path("s.yaml").read_text()
    assert run("get", "s.yaml", "registry.password") == "hunter23\n"
    assert json.loads(run("get", "s.yaml", "-o", "json")) == {
        "registry": {"password": "hunter23", "port": 5000},
        "tls": {"key": "one\ntwo\n"},
    }


@pytest.mark.parametrize("file", ["s.json", "s.env"])
def test_values_of_other_formats(own: str, file: str) -> None:
    run("set", file, "A", stdin="one")
    run("set", file, "B", stdin="two\nlines")
    run("set", file, "A", stdin="three")

    assert json.loads(run("get", file, "-o", "json")) == {"A": "three", "B": "two\nlines"}


def test_an_editor(own: str, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    seen = home / "seen"
    editor = home / "editor"
    editor.write_text(f'#!/bin/sh\nstat -c "%a %n" "$1" > {seen}\nsed -i s/change.me/hunter22/ "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(editor))

    assert run("edit", "s.yaml") == "s.yaml: made\n"
    assert run("edit", "s.yaml") == "s.yaml: nothing was changed\n"

    assert run("get", "s.yaml", "registry.password") == "hunter22\n"
    mode, path = seen.read_text().split()
    assert mode == "600"
    assert path.startswith("/dev/shm/")
    assert not Path(path).exists()


def test_an_editor_that_fails_changes_nothing(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run("set", "s.yaml", "a", stdin="b")
    before = Path("s.yaml").read_text()
    monkeypatch.setenv("EDITOR", "false")

    assert "the editor 'false' ended with 1; s.yaml stays as it was" in run("edit", "s.yaml", status=1)
    monkeypatch.setenv("EDITOR", "sed -i 's/b/[/'")
    assert "s.yaml: line 2: expected the node content" in run("edit", "s.yaml", status=1)
    assert Path("s.yaml").read_text() == before


def test_for_whom_by_the_rules(own: str, home: Path) -> None:
    (home / ".sops.yaml").write_text(
        f"creation_rules:\n- path_regex: ^ci/\n  age: {own}\n  encrypted_regex: word$\n- path_regex: ^none/\n  pgp: ABC\n"
    )
    for name in ("ci", "none", "other"):
        (home / name).mkdir()

    run("set", "ci/s.yaml", "password", stdin="hunter22")
    run("set", "ci/s.yaml", "user", stdin="anna")

    assert "user: anna" in Path("ci/s.yaml").read_text()
    assert sops.load(Path("ci/s.yaml")).recipients == [own]
    assert run("set", "none/s.yaml", "a", stdin="b", status=1) == (
        f"{home}/.sops.yaml: rule 2: pgp is not known here; make this file with sops, or use `age`"
    )
    assert run("set", "other/s.yaml", "a", stdin="b", status=1) == (
        f"{home}/.sops.yaml: no rule fits other/s.yaml; add one with `path_regex` and `age`"
    )


def test_who_may_read_changes(own: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("set", "s.yaml", "a", stdin="b")
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(home / "other"))
    monkeypatch.setenv("HOME", "/nonexistent")
    from trimtab.secrets.recipients import new_key

    other = new_key(home / "other")
    assert run("get", "s.yaml", status=1) == (f"s.yaml: none of your age keys ({home}/other) opens it; it is for {own}")
    monkeypatch.setenv("HOME", str(home))
    assert run("rotate", "s.yaml", "--add-age", other, "--rm-age", own) == "s.yaml: 1 value under a new key\n"
    monkeypatch.setenv("HOME", "/nonexistent")

    assert run("get", "s.yaml", "a") == "b\n"
    assert run("rotate", "s.yaml", "--rm-age", own, status=1) == (
        f"s.yaml: {own} cannot read it anyway; it is for {other}"
    )
    assert run("rotate", "s.yaml", "--rm-age", other, status=1) == (
        "s.yaml: nobody could read it any longer; add somebody with --add-age"
    )


def test_checking_several(own: str) -> None:
    run("set", "good.yaml", "a", stdin="b")
    Path("plain.yaml").write_text("a: b\n")

    out = json.loads(run("check", "good.yaml", "plain.yaml", "-o", "json", status=1))

    assert [one["result"] for one in out] == ["ok", "it is not encrypted; `trimtab secret encrypt` does that"]
    assert out[0]["recipients"] == [own]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("get", "s.yaml", "b"), "there is no b: 'b' is not there; there are a"),
        (("get", "none.yaml"), "none.yaml: cannot be read: No such file or directory"),
        (
            ("set", "s.yaml", "a.b"),
            "a.b cannot be put in without changing what is around it; use `trimtab secret edit`",
        ),
        (("set", "new.env", "a.b"), "a dotenv file has names and texts only; write NAME"),
        (("set", "new.bin", "a"), "it is one value as a whole; `trimtab secret edit` changes it"),
        (("encrypt", "s.yaml"), "s.yaml: it is encrypted already; `trimtab secret edit` changes it"),
        (
            ("set", "new.yaml", "a", "--age", "nobody"),
            "'nobody' is no age recipient; write age1..., as `trimtab secret key` prints it",
        ),
    ],
)
def test_mistakes(own: str, args: tuple[str, ...], said: str) -> None:
    run("set", "s.yaml", "a", stdin="b")
    before = Path("s.yaml").read_bytes()

    assert run(*args, stdin="x", status=1) == said

    assert Path("s.yaml").read_bytes() == before
    assert sorted(path.name for path in Path().iterdir() if path.is_file()) == ["s.yaml"]


def test_without_a_key(home: Path) -> None:
    assert (
        run("key", status=1)
        == f"you have no age key; `trimtab secret key --new` makes {home}/.config/sops/age/keys.txt"
    )
    assert run("set", "s.yaml", "a", stdin="b", status=1) == (
        "nobody is named who could read s.yaml: say --age RECIPIENT, write .sops.yaml, or make a key with "
        "`trimtab secret key --new`"
    )


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"SOPS_AGE_KEY": "AGE-SECRET-KEY-PQ-1X"}, "post-quantum age keys cannot be used yet"),
        (
            {"SOPS_AGE_KEY": "nonsense"},
            "SOPS_AGE_KEY: there is a line that is no age key; keys begin with AGE-SECRET-KEY-1",
        ),
        ({"SOPS_AGE_KEY": "AGE-SECRET-KEY-1AAAA"}, "SOPS_AGE_KEY: an age key is damaged (its checksum is wrong)"),
        ({"SOPS_AGE_KEY_FILE": "/none"}, "SOPS_AGE_KEY_FILE: /none cannot be read: No such file or directory"),
        ({"SOPS_AGE_KEY_CMD": "false"}, "SOPS_AGE_KEY_CMD failed with 1"),
        (
            {"SOPS_AGE_SSH_PRIVATE_KEY_FILE": "/none"},
            "SOPS_AGE_SSH_PRIVATE_KEY_FILE: /none is no SSH key without a passphrase",
        ),
    ],
)
def test_keys_that_are_none(home: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert said in run("key", status=1)


def test_a_key_from_a_command(home: Path, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".config/sops/age/keys.txt").rename(home / "elsewhere")
    monkeypatch.setenv("SOPS_AGE_KEY_CMD", f"cat {home}/elsewhere")

    assert run("key").strip() == own
