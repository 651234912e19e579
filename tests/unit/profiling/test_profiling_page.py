"""The page of profiles as a file with its data inside; how it looks and moves is tried by benchmarks/profiling_page.mjs."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec

from trimtab.components.profiling.queries import page
from trimtab.components.profiling.queries.shapes import ROOT, Function, Side, TreeAnswer

EVIL = "</script><script>alert(1)</script><!-- \u2028"


def tree(name: str) -> TreeAnswer:
    return TreeAnswer(
        type="cpu", unit="nanoseconds", side=Side(total=5, samples=1), functions=[ROOT, Function(name)], function=[0, 1],
        parent=[-1, 0], self=[0, 5], total=[5, 5],
    )  # fmt: skip


class Scripts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[list[str]] = []
        self.loads: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [f"{tag} {value}" for name, value in attrs if name in ("src", "href", "action") and value]
        if tag == "script":
            self._inside = True
            self.found.append([])

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1].append(data)


def scripts(html: bytes) -> Scripts:
    parser = Scripts()
    parser.feed(html.decode())
    return parser


def test_the_page_loads_nothing_from_elsewhere():
    assert scripts(page.html()).loads == []
    assert not re.search(rb"https?://(?!www\.w3\.org/)", page.html())


def test_an_answer_inside_is_there_whatever_its_functions_are_called():
    inside = scripts(page.html(tree(EVIL)))

    assert len(inside.found) == len(scripts(page.html()).found) == 2
    assert msgspec.json.decode("".join(inside.found[0]), type=TreeAnswer) == tree(EVIL)


def test_without_an_answer_the_place_for_it_is_empty():
    assert scripts(page.html()).found[0] == []
