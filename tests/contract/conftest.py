"""Cases of the contract kit that the kit calls long are for `make test-long`."""

from __future__ import annotations

import pytest

from trimtab.runtime.contract import Case


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        case = (
            item.callspec.params.get("case")
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
            else None
        )
        if isinstance(case, Case) and case.long:
            item.add_marker(pytest.mark.long)
