"""Regular expressions of users: in linear time, with the syntax that Kubernetes has.

Kubernetes reads patterns with Go's `regexp`, whose syntax is RE2's and which needs time in proportion to the text, whatever the
pattern. Python's own would take years for `(a+)+$`, with every other request waiting. The bindings of RE2 are loaded when the first
pattern comes by (3 MB).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

COMPILED_MAX = 500
"""Patterns kept compiled."""


@lru_cache(maxsize=COMPILED_MAX)
def compiled(pattern: str) -> Any:
    """A pattern, with the methods of Python's: `search`, `finditer`.

    Raises:
        re.error: it is no valid pattern.
    """
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options=options)
    except re2.error as err:
        reason = err.args[0]
        raise re.error(
            _in_words_of_go(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason))
        ) from None


_WORDS = {
    "missing ]": "missing closing ]",
    "missing )": "missing closing )",
    "no argument for repetition operator": "missing argument to repetition operator",
    "bad repetition operator": "invalid nested repetition operator",
    "invalid perl operator": "invalid or unsupported Perl syntax",
    "trailing \\": "trailing backslash at end of expression",
    "invalid named capture group": "invalid named capture",
}


def _in_words_of_go(reason: str) -> str:
    """RE2's reason as Go's `regexp` says it."""
    problem, colon, where = reason.partition(": ")
    return f"error parsing regexp: {_WORDS.get(problem, problem)}{': `' + where + '`' if colon else ''}"
