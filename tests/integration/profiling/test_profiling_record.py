"""`trimtab profile record`, without an engine: a command from its first moment on, under its functions' names, with its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from measured_machine import skip_unless_measurable

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

DEADLINE_S = 180
PROGRAM = """
import sys, time
def dear():
    return sum(number * number for number in range(200_000))
end = time.process_time() + 1.5
while time.process_time() < end:
    dear()
sys.exit(7)
"""


@pytest.fixture(autouse=True)
def machine() -> None:
    skip_unless_measurable()


def record(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("trimtab")), "profile", "record", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)


def test_a_command_is_seen_under_the_names_of_its_functions(tmp_path: Path) -> None:
    program, out = tmp_path / "slow.py", tmp_path / "slow.speedscope.json"
    program.write_text(PROGRAM)

    done = record("-o", str(out), "--", "/usr/bin/python3", str(program))

    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith("functions by self\ncpu: "), done.stdout
    assert "dear" in done.stdout
    assert any(frame["name"].startswith("dear") for frame in json.loads(out.read_text())["shared"]["frames"])
    assert f"{out}: " in done.stderr


SLEEPS, SLEEP_S = 30, 0.05


@pytest.mark.long
def test_waits_are_of_the_command_and_as_long_as_they_were(tmp_path: Path) -> None:
    program, out = f"import time; [time.sleep({SLEEP_S}) for _ in range({SLEEPS})]", tmp_path / "waits.folded"
    done = record("--type", "offcpu", "-o", str(out), "--", "/usr/bin/python3", "-c", program)
    assert done.returncode == 0, done.stderr
    lines = [line.rpartition(" ") for line in out.read_text().splitlines() if "nanosleep" in line]
    slept_s = sum(int(value) for _, _, value in lines) / 1e9
    # What others slept meanwhile is not laid on it; a machine that is busy wakes it late.
    assert SLEEPS * SLEEP_S / 2 < slept_s < SLEEPS * SLEEP_S * 5, lines


def test_what_cannot_be_recorded_is_one_line() -> None:
    done = record("--pid", "999999999")
    assert (done.returncode, done.stderr) == (1, "trimtab: there is no process 999999999\n")
    done = record("-o", "profile.xml")
    assert done.returncode == 2
    assert done.stderr.endswith("profile.xml: name it .pb.gz, .pprof, .speedscope.json, .folded, or give --format\n")
    done = record("--", "/no/such/program")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        127,
        "trimtab: /no/such/program: No such file or directory",
    )
