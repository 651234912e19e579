"""What is said of an App's new image, and the requests that its proxy counted."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from trimtab.api import ObjectMeta
from trimtab.components.profiling.compare import due, noted, said
from trimtab.components.profiling.kinds import Profiled, ProfiledStatus, ProfilerDeploy
from trimtab.components.profiling.queries.shapes import CompareAnswer, Function, Grown, Side
from trimtab.components.profiling.requests import count

OLD, NEW = ("sha256:" + letter * 64 for letter in "ab")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEPLOY = ProfilerDeploy(namespace="default", app="shop", image=NEW, before=OLD, since=NOW, state="Comparing")


def grown(name: str, before: float, after: float, change: str = "") -> Grown:
    return Grown(function=Function(name, f"/app/{name}.py", 3), before=before, after=after, least=0.01, change=change)


def answer(**fields: object) -> CompareAnswer:
    sides = {"before": Side(total=10, samples=2_000), "after": Side(total=12, samples=1_600)}
    return CompareAnswer(
        **{"state": "compared", "before_image": OLD, "after_image": NEW, "functions": 40, **sides, **fields}
    )


def test_what_grew_is_named_with_its_part_before_and_after():
    found = [grown("slow", 0.1, 0.2), grown("fresh", 0, 0.07, "new"), grown("c", 0.1, 0.16), grown("d", 0.1, 0.16)]

    state, message = said(DEPLOY, answer(grown=found))

    assert state == "FunctionsGrew"
    assert message == (
        "aaaaaaaaaaaa -> bbbbbbbbbbbb: slow (/app/slow.py:3) 10.0 % -> 20.0 %, fresh (/app/fresh.py:3) is new, 7.0 %, "
        "c (/app/c.py:3) 10.0 % -> 16.0 % and 1 more (of the App's CPU time, as the requests it served are not known; "
        "2,000 and 1,600 samples)"
    )


def test_per_request_it_says_what_one_took():
    _, message = said(DEPLOY, answer(per="request", cost_before=2_000_000, cost_after=2_500_000))

    assert message.endswith(
        "none of 40 functions grew beyond the threshold (per request, which took 2.00 ms of CPU and takes 2.50 ms; parts are of "
        "what one took; 2,000 and 1,600 samples)"
    )


@pytest.mark.parametrize(
    ("state", "reason", "message"),
    [
        ("waiting", "Comparing", "waiting for samples, 2,000 and 1,600 samples until now"),
        ("too-few", "TooFewSamples", "2,000 and 1,600 samples are too few to compare"),
        ("same-image", "SameImage", "all samples before and after are of one image"),
    ],
)
def test_what_is_not_compared_says_why(state, reason, message):
    assert said(DEPLOY, answer(state=state)) == (reason, f"aaaaaaaaaaaa -> bbbbbbbbbbbb: {message}")


def test_another_image_begins_a_comparison_and_the_first_one_does_not():
    def app(image: str) -> Profiled:
        return Profiled(
            metadata=ObjectMeta(name="shop", namespace="default"), status=ProfiledStatus(image=f"shop@{image}")
        )

    first = noted(None, app(OLD), NOW)
    later = noted(first, app(NEW), NOW + timedelta(hours=1))

    assert (first.state, first.before) == ("FirstImage", "")
    assert noted(first, app(OLD), NOW + timedelta(minutes=5)) == first
    assert (later.state, later.before, later.image) == ("Comparing", OLD, NEW)
    assert later.since == NOW + timedelta(hours=1)


def test_it_is_looked_at_ever_more_rarely():
    looks = []
    deploy = DEPLOY
    for _ in range(5):
        deploy = ProfilerDeploy(namespace="default", app="shop", image=NEW, since=NOW, looked_at=due(deploy))
        looks.append(round((deploy.looked_at - NOW).total_seconds()))

    assert looks == [120, 180, 270, 405, 608]


# Requests


def line(minute: int, backend: str, second: int = 5) -> str:
    return json.dumps({"time": f"2026-03-01T12:{minute:02}:{second:02}.123Z", "backend": backend, "status": 200}) + "\n"


AT = int(NOW.timestamp())


def test_requests_are_counted_by_the_minute_over_rotated_logs(tmp_path: Path):
    log = tmp_path / "access.log"
    (tmp_path / "access.log.1").write_text(line(0, "default/shop-web:80") + line(1, "default/shop-web:80") * 3)
    log.write_text(
        line(1, "default/shop-web:80")
        + line(2, "default/shop-admin-web:80")
        + line(3, "default/shop-web:80") * 2
        + '{"time": "cut'
    )
    (tmp_path / "access.log.gz").write_text("not one of them")

    now = AT + 245
    assert count(log, AT - 3600, ["default/shop-web"], now) == (AT + 60, [4, 0, 2])
    assert count(log, AT + 70, ["default/shop-web"], now) == (AT + 120, [0, 2])
    assert count(log, AT - 3600, ["default/other-web"], now) == (AT + 60, [0, 0, 0])


def test_the_minute_that_goes_on_is_not_counted(tmp_path: Path):
    """The log has as much of it as has passed: as a whole minute, what a request costs would be too much by the rest."""
    log = tmp_path / "access.log"
    log.write_text("".join(line(minute, "default/shop-web:80", second) for minute in (0, 1, 2) for second in range(40)))

    assert count(log, AT, ["default/shop-web"], AT + 160) == (AT + 60, [40])
    assert count(log, AT, ["default/shop-web"], AT + 182) == (AT + 60, [40]), "its last lines may not be written yet"
    assert count(log, AT, ["default/shop-web"], AT + 190) == (AT + 60, [40, 40])


def test_without_a_log_no_requests_are_known(tmp_path: Path):
    assert count(tmp_path / "access.log", AT, ["default/shop-web"], AT + 600) == (0, [])
