"""Checks on writes of a BackupSchedule: what could never be followed is refused when it is written."""

from __future__ import annotations

from trimtab.api import JSON, cron
from trimtab.runtime import Denied


def check_schedule(new: JSON, old: JSON | None) -> list[str]:
    """Schedule, time zone, target and recipients."""
    spec = new["spec"]
    for name, read in (("schedule", cron.parse), ("timeZone", cron.zone_of)):
        try:
            read(spec.get(name))
        except ValueError as err:
            raise Denied(f"spec.{name}", str(err)) from None
    target = spec["target"]
    if not target.startswith(("/", "s3://")):
        raise Denied("spec.target", f"{target!r} is neither an absolute directory nor s3://BUCKET/PREFIX")
    if target.startswith("s3://") and spec.get("credentials") is None:
        raise Denied(
            "spec.credentials", "an s3:// target needs the name of a Secret with AWS_ACCESS_KEY_ID and the rest"
        )
    for index, recipient in enumerate(spec.get("recipients") or ()):
        if not recipient.startswith(("age1", "ssh-")):
            raise Denied(f"spec.recipients[{index}]", f"{recipient!r} is no age recipient: give one like age1...")
    return []
