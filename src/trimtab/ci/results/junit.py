"""Reads JUnit reports: results by test, from pytest and from whatever else writes the form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from xml.etree import ElementTree

Outcome = Literal["passed", "failed", "error", "skipped"]

NODE, TRIES, SOURCE = "trimtab.node", "trimtab.tries", "trimtab.source"
"""The properties by which `pytest_plugin.py` says more in a report than pytest does."""
SIZE_MAX = 64 << 20
MESSAGE_MAX = 2000
DEPTH_MAX = 50


class ReportError(Exception):
    """A report cannot be read. One line: what is wrong with it."""


@dataclass(frozen=True)
class TestResult:
    """One test. id: pytest's node id, else `class.name`. tries: the outcome of each, when there were several.

    message: the first lines of what a failure says; digest: of its first line, to find equal ones; source: of the test's function.
    """

    __test__ = False

    id: str
    outcome: Outcome
    seconds: float
    message: str = ""
    digest: str = ""
    tries: tuple[Outcome, ...] = ()
    source: str = ""

    @property
    def unsteady(self) -> bool:
        """Whether its tries came out differently, however it ended."""
        return "passed" in self.tries and any(one in ("failed", "error") for one in self.tries)

    @property
    def flaked(self) -> bool:
        """Whether it failed and passed on the same content."""
        return self.outcome == "passed" and any(one in ("failed", "error") for one in self.tries)


def read(report: bytes) -> list[TestResult]:
    """The results in a report, in its order; of a test that stands there twice, the worse.

    Raises:
        ReportError: it is no JUnit report, or larger than 64 MiB.
    """
    from xml.etree import ElementTree  # not for those who only look whether anything has changed

    if len(report) > SIZE_MAX:
        raise ReportError(f"it has {len(report) >> 20} MiB, and {SIZE_MAX >> 20} may be")
    if b"<!DOCTYPE" in report[:4096] or b"<!ENTITY" in report:
        raise ReportError("it declares entities, which no JUnit report needs")
    try:
        root = ElementTree.fromstring(report)
    except ElementTree.ParseError as err:
        raise ReportError(f"no XML: {err}") from None
    if root.tag not in ("testsuites", "testsuite"):
        raise ReportError(f"it begins with <{root.tag[:40]}>, a JUnit report with <testsuites> or <testsuite>")
    found: dict[str, TestResult] = {}
    for case in _cases(root):
        result = _result(case)
        if result.id not in found or _badness(result) > _badness(found[result.id]):
            found[result.id] = result
    return list(found.values())


def _cases(root: ElementTree.Element) -> Iterator[ElementTree.Element]:
    level = [root]
    for _ in range(DEPTH_MAX):
        level = [child for one in level for child in one if child.tag in ("testsuite", "testcase")]
        yield from (one for one in level if one.tag == "testcase")
        level = [one for one in level if one.tag == "testsuite"]


def _result(case: ElementTree.Element) -> TestResult:
    properties = {one.get("name"): one.get("value") or "" for one in case.iterfind("properties/property")}
    tries: tuple[Outcome, ...] = tuple(_outcome(one) for one in properties.get(TRIES, "").split(",") if one)
    name = ".".join(part for part in (case.get("classname"), case.get("name")) if part) or "a test without a name"
    outcome, said = _outcome_of(case)
    first = said.strip().split("\n")[0]
    digest = hashlib.sha256(first.encode()).hexdigest()[:16] if first else ""
    source = properties.get(SOURCE, "")
    return TestResult(properties.get(NODE) or name, outcome, _seconds(case), said[:MESSAGE_MAX], digest, tries, source)


def _outcome_of(case: ElementTree.Element) -> tuple[Outcome, str]:
    kinds: tuple[tuple[str, Outcome], ...] = (("error", "error"), ("failure", "failed"), ("skipped", "skipped"))
    for tag, outcome in kinds:
        found = case.find(tag)
        if found is not None:
            text, message = (found.text or "").strip(), found.get("message") or ""
            return outcome, message if message and text.startswith(message) else f"{message}\n{text}".strip()
    return "passed", ""


def _outcome(text: str) -> Outcome:
    return (
        "failed" if text == "failed" else "skipped" if text == "skipped" else "error" if text == "error" else "passed"
    )


def _seconds(case: ElementTree.Element) -> float:
    try:
        return max(0.0, min(float((case.get("time") or "0").replace(",", "")), 1e6))
    except ValueError:
        return 0.0


def _badness(result: TestResult) -> int:
    return ("passed", "skipped", "failed", "error").index(result.outcome)


def dump(results: Iterable[TestResult]) -> bytes:
    """Results as a blob of the store: a line of JSON each."""
    lines = (json.dumps({k: v for k, v in asdict(one).items() if v}, separators=(",", ":")) for one in results)
    return "".join(f"{line}\n" for line in lines).encode()


def load(blob: bytes) -> list[TestResult]:
    """What `dump` wrote."""
    return [_loaded(json.loads(line)) for line in blob.splitlines()]


def _loaded(doc: Mapping[str, object]) -> TestResult:
    fields = {**doc, "tries": tuple(doc.get("tries", ()))}  # type: ignore[arg-type]
    return TestResult(**{"seconds": 0.0, **fields})  # type: ignore[arg-type]


def counts(results: Iterable[TestResult]) -> dict[str, int]:
    """How many tests ended how, those that flaked apart."""
    out = {"passed": 0, "failed": 0, "skipped": 0, "flaked": 0}
    for one in results:
        out["flaked" if one.flaked else "failed" if one.outcome == "error" else one.outcome] += 1
    return out
