"""Backups: on a schedule, by the engine itself. What a backup is and how it is made is the engine's (docs/backup.md).

    BackupSchedule --schedule.py--> due? --> command.py: `trimtab backup create ... --run NAME/TIME` --> status, Event

Of an engine of ours only: a real cluster has its own means, and no data directory of ours.
"""

from typing import Any

from trimtab.components.backups.admission import check_schedule
from trimtab.components.backups.kinds import BackupSchedule
from trimtab.components.backups.schedule import REASONS, BackupCommand, schedule
from trimtab.runtime import Admission, Component
from trimtab.runtime.settings import Settings

COMPONENT = Component(
    name="backups",
    summary="backs the engine up on a schedule",
    kinds=(BackupSchedule,),
    reconcilers=(schedule,),
    admission=(Admission("schedule", BackupSchedule, check_schedule),),
    conditions=dict(REASONS),
)


def adapters(settings: Settings) -> dict[type, Any]:
    """What the reconciler does to the world, on a machine of our own."""
    from trimtab.components.backups.command import TrimtabBackup

    return {BackupCommand: TrimtabBackup(settings)}


__all__ = ["COMPONENT", "BackupSchedule", "adapters"]
