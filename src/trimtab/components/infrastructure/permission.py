"""Whether a plan of an object may be carried out now, and the line that says why not, in the object's own names.

object's policy, its approval, the plan --gate (keeping.py), maintenance windows--> Verdict
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from trimtab.components.infrastructure.gathering import APPROVE, named
from trimtab.components.infrastructure.keeping import Look, Policy, Verdict, gate
from trimtab.components.infrastructure.kinds import Managed
from trimtab.components.infrastructure.maintenance import WindowFault, opening
from trimtab.components.infrastructure.mapping import api_path
from trimtab.components.infrastructure.protocol.schema import Block


def permission(subject: Managed, block: Block, look: Look, now: datetime) -> Verdict:
    """now: with its time zone."""
    policy = subject.spec.policy
    lines = tuple(msgspec.structs.replace(line, path=api_path(block, line.path)) for line in look.lines)
    verdict = gate(
        msgspec.structs.replace(look, lines=lines),
        Policy(apply=policy.apply, replace=policy.replace, delete=policy.delete),
        subject.metadata.annotations.get(APPROVE, ""),
        named(subject),
    )
    # What is half made serves nobody, and what is not there cannot be disturbed.
    if not verdict.go or look.action not in ("update", "replace") or look.tainted:
        return verdict
    try:
        opens = opening(policy.maintenance, now)
    except WindowFault as err:
        return Verdict(False, "InvalidField", str(err))
    if opens is None:
        return verdict
    what = f"{look.action} ({len(lines)} {'field' if len(lines) == 1 else 'fields'})"
    return Verdict(False, "OutsideWindow", f"would {what} in the window that opens {opens:%a %d %b %H:%M} {opens:%Z}")


__all__ = ["permission"]
