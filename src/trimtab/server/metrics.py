"""Counters of the server, in Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

BUCKETS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)


class Metrics:
    """Requests by verb and code, their durations by verb, and what is given to `text` as gauges."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}

    def count(self, verb: str, resource: str, code: int, seconds: float) -> None:
        self._requests[verb, resource, code] += 1
        buckets = self._buckets.setdefault(verb, [0] * (len(BUCKETS_S) + 1))
        buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self._seconds[verb] = self._seconds.get(verb, 0.0) + seconds

    def text(self, gauges: dict[str, tuple[str, float]]) -> bytes:
        """gauges: name -> (help, value)."""
        lines = [
            "# HELP apiserver_request_total Requests by verb, resource and HTTP code.",
            "# TYPE apiserver_request_total counter",
        ]
        lines += [
            f'apiserver_request_total{{verb="{verb}",resource="{resource}",code="{code}"}} {count}'
            for (verb, resource, code), count in sorted(self._requests.items())
        ]
        lines += [
            "# HELP apiserver_request_duration_seconds Time until the answer was sent; watches are not counted.",
            "# TYPE apiserver_request_duration_seconds histogram",
        ]
        for verb, buckets in sorted(self._buckets.items()):
            total = 0
            for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), buckets, strict=True):
                total += count
                lines.append(f'apiserver_request_duration_seconds_bucket{{verb="{verb}",le="{bound}"}} {total}')
            lines.append(f'apiserver_request_duration_seconds_sum{{verb="{verb}"}} {self._seconds[verb]:.6f}')
            lines.append(f'apiserver_request_duration_seconds_count{{verb="{verb}"}} {total}')
        for name, (help_text, value) in gauges.items():
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} gauge", f"{name} {value:g}"]
        return ("\n".join(lines) + "\n").encode()
