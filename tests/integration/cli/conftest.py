from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine_under_test import EngineUnderTest, engine


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    """One engine for all tests of the command line; each works in objects of its own."""
    with engine(tmp_path_factory.mktemp("verbs") / "data") as made:
        yield made
