"""The values that go into and come out of the store, and the errors that say why something did not.

A `Put` is a wish. A `Record` is what stands on disk: a key, its bytes, and the revision that wrote it. A `Change` is one
committed step, with the record that it replaced, so that a watcher can tell creation from update and evaluate selectors on
both sides.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

import msgspec


class Absence(Enum):
    ABSENT = "absent"


ABSENT: Final = Absence.ABSENT
"""As `Put.expect`: the key must not exist."""


class Put(NamedTuple):
    """A wish to set `key` to `value`, or to delete it (None), provided that its revision is still `expect`.

    expect: a revision; `ABSENT`; or None for any state (a deletion still needs something to delete).
    """

    key: str
    value: bytes | None
    expect: int | Absence | None = None


class Record(msgspec.Struct, frozen=True, gc=False):
    """What a revision wrote. A deletion has no bytes: `deleted` is true and `value` is empty.

    There is one for each live object, so it is small, and nothing that the garbage collector has to walk over."""

    key: str
    value: bytes
    revision: int

    @property
    def deleted(self) -> bool:
        return not self.value


class Change(NamedTuple):
    """One committed step of one key; `previous` is the live record that it replaced, or None."""

    record: Record
    previous: Record | None


class StoreError(Exception):
    """Base of what the store refuses; the text is one line for a person."""


class Conflict(StoreError):
    """A `Put` expected another state. `found` is the revision that stands (0: the key does not exist)."""

    def __init__(self, put: Put, found: int) -> None:
        wanted = (
            "no object" if put.expect is ABSENT else "an object" if put.expect is None else f"revision {put.expect}"
        )
        state = f"it is at revision {found}" if found else "it does not exist"
        super().__init__(f"{put.key}: expected {wanted}, but {state}: read it again and retry")
        self.key = put.key
        self.expected = put.expect
        self.found = found


class Compacted(StoreError):
    """History was asked from before the compacted revision: list again."""

    def __init__(self, requested: int, compacted: int) -> None:
        super().__init__(f"revision {requested} is compacted, history begins after {compacted}: list again")
        self.requested = requested
        self.compacted = compacted


class DiskFull(StoreError):
    """The write was refused because the disk is full; nothing of it was kept, and reads go on."""


class Overloaded(StoreError):
    """More writes wait for the disk than the store takes; nothing of this one was kept."""


class StoreDamaged(StoreError):
    """What is on disk cannot be read."""


class StoreLocked(StoreError):
    """Another process has this store open."""


class UnknownFormat(StoreError):
    """The file is of a newer format, or no store at all."""


class StoreClosed(StoreError):
    """The store was closed."""
