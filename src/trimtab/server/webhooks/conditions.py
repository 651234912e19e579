"""`matchConditions`: expressions that decide, of the request alone, whether a webhook is asked about it.

    condition -> compiled (when the configuration is written, and again for the first request) -> true, false or an error

All true: the webhook is asked. One false: it is not, whatever the others say. Otherwise something has no value, and `failurePolicy`
decides. What expressions may name and cost is as in Kubernetes (apiserver's `admission/plugin/cel`), except `authorizer`.
Nothing of this is loaded without a condition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from trimtab.api import JSON
from trimtab.server.cel import (
    BOOL,
    CALL_COST_MAX,
    DYN,
    STRING,
    CompileError,
    CostExceeded,
    Declared,
    Environment,
    EvaluationError,
    Program,
    value_of,
)
from trimtab.server.cel.types import list_of, map_of, object_type

COST_MAX = 2_500_000
"""What all conditions of one webhook may cost for one request."""
_OVERSPENT = "validation failed due to running out of cost budget, no further validation rules will be run"
_AUTHORIZER = "undeclared reference to 'authorizer'"
_NO_AUTHORIZER = "authorizer is not available here: leave it out, and let the webhook ask with a SubjectAccessReview"


class ConditionsFailed(Exception):
    """Conditions of which none is false and not all are true."""


def _object(name: str, fields: Mapping[str, Declared]) -> Declared:
    return Declared(object_type(f"kubernetes.{name}"), fields=fields)


def _list(element: Declared) -> Declared:
    return Declared(list_of(element.type), element=element)


@cache
def _environment() -> Environment:
    text = Declared(STRING)
    texts = _list(text)
    kind = _object("GroupVersionKind", {"group": text, "version": text, "kind": text})
    resource = _object("GroupVersionResource", {"group": text, "version": text, "resource": text})
    extra = Declared(map_of(STRING, texts.type), key=text, element=texts)
    user = _object("UserInfo", {"username": text, "uid": text, "groups": texts, "extra": extra})
    request = _object(
        "AdmissionRequest",
        {
            "kind": kind,
            "resource": resource,
            "subResource": text,
            "requestKind": kind,
            "requestResource": resource,
            "requestSubResource": text,
            "name": text,
            "namespace": text,
            "operation": text,
            "userInfo": user,
            "dryRun": Declared(BOOL),
            "options": Declared(DYN),
        },
    )
    anything = Declared(DYN)
    return Environment({"object": anything, "oldObject": anything, "request": request, "namespaceObject": anything})


def compiled(expression: str) -> Program:
    """Raises `CompileError`, in the real server's words."""
    try:
        program = _environment().compile(expression)
    except CompileError as err:
        if _AUTHORIZER in str(err):
            raise CompileError(_NO_AUTHORIZER) from None
        raise CompileError(f"compilation failed: {err}") from None
    if program.type != BOOL:
        raise CompileError(f"must evaluate to {BOOL} but got {program.type}")
    if fault := program.constant_fault():
        raise CompileError(f"program instantiation failed: {fault}")
    return program


class Conditions:
    """Those of one webhook."""

    def __init__(self, expressions: Sequence[str]) -> None:
        self._programs = [(expression, _program(expression)) for expression in expressions]

    def hold(self, request: JSON, obj: JSON | None, old: JSON | None) -> bool:
        """Whether the webhook is to be asked. request: as in an AdmissionReview.

        Raises:
            ConditionsFailed: that cannot be said.
        """
        declared = _environment().variables["request"]
        variables = {"object": obj, "oldObject": old, "request": value_of(request, declared), "namespaceObject": None}
        left = COST_MAX
        faults: dict[str, None] = {}
        holds = True
        for expression, program in self._programs:
            value, cost, fault = _evaluated(expression, program, variables)
            left -= cost
            if left < 0:
                raise ConditionsFailed(_OVERSPENT)
            if fault:
                faults[fault] = None
            holds = holds and value is not False
        if holds and faults:
            raise ConditionsFailed(next(iter(faults)) if len(faults) == 1 else f"[{', '.join(faults)}]")
        return holds


def _program(expression: str) -> Program | CompileError:
    try:
        return compiled(expression)
    except CompileError as err:
        return err


def _evaluated(expression: str, program: Program | CompileError, variables: Mapping[str, Any]) -> tuple[Any, int, str]:
    """(value, what it cost, why it has none)."""
    if isinstance(program, CompileError):
        return None, 0, f"compilation error: {program}"
    try:
        value, cost = program.evaluate(variables)
    except CostExceeded as err:
        return None, CALL_COST_MAX, f"expression '{expression}' resulted in error: {err}"
    except EvaluationError as err:
        return None, err.cost, f"expression '{expression}' resulted in error: {err}"
    return value, cost, ""
