"""Checks of single fields, in Kubernetes' words. Each raises `Denied` naming the field."""

from __future__ import annotations

from typing import Any

from trimtab.api.quantity import parse_quantity
from trimtab.components.workloads import rolling
from trimtab.runtime import Denied


def quantity(field: str, amount: Any) -> None:
    try:
        negative = parse_quantity(amount) < 0
    except ValueError as err:
        raise Denied(field, f"Invalid value: {err}") from None
    if negative:
        raise Denied(field, f'Invalid value: "{amount}": must be greater than or equal to 0')


def share(field: str, value: Any) -> None:
    if value is None:
        return
    try:
        amount = rolling.resolve(value, 100, up=True)
    except ValueError as err:
        raise Denied(field, f"Invalid value: {err}") from None
    if amount < 0:
        raise Denied(field, f"Invalid value: {value}: must be greater than or equal to 0")


def not_negative(field: str, value: Any) -> None:
    if isinstance(value, int) and value < 0:
        raise Denied(field, f"Invalid value: {value}: must be greater than or equal to 0")


def one_of(field: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        listed = ", ".join(f'"{name}"' for name in allowed)
        raise Denied(field, f'Unsupported value: "{value}": supported values: {listed}')
