"""Links of a proxied page: those that begin at the root of what is proxied are made to go through the proxy, as k8s.io/apimachinery
`util/proxy` does it. The page is otherwise as it was.

A page is what somebody's pod says: it is read once, from its beginning to its end, and what does not end (a tag, a quote, a comment)
ends the search.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape, unescape

_LINKS = {
    "a": ("href",),
    "applet": ("codebase",),
    "area": ("href",),
    "audio": ("src",),
    "base": ("href",),
    "blockquote": ("cite",),
    "body": ("background",),
    "button": ("formaction",),
    "command": ("icon",),
    "del": ("cite",),
    "embed": ("src",),
    "form": ("action",),
    "frame": ("longdesc", "src"),
    "head": ("profile",),
    "html": ("manifest",),
    "iframe": ("longdesc", "src"),
    "img": ("longdesc", "src", "usemap"),
    "input": ("src", "usemap", "formaction"),
    "ins": ("cite",),
    "link": ("href",),
    "object": ("classid", "codebase", "data", "usemap"),
    "q": ("cite",),
    "script": ("src",),
    "source": ("src",),
    "video": ("poster", "src"),
}
_IN_TAG = re.compile(r"""[^>"']*+""")
_PIECE = re.compile(r"""\s++|([^\s"'<>/=]++)(?:(\s*+=\s*+)("[^"]*+"|'[^']*+'|[^\s"'>]++))?+|.""", re.DOTALL)
_NAME = re.compile(r"[a-zA-Z][^\s/>]*+")
_RAW = {name: re.compile(f"</{name}", re.IGNORECASE) for name in ("script", "style", "textarea", "title")}
"""What stands in these is text."""


def relinked(link: str, before: str) -> str:
    """A link that begins at the root gets the proxy's path before it, unless it has it. Any other stays as it is."""
    if not link.startswith("/") or link.startswith(("//", before)):
        return link
    return before + link


def relinked_page(page: bytes, before: str) -> bytes:
    """A page whose links go through the proxy."""
    text = page.decode("utf-8", "surrogateescape")
    return "".join(_pieces(text, before)).encode("utf-8", "surrogateescape")


def _pieces(text: str, before: str) -> Iterator[str]:
    at = 0
    while (start := text.find("<", at)) >= 0:
        if text.startswith("<!--", start):
            end = text.find("-->", start + 4) + 3
            if end < 3:
                break
            yield text[at:end]
            at = end
            continue
        yield text[at:start]
        at = start
        named = _NAME.match(text, start + 1)
        if named is None:
            yield "<"
            at = start + 1
            continue
        end = _end_of_tag(text, named.end())
        if end < 0:
            break
        tag = named[0].lower()
        links = _LINKS.get(tag, ())
        yield _tag(text[start:end], links, before) if links else text[start:end]
        at = end
        if tag in _RAW:
            closing = _RAW[tag].search(text, at)
            if closing is None:
                break
            yield text[at : closing.start()]
            at = closing.start()
    yield text[at:]


def _end_of_tag(text: str, at: int) -> int:
    """Behind the `>` that ends the tag; -1 when none does."""
    while True:
        found = _IN_TAG.match(text, at)
        at = found.end() if found else at
        if at >= len(text):
            return -1
        if text[at] == ">":
            return at + 1
        at = text.find(text[at], at + 1) + 1
        if not at:
            return -1


def _tag(text: str, links: tuple[str, ...], before: str) -> str:
    out = []
    for piece in _PIECE.finditer(text):
        name, equals, value = piece.groups()
        if name and value and name.lower() in links:
            bare = unescape(value[1:-1] if value[0] in "\"'" else value)
            changed = relinked(bare, before)
            out.append(piece[0] if changed == bare else f'{name}{equals}"{escape(changed)}"')
        else:
            out.append(piece[0])
    return "".join(out)
