"""The promise that a deploy drops no request and does none twice, against the whole engine."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path

import pytest

from engine_under_test import EngineUnderTest
from rollout import Load, Target, replace_pods

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

HOST = "counter.localhost"
REQUESTS_MIN_EACH = 500
COUNTER = Path(__file__).parents[2] / "support" / "counter_app"


@pytest.mark.parametrize("replacements", [8, pytest.param(20, marks=pytest.mark.long)])
def test_rollouts_under_load_drop_and_double_nothing(running: EngineUnderTest, replacements: int) -> None:
    least = replacements * REQUESTS_MIN_EACH
    running.run("up", str(COUNTER), timeout_s=400)
    running.wait_serving(HOST)
    tls = ssl.create_default_context(cafile=str(running.data / "pki" / "ca.crt"))
    target = Target(("127.0.0.1", running.https_port), HOST, tls=tls)

    async def roll() -> Load:
        load = Load(target, clients=40)
        load.start()
        kubeconfig = str(running.data / "admin.kubeconfig")
        async for _ in replace_pods(kubeconfig, "default", "counter-web", replacements):
            pass
        await load.wait_for_requests(least)
        await load.stop()
        return load

    result = asyncio.run(roll()).result
    executed = json.loads(running.get(HOST, "/executed").text)
    print(result.summary())
    assert result.failures == []
    assert result.doubled(executed) == []
    assert result.lost(executed) == []
    assert result.requests >= least
    running.run("delete", "app", "counter")
