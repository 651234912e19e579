"""What the server counts of its requests, under the names, labels and buckets of kube-apiserver, so that dashboards and alerts that
people have go on working; and the text in which Prometheus reads all figures.

    a request's verb, resource, scope -> a Series -> counts by code, buckets of its duration
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

BUCKETS_S = (
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
)  # fmt: skip
SLI_BUCKETS_S = BUCKETS_S[2:]
READ_ONLY, MUTATING = "readOnly", "mutating"

Labels = tuple[tuple[str, str], ...]
Sample = tuple[Labels, float]


class Asked(NamedTuple):
    """What requests that are counted together have in common; empty where it says nothing."""

    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    scope: str = ""
    """`resource`, `namespace` or `cluster`."""
    dry_run: str = ""


class Series:
    """The requests of one sort."""

    __slots__ = ("codes", "counts", "open", "seconds", "sli_counts", "sli_seconds")

    def __init__(self) -> None:
        self.codes: Counter[int] = Counter()
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.seconds = 0.0
        self.sli_counts = [0] * (len(SLI_BUCKETS_S) + 1)
        self.sli_seconds = 0.0
        self.open = 0
        """Those that stay open: watches, followed logs."""

    def count(self, code: int, seconds: float, waited_s: float = 0.0) -> None:
        """An answer. waited_s: how much of its time the request stood in line."""
        self.codes[code] += 1
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.seconds += seconds
        own_s = max(0.0, seconds - waited_s)
        self.sli_counts[bisect_left(SLI_BUCKETS_S, own_s)] += 1
        self.sli_seconds += own_s


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._series: dict[Asked, Series] = {}
        self.in_flight: Counter[str] = Counter()
        self.in_line: Counter[str] = Counter()
        self.events: Counter[tuple[str, str, str]] = Counter()
        """Events sent to watches, by group, version and resource."""

    def series(self, asked: Asked) -> Series:
        """The requests of that sort so far."""
        found = self._series.get(asked)
        if found is None:
            found = self._series[asked] = Series()
        return found

    def requests(self) -> list[str]:
        """The lines of all that is counted here."""
        every = [(_labels(asked), series) for asked, series in sorted(self._series.items())]
        lines = family(
            "apiserver_request_total",
            "counter",
            "Requests by verb, dry run, group, version, resource, subresource, scope and HTTP code.",
            (
                ((*labels, ("code", str(code))), n)
                for labels, series in every
                for code, n in sorted(series.codes.items())
            ),
        )
        counted = [(labels, series) for labels, series in every if series.codes]
        lines += histogram(
            "apiserver_request_duration_seconds",
            "From the request to its answer, or of a watch to its end.",
            BUCKETS_S,
            ((labels, series.counts, series.seconds) for labels, series in counted),
        )
        lines += histogram(
            "apiserver_request_sli_duration_seconds",
            "The same, without the time in which a request stood in line.",
            SLI_BUCKETS_S,
            (
                (_without(labels, "dry_run"), series.sli_counts, series.sli_seconds)
                for labels, series in counted
                if not _dry(labels)
            ),
        )
        lines += family(
            "apiserver_longrunning_requests",
            "gauge",
            "Watches and followed logs that are open.",
            ((_without(labels, "dry_run"), series.open) for labels, series in every if series.open),
        )
        for name, text, by_kind in (
            (
                "apiserver_current_inflight_requests",
                "Requests being answered, those that stay open aside.",
                self.in_flight,
            ),
            ("apiserver_current_inqueue_requests", "Requests of the network that wait for their turn.", self.in_line),
        ):
            samples = [((("request_kind", kind),), by_kind[kind]) for kind in (MUTATING, READ_ONLY)]
            lines += family(name, "gauge", text, samples)
        events = [
            ((("group", group), ("version", version), ("resource", resource)), count)
            for (group, version, resource), count in sorted(self.events.items())
        ]
        return lines + family("apiserver_watch_events_total", "counter", "Events sent to watches.", events)


def _labels(asked: Asked) -> Labels:
    return (("component", "apiserver"), *asked._asdict().items())


def _without(labels: Labels, name: str) -> Labels:
    return tuple(label for label in labels if label[0] != name)


def _dry(labels: Labels) -> bool:
    return bool(dict(labels)["dry_run"])


def family(name: str, sort: str, text: str, samples: Iterable[Sample]) -> list[str]:
    """The lines of one metric; sort: `counter` or `gauge`. None where there are no samples."""
    lines = [f"{_named(name, labels)} {_number(value)}" for labels, value in samples]
    return [f"# HELP {name} {text}", f"# TYPE {name} {sort}", *lines] if lines else []


def histogram(
    name: str, text: str, bounds: tuple[float, ...], samples: Iterable[tuple[Labels, list[int], float]]
) -> list[str]:
    """The lines of a histogram. samples: labels, the count of each bucket (the last has no bound), and the sum."""
    lines: list[str] = []
    names = (*(f"{bound:g}" for bound in bounds), "+Inf")
    for labels, counts, total in samples:
        shown = _shown(labels)
        so_far = 0
        for bound, count in zip(names, counts, strict=True):
            so_far += count
            lines.append(f'{name}_bucket{{{shown},le="{bound}"}} {so_far}')
        lines += [f"{name}_sum{{{shown}}} {total!r}", f"{name}_count{{{shown}}} {so_far}"]
    return [f"# HELP {name} {text}", f"# TYPE {name} histogram", *lines] if lines else []


def gauges(values: Mapping[str, tuple[str, float]]) -> list[str]:
    """Lines of metrics of one value each: name -> (help, value). A name that ends in `_total` is a counter's."""
    lines: list[str] = []
    for name, (text, value) in values.items():
        lines += family(name, "counter" if name.endswith("_total") else "gauge", text, [((), value)])
    return lines


def _named(name: str, labels: Labels) -> str:
    return f"{name}{{{_shown(labels)}}}" if labels else name


def _shown(labels: Labels) -> str:
    """Labels as text. Their values are the server's own words and names that it serves: nothing in them needs escaping."""
    return ",".join(f'{name}="{value}"' for name, value in labels)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(value)
