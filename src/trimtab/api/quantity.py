"""Quantities: `500m`, `1.5Gi`, `2e3`, as Kubernetes writes amounts of cpu, memory and storage.

Grammar and suffixes: apimachinery's `resource.Quantity`. Exact (no floats): a `Decimal` in, whole units out, rounded up
as the scheduler does.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

_QUANTITY = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:([eE][+-]?\d+)|(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E))?")
_SUFFIX = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    **{unit + "i": Decimal(1024 ** (power + 1)) for power, unit in enumerate("KMGTPE")},
}


def parse_quantity(text: str | int | float) -> Decimal:
    """The amount as a number.

    Raises:
        ValueError: the text is not a quantity; one line that shows what one looks like.
    """
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(
            f'"{text}" is not a quantity; write a number with an optional suffix, for example 500m, 2 or 1.5Gi'
        )
    number, exponent, suffix = match.groups()
    if exponent:
        return Decimal(number + exponent)
    return Decimal(number) * _SUFFIX.get(suffix, Decimal(1))


@lru_cache(maxsize=4096)
def milli(text: str | int | float) -> int:
    """The amount in thousandths, rounded up: `milli("1.5") == 1500`. For cpu."""
    return int((parse_quantity(text) * 1000).to_integral_value(ROUND_CEILING))


@lru_cache(maxsize=4096)
def whole(text: str | int | float) -> int:
    """The amount in whole units, rounded up: `whole("1Ki") == 1024`. For bytes and counts."""
    return int(parse_quantity(text).to_integral_value(ROUND_CEILING))


def plain_quantity(value: Decimal) -> str:
    """An amount as a quantity: `2`, `1500m`, `128Mi`."""
    if value != value.to_integral_value():
        return f"{int((value * 1000).to_integral_value(ROUND_CEILING))}m"
    units = int(value)
    for unit, size in (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
        if units and units % size == 0:
            return f"{units // size}{unit}"
    return str(units)
