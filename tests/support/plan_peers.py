"""The providers whose plans are held against Terraform's, and its answers, which are recorded: tests/integration/infrastructure/plans.

    python tests/support/plan_peers.py [NAME..]     asks Terraform's command (on the PATH) again, and writes what it says
    python tests/support/plan_peers.py --now NAME PROGRAM PER_KIND     asks it and us about any provider's program, and writes nothing

A record has the command's version and a hash of what it asked, for each case a hash of the question, and the answer. So the plans can
be compared where there is no Terraform; a record of other questions says so.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

import plan_oracle
from plan_cases import Case, Peer, cases
from trimtab.components.infrastructure.protocol.provider import Provider
from trimtab.components.infrastructure.protocol.values import plain

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parent.parent
RECORDS = SUPPORT.parent / "integration" / "infrastructure" / "plans"
SEED = 1
ANSWERS = {
    "hcloud": {"token": "a" * 64, "endpoint": "http://127.0.0.1:1/v1"},
    "kubernetes": {"host": "https://127.0.0.1:1", "token": "t"},
}
"""The providers' own configurations. None of them is connected with when there is nothing but plans."""


class Planner(Struct, frozen=True):
    """A provider. files: what it is made of; per_kind: so many questions about each of its kinds; odd: also of values that few people give."""

    name: str
    command: list[str]
    files: list[Path]
    per_kind: int
    needs: str = ""
    odd: bool = False

    @property
    def missing(self) -> str:
        """Why it cannot be asked here, or empty."""
        return "" if all(map(Path.exists, map(Path, [self.command[0], *self.files]))) else f"{self.needs} is not here"

    @property
    def hash(self) -> str:
        return hashlib.sha256(b"".join(map(Path.read_bytes, self.files))).hexdigest()


def planners() -> dict[str, Planner]:
    shapes, with_tf = SUPPORT / "shapes_provider.py", SUPPORT / "tf_provider.py"
    ours = [shapes, SUPPORT / "provider_server.py"]
    hcloud = Path(os.environ.get("TRIMTAB_PROVIDERS", "/nonexistent")) / "hcloud"
    python = str(ROOT / "build" / "tf" / "bin" / "python")
    every = [
        Planner("shapes5", [sys.executable, str(shapes), "5"], ours, per_kind=110, odd=True),
        Planner("shapes6", [sys.executable, str(shapes), "6"], ours, per_kind=64, odd=True),
        Planner("tf", [python, str(with_tf)], [with_tf], per_kind=180, needs="build/tf (make setup-test)"),
        Planner("hcloud", [str(hcloud)], [hcloud], per_kind=10, needs="a provider built by .ci/providers (TRIMTAB_PROVIDERS)"),
    ]  # fmt: skip
    return {one.name: one for one in every}


@asynccontextmanager
async def asked(planner: Planner, folder: Path) -> AsyncIterator[tuple[Peer, list[Case]]]:
    """A running provider, and all questions about it."""

    async def start() -> Provider:
        sockets = Path(tempfile.mkdtemp(dir=short))
        started = await Provider.start(planner.command, sockets, name=planner.name, environment=environment(folder))
        await started.schema()
        await started.configure(ANSWERS.get(planner.name, {}))
        return started

    # A socket's path has 107 bytes at the most, which pytest's folders nearly fill.
    with tempfile.TemporaryDirectory(prefix="tt-") as short:
        peer = Peer(start)
        try:
            kinds = sorted((await (await peer.provider()).schema()).resources)
            yield peer, await cases(peer, kinds, SEED, planner.per_kind, odd=planner.odd)
        finally:
            await peer.close()


def environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "PYTHONPATH": os.pathsep.join([str(SUPPORT), str(ROOT / "src")]),
    }


def question(case: Case) -> str:
    """A hash of what is asked."""
    raw = [case.kind, *map(plain, (case.prior, case.live, case.config)), case.tainted]
    return hashlib.sha256(msgspec.json.encode(raw, order="deterministic")).hexdigest()[:12]


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDS / f"{name}.json").read_bytes())
    return found


def words(answer: plan_oracle.Answer) -> list[str]:
    """An answer as it is recorded."""
    return [answer.action, " ".join(answer.changed), " ".join(answer.replace), answer.after]


async def record(planner: Planner, terraform: str = "terraform") -> int:
    """Asks Terraform, and writes the record. Returns how many cases there are."""
    with tempfile.TemporaryDirectory() as made:
        async with asked(planner, Path(made)) as (peer, found):
            answers = await _terraforms(planner, Path(made), peer, found, terraform)
    lines = [f"{json.dumps(one.name)}: {json.dumps([question(one), *words(answers[one.name])])}" for one in found]
    head = {"terraform": plan_oracle.version(terraform), "provider": planner.hash}
    body = ",\n".join(
        [
            *(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()),
            '"cases": {\n' + ",\n".join(lines) + "\n}",
        ]
    )
    RECORDS.mkdir(exist_ok=True)
    (RECORDS / f"{planner.name}.json").write_text("{\n" + body + "\n}\n")
    return len(found)


async def compare(planner: Planner, terraform: str = "terraform") -> tuple[int, list[str]]:
    """Asks Terraform and us the same, now: for a provider of which the questions are others each time, since its states are, or the order
    of what it refuses. (how many were asked, a line of each that differs)"""
    with tempfile.TemporaryDirectory() as made:
        async with asked(planner, Path(made)) as (peer, found):
            answers = await _terraforms(planner, Path(made), peer, found, terraform)
            wrong = []
            for case in found:
                provider = await peer.provider()
                ours, theirs = await plan_oracle.ask_us(provider, await provider.schema(), case), answers[case.name]
                if words(ours) != words(theirs):
                    wrong.append(f"{case.name}: Terraform says {words(theirs)}, we say {words(ours)}")
    return len(found), wrong


async def _terraforms(
    planner: Planner, folder: Path, peer: Peer, found: list[Case], terraform: str
) -> dict[str, plan_oracle.Answer]:
    schema = await (await peer.provider()).schema()
    program = folder / "program"
    given = [f"PYTHONPATH={environment(folder)['PYTHONPATH']}", *planner.command]
    program.write_text(f"#!/bin/sh\nexec env {' '.join(given)}\n")
    program.chmod(0o755)
    (folder / "terraform").mkdir()
    config = ANSWERS.get(planner.name, {})
    name = planner.name.rstrip("56")
    return plan_oracle.ask_terraform(terraform, folder / "terraform", name, program, schema, config, found)


async def agree(planner: Planner, folder: Path) -> None:
    """Asserts that we say of every question what was recorded; skips where the provider is not here."""
    if planner.missing:
        pytest.skip(planner.missing)
    record = recorded(planner.name)
    again = f"ask again: python tests/support/plan_peers.py {planner.name}"
    wrong = []
    async with asked(planner, folder) as (peer, found):
        assert len(found) >= 200
        assert [one.name for one in found] == list(record["cases"]), f"other questions than those recorded; {again}"
        for case in found:
            known, *theirs = record["cases"][case.name]
            assert known == question(case), f"{case.name} is another question than the recorded one; {again}"
            provider = await peer.provider()
            ours = words(await plan_oracle.ask_us(provider, await provider.schema(), case))
            if ours != theirs:
                wrong.append(f"{case.name}: Terraform {record['terraform']} says {theirs}, we say {ours}")
    assert not wrong, "\n".join(wrong)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--now"]:
        named, path, per_kind = sys.argv[2:]
        now = Planner(named, [path], [Path(path)], per_kind=int(per_kind))
        count, differing = asyncio.run(compare(now))
        print(f"{now.name}: {count} cases, {len(differing)} differ", *differing, sep="\n")
        sys.exit(bool(differing))
    for one in planners().values():
        if one.name in (sys.argv[1:] or planners()):
            print(one.name, one.missing or f"{asyncio.run(record(one))} cases", flush=True)
