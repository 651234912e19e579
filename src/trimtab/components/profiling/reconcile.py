"""Profiler -> its status: how the agent of this machine is, and what it costs.

The service (`service.py`) runs the agent while the Profiler `default` exists. Here is only said how it is: when that changes, and every
few minutes what it costs; never more often, since each time is a write that everybody who watches sees.
"""

from __future__ import annotations

from datetime import UTC, datetime

from trimtab.api import JSON
from trimtab.components.profiling.kinds import DEFAULT, Profiler
from trimtab.components.profiling.measurer import Measurer, Seen
from trimtab.components.profiling.reasons import READY
from trimtab.runtime import Context, Desired, reconciler

STATUS_EVERY_S = 300.0
STATUS_FIRST_S = 75.0
"""What an agent costs it knows after its first minute."""
WELL = frozenset({"Measuring", "FramePointersOnly", "Shedding"})
WARNED = frozenset({"AgentFailed", "NotSupported", "BudgetExceeded", "Shedding"})


@reconciler(Profiler, place="node", workers=1, name="profiler")
async def profiler(subject: Profiler, ctx: Context) -> Desired:
    """Says how the agent is."""
    measurer = ctx.adapter(Measurer)  # type: ignore[type-abstract]
    if not measurer.is_here:
        return Desired()
    if subject.name != DEFAULT:
        seen = Seen("NotActing", f"the Profiler named {DEFAULT} acts")
        return Desired(status=_status(subject, seen))
    seen = measurer.look()
    if seen.reason in WARNED and seen.reason != _reason(subject):
        ctx.event(seen.reason, seen.message, warning=True)
    again_s = STATUS_EVERY_S if seen.samples else STATUS_FIRST_S
    return Desired(status=_status(subject, seen), requeue_after_s=again_s)


def _reason(subject: Profiler) -> str:
    return next((c.reason for c in subject.status.conditions if c.type == READY), "")


def _status(subject: Profiler, seen: Seen) -> JSON:
    state = "True" if seen.reason in WELL else "Unknown" if seen.reason == "Starting" else "False"
    status: JSON = {
        "observedGeneration": subject.metadata.generation,
        "agent": {
            "mode": seen.mode,
            "hz": seen.hz,
            "cpuPercent": round(seen.cpu_percent, 2),
            "memoryBytes": seen.memory_bytes,
            "processes": seen.processes,
            "types": list(seen.types),
            "missing": dict(seen.missing),
            "shed": seen.shed,
            "restarts": seen.restarts,
        },
        "samples": seen.samples,
        "lost": dict(seen.lost),
        "scrapeErrors": dict(seen.scrape_errors),
        "diskBytes": seen.disk_bytes,
        "message": seen.message,
        "conditions": [{"type": READY, "status": state, "reason": seen.reason, "message": seen.message}],
    }
    if seen.rolled_up_at:
        status["rolledUpAt"] = f"{datetime.fromtimestamp(seen.rolled_up_at, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return status
