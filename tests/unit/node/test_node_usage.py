"""Usage: rates from two looks at counters, and when a second look is needed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from trimtab.components.node.usage import Look, NodeReading, Reading, Usage, machine_reading, readings, report
from trimtab.runtime.simulation import SimulatedClock, simulate

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = 1_000_000_000
LABELS = {
    "io.kubernetes.pod.namespace": "shop",
    "io.kubernetes.pod.name": "web-1",
    "io.kubernetes.container.name": "main",
}


def stats(cpu_ns: int, at_ns: int, memory: int = 4096) -> dict[str, Any]:
    return {
        "attributes": {"id": "a", "labels": LABELS},
        "cpu": {"timestamp": at_ns, "usage_core_nano_seconds": {"value": cpu_ns}},
        "memory": {"working_set_bytes": {"value": memory}},
    }


def look(at_s: float, cpu_ns: int = 0, **containers: Reading) -> Look:
    return Look(at_s, NodeReading(cpu_ns, 1 << 30), containers)


def reading(container: str, cpu_ns: int, at_s: float, pod: str = "web-1") -> Reading:
    return Reading("shop", pod, container, cpu_ns, int(at_s * SECOND), 4096)


def test_a_rate_is_the_difference_of_two_looks() -> None:
    earlier = look(10, 5 * SECOND, a=reading("main", SECOND, 10))
    later = look(20, 9 * SECOND, a=reading("main", 6 * SECOND, 20))

    said = report(earlier, later, NOW)

    assert said["windowSeconds"] == 10
    assert said["timestamp"] == "2026-01-01T00:00:00Z"
    assert said["node"] == {"cpu": 400_000_000, "memory": 1 << 30}
    [pod] = said["pods"]
    assert pod == {
        "namespace": "shop",
        "name": "web-1",
        "containers": [{"name": "main", "cpu": 500_000_000, "memory": 4096}],
    }


def test_a_pod_with_a_container_that_has_no_rate_yet_is_left_out() -> None:
    earlier = look(10, a=reading("main", 0, 10), c=reading("main", 0, 10, "old"))
    later = look(20, a=reading("main", 0, 20), b=reading("helper", 0, 20), c=reading("main", 0, 20, "old"))

    assert [pod["name"] for pod in report(earlier, later, NOW)["pods"]] == ["old"]


def test_a_container_without_statistics_yet_is_no_reading() -> None:
    found = readings({"a": stats(7, 9), "b": {"attributes": {"id": "b", "labels": LABELS}}})

    assert found == {"a": Reading("shop", "web-1", "main", 7, 9, 4096)}


def test_who_asks_once_waits_a_second_and_who_asks_again_does_not() -> None:
    async def main(clock: SimulatedClock) -> tuple[list[float], list[int]]:
        import asyncio

        loop = asyncio.get_running_loop()

        async def counters() -> Mapping[str, Mapping[str, Any]]:
            # Half a core until 5 s, then a whole one.
            now = loop.time()
            used = min(now, 5.0) * 0.5 + max(0.0, now - 5.0)
            return {"a": stats(int(used * SECOND), int(now * SECOND))}

        usage = Usage(counters, lambda: NodeReading(0, 0), clock.now)
        took, rates = [], []
        for wait_s in (0.0, 4.0, 15.0, 0.2, 90.0):
            await asyncio.sleep(wait_s)
            began = loop.time()
            said = await usage.measure()
            took.append(round(loop.time() - began, 3))
            rates.append(round(said["pods"][0]["containers"][0]["cpu"] / 1e9, 2))
        return took, rates

    took, rates = simulate(main, seed=1)

    # At 1 s over one second; at 5 s over four; at 20 s over fifteen; at once the same; after a long pause anew.
    assert took == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert rates == [0.5, 0.5, 1.0, 1.0, 1.0]


def test_the_machine_is_read_from_proc(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu  100 10 40 9000 5 1 2 0 0 0\ncpu0 1 1 1 1\n")
    (tmp_path / "meminfo").write_text("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  400 kB\n")

    assert machine_reading(tmp_path) == NodeReading(153 * 10_000_000, 600 * 1024)


@pytest.mark.parametrize("memory", [0, 1 << 40])
def test_memory_is_told_as_it_is(memory: int) -> None:
    later = readings({"a": stats(2, 2 * SECOND, memory)})
    earlier = readings({"a": stats(1, SECOND, 5)})

    said = report(Look(1, NodeReading(0, 0), earlier), Look(2, NodeReading(0, 0), later), NOW)

    assert said["pods"][0]["containers"][0]["memory"] == memory
