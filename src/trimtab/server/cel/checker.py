"""Gives every expression its type and every call its overloads, or says what does not fit.

The rules and the words are those of cel-go's checker.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from trimtab.server.cel import types
from trimtab.server.cel.declarations import TYPE_NAMES, Overload, functions
from trimtab.server.cel.syntax import Bind, Call, Faults, Fold, Ident, ListNode, Literal, MapNode, Node, Select
from trimtab.server.cel.types import BOOL, DYN, ERROR, Bindings, Declared, Type, unwrapped
from trimtab.server.cel.values import EvaluationError, Uint, duration, timestamp


def check(node: Node, variables: Mapping[str, Declared], faults: Faults) -> Node:
    """Checks an expression in place and returns it: names with dots may turn out to be one name."""
    checker = _Checker(variables, faults)
    checked = checker.check(node)
    checker.finish()
    return checked


def qualified_name(node: Node) -> str:
    """`a.b.c` of a selection from a plain name; empty of anything else."""
    if isinstance(node, Ident):
        return node.name
    if isinstance(node, Select) and not node.test and not node.optional:
        before = qualified_name(node.operand)
        return f"{before}.{node.name}" if before else ""
    return ""


class _Checker:
    def __init__(self, variables: Mapping[str, Declared], faults: Faults) -> None:
        self._scopes: list[dict[str, Type]] = [{name: declared.type for name, declared in variables.items()}]
        self._objects: dict[str, Declared] = {}
        for declared in variables.values():
            self._objects.update(declared.objects())
        self._faults = faults
        self._bindings = Bindings()
        self._checked: list[Node] = []

    def finish(self) -> None:
        """Puts what type parameters stand for into every type, then looks at literals that only now have one."""
        for node in self._checked:
            node.type = self._bindings.substitute(node.type, free_to_dyn=True)
        for node in self._checked:
            _check_literals(node, self._faults)

    def check(self, node: Node) -> Node:
        node = self._resolved(node)
        match node:
            case Literal():
                node.type = _literal_type(node.value)
            case Ident():
                node.type = self._ident(node)
            case Select():
                node.type = self._select(node)
            case Call():
                node.type = self._call(node)
            case ListNode():
                node.type = self._list(node)
            case MapNode():
                node.type = self._map(node)
            case Fold():
                node.type = self._fold(node)
            case Bind():
                node.value = self.check(node.value)
                self._scopes.append({node.name: node.value.type})
                node.result = self.check(node.result)
                self._scopes.pop()
                node.type = node.result.type
        self._checked.append(node)
        return node

    def _resolved(self, node: Node) -> Node:
        """A selection that spells the name of a type is that name."""
        if isinstance(node, Select) and (name := qualified_name(node)) in TYPE_NAMES:
            return Ident(node.at, name)
        return node

    def _lookup(self, name: str) -> Type | None:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        named = TYPE_NAMES.get(name)
        return types.type_of(named) if named is not None else None

    def _undeclared(self, node: Node, name: str) -> Type:
        self._faults.add(node.at, f"undeclared reference to '{name}' (in container '')")
        return ERROR

    def _ident(self, node: Ident) -> Type:
        found = self._lookup(node.name)
        return self._undeclared(node, node.name) if found is None else found

    def _select(self, node: Select) -> Type:
        node.operand = self.check(node.operand)
        operand = self._bindings.substitute(node.operand.type)
        target, was_optional = unwrapped(operand)
        result = ERROR
        if target.kind == "map":
            result = target.params[1]
        elif target.kind == "object":
            result = self._field(node, target)
        elif target.kind == "param":
            self._bindings.fits([DYN], [target])
            result = DYN
        else:
            if not types.is_dynamic(target):
                self._faults.add(node.at, f"type '{target}' does not support field selection")
            result = DYN
        if node.test:
            return BOOL
        if was_optional or node.optional:
            result = types.optional_of(result)
        return self._bindings.substitute(result)

    def _field(self, node: Select, target: Type) -> Type:
        declared = self._objects.get(target.name)
        if declared is not None and node.name in declared.fields:
            return declared.fields[node.name].type
        self._faults.add(node.at, f"undefined field '{node.name}'")
        return ERROR

    def _call(self, node: Call) -> Type:
        node.args = [self.check(arg) for arg in node.args]
        known = functions()
        if node.target is not None:
            prefix = qualified_name(node.target)
            if prefix and f"{prefix}.{node.function}" in known:
                node.function, node.target = f"{prefix}.{node.function}", None
            else:
                node.target = self.check(node.target)
        overloads = known.get(node.function)
        if overloads is None:
            return self._undeclared(node, node.function)
        given = [node.target, *node.args] if node.target is not None else node.args
        return self._resolve(node, overloads, given)

    def _resolve(self, node: Call, overloads: tuple[Overload, ...], given: list[Node]) -> Type:
        if node.function in ("_&&_", "_||_"):
            return self._logic(node, overloads[0])
        result: Type | None = None
        matching: list[str] = []
        for overload in overloads:
            if overload.member != (node.target is not None) or len(overload.args) != len(given):
                continue
            *wanted, promised = self._bindings.instantiate([*overload.args, overload.result])
            if not self._bindings.fits([arg.type for arg in given], wanted):
                continue
            matching.append(overload.id)
            promised = self._bindings.substitute(promised)
            if result is None:
                result = promised
            elif result.kind != "dyn" and promised != result:
                result = DYN
        if result is None:
            shown = [str(self._bindings.substitute(arg.type, free_to_dyn=True)) for arg in given]
            receiver = f"{shown.pop(0)}." if node.target is not None else ""
            self._faults.add(
                node.at, f"found no matching overload for '{node.function}' applied to '{receiver}({', '.join(shown)})'"
            )
            return ERROR
        node.overloads = tuple(matching)
        return result

    def _logic(self, node: Call, overload: Overload) -> Type:
        valid = True
        for arg in node.args:
            if not self._bindings.fits([arg.type], [BOOL]):
                self._mismatch(arg, BOOL, arg.type)
                valid = False
        node.overloads = (overload.id,)
        return BOOL if valid else ERROR

    def _mismatch(self, node: Node, expected: Type, found: Type) -> None:
        self._faults.add(node.at, f"expected type '{expected}' but found '{found}'")

    def _joined(self, node: Node, before: Type | None, current: Type) -> Type:
        if before is None:
            return current
        if self._bindings.fits([before], [current]):
            return types.most_general(before, current)
        self._mismatch(node, before, current)
        return ERROR

    def _held(self, node: Node, optional: bool) -> Type:
        """The type of an element, which `?` makes optional."""
        if not optional:
            return node.type
        held, is_optional = unwrapped(node.type)
        if not is_optional and held.kind != "dyn":
            self._mismatch(node, types.optional_of(held), held)
        return held

    def _list(self, node: ListNode) -> Type:
        element: Type | None = None
        for index, optional in enumerate(node.optional):
            value = node.elements[index] = self.check(node.elements[index])
            element = self._joined(value, element, self._held(value, optional))
        return types.list_of(element or self._bindings.fresh())

    def _map(self, node: MapNode) -> Type:
        keys: Type | None = None
        values: Type | None = None
        for index, (raw_key, raw_value, optional) in enumerate(node.entries):
            key = self.check(raw_key)
            keys = self._joined(key, keys, key.type)
            value = self.check(raw_value)
            values = self._joined(value, values, self._held(value, optional))
            node.entries[index] = (key, value, optional)
        if keys is None or values is None:
            return types.map_of(self._bindings.fresh(), self._bindings.fresh())
        return types.map_of(keys, values)

    def _fold(self, node: Fold) -> Type:
        node.over = self.check(node.over)
        node.initial = self.check(node.initial)
        over = self._bindings.substitute(node.over.type)
        first, second = self._iterated(node, over)
        accumulated = node.initial.type
        self._scopes.append({node.accumulator: accumulated})
        self._scopes.append({node.first: first} | ({node.second: second} if node.second else {}))
        node.condition = self.check(node.condition)
        self._assert(node.condition, BOOL)
        node.step = self.check(node.step)
        self._assert(node.step, accumulated)
        self._scopes.pop()
        node.result = self.check(node.result)
        self._scopes.pop()
        return self._bindings.substitute(node.result.type)

    def _iterated(self, node: Fold, over: Type) -> tuple[Type, Type]:
        if over.kind == "list":
            return (types.INT, over.params[0]) if node.second else (over.params[0], DYN)
        if over.kind == "map":
            return over.params[0], over.params[1]
        if over.kind in ("dyn", "error", "param"):
            self._bindings.fits([DYN], [over])
            return DYN, DYN
        self._faults.add(
            node.over.at,
            f"expression of type '{over}' cannot be range of a comprehension (must be list, map, or dynamic)",
        )
        return ERROR, ERROR

    def _assert(self, node: Node, wanted: Type) -> None:
        if not self._bindings.fits([wanted], [node.type]):
            self._mismatch(node, wanted, node.type)


def _literal_type(value: object) -> Type:
    if value is None:
        return types.NULL
    by_class = {
        bool: BOOL,
        int: types.INT,
        Uint: types.UINT,
        float: types.DOUBLE,
        str: types.STRING,
        bytes: types.BYTES,
    }
    return by_class[type(value)]


_VALIDATED: Mapping[str, Callable[[str], object]] = {"duration": duration, "timestamp": timestamp}


def _check_literals(node: Node, faults: Faults) -> None:
    """What can be known of literals at once: times, patterns, and that all elements of a list have one type."""
    if (
        isinstance(node, Call)
        and node.args
        and isinstance(node.args[0], Literal)
        and isinstance(node.args[0].value, str)
    ):
        literal: str = node.args[0].value
        if node.function in _VALIDATED:
            try:
                _VALIDATED[node.function](literal)
            except EvaluationError:
                faults.add(node.args[0].at, f"invalid {node.function} argument")
        elif node.function == "matches" and (node.target is not None or len(node.args) == 1):
            from trimtab.server.patterns import compiled

            try:
                compiled(literal)
            except re.error:
                faults.add(node.args[0].at, "invalid matches argument")
    elif isinstance(node, Call) and node.function == "format":
        _check_format(node, faults)
    elif isinstance(node, ListNode):
        _check_alike([(value, optional) for value, optional in zip(node.elements, node.optional, strict=True)], faults)
    elif isinstance(node, MapNode):
        _check_alike([(key, False) for key, _, _ in node.entries], faults)
        _check_alike([(value, optional) for _, value, optional in node.entries], faults)


def _check_format(node: Call, faults: Faults) -> None:
    """A literal pattern with a literal list of values: whether they go together."""
    pattern, values = node.target, node.args[0]
    if not isinstance(pattern, Literal) or not isinstance(pattern.value, str) or not isinstance(values, ListNode):
        return
    from trimtab.server.cel.formatting import faults_of

    for index, message in faults_of(pattern.value, [value.type for value in values.elements]):
        faults.add(node.at if index is None else values.elements[index].at, message)


def _check_alike(values: list[tuple[Node, bool]], faults: Faults) -> None:
    first: Type | None = None
    for node, optional in values:
        found = unwrapped(node.type)[0] if optional else node.type
        if first is None:
            first = found
        elif found != first and not (found.kind == "dyn" and first.kind == "dyn"):
            faults.add(node.at, f"expected type '{first}' but found '{found}'")
            return
