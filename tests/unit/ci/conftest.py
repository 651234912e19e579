"""Tests of pipelines run by a pipeline: what that says of itself is not theirs."""

from __future__ import annotations

import os

import pytest

MEANT_FOR_A_RUN = (
    "GITHUB_REF",
    "TRIMTAB_CI_CACHE",
    "TRIMTAB_CI_CACHE_BYTES",
    "TRIMTAB_CI_DIR",
    "TRIMTAB_CI_SCOPE",
    "TRIMTAB_CI_SALT",
)


@pytest.fixture(autouse=True)
def as_if_nobody_had_said_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(MEANT_FOR_A_RUN) & os.environ.keys():
        monkeypatch.delenv(name)
