"""The Profiler: what is refused when it is written, whose containers are whose, and what the agent's lines say about it."""

from __future__ import annotations

from typing import Any

import pytest

from trimtab.api import ObjectMeta
from trimtab.api.core import ContainerStatus, Pod, PodSpec, PodStatus
from trimtab.components.profiling import COMPONENT
from trimtab.components.profiling.admission import check_profiler
from trimtab.components.profiling.kinds import Profiler, ProfilerSpec
from trimtab.components.profiling.measurer import Seen, containers_of
from trimtab.components.profiling.process import Told, seen_of
from trimtab.components.profiling.service import order_of
from trimtab.components.profiling.terms import seconds
from trimtab.runtime import Denied
from trimtab.runtime.crd import kind_schema


def checked(name: str = "default", **spec: Any) -> list[str]:
    return check_profiler({"metadata": {"name": name}, "spec": spec}, None)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            {"retention": "two weeks"},
            "spec.retention: 'two weeks' is no length of time: write one like 90s, 12h or 14d",
        ),
        (
            {"retention": "30m"},
            "spec.retention: '30m' is less than the hour that profiles are kept by: write 1h or more",
        ),
        ({"maxDisk": "1Mi"}, "spec.maxDisk: '1Mi' is too little: write 64Mi or more"),
        ({"budget": {"memory": "10Mi"}}, "spec.budget.memory: '10Mi' is too little: write 64Mi or more"),
        (
            {"debuginfod": {"urls": ["https://a.example", "ftp://b"]}},
            "spec.debuginfod.urls[1]: 'ftp://b' is no http:// or https:// URL: write one like https://debuginfod.debian.net",
        ),
        (
            {"debuginfod": {"listen": "0.0.0.0:8002"}},
            "spec.debuginfod.listen: '0.0.0.0:8002' is no address on loopback: write one like 127.0.0.1:8002",
        ),
        (
            {"scrape": [{"url": "localhost:6060"}]},
            "spec.scrape[0].url: 'localhost:6060' is no http:// or https:// URL: write one like "
            "http://10.0.0.7:6060/debug/pprof/heap",
        ),
        (
            {"scrape": [{"url": "http://a/debug/pprof/heap", "interval": "1s"}]},
            "spec.scrape[0].interval: '1s' is too often: write 10s or more",
        ),
    ],
)
def test_what_could_never_be_followed_is_refused_in_one_line(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(Denied) as refused:
        checked(**spec)
    assert str(refused.value) == said


def test_a_profiler_of_another_name_is_warned_of() -> None:
    assert checked() == []
    assert checked("other") == ["the Profiler other does nothing: the one named default acts"]


def test_the_defaults_are_an_order() -> None:
    order = order_of(ProfilerSpec())
    assert (order.hz, order.retention_s, order.memory_bytes) == (19, 14 * 86400, 150 << 20)
    assert seconds("1h30m") == 5400


def test_hz_is_limited_by_the_schema() -> None:
    schema = kind_schema(Profiler)
    hz = schema["properties"]["spec"]["properties"]["hz"]
    assert (hz["minimum"], hz["maximum"]) == (1, 200)


def test_containers_are_known_by_pod_app_and_image() -> None:
    statuses = [
        ContainerStatus(name="web", container_id="containerd://aa11", image_id="reg/shop@sha256:" + "c" * 64),
        ContainerStatus(name="not-started"),
    ]
    pod = Pod(
        metadata=ObjectMeta(name="shop-1", namespace="default", labels={"app.kubernetes.io/name": "shop", "app": "x"}),
        spec=PodSpec(node_name="node-1"),
        status=PodStatus(container_statuses=statuses),
    )
    assert containers_of([pod]) == {
        "aa11": {
            "node": "node-1",
            "namespace": "default",
            "pod": "shop-1",
            "container": "web",
            "app": "shop",
            "image": "sha256:" + "c" * 64,
        }
    }


@pytest.mark.parametrize(
    ("told", "reason", "message"),
    [
        (Told(state="starting"), "Starting", ""),
        (Told(state="running", mode="bpf", hz=19, cpu_percent=0.314, memory_bytes=41_000_000), "Measuring",
         "19 Hz, 0.31 % of a core, 39 MiB"),
        (Told(state="running", mode="perf", hz=19), "FramePointersOnly", "19 Hz, 0.00 % of a core, 0 MiB"),
        (Told(state="running", mode="bpf", hz=9, shed="half the rate: 1.4 % of a core"), "Shedding",
         "half the rate: 1.4 % of a core; 9 Hz, 0.00 % of a core, 0 MiB"),
    ],
)  # fmt: skip
def test_the_agents_lines_become_a_reason_and_a_message(told: Told, reason: str, message: str) -> None:
    seen = seen_of(told, Seen(disk_bytes=7))
    assert (seen.reason, seen.message, seen.disk_bytes) == (reason, message, 7)
    assert seen.reason in COMPONENT.conditions
