"""Label selectors: what they choose, and the words in which malformed ones are refused (those of the real server)."""

from __future__ import annotations

import pytest

from trimtab.server.errors import StatusError
from trimtab.server.label_selectors import parse_labels

LABELS = {"app": "web", "tier": "", "size": "3"}


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("", True),
        ("app=web", True),
        ("app == web , tier", True),
        ("app!=web", False),
        ("other!=web", True),
        ("app in (web,db)", True),
        ("app notin (web)", False),
        ("tier=", True),
        ("tier in ()", True),
        ("app in (,web)", True),
        ("!app", False),
        ("!other,app", True),
        ("in in (x)", False),
        ("size>2", True),
        ("size<3", False),
        ("app>1", False),
    ],
)
def test_what_a_selector_chooses(text: str, chosen: bool) -> None:
    assert all(term.matches(LABELS) for term in parse_labels(text)) is chosen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=", "found '=', expected: !, identifier, or 'end of string'"),
        ("app=web,", "found '', expected: identifier after ','"),
        ("app=web,,tier", "found ',', expected: identifier after ','"),
        ("app=not good", "found 'good', expected: ',' or 'end of string'"),
        ("a b", "unable to parse requirement: found 'b', expected: =, !=, ==, in, notin"),
        ("app in web", "unable to parse requirement: found 'web' expected: '('"),
        ("app in (web", "unable to parse requirement: found '', expected: ',', or identifier"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        (
            "app>x",
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
    ],
)
def test_a_malformed_selector_is_refused(text: str, message: str) -> None:
    with pytest.raises(StatusError) as refused:
        parse_labels(text)

    assert (refused.value.code, refused.value.message) == (400, message)


def test_keys_and_values_are_those_of_labels() -> None:
    for text, start in (
        ("-x=1", '<nil>: Invalid value: "-x": name part'),
        ("app=-", 'values[0][app]: Invalid value: "-"'),
    ):
        with pytest.raises(StatusError) as refused:
            parse_labels(text)
        assert refused.value.message.startswith(f"unable to parse requirement: {start}")
