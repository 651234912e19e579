"""Terraform providers that others wrote, real programs: their plans are Terraform's own."""

from __future__ import annotations

from pathlib import Path

import plan_peers


async def test_plans_of_a_real_provider_are_those_of_terraform(tmp_path: Path) -> None:
    await plan_peers.agree(plan_peers.planners()["hcloud"], tmp_path)
