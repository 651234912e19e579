"""Where autoscalers get their numbers from.

    cpu, memory       metrics.k8s.io of the API, which asks the node agents
    anything else     the pods themselves: the Prometheus page that their annotations name

    prometheus.io/scrape: "true"     without it a pod is never asked
    prometheus.io/port: "8080"       default: the first port of its first container
    prometheus.io/path: "/metrics"

A counter (a name that ends in `_total`) is of no use as it stands: it is offered as `NAME_per_second` (`http_requests_total`
as `http_requests_per_second`), the rate between two looks. Series of one name are added up, those that the metric's selector
chooses by their labels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from trimtab.api.autoscaling import PodMetrics
from trimtab.api.core import Pod
from trimtab.api.labels import LabelSelector
from trimtab.api.quantity import parse_quantity
from trimtab.api.selector import selects
from trimtab.components.workloads import prometheus
from trimtab.components.workloads.autoscale import MetricMissing, Sample

SCRAPE, PORT, PATH = "prometheus.io/scrape", "prometheus.io/port", "prometheus.io/path"
SCRAPE_S = 3.0
PAGE_BYTES_MAX = 4 << 20
AT_ONCE_MAX = 16
COUNTER, RATE = "_total", "_per_second"
RATE_WINDOW_S_MAX = 120.0
"""Two looks at a counter that are further apart say nothing about now."""


@dataclass(frozen=True)
class ContainerUsage:
    """CPU in cores, memory in bytes."""

    name: str
    amounts: Mapping[str, float]


@dataclass(frozen=True)
class PodUsage:
    at: datetime
    window_s: float
    containers: tuple[ContainerUsage, ...]


class Measurements(Protocol):
    """What the world outside of the API says about pods."""

    async def usage(self, namespace: str) -> Mapping[str, PodUsage]:
        """CPU and memory of the pods of a namespace that have been measured, by name.

        Raises:
            MetricMissing: nobody answers.
        """

    async def custom(
        self, pods: Sequence[Pod], metric: str, selector: LabelSelector | None, now: datetime
    ) -> Mapping[str, Sample]:
        """A metric that pods offer themselves, by pod; those that do not offer it are left out."""


class LiveMeasurements:
    """On a machine of our own: the API behind `socket`, and the pods' own pages."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._counters: dict[tuple[str, str, str], tuple[float, float]] = {}

    async def usage(self, namespace: str) -> Mapping[str, PodUsage]:
        from trimtab.client import ApiError, Client, SocketTransport

        try:
            async with SocketTransport(self._socket) as transport:
                listing = await Client(transport).list(PodMetrics, namespace)
        except (ApiError, ConnectionError, TimeoutError) as err:
            raise MetricMissing(f"metrics.k8s.io does not answer: {err}") from None
        return {item.name: _usage(item) for item in listing.items}

    async def custom(
        self, pods: Sequence[Pod], metric: str, selector: LabelSelector | None, now: datetime
    ) -> Mapping[str, Sample]:
        import aiohttp

        limit = asyncio.Semaphore(AT_ONCE_MAX)

        async def one(session: Any, pod: Pod) -> float | None:
            async with limit:
                return await self._ask(session, pod, metric, selector)

        timeout = aiohttp.ClientTimeout(total=SCRAPE_S)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            values = await asyncio.gather(*(one(session, pod) for pod in pods))
        found = zip(pods, values, strict=True)
        return {pod.name: Sample(value, now) for pod, value in found if value is not None}

    async def _ask(self, session: Any, pod: Pod, metric: str, selector: LabelSelector | None) -> float | None:
        import aiohttp

        url = page_of(pod)
        if url is None:
            return None
        try:
            async with session.get(url, allow_redirects=False) as answer:  # only the pod itself is asked
                if answer.status != 200:
                    return None
                page = (await answer.content.read(PAGE_BYTES_MAX)).decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError):
            return None
        name = metric.removesuffix(RATE) + COUNTER if metric.endswith(RATE) else metric
        value = total(page, name, selector)
        if value is None or name == metric:
            return value
        return self._rate((pod.metadata.uid, name, repr(selector)), value, asyncio.get_running_loop().time())

    def _rate(self, key: tuple[str, str, str], value: float, now_s: float) -> float | None:
        """How fast a counter grew since the last look; None at the first, and when it began anew."""
        before = self._counters.get(key)
        self._counters[key] = (now_s, value)
        for other in [k for k, (at_s, _) in self._counters.items() if now_s - at_s > RATE_WINDOW_S_MAX]:
            del self._counters[other]
        if before is None or now_s - before[0] > RATE_WINDOW_S_MAX or now_s <= before[0] or value < before[1]:
            return None
        return (value - before[1]) / (now_s - before[0])


def _usage(item: PodMetrics) -> PodUsage:
    containers = tuple(
        ContainerUsage(one.name, {name: float(parse_quantity(amount)) for name, amount in one.usage.items()})
        for one in item.containers
    )
    return PodUsage(item.timestamp or datetime.now(UTC), prometheus.seconds(item.window), containers)


def page_of(pod: Pod) -> str | None:
    """The address of a pod's Prometheus page, or None when it has none (yet)."""
    notes = pod.metadata.annotations
    ports = [port.container_port for container in pod.spec.containers for port in container.ports]
    port = notes.get(PORT) or (str(ports[0]) if ports else "")
    if notes.get(SCRAPE) != "true" or not pod.status.pod_ip or not port.isdigit():
        return None
    return f"http://{pod.status.pod_ip}:{port}/{notes.get(PATH, '/metrics').lstrip('/')}"


def total(page: str, name: str, selector: LabelSelector | None) -> float | None:
    """The sum of a page's series of one name; None when there is none."""
    values = [
        series.value
        for series in prometheus.parse(page)
        if series.name == name and (selector is None or selects(selector, series.labels))
    ]
    return sum(values) if values else None
