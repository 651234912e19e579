"""The page of profiles: one HTML file, which asks the endpoint `query` beside it, or has its one answer inside.

Its source is in frontend/src/profile. In the dashboard it stands in a frame with an origin of its own, and asks by way of the dashboard.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec

from trimtab.components.profiling.queries.shapes import DiffAnswer, TreeAnswer

FILE = Path(__file__).parents[1] / "static" / "page.html"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'self'"
"""The Content-Security-Policy to serve it with."""
_PLACE = b'<script type="application/json" id="data">'


def html(answer: TreeAnswer | DiffAnswer | None = None) -> bytes:
    """The page; with an answer inside it shows that, and asks nobody. Raises `OSError` when the page was not built."""
    page = _page()
    if answer is None:
        return page
    # Names are strangers': nothing in them ends the script that they are in.
    data = msgspec.json.encode(answer).replace(b"<", b"\\u003c").replace("\u2028".encode(), b"\\u2028")
    before, _, after = page.partition(_PLACE)
    return before + _PLACE + data.replace("\u2029".encode(), b"\\u2029") + after


@cache
def _page() -> bytes:
    try:
        return FILE.read_bytes()
    except FileNotFoundError as err:
        raise OSError(f"{FILE} was not built: make setup") from err
