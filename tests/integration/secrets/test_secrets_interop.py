"""What is written here is read by sops itself, where it is installed, and what it changes is read here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from trimtab.secrets import sops
from trimtab.secrets.recipients import Rules, new_key, rules_for

RECORDED = Path(__file__).parents[2] / "unit/secrets/recorded"
SOPS = shutil.which("sops")
pytestmark = pytest.mark.skipif(SOPS is None, reason="there is no sops on the PATH")


class Project:
    """A directory, a key of its own, and sops."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipient = new_key(path / "keys.txt")
        self.env = {"SOPS_AGE_KEY_FILE": str(path / "keys.txt"), "HOME": str(path), "PATH": os.environ["PATH"]}

    def sops(self, *args: str) -> str:
        done = subprocess.run(
            [SOPS or "", *args], env=self.env, cwd=self.path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.parametrize("ending", ["yaml", "json", "env", "bin"])
def test_sops_reads_what_is_written_here(project: Project, ending: str) -> None:
    source = (RECORDED / f"read-by-sops.{ending}").read_text()
    file = project.path / f"secrets.{ending}"
    format = {"yaml": "yaml", "json": "json", "env": "dotenv", "bin": "binary"}[ending]
    sops.save(file, sops.encrypt(source, format, Rules([project.recipient])))

    read = project.sops("decrypt", str(file))

    assert (json.loads(read) == json.loads(source)) if ending == "json" else read == source


def test_changed_there_and_here_in_turn(project: Project) -> None:
    file = project.path / "secrets.yaml"
    file.write_text((RECORDED / "plain.yaml").read_text())
    project.sops("encrypt", "--in-place", "--age", project.recipient, str(file))
    project.sops("set", str(file), '["registry"]["password"]', '"changed there"')
    opened = sops.load(file, project.env)
    assert opened.value("registry.password") == "changed there"

    sops.save(file, opened.with_text(opened.plain_text().replace("changed there", "changed here")))
    assert project.sops("decrypt", "--extract", '["registry"]["password"]', str(file)) == "changed here"
    project.sops("rotate", "--in-place", str(file))
    opened = sops.load(file, project.env)
    sops.save(file, opened.rotated())

    assert project.sops("decrypt", "--extract", '["registry"]["password"]', str(file)) == "changed here"
    assert "# in the list" in project.sops("decrypt", str(file))


@pytest.mark.parametrize(
    "rule",
    ["encrypted_regex: ^password$", "unencrypted_regex: ^user$", "encrypted_suffix: word", "mac_only_encrypted: true"],
)
def test_what_is_encrypted_is_chosen_alike(project: Project, rule: str) -> None:
    here, there = project.path / "here.yaml", project.path / "there.yaml"
    (project.path / ".sops.yaml").write_text(f"creation_rules:\n  - age: {project.recipient}\n    {rule}\n")
    source = (RECORDED / "read-by-sops.yaml").read_text()
    there.write_text(source)
    project.sops("encrypt", "--in-place", str(there))
    rules = rules_for(here)
    assert rules is not None
    sops.save(here, sops.encrypt(source, "yaml", rules))

    opened = sops.load(there, project.env)
    sops.save(there, opened.with_text(opened.plain_text().replace("trimtab", "other")))

    assert project.sops("decrypt", str(here)) == source
    assert "user: other" in project.sops("decrypt", str(there))
    hidden = [
        [line.split(":")[0].strip() for line in f.read_text().splitlines() if "ENC[" in line] for f in (here, there)
    ]
    assert sorted(hidden[0]) == sorted(hidden[1])
