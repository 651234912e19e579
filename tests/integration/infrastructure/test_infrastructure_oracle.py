"""Our plans and Terraform's own, of the same random questions about the same providers: the action, what it is made anew for, which
fields change, and the whole planned value.

`tests/support/plan_peers.py` records what Terraform's command says. A provider that somebody else wrote is built for `make
test-kubernetes` and asked there.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import plan_peers


@pytest.mark.parametrize("name", ["shapes5", "shapes6", "tf"])
async def test_plans_are_those_of_terraform(name: str, tmp_path: Path) -> None:
    await plan_peers.agree(plan_peers.planners()[name], tmp_path)
