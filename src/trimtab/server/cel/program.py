"""A checked expression, ready to be evaluated: every node becomes a closure, and every step is paid for.

`Run` holds the variables and what was spent. Cost is counted as cel-go counts it, and before the work where it depends on the
arguments alone; at the limit the evaluation ends with `CostExceeded`, so no expression runs for long. Errors are exceptions, which
`&&`, `||` and the loops of `all` and `exists` absorb when another operand decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from trimtab.server.cel import formatting, kubernetes, listing, standard, text
from trimtab.server.cel.costs import LIST, MAP, SELECT, Price, price
from trimtab.server.cel.declarations import FORMATS, TYPE_NAMES
from trimtab.server.cel.macros import ACCUMULATOR
from trimtab.server.cel.standard import Function, index, index_optional, no_overload
from trimtab.server.cel.syntax import Bind, Call, Fold, Ident, ListNode, Literal, MapNode, Node, Select
from trimtab.server.cel.values import NONE, CostExceeded, EvaluationError, Object, Optional, TypeValue


class Run:
    """One evaluation. `limit` is in units of cost."""

    __slots__ = ("cost", "limit", "variables")

    def __init__(self, variables: Mapping[str, Any], limit: int) -> None:
        self.variables = dict(variables)
        self.limit = limit
        self.cost = 0

    def pay(self, cost: int) -> None:
        """Raises `CostExceeded` when there is not that much left."""
        self.cost += cost
        if self.cost > self.limit:
            raise CostExceeded


Step = Callable[[Run], Any]


def step_of(node: Node) -> Step:
    """The closure that evaluates a checked expression."""
    match node:
        case Literal():
            value = node.value
            return lambda run: value
        case Ident():
            return _ident(node)
        case Select():
            return _select(node)
        case Call():
            return _call(node)
        case ListNode():
            return _list(node)
        case MapNode():
            return _map(node)
        case Fold():
            return _fold(node)
        case Bind():
            return _bind(node)
    raise TypeError(type(node).__name__)


def _ident(node: Ident) -> Step:
    name = node.name
    if name in TYPE_NAMES and node.type.kind == "type":
        named = TypeValue(name)
        return lambda run: named

    def read(run: Run) -> Any:
        run.cost += SELECT
        if run.cost > run.limit:
            raise CostExceeded
        try:
            found = run.variables[name]
        except KeyError:
            raise EvaluationError(f"no such attribute(s): {name}") from None
        if found.__class__ is EvaluationError:
            raise found
        if callable(found) and found.__class__ is Lazy:
            found = run.variables[name] = found()
        return found

    return read


class Lazy:
    """A variable that is made when an expression first reads it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __call__(self) -> Any:
        return self._make()


def _field(value: Any, name: str) -> Any:
    if value.__class__ is Object:
        return value.get(name)
    if isinstance(value, Optional):
        return index_optional(value, name)
    if isinstance(value, dict):
        found = value.get(name, NONE)
        if found is NONE:
            raise EvaluationError(f"no such key: {name}")
        return found
    raise EvaluationError(f"no such key: {name}")


def _is_set(value: Any, name: str) -> bool:
    if isinstance(value, Optional):
        return value.present and _is_set(value.value, name)
    if value.__class__ is Object:
        return bool(value.has(name))
    if isinstance(value, dict):
        return name in value
    raise no_overload()


def _select(node: Select) -> Step:
    operand, name = step_of(node.operand), node.name
    if node.test:
        return lambda run: _is_set(operand(run), name)
    optional = node.optional

    def select(run: Run) -> Any:
        value = operand(run)
        run.cost += SELECT
        if run.cost > run.limit:
            raise CostExceeded
        return index_optional(value, name) if optional else _field(value, name)

    return select


# Calls


def _function(name: str, overloads: Sequence[str]) -> Function:
    if len(overloads) == 1 and overloads[0] in listing.BY_OVERLOAD:
        return listing.BY_OVERLOAD[overloads[0]]
    if name.startswith("format.") and name[7:] in FORMATS:
        return lambda: kubernetes.Format(name[7:])
    for known in (standard.FUNCTIONS, text.FUNCTIONS, formatting.FUNCTIONS, listing.FUNCTIONS, kubernetes.FUNCTIONS):
        if name in known:
            return known[name]
    raise KeyError(name)


def _call(node: Call) -> Step:
    given = [node.target, *node.args] if node.target is not None else node.args
    match node.function:
        case "_&&_":
            return _logic(given, False)
        case "_||_":
            return _logic(given, True)
        case "_?_:_":
            return _conditional(given)
        case "@not_strictly_false":
            return _not_strictly_false(given[0])
        case "or" | "orValue":
            return _alternative(given, node.function == "orValue")
        case "_+_" if _appends(given):
            return _append(given)
        case "_[_]" if not isinstance(given[1], Literal):
            return _computed_index(given)
    return _plain(_function(node.function, node.overloads), price(node.function, node.overloads), given)


def _plain(function: Function, cost: Price | int, given: Sequence[Node]) -> Step:
    steps = [step_of(arg) for arg in given]
    if isinstance(cost, int) and len(steps) == 2:
        return _binary(function, cost, *steps)
    if isinstance(cost, int):
        fixed = cost

        def call_fixed(run: Run) -> Any:
            args = [step(run) for step in steps]
            run.pay(fixed)
            return function(*args)

        return call_fixed
    priced = cost

    def call(run: Run) -> Any:
        args = [step(run) for step in steps]
        try:
            run.pay(priced(args))
        except (TypeError, AttributeError):
            raise no_overload() from None
        try:
            return function(*args)
        except (TypeError, AttributeError):
            raise no_overload() from None

    return call


def _binary(function: Function, cost: int, left: Step, right: Step) -> Step:
    def call(run: Run) -> Any:
        a = left(run)
        b = right(run)
        run.cost += cost
        if run.cost > run.limit:
            raise CostExceeded
        return function(a, b)

    return call


def _logic(given: Sequence[Node], decides: bool) -> Step:
    """`&&` and `||`: either operand may decide, even when the other has no value."""
    left, right = map(step_of, given)

    def logic(run: Run) -> bool:
        error: EvaluationError | None = None
        try:
            a = left(run)
            if a is decides:
                return decides
            if a.__class__ is not bool:
                error = no_overload()
        except EvaluationError as err:
            error = err
        b = right(run)
        if b is decides:
            return decides
        if error is not None:
            raise error
        if b.__class__ is not bool:
            raise no_overload()
        return not decides

    return logic


def _conditional(given: Sequence[Node]) -> Step:
    condition, yes, no = map(step_of, given)

    def conditional(run: Run) -> Any:
        found = condition(run)
        if found.__class__ is not bool:
            raise no_overload()
        return yes(run) if found else no(run)

    return conditional


def _not_strictly_false(node: Node) -> Step:
    step = step_of(node)

    def goes_on(run: Run) -> bool:
        run.pay(1)
        try:
            return step(run) is not False
        except EvaluationError:
            return True

    return goes_on


def _alternative(given: Sequence[Node], unwraps: bool) -> Step:
    first, other = map(step_of, given)

    def alternative(run: Run) -> Any:
        found = first(run)
        if not isinstance(found, Optional):
            raise no_overload()
        run.pay(1)
        if found.present:
            return found.value if unwraps else found
        return other(run)

    return alternative


def _computed_index(given: Sequence[Node]) -> Step:
    container, key = map(step_of, given)

    def read(run: Run) -> Any:
        within = container(run)
        wanted = key(run)
        run.pay(SELECT)
        return index(within, wanted)

    return read


def _appends(given: Sequence[Node]) -> bool:
    first, second = given
    return (
        isinstance(first, Ident)
        and first.name == ACCUMULATOR
        and isinstance(second, ListNode)
        and len(second.elements) == 1
    )


def _append(given: Sequence[Node]) -> Step:
    """What `map` and `filter` do at each step: the list that grows is their own, so it grows in place."""
    grown = step_of(given[0])
    assert isinstance(given[1], ListNode)
    element = step_of(given[1].elements[0])

    def append(run: Run) -> list[Any]:
        values: list[Any] = grown(run)
        value = element(run)
        run.pay(LIST + 1)
        values.append(value)
        return values

    return append


# Lists, maps, loops


def _list(node: ListNode) -> Step:
    steps = [step_of(element) for element in node.elements]
    optional = node.optional

    def make(run: Run) -> list[Any]:
        run.pay(LIST)
        made: list[Any] = []
        for step, skips in zip(steps, optional, strict=True):
            value = step(run)
            if not skips:
                made.append(value)
            elif not isinstance(value, Optional):
                raise no_overload()
            elif value.present:
                made.append(value.value)
        return made

    return make


def _map(node: MapNode) -> Step:
    entries = [(step_of(key), step_of(value), optional) for key, value, optional in node.entries]

    def make(run: Run) -> dict[Any, Any]:
        run.pay(MAP)
        made: dict[Any, Any] = {}
        for key_step, value_step, optional in entries:
            key, value = key_step(run), value_step(run)
            if not isinstance(key, str | int):
                raise EvaluationError("unsupported key type")
            if optional:
                if not isinstance(value, Optional):
                    raise no_overload()
                if not value.present:
                    continue
                value = value.value
            if key in made:
                raise EvaluationError(f"Failed with repeated key: {standard.text_of(key)}")
            made[key] = value
        return made

    return make


_MISSING = object()


def _fold(node: Fold) -> Step:
    over, initial, step, result = map(step_of, (node.over, node.initial, node.step, node.result))
    always = isinstance(node.condition, Literal)
    condition = step_of(node.condition)
    first, second, accumulator = node.first, node.second, node.accumulator

    def loop(run: Run) -> Any:
        pairs = _iterated(over(run), bool(second))
        variables = run.variables
        before = [(name, variables.get(name, _MISSING)) for name in (first, second, accumulator)]
        variables[accumulator] = initial(run)
        try:
            for key, value in pairs:
                if not (condition(run) if not always else True):
                    break
                variables[first] = key
                if second:
                    variables[second] = value
                try:
                    variables[accumulator] = step(run)
                except EvaluationError as err:
                    if always:
                        raise
                    variables[accumulator] = err
            if second:
                variables.pop(second, None)
            variables.pop(first, None)
            return result(run)
        finally:
            for name, value in before:
                if value is _MISSING:
                    variables.pop(name, None)
                else:
                    variables[name] = value

    return loop


def _iterated(over: Any, pairs: bool) -> Iterator[tuple[Any, Any]] | Iterable[tuple[Any, Any]]:
    """(element or key, nothing) or (index or key, value) of what a loop goes over."""
    if isinstance(over, list):
        return enumerate(over) if pairs else ((value, None) for value in over)
    if isinstance(over, dict):
        return list(over.items())
    if isinstance(over, Object):
        return [(name, over.get(name)) for name in over.names()]
    raise no_overload()


def _bind(node: Bind) -> Step:
    value, result, name = step_of(node.value), step_of(node.result), node.name

    def bind(run: Run) -> Any:
        variables = run.variables
        before = variables.get(name, _MISSING)
        run.pay(LIST)
        variables[name] = value(run)
        try:
            return result(run)
        finally:
            if before is _MISSING:
                del variables[name]
            else:
                variables[name] = before

    return bind
