"""Label selectors choose as Kubernetes' do."""

from __future__ import annotations

from trimtab.api.labels import LabelSelector, LabelSelectorRequirement
from trimtab.api.selector import selector_text, selects

LABELS = {"app": "web", "tier": "front"}


def _expression(key: str, operator: str, *values: str) -> LabelSelector:
    return LabelSelector(match_expressions=[LabelSelectorRequirement(key=key, operator=operator, values=list(values))])


def test_missing_selects_nothing_and_empty_selects_all() -> None:
    assert not selects(None, LABELS)
    assert selects(LabelSelector(), LABELS)


def test_each_operator() -> None:
    assert selects(LabelSelector(match_labels={"app": "web"}), LABELS)
    assert not selects(LabelSelector(match_labels={"app": "web", "x": "y"}), LABELS)
    assert selects(_expression("app", "In", "web", "api"), LABELS)
    assert not selects(_expression("app", "In", "api"), LABELS)
    assert not selects(_expression("app", "NotIn", "web"), LABELS)
    assert selects(_expression("absent", "NotIn", "web"), LABELS)
    assert selects(_expression("tier", "Exists"), LABELS)
    assert not selects(_expression("absent", "Exists"), LABELS)
    assert selects(_expression("absent", "DoesNotExist"), LABELS)
    assert not selects(_expression("tier", "DoesNotExist"), LABELS)
    assert not selects(_expression("tier", "Sideways"), LABELS)


def test_text_is_what_a_client_would_send() -> None:
    selector = LabelSelector(
        match_labels={"b": "2", "a": "1"},
        match_expressions=[
            LabelSelectorRequirement(key="t", operator="In", values=["y", "x"]),
            LabelSelectorRequirement(key="u", operator="NotIn", values=["z"]),
            LabelSelectorRequirement(key="v", operator="Exists"),
            LabelSelectorRequirement(key="w", operator="DoesNotExist"),
        ],
    )
    assert selector_text(selector) == "a=1,b=2,t in (x,y),u notin (z),v,!w"
    assert selector_text(None) == ""
