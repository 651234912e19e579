"""What failed in a run, written to a file that the next run can be given: see `.ci/test`, which tries such tests once more."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")  # on a busy machine values are made slowly, and that is no fault of a test


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--failed-to", type=Path, help="write the ids of failed tests to this file, a line each")


def pytest_configure(config: pytest.Config) -> None:
    _distinct_names(config.rootpath)
    path: Path | None = config.getoption("--failed-to")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Failed(path))


def _distinct_names(root: Path) -> None:
    """Modules of tests, their support and the benchmarks stand side by side: two of one name would be one."""
    known: dict[str, Path] = {}
    for directory in (root / "tests", root / "benchmarks"):
        for path in sorted(directory.rglob("*.py")):
            if (path.parent / "__init__.py").exists() or path.name == "conftest.py":
                continue
            if (other := known.setdefault(path.name, path)) is not path and not _is_data(path, other):
                raise pytest.UsageError(f"{path} and {other} have one name: rename one of them")


def _is_data(*paths: Path) -> bool:
    """Programs that tests run or ship rather than import: in a directory of their own within support/."""
    return any("support" in path.parts and path.parent.name != "support" for path in paths)


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
