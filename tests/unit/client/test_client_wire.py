"""What comes over the wire: errors by class, watch lines in pieces of any size, warnings."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.client import errors
from trimtab.client.errors import error_from
from trimtab.client.wire import lines, warning_texts
from trimtab.runtime.simulation import SimulatedClock, simulate


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (400, "BadRequest", errors.Invalid),
        (401, "Unauthorized", errors.Forbidden),
        (403, "Forbidden", errors.Forbidden),
        (404, "NotFound", errors.NotFound),
        (409, "Conflict", errors.Conflict),
        (409, "AlreadyExists", errors.AlreadyExists),
        (410, "Expired", errors.Gone),
        (422, "Invalid", errors.Invalid),
        (429, "TooManyRequests", errors.Unavailable),
        (500, "InternalError", errors.Unavailable),
        (503, "ServiceUnavailable", errors.Unavailable),
        (405, "MethodNotAllowed", errors.ApiError),
    ],
)
def test_a_status_becomes_its_class(status: int, reason: str, kind: type[errors.ApiError]) -> None:
    details = {
        "causes": [{"field": "spec.x", "reason": "FieldValueRequired", "message": "missing"}],
        "retryAfterSeconds": 3,
    }
    body = msgspec.json.encode(
        {"kind": "Status", "reason": reason, "message": "says why", "code": status, "details": details}
    )

    err = error_from(status, body)

    assert type(err) is kind
    assert (str(err), err.status, err.reason, err.retry_after_s) == ("says why", status, reason, 3)
    assert err.causes == (errors.FieldCause("spec.x", "FieldValueRequired", "missing"),)


def test_an_answer_that_is_no_status() -> None:
    assert str(error_from(502, b"<html>Bad Gateway</html>")) == "<html>Bad Gateway</html>"
    assert str(error_from(503, b"")) == "the API server answered HTTP 503 without a reason"
    assert error_from(429, b"", {"retry-after": "7"}).retry_after_s == 7


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1), max_size=8), st.integers(1, 7)
)
def test_lines_survive_any_cut(texts: list[str], size: int) -> None:
    stream = b"".join(text.encode() + b"\n" for text in texts) + b"unfinished"

    async def main(clock: SimulatedClock) -> list[str]:
        async def chunks() -> AsyncIterator[bytes]:
            for i in range(0, len(stream), size):
                yield stream[i : i + size]

        return [line.decode() async for line in lines(chunks())]

    assert simulate(main) == texts


def test_warnings_are_unquoted() -> None:
    header = '299 - "spec.foo: nothing acts on this field", 299 - "say \\"no\\", twice"'

    assert warning_texts(header) == ["spec.foo: nothing acts on this field", 'say "no", twice']
