"""CEL, the Common Expression Language: expressions that check objects, as Kubernetes has them.

    text -> syntax.py, parser.py, macros.py -> checker.py -> Program: estimate.py (before it runs), program.py (when it runs)

`types.py` has the types, `values.py` the values, `declarations.py` says which functions there are; they stand in `standard.py`,
`text.py`, `formatting.py`, `listing.py` and `kubernetes.py`. `costs.py` has the price of a call, `call_estimates.py` the highest one.

    environment = Environment({"object": Declared(DYN), "request": Declared(DYN)})
    program = environment.compile("object.metadata.name.startsWith('a')", BOOL)     # CompileError says what is wrong
    program.evaluate({"object": obj, "request": request})                            # (value, cost)

Nothing of it is loaded before the first expression comes by.

Why our own, of what PyPI has (looked at and measured in Python 3.11): `cel-python` 0.5 checks no types, counts no cost, loads 17 MB;
`common-expression-language` 0.10 (Rust) neither, and 31 MB; `cel-expr-python` 0.1.3 (the C++ implementation, 6 MB, a wheel of 16 MB)
checks types, but knows only the fields of protobuf messages, counts no cost and cannot be stopped, and has none of Kubernetes'
functions. What a rule may cost, at most and when it runs, decides which CRDs a Kubernetes API server takes, so nothing without it
will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimtab.server.cel.checker import check
from trimtab.server.cel.constants import constant_fault
from trimtab.server.cel.estimate import greatest_cost
from trimtab.server.cel.parser import parse
from trimtab.server.cel.program import Lazy, Run, step_of
from trimtab.server.cel.syntax import CompileError, Faults, Ident, Node, walked
from trimtab.server.cel.types import BOOL, DYN, STRING, Declared, Type
from trimtab.server.cel.values import CostExceeded, EvaluationError, Object, Optional, value_of

CALL_COST_MAX = 1_000_000
"""What one evaluation may cost (Kubernetes' PerCallLimit)."""

__all__ = [
    "BOOL",
    "CALL_COST_MAX",
    "DYN",
    "STRING",
    "CompileError",
    "CostExceeded",
    "Declared",
    "Environment",
    "EvaluationError",
    "Lazy",
    "Object",
    "Optional",
    "Program",
    "Type",
    "value_of",
]


class Environment:
    """The variables that expressions may name, and their types."""

    def __init__(self, variables: Mapping[str, Declared]) -> None:
        self.variables = variables

    def compile(self, text: str, wanted: Type | None = None) -> Program:
        """An expression, checked; `wanted` is the type that it must have.

        Raises:
            CompileError: each fault with its line and a pointer, in the real server's words.
        """
        faults = Faults(text)
        try:
            node = parse(text, faults)
            faults.raise_any()
            assert node is not None
            node = check(node, self.variables, faults)
        except RecursionError:
            raise CompileError("expression recursion limit exceeded") from None
        faults.raise_any()
        if wanted is not None and node.type != wanted:
            raise CompileError(f"must evaluate to {wanted}")
        return Program(node, self.variables)


class Program:
    """A compiled expression; may be evaluated any number of times, and in several threads at once."""

    __slots__ = ("_node", "_step", "names")

    def __init__(self, node: Node, variables: Mapping[str, Declared]) -> None:
        self._node = node
        self._step = step_of(node)
        self.names = frozenset(_names(node)) & frozenset(variables)
        """The variables that it reads."""

    @property
    def type(self) -> Type:
        """The type of its value."""
        return self._node.type

    def greatest_cost(self, root: Declared) -> int:
        """What it can cost at most, by the bounds that the type of what it checks declares."""
        return greatest_cost(self._node, root)

    def constant_fault(self) -> str:
        """What is wrong with a part that can be evaluated ahead; empty when nothing is."""
        return constant_fault(self._node)

    def evaluate(self, variables: Mapping[str, Any], limit: int = CALL_COST_MAX) -> tuple[Any, int]:
        """(value, cost).

        Raises:
            EvaluationError: it has no value; `cost` says what it cost nevertheless.
            CostExceeded: it cost more than `limit`.
        """
        run = Run(variables, limit)
        try:
            return self._step(run), run.cost
        except EvaluationError as err:
            err.cost = run.cost
            raise
        except RecursionError:
            raise CostExceeded from None


def _names(node: Node) -> set[str]:
    """The plain names in an expression."""
    return {one.name for one in walked(node) if isinstance(one, Ident)}
