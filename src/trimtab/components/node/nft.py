"""One nftables table as a value: its text, and the text that turns what stands into what should stand.

    rules.py, policies.py -> Table -> replacement() at the start, delta() for each change -> `nft -f -`, one transaction

A delta names only the chains and elements that differ, so that one endpoint of a thousand services costs one element, and
what the kernel itself keeps in the table (affinity of clients) survives. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

ELEMENTS_PER_LINE = 512
"""A line of thousands of elements is slow to parse."""


@dataclass(frozen=True)
class Chain:
    """Rules in order. hook: the line that makes it a base chain; "" for one that is jumped to."""

    rules: tuple[str, ...]
    hook: str = ""


@dataclass(frozen=True)
class Set:
    """A set or (with `:` in its type) a map. elements: key -> value, "" in a set. traits: further lines, as flags."""

    type: str
    elements: Mapping[str, str] = field(default_factory=dict)
    traits: tuple[str, ...] = ()

    @property
    def keyword(self) -> str:
        return "map" if " : " in self.type else "set"


@dataclass(frozen=True)
class Table:
    sets: Mapping[str, Set]
    chains: Mapping[str, Chain]

    def __or__(self, other: Table) -> Table:
        return Table({**self.sets, **other.sets}, {**self.chains, **other.chains})


def replacement(name: str, table: Table) -> str:
    """The text that replaces the whole table, whatever is in it."""
    lines = [f"add table ip {name}", f"delete table ip {name}", f"table ip {name} {{"]
    for set_name, one in table.sets.items():
        lines += [f"{one.keyword} {set_name} {{", f"type {one.type}", *one.traits]
        if one.elements:
            lines.append(f"elements = {{ {', '.join(_elements(one.elements.items()))} }}")
        lines.append("}")
    for chain_name, chain in table.chains.items():
        lines += [f"chain {chain_name} {{", *([chain.hook] if chain.hook else []), *chain.rules, "}"]
    return "\n".join([*lines, "}"]) + "\n"


def delta(name: str, old: Table, new: Table) -> str | None:
    """The text that turns `old` into `new`; "" when they are equal, None when only a replacement can (the frame changed).

    Additions come before what refers to them, removals after what referred to them.
    """
    for set_name, one in new.sets.items():
        before = old.sets.get(set_name)
        if before is not None and (before.type, before.traits) != (one.type, one.traits):
            return None
    hooks = {n: c.hook for n, c in old.chains.items() if c.hook}
    if hooks != {n: c.hook for n, c in new.chains.items() if c.hook}:
        return None
    lines = []
    for set_name, one in new.sets.items():
        if set_name not in old.sets:
            lines.append(
                f"add {one.keyword} ip {name} {set_name} {{ {'; '.join((f'type {one.type}', *one.traits))}; }}"
            )
    lines += [f"add chain ip {name} {chain}" for chain in new.chains if chain not in old.chains]
    added: list[str] = []
    for set_name in {**old.sets, **new.sets}:
        before = old.sets.get(set_name)
        after = new.sets.get(set_name)
        was = before.elements if before is not None else {}
        now = after.elements if after is not None else {}
        gone = [key for key, value in was.items() if now.get(key) != value]
        come = [(key, value) for key, value in now.items() if was.get(key) != value]
        lines += _commands("delete", name, set_name, gone)
        added += _commands("add", name, set_name, list(_elements(come)))
    removed = [chain for chain in old.chains if chain not in new.chains]
    lines += [f"flush chain ip {name} {chain}" for chain in removed]
    for chain_name, chain in new.chains.items():
        if old.chains.get(chain_name) != chain:
            if chain_name in old.chains:
                lines.append(f"flush chain ip {name} {chain_name}")
            lines += [f"add rule ip {name} {chain_name} {rule}" for rule in chain.rules]
    lines += added
    lines += [f"delete chain ip {name} {chain}" for chain in removed]
    lines += [f"delete {one.keyword} ip {name} {n}" for n, one in old.sets.items() if n not in new.sets]
    return "\n".join(lines) + "\n" if lines else ""


def _elements(pairs: Iterable[tuple[str, str]]) -> Iterable[str]:
    return (f"{key} : {value}" if value else key for key, value in pairs)


def _commands(verb: str, table: str, set_name: str, elements: list[str]) -> list[str]:
    return [
        f"{verb} element ip {table} {set_name} {{ {', '.join(elements[start : start + ELEMENTS_PER_LINE])} }}"
        for start in range(0, len(elements), ELEMENTS_PER_LINE)
    ]
