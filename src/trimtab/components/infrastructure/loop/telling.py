"""What is said of an object while it is kept: its status, and Events at what begins, ends or stands in the way.

what the run has seen so far (look, block) --status--> conditions, id, atProvider, plan
plan --doing, deed--> one line before it is done, one after
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from trimtab.api import JSON
from trimtab.components.infrastructure.kinds import Managed
from trimtab.components.infrastructure.loop.gathering import APPROVE
from trimtab.components.infrastructure.loop.keeping import Look
from trimtab.components.infrastructure.loop.kept import Kept
from trimtab.components.infrastructure.loop.remembering import EITHER
from trimtab.components.infrastructure.protocol.schema import Block
from trimtab.components.infrastructure.schemas.mapping import api_path, shown
from trimtab.runtime import Context

TOLD = frozenset({"ApprovalNeeded", "ReplaceDenied", "OutsideWindow", "TooManyGone"})
"""Reasons for which a plan waits that are said as Events."""
ALARMING = frozenset({"ReplaceDenied", "TooManyGone"})
DIGEST_CHARS = 12
DOING = {"create": "Creating", "update": "Updating", "replace": "Replacing", "delete": "Deleting"}
OF_PLANS = TOLD | {"ApplyNever"}
PASSING = TOLD | {"Waiting", "NotVisibleYet", "Deferred", "InUse"}
"""What is in order, or said already."""


class Telling:
    """Of one run. `look` is the last that it took, `block` the schema of its resource; both as soon as they are known."""

    def __init__(self, subject: Managed, ctx: Context, resource: str) -> None:
        self._subject = subject
        self._ctx = ctx
        self._resource = resource
        self.look: Look | None = None
        self.block = Block()

    def status(self, synced: str, reason: str, message: str) -> JSON:
        """The whole status: conditions, and what the last look of this run saw; without one, what was known before."""
        conditions = [
            {"type": "Synced", "status": synced, "reason": reason, "message": message},
            self._ready(synced, reason, message),
        ]
        out: JSON = {"conditions": conditions, "observedGeneration": self._subject.metadata.generation}
        look, before = self.look, self._subject.status
        if look is None:
            plan = msgspec.to_builtins(before.plan, str_keys=True)
            return out | {"id": before.id, "atProvider": before.at_provider, "plan": plan}
        lines = [msgspec.structs.replace(line, path=api_path(self.block, line.path)) for line in look.lines]
        return out | {
            "id": id_of(look.live.value),
            "atProvider": shown(self.block, look.live.value) or {},
            "plan": {
                "action": look.action,
                "digest": look.digest,
                "changes": msgspec.to_builtins(lines, str_keys=True),
            },
        }

    def _ready(self, synced: str, reason: str, message: str) -> JSON:
        """Whether it can be used: as far as is known, when nobody could look."""
        if synced == "True":
            return {"type": "Ready", "status": "True", "reason": "Available", "message": ""}
        before = next((c for c in self._subject.status.conditions if c.type == "Ready"), None)
        there = self.look is None or self.look.live.value is not None
        if before is not None and before.status == "True" and there:
            return {"type": "Ready", "status": "True", "reason": before.reason, "message": before.message}
        return {"type": "Ready", "status": "False", "reason": reason, "message": message}

    def unready(self, status: JSON, reason: str, message: str) -> None:
        """Makes a status say that it cannot be used yet, whatever it said before."""
        conditions = [one for one in status["conditions"] if one["type"] != "Ready"]
        status["conditions"] = [*conditions, {"type": "Ready", "status": "False", "reason": reason, "message": message}]

    def over(self) -> JSON:
        """The status of an object whose resource is deleted: what is remembered of it may go."""
        self.look = None
        said = {"status": "False", "reason": "Deleted", "message": ""}
        conditions = [{"type": type_, **said} for type_ in ("Ready", "Synced")]
        return {"conditions": conditions, "observedGeneration": self._subject.metadata.generation}

    async def report(self, look: Look, message: str) -> None:
        """Says what is being done, before it is; of what was tried before, what that came to stays to be read."""
        before = next((c.reason for c in self._subject.status.conditions if c.type == "Synced"), "")
        if self._subject.status.plan.digest != look.digest or before in OF_PLANS:
            await self._ctx.report(self.status("False", DOING[look.action], message))

    def doing(self, look: Look) -> str:
        """What is being done, for whoever waits for it."""
        match look.action:
            case "create":
                return f"{self._resource} is being made"
            case "replace":
                return f"{self._resource} {id_of(look.live.value)} is being made anew: {summary(look, self.block)}"
        return f"{self._resource} {id_of(look.live.value)} is being changed: {summary(look, self.block)}"

    def deed(self, look: Look, kept: Kept) -> str:
        """What was done, for whoever reads the timeline."""
        before, after = id_of(look.live.value), id_of(kept.state)
        approved = f"; plan {short(look.digest)} was approved" if self._approval == look.digest else ""
        if look.action == "create":
            return f"made {self._resource} {after}{approved}"
        if look.action == "replace":
            return f"made {self._resource} {before} anew, now {after}: {summary(look, self.block)}{approved}"
        return f"changed {self._resource} {after}: {summary(look, self.block)}{approved}"

    @property
    def _approval(self) -> str:
        return self._subject.metadata.annotations.get(APPROVE, "")

    def seen(self, look: Look) -> None:
        """Says what somebody did outside."""
        if look.gone and self._subject.status.id:
            self._ctx.event("Gone", f"{self._resource} {self._subject.status.id} is no longer there", warning=True)
        elif drifted := kept_drift(look):
            places = ", ".join(dict.fromkeys(api_path(self.block, path) for path in drifted[:5]))
            self._ctx.event("Drifted", f"changed outside: {places}", warning=True)

    def standing(self, reason: str, message: str) -> None:
        """Says what stands in the way, once, when it begins to."""
        before = next((c.reason for c in self._subject.status.conditions if c.type == "Synced"), "")
        if reason not in PASSING and reason != before:
            # Without the commands, which are for now: the condition has them.
            self._ctx.event(reason, message.partition(EITHER)[0], warning=True)

    def waiting(self, look: Look, reason: str, message: str) -> None:
        """Says that a plan begins to wait, once for each plan and reason."""
        before = self._subject.status
        synced = next((c for c in before.conditions if c.type == "Synced"), None)
        if reason in TOLD and (synced is None or (synced.reason, before.plan.digest) != (reason, look.digest)):
            self._ctx.event(reason, message, warning=reason in ALARMING)


def kept_drift(look: Look) -> list[str]:
    """What somebody changed of what is given, or that has to be set back. What else a cloud says otherwise than before is its own: a bucket
    whose policy is another object's, the time of the last backup."""
    paths = [line.path for line in look.drifted]
    if look.action != "none":
        return paths
    given = look.config if isinstance(look.config, Mapping) else {}
    return [path for path in paths if given.get(path.partition(".")[0].partition("[")[0]) not in (None, [], {})]


def short(digest: str) -> str:
    """As much of a digest as a person compares."""
    return digest.partition(":")[2][:DIGEST_CHARS]


def id_of(value: Any) -> str:
    """The provider's `id` of a resource; empty when it has none, or there is nothing."""
    return str(value.get("id") or "") if isinstance(value, Mapping) else ""


def verb(look: Look) -> str:
    """The reason of the Event about what was done."""
    return {"create": "Created", "update": "Updated", "replace": "Replaced", "delete": "Deleted"}.get(
        look.action, "Applied"
    )


def summary(look: Look, block: Block) -> str:
    """The first five fields that a plan changes, and because of whom."""
    shown_lines = [f"{api_path(block, line.path)} ({line.cause})" for line in look.lines[:5]]
    more = len(look.lines) - len(shown_lines)
    return ", ".join(shown_lines) + (f" and {more} more" if more > 0 else "")
