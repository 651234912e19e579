"""What pytest runs in a step with. Stands alone: it is laid into the sandbox, where there is no trimtab, under the name trimtab_tests.

    TRIMTAB_SHARD=2/4     of the collected tests, those of the second of four shards (split.py)
    TRIMTAB_RETRIES=2     a failed test is tried again, at most twice, at once and with fresh fixtures of its own
    TRIMTAB_TESTS         directory of table.json: what tests took, and which may fail

Every test's report in JUnit gets its node id, and the outcomes of its tries when there were several.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from trimtab_split import split

NODE = "trimtab.node"
TRIES = "trimtab.tries"


def table() -> Any:
    path = Path(os.environ.get("TRIMTAB_TESTS", "/nonexistent"), "table.json")
    return json.loads(path.read_text()) if path.is_file() else {"seconds": {}, "quarantined": {}}


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
    outcomes: list[str] = []
    while True:
        item.user_properties[:] = [pair for pair in item.user_properties if pair[0] not in (NODE, TRIES)]
        item.user_properties.append((NODE, item.nodeid))
        # Each try tears down what the next test does not need; fixtures that are kept for it are not made again.
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        outcomes.append(worst(reports))
        if outcomes[-1] != "failed" or len(outcomes) > retries:
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
