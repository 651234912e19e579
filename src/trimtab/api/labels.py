"""Label selectors as objects carry them; `selector.py` says what they choose."""

from __future__ import annotations

from trimtab.api.resource import Model


class LabelSelectorRequirement(Model):
    key: str
    operator: str
    values: list[str] = []


class LabelSelector(Model):
    match_labels: dict[str, str] = {}
    match_expressions: list[LabelSelectorRequirement] = []
