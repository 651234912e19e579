"""The dashboard's picture of profiling: how the Profilers are, and what the machine measured by them spends; from there to the page."""

from __future__ import annotations

from trimtab.api import JSON
from trimtab.client import Client
from trimtab.components.profiling.kinds import Profiler

NOTE = "In a terminal: trimtab profile top app=NAME --last 1h; trimtab profile diff app=NAME"


async def profiles(client: Client) -> JSON:
    """A table: a Profiler a line."""
    found = (await client.list(Profiler)).items
    return {
        "note": NOTE,
        "columns": ["Profiler", "State", "Cost", "Samples", "Lost", "Disk"],
        "rows": [_row(p) for p in found],
    }


def _row(found: Profiler) -> list[str | JSON]:
    status = found.status
    agent = status.agent
    state = next((c.reason for c in status.conditions if c.type == "Ready"), "")
    lost = ", ".join(f"{count} {reason}" for reason, count in sorted(status.lost.items()) if count)
    return [
        {"text": found.name, "page": f"profilers/-/{found.name}/page"},
        state,
        f"{agent.cpu_percent:.2f} % of a core, {agent.memory_bytes / 1e6:.0f} MB at {agent.hz} Hz" if agent.hz else "",
        str(status.samples),
        lost or "none",
        f"{status.disk_bytes / 1e6:.0f} MB",
    ]
