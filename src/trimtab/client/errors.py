"""What an API server's refusals look like to a caller: one class per reason that callers tell apart.

A `Status` body (`reason`, `message`, `details.causes`) becomes an exception whose text is the server's one line. That the
server was not reached at all is not an `ApiError` but the built-in `ConnectionError`: whether a request was then carried
out is unknown, which is a different thing to handle than a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class FieldCause:
    """One field at fault, of a `Status`'s `details.causes`."""

    field: str
    reason: str
    message: str


class ApiError(Exception):
    """A refusal by the API server. `str()` is its message."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        causes: Sequence[FieldCause] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.causes = tuple(causes)
        self.retry_after_s = retry_after_s


class NotFound(ApiError):
    """404: no such object, or no such kind."""


class Conflict(ApiError):
    """409: somebody else wrote first, owns the field, or the uid is not the expected one."""


class AlreadyExists(ApiError):
    """409 on create: an object of that name is there."""


class Gone(ApiError):
    """410: the resource version is too old to watch or continue from; list again."""


class Forbidden(ApiError):
    """401 or 403."""


class Invalid(ApiError):
    """400 or 422: the object or request is wrong; `causes` names the fields."""


class Unavailable(ApiError):
    """429 or 5xx: the server cannot answer now; try again (after `retry_after_s` when given)."""


class _Cause(msgspec.Struct):
    field: str = ""
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct, rename="camel"):
    causes: list[_Cause] = []
    retry_after_seconds: float | None = None


class _Status(msgspec.Struct):
    reason: str = ""
    message: str = ""
    code: int = 0
    details: _Details | None = None


_status_decoder = msgspec.json.Decoder(_Status)
NO_SUCH_FIELD = "failed to create typed patch object"
"""What an apply with a field that the kind does not have is told, with a 500: it is no better for trying again."""
MESSAGE_LENGTH_MAX = 2000
"""Of a body that is no `Status` (a proxy's error page), this much is shown."""


def error_from(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> ApiError:
    """The exception for an answer with an HTTP status >= 400, or for a watch's ERROR object."""
    try:
        said = _status_decoder.decode(body)
    except msgspec.MsgspecError:
        text = body[:MESSAGE_LENGTH_MAX].decode("utf-8", "replace").strip()
        said = _Status(message=text or f"the API server answered HTTP {status} without a reason")
    status = status or said.code
    message = said.message or said.reason or f"the API server answered HTTP {status} without a reason"
    details = said.details or _Details()
    causes = [FieldCause(c.field, c.reason, c.message) for c in details.causes]
    retry_after_s = details.retry_after_seconds
    if retry_after_s is None and headers is not None:
        value = headers.get("retry-after", "")
        retry_after_s = float(value) if value.isdigit() else None
    kind = Invalid if message.startswith(NO_SUCH_FIELD) else _class_of(status, said.reason)
    return kind(status, said.reason, message, causes, retry_after_s)


def _class_of(status: int, reason: str) -> type[ApiError]:
    if reason == "AlreadyExists":
        return AlreadyExists
    if reason in ("Expired", "Gone"):
        return Gone
    by_status: dict[int, type[ApiError]] = {
        400: Invalid,
        401: Forbidden,
        403: Forbidden,
        404: NotFound,
        409: Conflict,
        410: Gone,
        422: Invalid,
        429: Unavailable,
    }
    if status >= 500:
        return Unavailable
    return by_status.get(status, ApiError)
