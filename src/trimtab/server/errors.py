"""Refusals, as the `Status` objects that every Kubernetes client understands.

Clients act on `code` and `reason`, people read `message`. The wording is the one that kubectl's users know.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from trimtab.api import JSON
from trimtab.server.kinds import Kind


class Cause(NamedTuple):
    """One field at fault: `reason` is a `FieldValue...` constant, `field` a path such as `spec.containers[0].image`."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"


class StatusError(Exception):
    """A refusal with its HTTP code. `details` as in `metav1.StatusDetails`."""

    def __init__(
        self, code: int, reason: str, message: str, details: JSON | None = None, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.headers = headers
        self.metadata: JSON = {}

    def body(self) -> JSON:
        out: JSON = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            out["reason"] = self.reason
        if self.details:
            out["details"] = self.details
        return out | {"code": self.code}


class Denied(StatusError):
    """A refusal in the words of somebody whom the server has asked: whatever its reason says, trying again does not help."""


class Undecodable(StatusError):
    """A body that is no object of the kind: a bad request, or a bad patch where a patch led to it."""

    def __init__(self, message: str) -> None:
        super().__init__(400, "BadRequest", message)


class StrictlyRefused(StatusError):
    """A body, or what a patch makes of an object, has unknown or repeated fields where that is not wanted."""


def group_resource(plural: str, group: str) -> str:
    return f"{plural}.{group}" if group else plural


def _details(plural: str, group: str, name: str, **more: Any) -> JSON:
    out: JSON = {"name": name, "group": group, "kind": plural, **more}
    return {key: value for key, value in out.items() if value}


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def unauthorized() -> StatusError:
    return StatusError(401, "Unauthorized", "Unauthorized")


def forbidden(plural: str, group: str, name: str, message: str) -> StatusError:
    named = f' "{name}"' if name else ""
    text = f"{group_resource(plural, group)}{named} is forbidden: {message}"
    return StatusError(403, "Forbidden", text, _details(plural, group, name))


def not_found(plural: str, group: str, name: str) -> StatusError:
    text = f'{group_resource(plural, group)} "{name}" not found'
    return StatusError(404, "NotFound", text, _details(plural, group, name))


def no_such_path() -> StatusError:
    return StatusError(404, "NotFound", "the server could not find the requested resource", {"causes": []})


def method_not_allowed(why: str = "the server does not allow this method on the requested resource") -> StatusError:
    return StatusError(405, "MethodNotAllowed", why)


def not_acceptable(accepted: str) -> StatusError:
    text = f"only the following media types are accepted: {accepted}"
    return StatusError(406, "NotAcceptable", text)


def already_exists(plural: str, group: str, name: str) -> StatusError:
    text = f'{group_resource(plural, group)} "{name}" already exists'
    return StatusError(409, "AlreadyExists", text, _details(plural, group, name))


def not_declared(kind: Kind, meta: JSON, paths: Sequence[str]) -> StatusError:
    """A configuration to apply, with this metadata, has fields that the schema does not."""
    version = kind.api_version if kind.group else f"/{kind.version}"
    what = f"{meta.get('namespace') or ''}/{meta.get('name') or ''}; {version}, Kind={kind.kind}"
    found = [f".{path}: field not declared in schema" for path in paths]
    text = found[0] if len(found) == 1 else "errors:\n  " + "\n  ".join(found)
    return StatusError(500, "", f"failed to create typed patch object ({what}): {text}")


def not_decoded(kind: str, api_version: str, why: object) -> StatusError:
    """A body has something of another type than its kind does."""
    version = api_version.rpartition("/")[2]
    return Undecodable(f'{kind} in version "{version}" cannot be handled as a {kind}: {why}')


def conflict(plural: str, group: str, name: str, why: str) -> StatusError:
    text = f'Operation cannot be fulfilled on {group_resource(plural, group)} "{name}": {why}'
    return StatusError(409, "Conflict", text, _details(plural, group, name))


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def apply_conflict(message: str, causes: Sequence[JSON]) -> StatusError:
    return StatusError(409, "Conflict", message, {"causes": list(causes)})


def gone(message: str) -> StatusError:
    return StatusError(410, "Expired", message)


def too_large(limit_bytes: int) -> StatusError:
    text = f"Request entity too large: limit is {limit_bytes}"
    return StatusError(413, "RequestEntityTooLarge", text)


def body_timeout(seconds: float) -> StatusError:
    return StatusError(
        504, "Timeout", f"the body of the request did not come to its end within {seconds:g} s: send it again"
    )


def unsupported_media(got: str, accepted: Iterable[str]) -> StatusError:
    text = f'the body of the request was in an unknown format "{got}" - accepted media types include: {", ".join(accepted)}'
    return StatusError(415, "UnsupportedMediaType", text)


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> StatusError:
    texts = [f"{cause.field}: {cause.message}" for cause in causes]
    listed = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    details = _details(kind, group, name)
    details["causes"] = [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
    return StatusError(422, "Invalid", f'{group_resource(kind, group)} "{name}" is invalid: {listed}', details)


def raise_problems(kind: str, group: str, obj: JSON, causes: Sequence[Cause]) -> None:
    """Raises `invalid` where there are causes."""
    if causes:
        meta = obj["metadata"]
        raise invalid(kind, group, meta.get("name") or meta.get("generateName") or "", causes)


def too_many_requests(message: str, retry_after_s: int = 1) -> StatusError:
    return StatusError(
        429, "TooManyRequests", message, {"retryAfterSeconds": retry_after_s}, [("retry-after", str(retry_after_s))]
    )


def internal(message: str) -> StatusError:
    text = f"Internal error occurred: {message}"
    return StatusError(500, "InternalError", text, {"causes": [{"message": message}]})


def unavailable(message: str) -> StatusError:
    return StatusError(503, "ServiceUnavailable", message, None, [("retry-after", "1")])


def timeout() -> StatusError:
    return StatusError(504, "Timeout", "Timeout: request did not complete within the allotted timeout")


def storage_full(message: str) -> StatusError:
    """507 is what HTTP has for it; clients that only know Kubernetes print the message."""
    return StatusError(507, "InsufficientStorage", message)


def version_too_large(requested: int, current: int) -> StatusError:
    return StatusError(
        504,
        "Timeout",
        f"Too large resource version: {requested}, current: {current}",
        {
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        },
    )
