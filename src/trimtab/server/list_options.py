"""The options of list and watch that do not go together: which they are, and what the refusal says.

Rules and texts are those of k8s.io/apimachinery `pkg/apis/meta/internalversion/validation`.
"""

from __future__ import annotations

from trimtab.server import errors
from trimtab.server.errors import Cause
from trimtab.server.http import Request

_MATCH = "resourceVersionMatch"


def check_list_options(request: Request) -> None:
    """Raises `StatusError` 422 naming every fault."""
    query = request.query
    match, version = query.get(_MATCH, ""), query.get("resourceVersion", "")
    found: list[Cause] = []
    if match:
        if not version:
            found.append(_forbidden(_MATCH, f"{_MATCH} is forbidden unless resourceVersion is provided"))
        if query.get("continue"):
            found.append(_forbidden(_MATCH, f"{_MATCH} is forbidden when continue is provided"))
        if match not in ("Exact", "NotOlderThan"):
            found.append(_unsupported(match, '"Exact", "NotOlderThan", ""'))
        if match == "Exact" and version == "0":
            found.append(_forbidden(_MATCH, f'{_MATCH} "exact" is forbidden for resourceVersion "0"'))
    if "sendInitialEvents" in query:
        found.append(_forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"))
    _refuse(found)


def check_watch_options(request: Request) -> None:
    """Raises `StatusError` 422 naming every fault."""
    query = request.query
    match, initial = query.get(_MATCH, ""), "sendInitialEvents" in query
    found: list[Cause] = []
    if initial and match != "NotOlderThan":
        found.append(_forbidden(_MATCH, f"sendInitialEvents requires setting {_MATCH} to NotOlderThan"))
    if match:
        if not initial:
            found.append(_forbidden(_MATCH, f"{_MATCH} is forbidden for watch unless sendInitialEvents is provided"))
        if match != "NotOlderThan":
            found.append(_unsupported(match, '"NotOlderThan"'))
        if query.get("continue"):
            found.append(_forbidden(_MATCH, f"{_MATCH} is forbidden when continue is provided"))
    _refuse(found)


def _refuse(found: list[Cause]) -> None:
    if found:
        raise errors.invalid("ListOptions", "meta.k8s.io", "", found)


def _forbidden(field: str, text: str) -> Cause:
    return Cause(field, f"Forbidden: {text}", "FieldValueForbidden")


def _unsupported(value: str, supported: str) -> Cause:
    return Cause(_MATCH, f'Unsupported value: "{value}": supported values: {supported}', "FieldValueNotSupported")
