"""What an expression can cost at most, estimated from its form and the bounds in the schema, before it ever runs.

A CRD whose rules could cost too much is refused when it is written; the error says to bound lists, maps and strings. The estimate is
that of cel-go (`checker/cost.go`) with Kubernetes' libraries (`apiserver/pkg/cel/library/cost.go`), figure by figure, since it
decides which CRDs are taken. `path` leads from a variable to what an expression reads, so that the schema's bounds can be looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from trimtab.server.cel import call_estimates
from trimtab.server.cel.costs import LIST, MAP, SELECT
from trimtab.server.cel.ranges import ONE, UNKNOWN, ZERO, Range
from trimtab.server.cel.syntax import Bind, Call, Fold, Ident, ListNode, Literal, MapNode, Node, Select
from trimtab.server.cel.types import SCALARS, Declared, Type, unwrapped

Path = tuple[str, ...]


class Entries(NamedTuple):
    """How large the keys and values of a list or map are."""

    kind: str
    key: Range
    value: Range

    def union(self, other: Entries | None) -> Entries | None:
        return None if other is None else Entries(self.kind, self.key.union(other.key), self.value.union(other.value))


class _Local(NamedTuple):
    path: Path
    size: Range | None
    entries: Entries | None


class Estimator:
    """Estimates expressions over what one type declares."""

    def __init__(self, root: Declared) -> None:
        self._root = root
        self._locals: dict[str, list[_Local]] = {}
        self._paths: dict[Node, Path] = {}
        self._sizes: dict[Node, Range] = {}
        self._entries: dict[Node, Entries] = {}

    def cost(self, node: Node) -> Range:
        """The least and the greatest cost."""
        match node:
            case Literal():
                return ZERO
            case Ident():
                local = self._local(node.name)
                self._paths[node] = local.path if local else (node.name,)
                return Range(SELECT, SELECT)
            case Select():
                return self._select(node)
            case Call():
                return self._call(node)
            case ListNode():
                return self._list(node)
            case MapNode():
                return self._map(node)
            case Fold():
                return self._fold(node)
            case Bind():
                return self._bind(node)
        raise TypeError(type(node).__name__)

    # Sizes

    def size(self, node: Node) -> Range:
        """How large the value of an expression is."""
        return self.known_size(node) or UNKNOWN

    def known_size(self, node: Node) -> Range | None:
        found = self._sizes.get(node) or _literal_size(node)
        if found is not None:
            return found
        declared = self.declared_size(self.path(node))
        if declared is not None:
            self._sizes[node] = declared
            return declared
        if _is_scalar(node.type):
            return ONE
        local = self._local(node.name) if isinstance(node, Ident) else None
        return local.size if local else None

    def declared_size(self, path: Path) -> Range | None:
        """The bound that a schema gives. Whatever a path begins with, it is looked up from `root`, as Kubernetes does it."""
        if not path:
            return None
        declared: Declared | None = self._root
        for name in path[1:]:
            if declared is None:
                return None
            if name in ("@items", "@values"):
                declared = declared.element
            elif name == "@keys":
                declared = declared.key
            else:
                declared = declared.fields.get(name)
        if declared is None or declared.max_elements is None:
            return None
        return Range(0, declared.max_elements)

    def path(self, node: Node) -> Path:
        """Where a value comes from; empty when it is computed."""
        if isinstance(node, Ident):
            local = self._local(node.name)
            if local is not None:
                return local.path
        return self._paths.get(node, ())

    def element_size(self, node: Node) -> Range | None:
        """How large an element of a list is, as far as its path tells."""
        path = self.path(node)
        return self.declared_size((*path, "@items")) if path else None

    def _local(self, name: str) -> _Local | None:
        found = self._locals.get(name)
        return found[-1] if found else None

    def _push(self, name: str, local: _Local) -> None:
        self._locals.setdefault(name, []).append(local)

    def _entry_sizes(self, node: Node) -> Entries | None:
        found = self._entries.get(node)
        if found is None and isinstance(node, Ident) and (local := self._local(node.name)) is not None:
            return local.entries
        return found

    # Nodes

    def _select(self, node: Select) -> Range:
        cost = self.cost(node.operand)
        if node.test:
            return cost
        if node.optional:
            return cost.plus(ONE)
        self._paths[node] = (*self.path(node.operand), node.name)
        return cost.plus(Range(SELECT, SELECT)) if node.operand.type.kind in ("map", "object", "param") else cost

    def _list(self, node: ListNode) -> Range:
        total, item = ZERO, None
        for element in node.elements:
            total = total.plus(self.cost(element))
            size = self.size(element)
            item = size if item is None else item.union(size)
        self._entries[node] = Entries("list", ONE, item or ZERO)
        return total.plus(Range(LIST, LIST))

    def _map(self, node: MapNode) -> Range:
        total, keys, values = ZERO, None, None
        for key, value, _ in node.entries:
            total = total.plus(self.cost(key)).plus(self.cost(value))
            key_size, value_size = self.size(key), self.size(value)
            keys = key_size if keys is None else keys.union(key_size)
            values = value_size if values is None else values.union(value_size)
        self._entries[node] = Entries("map", keys or ZERO, values or ZERO)
        return total.plus(Range(MAP, MAP))

    def _call(self, node: Call) -> Range:
        if node.function == "dyn":
            cost = self.cost(node.args[0])
            self._copy(node, node.args[0])
            return ONE.plus(cost)
        args = [self.cost(arg) for arg in node.args]
        total = ZERO if node.target is None else self.cost(node.target)
        if not node.overloads:
            return ZERO
        found: Range | None = None
        result: Range | None = None
        for overload in node.overloads:
            cost, size = self._overload(node, overload, args)
            found = cost if found is None else found.union(cost)
            if size is not None:
                result = size if result is None else result.union(size)
            if overload in ("index_list", "index_map") and node.args:
                entries = self._entry_sizes(node.args[0])
                result = entries.value if entries else None
                before = self.path(node.args[0])
                self._paths[node] = (*before, "@items" if overload == "index_list" else "@values")
            if result is None:
                result = self.known_size(node)
        if result is not None:
            self._sizes[node] = result
        assert found is not None
        return total.plus(found)

    def _overload(self, node: Call, overload: str, args: Sequence[Range]) -> tuple[Range, Range | None]:
        """(cost, size of the result) of a call."""
        spent = ZERO
        for cost in args:
            spent = spent.plus(cost)
        if overload in ("logical_and", "logical_or"):
            return Range(args[0].least, args[0].plus(args[1]).most), None
        if overload == "conditional":
            self._merge_entries(node, node.args[1], node.args[2])
            size = self.size(node.args[1]).union(self.size(node.args[2]))
            return args[0].plus(args[1].union(args[2])), size
        if overload in ("add_string", "add_bytes", "add_list"):
            self._merge_entries(node, node.args[0], node.args[1])
        cost, size_of_result = call_estimates.estimate(self, node, overload)
        return cost.plus(spent), size_of_result

    def _merge_entries(self, node: Node, one: Node, other: Node) -> None:
        entries = self._entry_sizes(one)
        merged = entries.union(self._entry_sizes(other)) if entries else None
        if merged is not None:
            self._entries[node] = merged

    def _copy(self, node: Node, source: Node) -> None:
        size = self.known_size(source)
        if size is not None:
            self._sizes[node] = size
        entries = self._entry_sizes(source)
        if entries is not None:
            self._entries[node] = entries

    def _fold(self, node: Fold) -> Range:
        total = self.cost(node.over).plus(self.cost(node.initial))
        accumulated = _Local(self.path(node.initial), self.known_size(node.initial), self._entry_sizes(node.initial))
        self._push(node.accumulator, accumulated)
        entries = self._entry_sizes(node.over)
        kind = entries.kind if entries else node.over.type.kind
        path = self.path(node.over)

        def part(name: str, size: Range | None) -> _Local:
            return _Local((*path, name), size, None)

        key = part("@indices" if kind == "list" and node.second else "@keys", entries.key if entries else None)
        value = part("@items" if kind == "list" else "@values", entries.value if entries else None)
        self._push(node.first, value if kind == "list" and not node.second else key)
        if node.second:
            self._push(node.second, value)
        each = self.cost(node.condition).plus(self.cost(node.step))
        self._locals[node.first].pop()
        if node.second:
            self._locals[node.second].pop()
        total = total.plus(self.cost(node.result))
        self._locals[node.accumulator].pop()
        count = self.size(node.over)
        if isinstance(node.initial, Literal):
            size = self.known_size(node.initial)
            if size is not None:
                self._sizes[node] = size
        else:
            self._sizes[node] = count
            step_entries = self._entry_sizes(node.step)
            if step_entries is not None:
                self._entries[node] = step_entries
        return total.plus(count.times(each))

    def _bind(self, node: Bind) -> Range:
        total = Range(LIST, LIST).plus(self.cost(node.value))
        self._push(node.name, _Local(self.path(node.value), self.known_size(node.value), self._entry_sizes(node.value)))
        total = total.plus(self.cost(node.result))
        self._locals[node.name].pop()
        self._copy(node, node.result)
        return total


def _literal_size(node: Node) -> Range | None:
    match node:
        case Literal(value=str() | bytes()):
            return Range(len(node.value), len(node.value))
        case Literal():
            return ONE
        case ListNode():
            return Range(len(node.elements), len(node.elements))
        case MapNode():
            return Range(len(node.entries), len(node.entries))
    return None


def _is_scalar(t: Type) -> bool:
    held, optional = unwrapped(t)
    return _is_scalar(held) if optional else t.kind in SCALARS


def greatest_cost(node: Node, root: Declared) -> int:
    """The greatest cost of an expression in units; 2^64 - 1 when nothing bounds it."""
    return Estimator(root).cost(node).most
