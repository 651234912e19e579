"""`trimtab profile`: words become questions, mistakes one line, answers text or JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from trimtab.client import ApiError
from trimtab.components.profiling.asking import moment, selector_of, stretch
from trimtab.components.profiling.commands import profile


class Answer:
    def __init__(self, body: bytes) -> None:
        self.body = body


class Target:
    """Keeps what is asked of the API, and answers what it was given."""

    is_embedded = True

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, dict[str, str]]] = []

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Target]:
        yield self

    async def send(self, method: str, path: str, query: Mapping[str, str] | None = None, *_: Any) -> Answer:
        self.asked.append((method, path, dict(query or {})))
        if isinstance(self.answer, Exception):
            raise self.answer
        return Answer(json.dumps(self.answer).encode())


TOP = {
    "answer": "top",
    "type": "cpu",
    "unit": "nanoseconds",
    "by": "function",
    "side": {"total": 100_000_000, "samples": 100},
    "rows": [{"function": ["work", "shop.py", 5, "", "python"], "self": 90_000_000, "total": 100_000_000}],
    "rows_total": 1,
}
EMPTY = TOP | {"side": {"total": 0, "selector": 'app="x"'}, "rows": [], "rows_total": 0}


def run(target: Target, *arguments: str) -> Result:
    return CliRunner().invoke(profile, list(arguments), obj=target)


def test_selectors_are_prometheus_own() -> None:
    assert selector_of(["app=shop", "pod!=web-1", "image=~sha256:ab.*", 'name=a"b\\c']) == (
        'app="shop",pod!="web-1",image=~"sha256:ab.*",name="a\\"b\\\\c"'
    )
    with pytest.raises(click.UsageError, match=r"'app' selects nothing: write LABEL=VALUE"):
        selector_of(["app"])


def test_times_are_ages_or_dates() -> None:
    assert moment("2h", "--from") == -7200
    assert moment("2026-03-01T12:00+00:00", "--from") == 1772366400
    assert stretch("15m", None, None) == {"start": "-900"}
    assert stretch(None, "2h", "1h") == {"start": "-7200", "end": "-3600"}
    with pytest.raises(click.UsageError, match="give --last, or --from and --to"):
        stretch("1h", "2h", None)
    with pytest.raises(click.UsageError, match="--to 'noon': write an age such as 2h"):
        moment("noon", "--to")


def test_top_asks_and_prints_a_table() -> None:
    target = Target(TOP)
    done = run(target, "top", "app=shop", "--last", "10m", "--sort", "total")
    assert done.exit_code == 0, done.output
    _, path, query = target.asked[0]
    assert path == "/apis/trimtab.dev/v1alpha1/profilers/default/query"
    assert query["view"] == "top"
    assert query["selector"] == 'app="shop"'
    assert (query["start"], query["sort"]) == ("-600", "total")
    assert "90.00 ms   90.0%" in done.output
    assert "work" in done.output


def test_json_is_what_the_endpoint_answers() -> None:
    done = run(Target(TOP), "top", "-o", "json")
    assert json.loads(done.output) == TOP


def test_nothing_measured_is_said() -> None:
    done = run(Target(EMPTY), "top", "app=x")
    assert (done.exit_code, done.output) == (0, 'there are no samples of app="x" in that time\n')


def test_a_function_between_its_callers_and_callees() -> None:
    target = Target(ApiError(400, "BadRequest", "no function is like 'x'"))
    done = run(target, "top", "--function", "x")
    assert target.asked[0][2]["view"] == "sandwich"
    assert (done.exit_code, done.output) == (1, "trimtab: no function is like 'x'\n")


def test_diff_says_what_it_compares_with() -> None:
    target = Target(ApiError(400, "BadRequest", "x"))
    run(
        target,
        "diff",
        "app=shop",
        "--before",
        "app=shop",
        "--before",
        "image=sha256:ab",
        "--last",
        "10m",
        "--before-from",
        "1d",
    )
    query = target.asked[0][2]
    assert query["view"] == "top-diff"
    assert query["before_selector"] == 'app="shop",image="sha256:ab"'
    assert (query["start"], query["before_start"]) == ("-600", "-86400")


def test_without_a_profiler_there_is_one_line_and_a_status() -> None:
    target = Target(ApiError(404, "NotFound", 'profilers.trimtab.dev "default" not found'))
    for command in (["top"], ["flame"], ["labels"], ["disable"], ["export", "-o", "-"]):
        done = run(target, *command)
        assert (done.exit_code, done.output) == (4, "trimtab: profiling is not enabled: trimtab profile enable\n")


def test_an_export_needs_a_name_that_says_what_it_is() -> None:
    done = run(Target(TOP), "export", "-o", "profile.xml")
    assert done.exit_code == 2
    assert "profile.xml: name it .pb.gz, .pprof, .speedscope.json, .folded, or give --format" in done.output


def test_every_command_shows_an_example() -> None:
    for name, command in profile.commands.items():
        done = run(Target(TOP), name, "--help")
        assert done.exit_code == 0
        if name not in ("enable", "disable", "status", "labels"):
            assert f"trimtab profile {name}" in done.output, name
        assert command.help


def test_help_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, trimtab.components.profiling.commands; print(sorted({'numpy', 'polars', 'symbolic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
