"""When a schedule comes due, and what a CronJob does about it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from trimtab.api import Condition, ObjectMeta
from trimtab.api.batch import CronJob, CronJobSpec, CronJobStatus
from trimtab.api.cron import parse, zone_of
from trimtab.api.jobs import Job, JobStatus
from trimtab.components.workloads.cronjob import MISSED_MAX, due, forgotten, job_for

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def next_times(schedule: str, after: str, count: int = 3, zone: str = "") -> list[str]:
    moments = parse(schedule).due(datetime.fromisoformat(after).replace(tzinfo=UTC), zone_of(zone))
    return [moment.strftime("%Y-%m-%d %H:%M") for moment in islice(moments, count)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("*/20 * * * *", ["2030-01-01 12:20", "2030-01-01 12:40", "2030-01-01 13:00"]),
        ("@hourly", ["2030-01-01 13:00", "2030-01-01 14:00", "2030-01-01 15:00"]),
        ("0 9-17/4 * jan mon-tue", ["2030-01-01 13:00", "2030-01-01 17:00", "2030-01-07 09:00"]),
        ("0 0 13 * fri", ["2030-01-04 00:00", "2030-01-11 00:00", "2030-01-13 00:00"]),
        ("0 0 29 2 *", ["2032-02-29 00:00"]),
        ("0 0 30 2 *", []),
        ("5,10 0 ? * sun", ["2030-01-06 00:05", "2030-01-06 00:10", "2030-01-13 00:05"]),
    ],
)
def test_times(schedule: str, expected: list[str]) -> None:
    assert next_times(schedule, "2030-01-01 12:00") == expected


def test_a_time_that_spring_skips_does_not_come_and_one_that_autumn_repeats_comes_once() -> None:
    berlin = "Europe/Berlin"
    assert next_times("30 2 * * *", "2030-03-30 12:00", 2, berlin) == ["2030-04-01 00:30", "2030-04-02 00:30"]
    assert next_times("30 2 * * *", "2030-10-26 12:00", 2, berlin) == ["2030-10-27 00:30", "2030-10-28 01:30"]


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("* * * *", "expected 5 fields: minute, hour, day of month, month, day of week"),
        ("61 * * * *", '"61" is not a minute: it must be from 0 to 59'),
        ("0 0 * foo *", '"foo" is not a month: it must be from 1 to 12'),
        ("*/0 * * * *", '"*/0" is not a minute: ranges go upwards and steps are positive numbers'),
        ("@often", "@often is not a known macro; use one of @yearly"),
    ],
)
def test_what_is_no_schedule_is_told(schedule: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse(schedule)


def test_an_unknown_zone_is_told() -> None:
    with pytest.raises(ValueError, match=r"unknown time zone Mars/Base; write one like Europe/Berlin or Etc/UTC"):
        zone_of("Mars/Base")


def cron(schedule: str = "*/5 * * * *", last: datetime | None = None, **spec: Any) -> CronJob:
    return CronJob(
        metadata=ObjectMeta(name="hello", namespace="default", creation_timestamp=NOON),
        spec=CronJobSpec(schedule=schedule, **spec),
        status=CronJobStatus(last_schedule_time=last),
    )


def test_of_several_missed_times_the_latest_is_run() -> None:
    found = due(cron(), NOON + timedelta(minutes=17))
    assert (found.at, found.missed, found.next_s) == (NOON + timedelta(minutes=15), 3, 180.0)


def test_nothing_is_due_before_its_time() -> None:
    assert due(cron(), NOON + timedelta(minutes=4)).at is None
    assert due(cron(last=NOON + timedelta(minutes=15)), NOON + timedelta(minutes=17)).at is None


def test_a_time_beyond_the_deadline_is_skipped() -> None:
    assert due(cron(starting_deadline_seconds=60), NOON + timedelta(minutes=7)).at is None
    assert due(cron(starting_deadline_seconds=200), NOON + timedelta(minutes=7)).at == NOON + timedelta(minutes=5)


def test_after_more_missed_times_than_are_counted_still_the_latest_is_run() -> None:
    found = due(cron("* * * * *"), NOON + timedelta(days=3))
    assert found.missed == MISSED_MAX + 1
    assert found.at == NOON + timedelta(days=3)


def test_a_job_is_named_after_its_time() -> None:
    assert job_for(cron(), NOON).name == f"hello-{int(NOON.timestamp()) // 60}"


def test_the_oldest_finished_jobs_beyond_the_limits_go() -> None:
    def ended(name: str, type_: str, minute: int) -> Job:
        at = NOON + timedelta(minutes=minute)
        status = JobStatus(start_time=at, conditions=[Condition(type=type_, status="True")])
        return Job(metadata=ObjectMeta(name=name, namespace="default"), status=status)

    jobs = [ended(f"ok-{n}", "Complete", n) for n in range(5)] + [ended(f"bad-{n}", "Failed", n) for n in range(3)]
    assert forgotten(cron(), jobs) == {"ok-0", "ok-1", "bad-0", "bad-1"}
    assert forgotten(cron(successful_jobs_history_limit=0, failed_jobs_history_limit=9), jobs) == {
        f"ok-{n}" for n in range(5)
    }
