"""Disks, the network and memory by stack: a program whose bytes are known, each kind from a function of its own, under the real agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import profiling_known_trees as trees
from trimtab.components.profiling import batch
from trimtab.components.profiling.agent import types

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the agent needs root")

DEADLINE_S = 120.0
PIECE, PIECES = 64 << 10, 64
"""Few enough that each is a sample of its own, but for pages of the disk's cache."""
ROOM = 4 * types.EVERY_BYTES_CHOSEN
"""What may wait for the next sample when the program ends: of each CPU at most one and a half steps."""
FUNCTIONS = ("writes", "reads", "writes_through", "sends", "receives", "maps", "breaks", "commits")
Sums = Counter[tuple[str, str, str]]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bytes") / "bytes"
    source = trees.SOURCES / "bytes.c"
    subprocess.run(["gcc", "-O1", "-fno-optimize-sibling-calls", "-o", path, source], check=True)
    return path


def measured(root: Path, program: Path, directory: Path, seconds: int) -> tuple[Sums, dict[str, int], dict[str, Any]]:
    """Bytes by type, direction and function of the program; what the kernel accounts to it; what the agent said."""
    before = set(batch.incoming(root).glob("*.batch"))
    shell = ["sh", "-c", 'read go && "$0" "$1" "$2"; exit $?', program, directory, str(seconds)]
    held = subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    command = [sys.executable, "-m", "trimtab.components.profiling.agent", str(root), "--talk", "--pid", str(held.pid)]
    command += ["--types", "cpu,disk,network,allocations", "--hz", "99"]
    agent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert agent.stdout
        said = json.loads(agent.stdout.readline() or "{}")
        told = held.communicate("go\n" if said.get("mode") == "bpf" else None, timeout=DEADLINE_S)[0]
    finally:
        agent.communicate(timeout=DEADLINE_S)
        held.wait(DEADLINE_S)
    if said.get("mode") != "bpf":
        pytest.skip(f"no BPF for the agent here: {said}")
    accounted = dict(line.split(": ") for line in told.splitlines())
    sums: Sums = Counter()
    for path in sorted(set(batch.incoming(root).glob("*.batch")) - before):
        one = batch.read(path)
        for sample in one.samples:
            labels, kind = one.labels[sample.labels], one.types[sample.type]
            names = {trees.name(one.frames[index]) for index in one.stacks[sample.stack]}
            if labels.get("process") == "bytes" and kind.name != "cpu":
                assert kind.unit == "bytes"
                function = next((name for name in FUNCTIONS if name in names), "")
                whole = f"{function} without main" if function and "main" not in names else function
                sums[kind.name, labels.get(types.DIRECTION, ""), whole] += sample.value
    return sums, {name: int(value) for name, value in accounted.items()}, said


def test_known_bytes_are_counted_at_the_functions_that_asked(program: Path, tmp_path: Path) -> None:
    deadline, seconds = time.monotonic() + DEADLINE_S, 1
    while True:
        seconds *= 2
        sums, accounted, said = measured(tmp_path / "root", program, tmp_path, seconds)
        functions = {function for _, _, function in sums}
        known = {"maps", "breaks", "commits", "sends", "receives"} & functions
        if not any("without" in one for one in functions) and len(known) + len(said["missing"]) >= 5:
            break  # the agent has learned the files by now
        assert time.monotonic() < deadline, sums
    whole = PIECE * PIECES

    if why := said["missing"].get("network"):
        assert "sock_send_length" in why
    else:
        assert sums["network", "sent", "sends"] == pytest.approx(whole, abs=ROOM)
        assert sums["network", "received", "receives"] == pytest.approx(whole, abs=ROOM)
    assert sums["allocations", "", "maps"] == pytest.approx(whole / 2, abs=ROOM)
    assert sums["allocations", "", "breaks"] == pytest.approx(whole / 4, abs=ROOM)
    assert sums["allocations", "", "commits"] == pytest.approx(whole / 8, abs=ROOM)
    written = sum(value for (kind, way, _), value in sums.items() if (kind, way) == ("disk", "write"))
    read = sum(value for (kind, way, _), value in sums.items() if (kind, way) == ("disk", "read"))
    assert written == pytest.approx(accounted["write_bytes"], rel=0.25)
    assert read == pytest.approx(accounted["read_bytes"], rel=0.25, abs=ROOM)
    if accounted["write_bytes"] >= 2 * whole:  # a disk, and O_DIRECT
        assert sums["disk", "write", "writes"] == pytest.approx(whole, rel=0.25)
        assert sums["disk", "write", "writes_through"] == pytest.approx(whole, rel=0.25)
        assert sums["disk", "read", "reads"] == pytest.approx(accounted["read_bytes"], rel=0.25)
