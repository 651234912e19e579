"""Quantities mean what Kubernetes' own client says they mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.utils.quantity import parse_quantity as peer_parse

from trimtab.api.quantity import milli, parse_quantity, whole

SUFFIXES = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]


@given(st.integers(0, 10**6), st.integers(0, 999), st.sampled_from(SUFFIXES))
def test_agrees_with_the_kubernetes_client(units: int, fraction: int, suffix: str) -> None:
    text = f"{units}.{fraction}{suffix}"
    assert parse_quantity(text) == peer_parse(text)


def test_rounds_up_to_whole_units() -> None:
    assert milli("1.5") == 1500
    assert milli("100u") == 1
    assert milli(2) == 2000
    assert whole("1Ki") == 1024
    assert whole("100m") == 1
    assert whole("1e3") == 1000


@pytest.mark.parametrize("text", ["", "1 Gi", "1KI", "one", "1..5", "0x10", "1i"])
def test_refuses_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity; write a number with an optional suffix"):
        parse_quantity(text)
