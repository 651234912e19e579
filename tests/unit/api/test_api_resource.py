"""Objects from the wire: what a real API server writes is read as what it means."""

from __future__ import annotations

import msgspec
import pytest

from trimtab.api import InvalidObject, from_wire
from trimtab.api.networking import EndpointSlice
from trimtab.client.client import decode

SLICE = {"addressType": "IPv4", "endpoints": None, "ports": [{"name": "http", "port": None}]}


def test_a_null_is_a_field_that_is_not_there() -> None:
    read = from_wire(EndpointSlice, SLICE)
    assert (read.endpoints, read.ports[0].name) == ([], "http")


def test_a_null_in_bytes_too() -> None:
    assert decode(EndpointSlice, msgspec.json.encode(SLICE)) == from_wire(EndpointSlice, SLICE)


def test_a_wrong_type_is_named_beside_nulls() -> None:
    with pytest.raises(InvalidObject, match=r"Expected `array`, got `str` - at `\$\.ports`"):
        from_wire(EndpointSlice, SLICE | {"ports": "80", "metadata": {"name": "a"}})
