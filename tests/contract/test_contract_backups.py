"""Backup schedules under the contract kit: each run that came due is in the target once, whatever crashes in between."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from simulated_api import make_api
from store_release import EARLIER
from trimtab.api import ObjectMeta
from trimtab.api.core import Secret
from trimtab.client.clock import Clock
from trimtab.components.backups import COMPONENT
from trimtab.components.backups.kinds import BackupSchedule, BackupScheduleSpec, Credentials, LastBackup
from trimtab.components.backups.schedule import BackupCommand, BackupFailed, Request
from trimtab.runtime.contract import Case, Scenario, Stage, contract


class Vault:
    """Plays `trimtab backup` and its target: slow, failing, and cut off when the process dies."""

    is_here = True

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.made: dict[str, LastBackup] = {}
        self.at_work = 0
        self.violations: list[str] = []
        self.faults = 0.3

    async def make(self, request: Request) -> LastBackup:
        if self.at_work:
            self.violations.append("two backups at a time")
        self.at_work += 1
        try:
            if request.target.startswith("s3://") and request.environment != {"AWS_ACCESS_KEY_ID": "me"}:
                raise BackupFailed("AWS_ACCESS_KEY_ID is not set")
            await asyncio.sleep(self.clock.random.uniform(1.0, 20.0))
            if self.clock.random.random() < self.faults:
                raise BackupFailed("the disk is full")
            if request.run not in self.made:
                self.made[request.run] = LastBackup(f"backup-{len(self.made)}", bytes=7)
            return self.made[request.run]
        finally:
            self.at_work -= 1


def adapters(clock: Clock) -> Mapping[type, Any]:
    return {BackupCommand: Vault(clock)}


def plan(name: str, **spec: Any) -> BackupSchedule:
    return BackupSchedule(
        metadata=ObjectMeta(name=name),
        spec=BackupScheduleSpec(**({"schedule": "* * * * *", "target": "/mnt/vault"} | spec)),
    )


def carry(before: Mapping[type, Any], after: Mapping[type, Any]) -> None:
    after[BackupCommand].made.update(before[BackupCommand].made)


def violations(stage: Stage) -> list[str]:
    return list(stage.adapter(BackupCommand).violations)  # type: ignore[type-abstract,attr-defined]


async def two_made(stage: Stage) -> str | None:
    for found in await stage.list(BackupSchedule):
        own = [run for run in stage.adapter(BackupCommand).made if run.startswith(f"{found.name}/")]  # type: ignore[type-abstract,attr-defined]
        if len(own) < 2 or found.status.last_backup is None:
            return f"{found.name} has {len(own)} backups: {found.status}"
    return None


async def suspend(stage: Stage) -> None:
    """Once each schedule has two backups, and the target has no more troubles."""
    while True:
        await asyncio.sleep(30.0)
        if await two_made(stage) is None:
            break
    stage.adapter(BackupCommand).faults = 0.0  # type: ignore[type-abstract,attr-defined]
    for found in await stage.list(BackupSchedule):
        await stage.client.patch(found, {"spec": {"suspend": True}}, manager="user")


async def rests(stage: Stage) -> str | None:
    for found in await stage.list(BackupSchedule):
        if not found.spec.suspend or found.status.active:
            return f"{found.name} is not at rest: {found.status}"
    return await two_made(stage)


async def complains(stage: Stage) -> str | None:
    found = await stage.get(BackupSchedule, "lost")
    reasons = [condition.reason for condition in found.status.conditions] if found is not None else []
    return None if reasons == ["CredentialsMissing"] and found is not None and found.status.failures else f"{found}"


async def wait_for_complaint(stage: Stage) -> None:
    while await complains(stage) is not None:  # noqa: ASYNC110 (nothing else changes)
        await asyncio.sleep(30.0)
    found = await stage.get(BackupSchedule, "lost")
    assert found is not None
    await stage.client.patch(found, {"spec": {"suspend": True}}, manager="user")


async def complained(stage: Stage) -> str | None:
    found = await stage.get(BackupSchedule, "lost")
    if found is None or not found.spec.suspend or found.status.active:
        return f"it is not at rest: {found}"
    return await complains(stage)


SECRET = Secret(metadata=ObjectMeta(name="vault", namespace="trimtab-system"), data={"AWS_ACCESS_KEY_ID": "bWU="})
JUDGED = COMPONENT
SCENARIOS = [
    Scenario(
        "two-schedules",
        objects=[
            SECRET,
            plan("often"),
            plan("away", schedule="*/3 * * * *", target="s3://vault/x", credentials=Credentials("vault"), keep=3),
        ],
        steps=[suspend],
        goal=rests,
        adapters=adapters,
        carry=carry,
        leaks=violations,
        ignore=[BackupSchedule],
        within_s=4 * 3600.0,
    ),
    Scenario(
        "no-credentials",
        objects=[plan("lost", target="s3://vault/x", credentials=Credentials("absent"))],
        steps=[wait_for_complaint],
        goal=complained,
        adapters=adapters,
        leaks=violations,
        ignore=[BackupSchedule],
        within_s=4 * 3600.0,
    ),
]


@pytest.mark.parametrize("case", contract(JUDGED, SCENARIOS, make_api, earlier=EARLIER), ids=str)
def test_contract(case: Case) -> None:
    case.run()
