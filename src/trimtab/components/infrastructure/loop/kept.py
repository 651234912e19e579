"""What is remembered of a resource between runs, as JSON in a Secret; `remembering.py` has the Secret, `keeping.py` what changes it."""

from __future__ import annotations

import base64
import secrets
from typing import Any

import msgspec
from msgspec import Struct

KEY_BYTES = 32


class Attempt(Struct, frozen=True, omit_defaults=True):
    """Something that was begun to be made.

    token: names this attempt. at: when, in seconds since 1970. config: JSON of what was given. expected: its id, where the plan knew it.
    before: keys of what was there and looked like it; None when there was no way to look. missed_at: when it was first looked for in
    vain; 0 before. said: the errors that were its answer, if one came. name: its own, where nothing else can be asked for than what has
    it as its id, and nothing had.
    """

    token: str
    at: float = 0.0
    config: Any = None
    expected: str = ""
    before: list[str] | None = None
    missed_at: float = 0.0
    said: str = ""
    name: str = ""


class Kept(Struct, frozen=True, omit_defaults=True):
    """What is remembered of a resource between runs: all of it in a Secret.

    state: JSON of its value, as `version` of the provider's schema has it; None when there is none.
    identity: by what the provider knows it for good, as `identity_version` has it; None when it does not say.
    tainted: making it went wrong half-way, so that it has to be made anew.
    pending: an action was begun and how it ended is not known.
    adopted: what `policy.adopt` said when something was taken over by it, which is done once.
    lives: how often it came to be whole: 1 when it was made or taken over, 2 when it was made anew.
    restoring: it was made anew, and what was in it is not brought back yet.
    attempt: what is pending when `pending` is create.
    made_at: when it was made, in seconds since 1970, until it has been seen; then 0.
    agreed: seal of the configuration for which it was permitted to be made anew, while it is not.
    restless: how many times in a row the same was planned again right after it was applied.
    written: seal of the write-only fields that were last sent: no state has them.
    connected: name of the connection Secret that was made of it; empty when there is none.
    changed_at: when it was last made, or changed because it was given anew, in seconds since 1970.
    disbelieved: how many times in a row it was said to be deleted, and was there still.
    refused: it read as gone, and was refused to be made anew.
    """

    state: Any = None
    private: str = ""
    identity: Any = None
    version: int = 0
    tainted: bool = False
    pending: str = ""
    key: str = ""
    adopted: str = ""
    lives: int = 0
    restoring: bool = False
    attempt: Attempt | None = None
    made_at: float = 0.0
    agreed: str = ""
    restless: int = 0
    written: str = ""
    connected: str = ""
    changed_at: float = 0.0
    disbelieved: int = 0
    refused: bool = False
    identity_version: int = -1
    """-1: that of the provider as it is; older ones of us did not write it down."""

    @classmethod
    def fresh(cls) -> Kept:
        """Of a resource that nothing is known of. Its key is for digests of its plans."""
        return cls(key=secrets.token_hex(KEY_BYTES))

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, raw: bytes) -> Kept:
        """Raises `ValueError`: one line."""
        try:
            kept = msgspec.json.decode(raw, type=cls)
            if not isinstance(kept.state, dict | None):
                raise ValueError("what it says of the resource is no object")
            bytes.fromhex(kept.key)
            base64.b64decode(kept.private, validate=True)
        except ValueError as err:  # msgspec's, too
            raise ValueError(f"the kept state cannot be read: {err}") from None
        return kept

    def as_of(self, now: float) -> Kept:
        """The same, with times that are ahead as now: after the clock was set back, what waits from them on would wait for as long as the
        step. It has to be saved, so that they pass. now: seconds since 1970."""
        missed = self.attempt
        if missed is not None and missed.missed_at > now:
            missed = msgspec.structs.replace(missed, missed_at=now)
        made_at, changed_at = min(self.made_at, now), min(self.changed_at, now)
        return msgspec.structs.replace(self, attempt=missed, made_at=made_at, changed_at=changed_at)


__all__ = ["Attempt", "Kept"]
