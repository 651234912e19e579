"""Reports of several runners, odd ones and hostile ones; and tests that may fail for a while."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from trimtab.ci.definition.site import DefinitionError
from trimtab.ci.results import junit, quarantine
from trimtab.ci.results.junit import ReportError, TestResult

GO = b"""<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="3" failures="1">
  <testsuite name="example/pay" time="1,234.5">
    <testcase classname="example/pay" name="TestTwice" time="0.010"><failure message="Failed" type="">pay_test.go:12: not twice</failure></testcase>
    <testcase classname="example/pay" name="TestOnce" time="1,000.5"></testcase>
    <testsuite name="inner"><testcase name="TestLater"><skipped message="later"/></testcase></testsuite>
  </testsuite>
</testsuites>"""


def test_a_report_of_another_runner() -> None:
    results = junit.read(GO)

    assert [(one.id, one.outcome, one.seconds, one.message) for one in results] == [
        ("example/pay.TestTwice", "failed", 0.01, "Failed\npay_test.go:12: not twice"),
        ("example/pay.TestOnce", "passed", 1000.5, ""),
        ("TestLater", "skipped", 0.0, "later"),
    ]
    assert junit.load(junit.dump(results)) == results


def test_of_a_test_that_is_there_twice_the_worse_counts() -> None:
    report = b'<testsuite><testcase name="a"><error/></testcase><testcase name="a"/></testsuite>'

    assert [one.outcome for one in junit.read(report)] == ["error"]


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (b"", "no XML: no element found: line 1, column 0"),
        (b"<html/>", "it begins with <html>, a JUnit report with <testsuites> or <testsuite>"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><testsuite/>', "it declares entities, which no JUnit report needs"),
        (b"<testsuite>" + b" " * (65 << 20), "it has 65 MiB, and 64 may be"),
    ],
)
def test_what_is_no_report(report: bytes, said: str) -> None:
    with pytest.raises(ReportError) as caught:
        junit.read(report)

    assert str(caught.value) == said


@pytest.mark.parametrize("time", ["x", "-1", "nan", "inf", ""])
def test_odd_times_do_no_harm(time: str) -> None:
    (one,) = junit.read(f'<testsuite><testcase name="a" time="{time}"/></testsuite>'.encode())

    assert isinstance(one, TestResult)
    assert 0 <= one.seconds <= 1e6


TODAY = date(2026, 11, 21)
LINES = """# why they are here
t.py::test_a  until 2026-11-21  anna  the clock jumps
t.py::test_b[x y]   until 2026-11-20   bob
"""


def test_who_may_fail_today(tmp_path: Path) -> None:
    (tmp_path / quarantine.FILE).write_text(LINES)

    entries = quarantine.read(tmp_path)

    assert quarantine.held(entries, TODAY) == {"t.py::test_a": "until 2026-11-21 by anna: the clock jumps"}
    assert [one.test for one in quarantine.ended(entries, TODAY)] == ["t.py::test_b[x y]"]
    assert quarantine.read(tmp_path / "none") == []


def test_putting_in_and_taking_out(tmp_path: Path) -> None:
    (tmp_path / quarantine.FILE).write_text(LINES)
    new = quarantine.Entry("t.py::test_a", date(2026, 12, 1), "carl", "still")

    quarantine.changed(tmp_path, new, new.test, TODAY)
    quarantine.changed(tmp_path, None, "t.py::test_b[x y]", TODAY)

    assert (
        tmp_path / quarantine.FILE
    ).read_text() == "# why they are here\nt.py::test_a  until 2026-12-01  carl  still\n"
    with pytest.raises(DefinitionError, match=r"t\.py::none is not quarantined"):
        quarantine.changed(tmp_path, None, "t.py::none", TODAY)
    with pytest.raises(DefinitionError, match="until 2027-12-01: at most 90 days; mend the test, or take it out"):
        quarantine.changed(tmp_path, quarantine.Entry("t", date(2027, 12, 1), "carl"), "t", TODAY)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("t.py::test_a until 2026-11-21 anna", "no entry; write: TEST  until 2026-12-31  OWNER  why"),
        ("t.py::test_a  until tomorrow  anna", "no entry; write: TEST  until 2026-12-31  OWNER  why"),
        ("t.py::test_a  until 2026-11-21", "no entry; write: TEST  until 2026-12-31  OWNER  why"),
        ("a  until 2026-11-21  x\na  until 2026-11-22  y", "a stands here twice"),
    ],
)
def test_lines_that_are_no_entries(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / quarantine.FILE).write_text(line)

    with pytest.raises(DefinitionError) as caught:
        quarantine.read(tmp_path)

    assert said in str(caught.value)
    assert f"{quarantine.FILE}:{len(line.splitlines())}: " in str(caught.value)
