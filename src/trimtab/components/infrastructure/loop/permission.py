"""Whether a plan of an object may be carried out now, and the line that says why not, in the object's own names.

object's policy, its approval, the plan --gate, maintenance windows--> Verdict
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from msgspec import Struct

from trimtab.components.infrastructure.kinds import Managed
from trimtab.components.infrastructure.loop.gathering import APPROVE, named
from trimtab.components.infrastructure.loop.keeping import Look
from trimtab.components.infrastructure.loop.maintenance import WindowFault, opening
from trimtab.components.infrastructure.protocol.schema import Block
from trimtab.components.infrastructure.schemas.mapping import api_path


class Policy(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What may be done without asking."""

    apply: Literal["auto", "onApproval", "never"] = "auto"
    replace: Literal["deny", "approve", "auto"] = "deny"
    delete: Literal["delete", "orphan", "deny"] = "delete"


class Verdict(Struct, frozen=True):
    """Whether a plan may be carried out; if not, a reason for a condition, and one line for a person. approved: somebody had to say so,
    and did."""

    go: bool
    reason: str = ""
    message: str = ""
    approved: bool = False


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


def gate(look: Look, policy: Policy, approved: str, named: str) -> Verdict:
    """Whether a plan may be carried out under a policy. approved: the digest that somebody approved, or empty; named: the object, as
    kubectl takes it."""
    if look.deferred:
        return Verdict(False, "Deferred", f"nothing can be planned yet: {look.deferred}")
    if look.action == "none":
        return Verdict(True)
    if look.agreed and policy.apply != "never":
        return Verdict(True)
    how = f"{look.action} ({len(look.lines)} {'field' if len(look.lines) == 1 else 'fields'})"
    if policy.apply == "never":
        return Verdict(False, "ApplyNever", f"would {how}; spec.policy.apply is never")
    agreed = approved == look.digest
    ask = "what its annotation trimtab.dev/approve names is another plan; " if approved else ""
    ask += f"approve with: kubectl annotate --overwrite {named} trimtab.dev/approve={look.digest}"
    if look.action == "replace" and not look.tainted and not agreed:
        because = ", ".join(sorted({line.path for line in look.lines if line.replaces})) or "the provider asks for it"
        if policy.replace == "deny":
            return Verdict(
                False,
                "ReplaceDenied",
                f"a change of {because} would delete it and make it anew; spec.policy.replace is deny",
            )
        if policy.replace == "approve":
            return Verdict(False, "ApprovalNeeded", f"a change of {because} would delete it and make it anew: {ask}")
    if look.action == "delete" and policy.delete == "deny":
        return Verdict(False, "DeleteDenied", "spec.policy.delete is deny: set it to delete or to orphan")
    if policy.apply == "onApproval" and not agreed:
        return Verdict(False, "ApprovalNeeded", f"would {how}: {ask}")
    asked = policy.apply == "onApproval" or (look.action == "replace" and policy.replace != "auto" and not look.tainted)
    return Verdict(True, approved=agreed and asked)


__all__ = ["Policy", "Verdict", "gate", "permission"]
