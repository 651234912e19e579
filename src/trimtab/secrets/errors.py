"""What can be wrong with a file of secrets, in one line."""

from __future__ import annotations


class SopsError(Exception):
    """A file of secrets, its keys or its rules are not as they must be. The text says what and the fix, never a value."""
