"""The dashboard's picture of profiling: which app, and which process that belongs to none, costs how much; each leads to its flame graph."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from trimtab.api import JSON
from trimtab.client import ApiError, Client
from trimtab.components.profiling.kinds import DEFAULT, Profiler
from trimtab.components.profiling.queries.shapes import LabelsAnswer, TopAnswer

OFF = "Profiling is off: trimtab profile enable"
COLUMNS = ["What", "Name", "Share", "CPU"]
ROWS_MAX = 40
PAGE = f"profilers/-/{DEFAULT}/page"
NONE = "(none)"
"""How a table by a label calls what does not have it."""
_ANSWERS: msgspec.json.Decoder[TopAnswer | LabelsAnswer] = msgspec.json.Decoder(TopAnswer | LabelsAnswer)


async def profiles(client: Client) -> JSON:
    """A table of the last hour: an app a line, then the processes of none."""
    found = await client.get(Profiler, DEFAULT)
    if found is None:
        return {"note": OFF, "columns": COLUMNS, "rows": []}
    labels = await _asked(client, view="labels")
    assert isinstance(labels, LabelsAnswer)
    state = next((f"{c.reason}: {c.message}" for c in found.status.conditions if c.type == "Ready"), "Starting")
    rows: list[list[str | JSON]] = []
    total = 0
    for label, selector in (("app", ""), ("process", 'app=""')):
        if label not in labels.labels:
            continue
        answer = await _asked(client, view="top", by=label, selector=selector, limit=str(ROWS_MAX))
        assert isinstance(answer, TopAnswer)
        total = total or answer.side.total
        rows += [
            _row(label, row.function.name, row.self, total)
            for row in answer.rows
            if row.function.name != NONE or label == "process"
        ]
    everything: list[list[str | JSON]] = [["machine", _link("all", ""), "100.0 %", _time(total)]] if total else []
    return {"note": f"The last hour. {state}", "columns": COLUMNS, "rows": [*everything, *rows]}


async def _asked(client: Client, **parameters: str) -> TopAnswer | LabelsAnswer:
    """Raises `ApiError`, `ConnectionError`."""
    query: Mapping[str, str] = {name: value for name, value in parameters.items() if value}
    found = await client.raw("GET", Profiler.resource_type.path(None, DEFAULT, "query"), query=query)
    try:
        return _ANSWERS.decode(found.body)
    except msgspec.MsgspecError as err:
        raise ApiError(502, "BadGateway", f"the profiles' server answered something else: {err}") from err


def _row(label: str, name: str, value: int, total: int) -> list[str | JSON]:
    selector = f'{label}="{name if name != NONE else ""}"' + (',app=""' if label == "process" else "")
    return [label, _link(name, selector), f"{100 * value / total:.1f} %" if total else "", _time(value)]


def _link(text: str, selector: str) -> JSON:
    return {"text": text, "page": PAGE + (f"&selector={quote(selector)}" if selector else "")}


def _time(value_ns: int) -> str:
    return f"{value_ns / 1e9:.1f} s"
