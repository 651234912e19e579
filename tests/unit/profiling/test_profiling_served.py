"""The endpoints of a Profiler: questions, the page, profiles in and out, each refused in one line when it makes no sense."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trimtab.components.profiling.answering import Answers
from trimtab.components.profiling.batch import Batch, Frame, Sample, SampleType, write
from trimtab.components.profiling.served import Served

NOW = 1_800_000_000
UID = "0f0e0d0c-0b0a-0908-0706-050403020100"


def batch() -> Batch:
    """90 samples of `work`, 10 of `idle`, of two apps."""
    frames = [Frame("python", name, "shop.py", line) for name, line in (("main", 1), ("work", 5), ("idle", 9))]
    return Batch(
        start=NOW - 60,
        source="agent",
        types=[SampleType("cpu", "nanoseconds")],
        labels=[{"app": "shop", "pod": "shop-1"}, {"app": "mail"}],
        frames=frames,
        stacks=[[1, 0], [2, 0]],
        samples=[Sample(0, 0, 0, 90_000_000, 90), Sample(0, 1, 1, 10_000_000, 10)],
    )


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    write(tmp_path, batch())
    with Answers(tmp_path, [], lambda: NOW) as answers:
        app = Served(answers)
        yield app
        app.close()


def call(app: Served, method: str, path: str, query: str = "", body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """One request: status, headers, body."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": []}
    asyncio.run(app(scope, receive, send))
    headers = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(m.get("body", b"") for m in sent[1:])


def test_a_table_of_a_selection(served: Served) -> None:
    status, headers, body = call(served, "GET", f"/{UID}/query", "view=top&selector=app%3D%22shop%22")
    told = json.loads(body)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert [(row["function"][0], row["self"]) for row in told["rows"]] == [("work", 90_000_000), ("main", 0)]


@pytest.mark.parametrize(
    ("method", "path", "query", "status", "text"),
    [
        ("GET", f"/{UID}/query", "view=none", 400, "the query is not understood: Invalid enum value 'none'"),
        ("GET", f"/{UID}/query", "selector=app", 400, "app"),
        ("GET", f"/{UID}/profiles", "format=xml", 400, "'xml' is no format that profiles are exported in"),
        ("GET", f"/{UID}/page", "embed=1&view=top", 400, "a page shows a tree or a diff, not top"),
        ("POST", f"/{UID}/profiles", "", 400, "pprof"),
        ("GET", "/query", "", 404, "there is no such endpoint"),
        ("POST", f"/{UID}/query", "", 404, "there is no such endpoint"),
        ("GET", f"/{UID}/buildid/{'ab' * 20}/source/a.c", "", 404, "sources are not kept here"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    served: Served, method: str, path: str, query: str, status: int, text: str
) -> None:
    found, _, body = call(served, method, path, query, b"no profile" if method == "POST" else b"")
    assert found == status
    assert text in body.decode()
    assert body.count(b"\n") == 1


def test_what_goes_out_comes_in_again(served: Served) -> None:
    status, headers, body = call(served, "GET", f"/{UID}/profiles", "format=pprof")
    assert status == 200
    assert headers["content-disposition"] == 'attachment; filename="profile.pb.gz"'
    assert gzip.decompress(body)
    status, _, told = call(served, "POST", f"/{UID}/profiles", "app=copy", body)
    assert (status, json.loads(told)["types"]) == (200, ["samples", "cpu"])
    _, _, table = call(served, "GET", f"/{UID}/query", "view=top&selector=app%3D%22copy%22&start=-86400")
    assert {row["function"][0] for row in json.loads(table)["rows"]} == {"main", "work", "idle"}


def test_other_formats(served: Served) -> None:
    _, headers, body = call(served, "GET", f"/{UID}/profiles", "format=folded")
    assert body == b"main;idle 10000000\nmain;work 90000000\n"
    assert headers["content-disposition"] == 'attachment; filename="profile.folded"'
    _, _, scope = call(served, "GET", f"/{UID}/profiles", "format=speedscope")
    assert json.loads(scope)["$schema"] == "https://www.speedscope.app/file-format-schema.json"


def test_the_page_may_load_nothing_from_elsewhere(served: Served) -> None:
    status, headers, body = call(served, "GET", f"/{UID}/page", "embed=1")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert b"shop.py" in body


def test_a_profile_that_is_too_large_is_not_read_to_its_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.components.profiling.served.BODY_BYTES_MAX", 1 << 20)
    status, _, body = call(served, "POST", f"/{UID}/profiles", "", b"x" * ((1 << 20) + 1))
    assert (status, body) == (413, b"the profile is larger than 1 MiB: send shorter ones\n")
