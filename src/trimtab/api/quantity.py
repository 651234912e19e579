"""Quantities: `500m`, `1.5Gi`, `2e3`, as Kubernetes writes amounts of cpu, memory and storage.

Grammar and suffixes: apimachinery's `resource.Quantity`. Exact (no floats): a `Decimal` in, whole units out, rounded up
as the scheduler does.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, ROUND_UP, Decimal
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


@lru_cache(4096)
def canonical_quantity(text: str) -> str:
    """The same amount as Kubernetes writes it: `0.5` is `500m`, `1024Mi` is `1Gi`, `1000` is `1k`; the sort of suffix stays.

    Source: `CanonicalizeBytes` of k8s.io/apimachinery `pkg/api/resource`. Raises `ValueError` for what is no quantity.
    """
    amount = parse_quantity(text)
    if abs(amount) >= _EXACT_MAX:
        return text
    suffix = text.lstrip("+-0123456789.")
    nanos = int((amount * 1_000_000_000).to_integral_value(ROUND_UP))
    if nanos == 0:
        return "0"
    units, rest = divmod(abs(nanos), 1_000_000_000)
    sign = "-" if nanos < 0 else ""
    if suffix.endswith("i") and not rest and units >= 1024:
        power = 0
        while units % 1024 == 0 and power < 6:
            units //= 1024
            power += 1
        return f"{sign}{units}{('', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei')[power]}"
    mantissa, exponent = abs(nanos), -9
    while mantissa % 1000 == 0 and exponent < 18:
        mantissa //= 1000
        exponent += 3
    if suffix[:1] in ("e", "E") and suffix[1:]:
        return f"{sign}{mantissa}e{exponent}" if exponent else f"{sign}{mantissa}"
    return f"{sign}{mantissa}{_DECIMAL_SUFFIXES[exponent]}"


_EXACT_MAX = 2**63
_DECIMAL_SUFFIXES = {-9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}


def plain_quantity(value: Decimal) -> str:
    """An amount as a quantity: `2`, `1500m`, `128Mi`."""
    if value != value.to_integral_value():
        return f"{int((value * 1000).to_integral_value(ROUND_CEILING))}m"
    units = int(value)
    for unit, size in (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
        if units and units % size == 0:
            return f"{units // size}{unit}"
    return str(units)
