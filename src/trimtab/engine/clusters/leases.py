"""How long a throw-away cluster is wanted: as long as a process lives, until a time, or until somebody deletes it.

The kernel says whether a process lives: its pid, when it started and in which boot together name it for ever, so neither a
reused pid nor a reboot deceives. Nothing has to be released, so nothing that is killed can forget to. Only the standard
library: the warden of a cluster reads these too.
"""

from __future__ import annotations

import time

from trimtab.engine.procfs import Identity, alive, boot_id, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Lease:
    """`owner` None and `until_s` None: until it is deleted. until_s: seconds since the epoch."""

    __slots__ = ("boot", "owner", "until_s")

    def __init__(self, owner: Identity | None = None, until_s: float | None = None, boot: str = "") -> None:
        self.owner = owner
        self.until_s = until_s
        self.boot = boot or boot_id()

    @property
    def ends(self) -> bool:
        """Whether it can end by itself."""
        return self.owner is not None or self.until_s is not None

    def is_over(self) -> bool:
        """Whether its process has ended or its time is up. After a reboot no process of before lives."""
        if self.owner is not None and (self.boot != boot_id() or not alive(self.owner)):
            return True
        return self.until_s is not None and time.time() >= self.until_s

    def as_json(self) -> dict[str, Any]:
        owner = [self.owner.pid, self.owner.start] if self.owner else None
        return {"owner": owner, "boot": self.boot, "until_s": self.until_s}


def from_json(doc: dict[str, Any]) -> Lease:
    owner = doc.get("owner")
    return Lease(Identity(*owner) if owner else None, doc.get("until_s"), doc["boot"])


def of_process(pid: int, until_s: float | None = None) -> Lease | None:
    """A lease for as long as this process lives; None where there is no such process."""
    owner = identity(pid)
    return Lease(owner, until_s) if owner else None
