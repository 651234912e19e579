"""What is known of an expression before it runs: conversions of literals, and the patterns that `find` searches for.

cel-go evaluates these when it plans a program, so what is wrong with them is the author's business and not that of some object.
"""

from __future__ import annotations

import re

from trimtab.server.cel.standard import FUNCTIONS
from trimtab.server.cel.syntax import Call, Literal, Node, walked
from trimtab.server.cel.values import EvaluationError
from trimtab.server.patterns import compiled

_CONVERSIONS = ("bool", "bytes", "double", "duration", "int", "string", "timestamp", "uint")


def constant_fault(node: Node) -> str:
    """The first fault; empty when there is none."""
    for one in walked(node):
        if not isinstance(one, Call):
            continue
        try:
            if one.function in _CONVERSIONS and one.target is None:
                _folded(one)
            elif one.function in ("find", "findAll", "matches") and isinstance(one.args[-1], Literal):
                compiled(one.args[-1].value) if isinstance(one.args[-1].value, str) else None
        except (EvaluationError, re.error) as err:
            return str(err)
    return ""


def _folded(call: Call) -> object:
    argument = call.args[0]
    if isinstance(argument, Call) and argument.function == "-_" and isinstance(argument.args[0], Literal):
        return FUNCTIONS[call.function](FUNCTIONS["-_"](argument.args[0].value))
    return FUNCTIONS[call.function](argument.value) if isinstance(argument, Literal) else None
