"""What failed in a run, written to a file that the next run can be given: see `.ci/test`, which tries such tests once more."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--failed-to", type=Path, help="write the ids of failed tests to this file, a line each")


def pytest_configure(config: pytest.Config) -> None:
    path: Path | None = config.getoption("--failed-to")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Failed(path))


class _Failed:
    """Collects what fails in any phase; a file that could not be read counts by its path."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed[report.nodeid] = None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._failed[report.nodeid] = None

    def pytest_sessionfinish(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("".join(f"{nodeid}\n" for nodeid in self._failed))
