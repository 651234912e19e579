"""Label selectors: Prometheus' syntax, and errors that name the position."""

from __future__ import annotations

import pytest

from trimtab.components.profiling.storage.selector import matches, parse

LABELS = {"app": "shipnotes", "image": "sha256:abc", "thread id": "7"}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("", True),
        ("{}", True),
        ('app="shipnotes"', True),
        ("app='shipnotes'", True),
        ("app=`shipnotes`", True),
        (' { app = "shipnotes" , } ', True),
        ('app!="shipnotes"', False),
        ('app="shipnotes",image=~"sha256:ab.*",process!="x"', True),
        ('image=~"sha256"', False),
        ('image=~"sha256:(abc|def)"', True),
        ('image!~"sha256:.*"', False),
        ('pod=""', True),
        ('pod!=""', False),
        ('pod=~".*"', True),
        ('pod=~".+"', False),
        ('"thread id"="7"', True),
        ('app="a\\"b\\\\"', False),
    ],
)
def test_selectors(selector: str, expected: bool) -> None:
    assert matches(parse(selector), LABELS) is expected


@pytest.mark.parametrize(
    ("selector", "error"),
    [
        ("app", "selector, position 4: expected = != =~ or !~ after app"),
        ("app=x", 'selector, position 5: expected a text in quotes, as in app="..."'),
        ('app="x', 'selector, position 5: the text that begins here has no closing "'),
        ('app="x" pod="y"', "selector, position 9: expected , between two matchers"),
        ('{app="x"', "selector, position 9: } is missing"),
        ('{app="x",', "selector, position 10: } is missing"),
        ('{app="x"} x', "selector, position 11: nothing may follow }"),
        ("7=1", 'selector, position 1: expected the name of a label, as in app="shipnotes"'),
        ('a="\\q"', "selector, position 4: unknown escape \\q: write \\\\q for a backslash, or use `...`"),
        ('a="1",b=~"("', "selector, position 10: not a pattern (missing ): ()"),
        ("x" * 5000, "selector: 5000 characters, more than 4096: shorten it"),
        (",".join(['a="1"'] * 65), "selector, position 390: more than 64 matchers: shorten it"),
    ],
)
def test_errors_are_one_line_and_name_the_position(selector: str, error: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse(selector)
    assert str(raised.value) == error
