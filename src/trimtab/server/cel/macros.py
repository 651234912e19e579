"""Macros: calls that the parser replaces by loops, tests and bindings before anything is checked.

The expansions are those of cel-go, since both the types that the checker finds and the cost that an expression is estimated
at follow from them.
"""

from __future__ import annotations

from trimtab.server.cel.syntax import Bind, Call, Faults, Fold, Ident, ListNode, Literal, MapNode, Node, Select

ACCUMULATOR = "@result"

_QUANTIFIERS = {"all": (2, 3), "exists": (2, 3), "exists_one": (2, 3), "existsOne": (3,)}
"""How many arguments each may have."""


def expand(call: Call, faults: Faults) -> Node:
    """What a call stands for: itself when it is no macro."""
    name, count, target = call.function, len(call.args), call.target
    if target is None:
        return _has(call, faults) if (name, count) == ("has", 1) else call
    if count in _QUANTIFIERS.get(name, ()):
        return _quantifier(call, target, faults)
    if (name == "map" and count in (2, 3)) or (name == "filter" and count == 2):
        return _listing(call, target, faults)
    if name.startswith("transform") and name[9:] in ("List", "Map", "MapEntry") and count in (3, 4):
        return _transform(call, target, faults)
    if name in ("optMap", "optFlatMap") and count == 2:
        return _optional_map(call, target, faults)
    if name == "sortBy" and count == 2:
        return _sort_by(call, target, faults)
    return call


def _has(call: Call, faults: Faults) -> Node:
    operand = call.args[0]
    if isinstance(operand, Select) and not operand.test and not operand.optional:
        return Select(call.at, operand.operand, operand.name, test=True)
    faults.add(operand.at, "invalid argument to has() macro")
    return call


def _variable(node: Node, faults: Faults, message: str = "argument must be a simple name") -> str:
    if isinstance(node, Ident):
        if node.name == ACCUMULATOR:
            faults.add(node.at, "iteration variable overwrites accumulator variable")
        return node.name
    faults.add(node.at, message)
    return "_"


def _variables(call: Call, faults: Faults, count: int) -> tuple[str, str]:
    if count == 1:
        return _variable(call.args[0], faults), ""
    first = _variable(call.args[0], faults)
    second = _variable(call.args[1], faults)
    if first == second:
        faults.add(call.args[1].at, f"duplicate variable name: {first}")
    return first, second


def _fold(
    call: Call, over: Node, names: tuple[str, str], initial: Node, condition: Node, step: Node, result: Node
) -> Node:
    return Fold(call.at, over, *names, ACCUMULATOR, initial, condition, step, result)


def _quantifier(call: Call, over: Node, faults: Faults) -> Node:
    at = call.at
    names = _variables(call, faults, len(call.args) - 1)
    predicate = call.args[-1]

    def so_far() -> Node:
        return Ident(at, ACCUMULATOR)

    if call.function == "all":
        goes_on = Call(at, "@not_strictly_false", [so_far()])
        step = Call(at, "_&&_", [so_far(), predicate])
        return _fold(call, over, names, Literal(at, True), goes_on, step, so_far())
    if call.function == "exists":
        goes_on = Call(at, "@not_strictly_false", [Call(at, "!_", [so_far()])])
        step = Call(at, "_||_", [so_far(), predicate])
        return _fold(call, over, names, Literal(at, False), goes_on, step, so_far())
    counted = Call(at, "_+_", [so_far(), Literal(at, 1)])
    step = Call(at, "_?_:_", [predicate, counted, so_far()])
    result = Call(at, "_==_", [so_far(), Literal(at, 1)])
    return _fold(call, over, names, Literal(at, 0), Literal(at, True), step, result)


def _listing(call: Call, over: Node, faults: Faults) -> Node:
    at = call.at
    names = _variables(call, faults, 1)
    value: Node = Ident(call.args[0].at, names[0]) if call.function == "filter" else call.args[-1]
    predicate = call.args[1] if call.function == "filter" or len(call.args) == 3 else None
    return _fold(
        call, over, names, ListNode(at, []), Literal(at, True), _appended(at, value, predicate), Ident(at, ACCUMULATOR)
    )


def _appended(at: int, value: Node, predicate: Node | None) -> Node:
    longer: Node = Call(at, "_+_", [Ident(at, ACCUMULATOR), ListNode(at, [value])])
    return longer if predicate is None else Call(at, "_?_:_", [predicate, longer, Ident(at, ACCUMULATOR)])


def _transform(call: Call, over: Node, faults: Faults) -> Node:
    at = call.at
    names = _variables(call, faults, 2)
    predicate = call.args[2] if len(call.args) == 4 else None
    value = call.args[-1]
    if call.function == "transformList":
        step = _appended(at, value, predicate)
        return _fold(call, over, names, ListNode(at, []), Literal(at, True), step, Ident(at, ACCUMULATOR))
    arguments = [Ident(at, ACCUMULATOR), value]
    if call.function == "transformMap":
        arguments = [Ident(at, ACCUMULATOR), Ident(at, names[0]), value]
    step = Call(at, "cel.@mapInsert", arguments)
    if predicate is not None:
        step = Call(at, "_?_:_", [predicate, step, Ident(at, ACCUMULATOR)])
    return _fold(call, over, names, MapNode(at, []), Literal(at, True), step, Ident(at, ACCUMULATOR))


def _optional_map(call: Call, target: Node, faults: Faults) -> Node:
    at = call.at
    if not isinstance(call.args[0], Ident):
        faults.add(call.args[0].at, f"{call.function}() variable name must be a simple identifier")
        return call
    bound: Node = Bind(at, call.args[0].name, Call(at, "value", [], target), call.args[1])
    if call.function == "optMap":
        bound = Call(at, "optional.of", [bound])
    return Call(at, "_?_:_", [Call(at, "hasValue", [], target), bound, Call(at, "optional.none", [])])


def _sort_by(call: Call, target: Node, faults: Faults) -> Node:
    at = call.at
    if not isinstance(target, Ident | Select | ListNode | Fold | Call):
        faults.add(
            target.at, "sortBy can only be applied to a list, identifier, comprehension, call or select expression"
        )
        return call
    keys = expand(Call(at, "map", call.args, Ident(at, "@__sortBy_input__")), faults)
    sorted_ = Call(at, "@sortByAssociatedKeys", [keys], Ident(at, "@__sortBy_input__"))
    return Bind(at, "@__sortBy_input__", target, sorted_)
