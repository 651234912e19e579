"""The systemd unit: what it says, what systemd thinks of it, and what a stop does that nobody asked for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trimtab.engine import systemd
from trimtab.engine.datadir import DEFAULT_DATA
from trimtab.engine.lifecycle import Options

ALL = Options({"api_port": 7443, "listen": "0.0.0.0", "proxy_protocol": True, "cluster_domain": "a.b"}, node=False)


def line(text: str, name: str) -> str:
    (found,) = [one for one in text.splitlines() if one.startswith(f"{name}=")]
    return found.partition("=")[2]


def test_the_unit_starts_what_was_asked_for_and_stops_only_what_runs() -> None:
    text = systemd.unit_text(Path("/srv/my data/50%"), ALL)

    command = f'{sys.executable} -m trimtab.cli --data "/srv/my data/50%%"'
    flags = "--port 7443 --listen 0.0.0.0 --cluster-domain a.b --proxy-protocol --no-node"
    assert line(text, "ExecStart") == f"{command} start --foreground {flags}"
    assert line(text, "ExecStop") == f'{command} stop --main-pid "${{MAINPID}}"'
    assert line(text, "KillMode") == "process"
    assert line(text, "Restart") == "always"
    assert systemd.unit_name(DEFAULT_DATA) == "trimtab.service"
    assert systemd.unit_name(Path("/srv/a")) != systemd.unit_name(Path("/srv/b"))


@pytest.mark.parametrize("data", ["/var/lib/trimtab", "/srv/my data/50%"])
def test_systemd_finds_nothing_wrong_with_the_unit(data: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze here: apt-get install systemd")
    unit = tmp_path / "trimtab.service"
    unit.write_text(systemd.unit_text(Path(data), ALL))

    def verdict() -> str:
        done = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
        return "\n".join(said for said in done.stderr.splitlines() if unit.name in said) + str(done.returncode or "")

    assert verdict() == ""
    unit.write_text(unit.read_text().replace("Restart=always", "Restart=sometimes"))
    assert "sometimes" in verdict()


def test_a_stop_for_a_supervisor_that_has_ended_does_nothing(tmp_path: Path) -> None:
    """systemd asks for it after a crash; there is no engine here, so that anything but nothing would fail."""
    command = [sys.executable, "-m", "trimtab.cli", "--data", str(tmp_path), "stop", "--main-pid"]

    assert subprocess.run([*command, ""], check=False).returncode == 0
    assert subprocess.run([*command, "77"], capture_output=True, check=False).returncode == 3
