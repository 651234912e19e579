"""How many requests an App served, by the minute: read from the proxy's access log, in a process that ends.

    python -m trimtab.components.profiling.requests LOG START NAMESPACE/SERVICE ...  -->  {"start": 1800000000, "minutes": [120, 118, ...]}

`start` is the first whole minute, not before START, from which on the log is there: older ones may have been rotated away. The last is the last
that is over: of the minute that goes on, the log has a part, and a part taken for a whole makes each request dearer than it is. Lines are
JSON, one a request; `backend` is NAMESPACE/SERVICE:PORT, `time` is RFC 3339 in UTC.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

MINUTE_S = 60
LINE_BYTES_MAX = 64 << 10
WRITTEN_S = 5
"""The proxy writes its lines four times a second, and a line when its request is over."""


def count(log: Path, start: int, backends: Collection[str], now: float) -> tuple[int, list[int]]:
    """The first minute that is known in full (0: none), and the requests of each minute from there to the last that is over. now: Unix
    seconds."""
    wanted = set(backends)
    minutes: Counter[str] = Counter()
    first = ""
    for file in _files(log):
        for line in _lines(file):
            minute = line[0][:16]
            first = min(first or minute, minute)
            if line[1].rpartition(":")[0] in wanted:
                minutes[minute] += 1
    if not first:
        return 0, []
    # The log may begin anywhere in its first minute.
    begins = max(_at(first) + MINUTE_S, start - start % MINUTE_S + (MINUTE_S if start % MINUTE_S else 0))
    counted = {_at(minute): number for minute, number in minutes.items()}
    over = int(now - WRITTEN_S)
    return begins, [counted.get(at, 0) for at in range(begins, over - over % MINUTE_S, MINUTE_S)]


def _files(log: Path) -> Iterator[Path]:
    """The log, and what it was rotated to."""
    for file in sorted(log.parent.glob(f"{log.name}*")):
        if file.name == log.name or file.suffix[1:].isdigit():
            yield file


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Time and backend of each request; a line that is none (cut off by a crash) is passed over."""
    with file.open("rb") as lines:
        while line := lines.readline(LINE_BYTES_MAX):
            try:
                told = json.loads(line)
                yield str(told["time"]), str(told.get("backend") or "")
            except (ValueError, KeyError, TypeError):
                continue


def _at(minute: str) -> int:
    return int(datetime.strptime(minute, "%Y-%m-%dT%H:%M").replace(tzinfo=UTC).timestamp())


def main() -> None:
    log, start, *backends = sys.argv[1:]
    begins, minutes = count(Path(log), int(start), backends, time.time())
    print(json.dumps({"start": begins, "minutes": minutes}))


if __name__ == "__main__":
    main()
