"""The promise: pods are replaced under load, and no request is dropped or doubled, with no retries anywhere."""

from __future__ import annotations

import time

import pytest

from ingress_under_test import Backends, IngressUnderTest
from ingress_world import ingress, service
from rollout import Load

REPLACEMENTS = 20
REQUESTS_MIN = 10_000


async def retries(under_test: IngressUnderTest) -> int:
    """How often Envoy tried a request again."""
    (answer,) = await under_test.proxy._ask("GET", "/stats?filter=upstream_rq_retry$") or [b""]
    return sum(int(line.rpartition(": ")[2]) for line in answer.decode().splitlines())


@pytest.mark.serial
@pytest.mark.parametrize("tls", [True, False], ids=["https", "http"])
async def test_20_replacements_drop_and_double_nothing(under_test: IngressUnderTest, web: Backends, tls: bool):
    await under_test.apply(service(target=web.port))
    await under_test.apply(ingress(tls=tls))
    old = await web.start_pod()
    await web.attached(old)
    await under_test.answers("shop.example.com", tls=tls)
    load = Load(under_test.target(tls=tls))
    load.start()
    took = []
    for number in range(REPLACEMENTS):
        await load.wait_for_requests(REQUESTS_MIN * number // REPLACEMENTS)
        began = time.perf_counter()
        new = await web.start_pod()
        await web.attached(new)
        await web.remove_pod(old)
        took.append(time.perf_counter() - began)
        old = new
    await load.wait_for_requests(REQUESTS_MIN)
    result = await load.stop()
    print(
        result.summary(), f"swap {sum(took) / len(took):.2f} s, Envoy {under_test.envoy_memory_mb():.0f} MB of its own"
    )
    assert result.failures == []
    assert result.doubled(web.executed) == []
    assert result.lost(web.executed) == []
    assert result.requests >= REQUESTS_MIN
    assert len(result.posts) > REQUESTS_MIN // 5
    assert await retries(under_test) == 0
