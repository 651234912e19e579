"""What pytest runs in a step with. Stands alone: it is laid into the sandbox, where there is no trimtab, under the name trimtab_tests.

    TRIMTAB_SHARD=2/4     of the collected tests, those of the second of four shards (split.py)
    TRIMTAB_RETRIES=2     a failed test is tried again, at most twice, at once and with fresh fixtures of its own
    TRIMTAB_TESTS         directory of table.json: what tests took, and which may fail
    TRIMTAB_BURN_IN=10    a test that is new, or whose function has changed, has to pass ten times more
    TRIMTAB_KNOWN         directory of known.json: by test the digest of the function that has passed

Every test's report in JUnit gets its node id, and the outcomes of its tries when there were several.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from trimtab_split import split

NODE = "trimtab.node"
TRIES = "trimtab.tries"
SOURCE = "trimtab.source"


def table() -> Any:
    path = Path(os.environ.get("TRIMTAB_TESTS", "/nonexistent"), "table.json")
    return json.loads(path.read_text()) if path.is_file() else {"seconds": {}, "quarantined": {}}


def source_of(item: Any) -> str:
    """A digest of a test's function; of what is none, of nothing."""
    try:
        text = inspect.getsource(item.function)
    except (AttributeError, OSError, TypeError):
        text = ""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def more_passes(item: Any, source: str) -> int:
    """How often a test has to pass besides: often, when this function has not passed yet."""
    count = int(os.environ.get("TRIMTAB_BURN_IN", "0"))
    if count and not hasattr(item.session, "trimtab_known"):
        path = Path(os.environ.get("TRIMTAB_KNOWN", "/nonexistent"), "known.json")
        item.session.trimtab_known = json.loads(path.read_text()) if path.is_file() else {}
    return count if count and item.session.trimtab_known.get(item.nodeid) != source else 0


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    said = table()
    for item in items:
        if item.nodeid in said["quarantined"]:
            item.add_marker(pytest.mark.xfail(reason=f"quarantined {said['quarantined'][item.nodeid]}", strict=False))
    shard = os.environ.get("TRIMTAB_SHARD")
    if not shard:
        return
    index, count = map(int, shard.split("/"))
    where = split(sorted({item.nodeid for item in items}), said["seconds"], count)
    kept = [item for item in items if where[item.nodeid] == index - 1]
    gone = [item for item in items if where[item.nodeid] != index - 1]
    if gone:
        config.hook.pytest_deselected(items=gone)
        items[:] = kept


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    # More shards than tests: a shard without any has nothing to complain of.
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and os.environ.get("TRIMTAB_SHARD"):
        session.exitstatus = pytest.ExitCode.OK


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: Any, nextitem: pytest.Item | None) -> bool:
    retries = int(os.environ.get("TRIMTAB_RETRIES", "0"))
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    source = source_of(item)
    passes = 1 + more_passes(item, source)
    outcomes: list[str] = []
    while True:
        item.user_properties[:] = [pair for pair in item.user_properties if pair[0] not in (NODE, TRIES, SOURCE)]
        item.user_properties += [(NODE, item.nodeid), (SOURCE, source)]
        # Each try tears down what the next test does not need; fixtures that are kept for it are not made again.
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        outcomes.append(worst(reports))
        failures = outcomes.count("failed")
        if failures > retries or outcomes[-1] == "skipped" or len(outcomes) - failures >= passes:
            break
        item._initrequest()
    if len(outcomes) > 1:
        for report in reports:
            report.user_properties.append((TRIES, ",".join(outcomes)))
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def worst(reports: list[pytest.TestReport]) -> str:
    outcomes = {report.outcome for report in reports}
    return "failed" if "failed" in outcomes else "skipped" if "skipped" in outcomes else "passed"
