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
REPLACEMENTS = 20
REQUESTS_MIN = 10_000
COUNTER = Path(__file__).parents[2] / "support" / "counter_app"


def test_twenty_rollouts_under_load_drop_and_double_nothing(running: EngineUnderTest) -> None:
    running.run("up", str(COUNTER), timeout_s=400)
    running.wait_serving(HOST)
    tls = ssl.create_default_context(cafile=str(running.data / "pki" / "ca.crt"))
    target = Target(("127.0.0.1", running.https_port), HOST, tls=tls)

    async def roll() -> Load:
        load = Load(target, clients=40)
        load.start()
        kubeconfig = str(running.data / "admin.kubeconfig")
        async for _ in replace_pods(kubeconfig, "default", "counter-web", REPLACEMENTS):
            pass
        await load.wait_for_requests(REQUESTS_MIN)
        await load.stop()
        return load

    result = asyncio.run(roll()).result
    executed = json.loads(running.get(HOST, "/executed").text)
    print(result.summary())
    assert result.failures == []
    assert result.doubled(executed) == []
    assert result.lost(executed) == []
    assert result.requests >= REQUESTS_MIN
    running.run("delete", "app", "counter")
