"""Who reads, owns and writes what: the declarations of components as a graph, for `trimtab graph` and the docs.

The graph is not a drawing of the program but the program's own declarations, the ones that are enforced at run time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from trimtab.api import JSON, Resource
from trimtab.runtime.component import Component

Relation = Literal["subject", "reads", "owns", "writes", "posts"]
RELATIONS: tuple[Relation, ...] = ("subject", "reads", "owns", "writes", "posts")


@dataclass(frozen=True, order=True)
class Edge:
    """`who` (component.reconciler) relates to a kind; `detail` names the fields written, "shared", "retained" or "effects"."""

    who: str
    relation: Relation
    kind: str
    detail: str = ""


@dataclass(frozen=True)
class Graph:
    edges: tuple[Edge, ...]

    def to_json(self) -> JSON:
        return {
            "edges": [
                {"who": e.who, "relation": e.relation, "kind": e.kind} | ({"detail": e.detail} if e.detail else {})
                for e in self.edges
            ]
        }

    def to_text(self) -> str:
        """For each reconciler and service, a block with what it does to which kinds."""
        blocks: list[str] = []
        for who in dict.fromkeys(edge.who for edge in self.edges):
            lines = [who]
            for relation in RELATIONS:
                found = [edge for edge in self.edges if edge.who == who and edge.relation == relation]
                if found:
                    kinds = ", ".join(edge.kind + (f" ({edge.detail})" if edge.detail else "") for edge in found)
                    lines.append(f"  {relation:<8} {kinds}")
            blocks.append("\n".join(lines))
        return "\n".join(blocks)

    def to_dot(self) -> str:
        """Graphviz: kinds as boxes, reconcilers as ellipses; arrows in the direction of the data."""
        lines = ["digraph trimtab {", "  rankdir=LR;", '  node [fontname="sans-serif"];']
        lines += [f'  "{kind}" [shape=box];' for kind in sorted({edge.kind for edge in self.edges})]
        for edge in self.edges:
            if edge.relation in ("subject", "reads"):
                style = "" if edge.relation == "subject" else " [style=dashed]"
                lines.append(f'  "{edge.kind}" -> "{edge.who}"{style};')
            else:
                label = f' [label="{edge.detail}"]' if edge.relation in ("writes", "posts") else ""
                lines.append(f'  "{edge.who}" -> "{edge.kind}"{label};')
        return "\n".join([*lines, "}"])


def graph(components: Iterable[Component]) -> Graph:
    """The graph of what these components declare."""
    edges: list[Edge] = []
    for component in components:
        for reconciler in component.reconcilers:
            who = f"{component.name}.{reconciler.name}"
            edges.append(Edge(who, "subject", _name(reconciler.subject), "effects" if reconciler.effects else ""))
            edges += [Edge(who, "reads", _name(kind)) for kind in reconciler.reads]
            edges += [Edge(who, "owns", _name(o.kind), _ownership(o.shared, o.retain)) for o in reconciler.owns]
            edges += [Edge(who, "writes", _name(w.kind), ", ".join(w.fields)) for w in reconciler.writes]
        for service in component.services:
            who = f"{component.name}.{service.name}"
            edges += [Edge(who, "reads", _name(kind)) for kind in service.reads]
            edges += [Edge(who, "owns", _name(o.kind), _ownership(o.shared, o.retain)) for o in service.owns]
            edges += [Edge(who, "writes", _name(w.kind), ", ".join(w.fields)) for w in service.writes]
            edges += [Edge(who, "posts", _name(p.kind), p.subresource) for p in service.posts]
    return Graph(tuple(edges))


def conflicts(components: Iterable[Component]) -> list[str]:
    """Kinds that one component wants for itself and another creates too; one line each."""
    owners: dict[type[Resource], dict[str, bool]] = {}
    for component in components:
        for reconciler in component.reconcilers:
            for owned in reconciler.owns:
                by = owners.setdefault(owned.kind, {})
                by[component.name] = by.get(component.name, True) and owned.shared
    lines: list[str] = []
    for kind, by in owners.items():
        exclusive = sorted(name for name, shared in by.items() if not shared)
        if exclusive and len(by) > 1:
            others = sorted(by.keys() - {exclusive[0]})
            lines.append(f"{_name(kind)} is owned by {exclusive[0]} alone, but {', '.join(others)} creates it too")
    return lines


def _name(kind: type[Resource]) -> str:
    place = kind.resource_type
    return f"{place.kind}.{place.group}" if place.group else place.kind


def _ownership(shared: bool, retain: bool) -> str:
    return ", ".join(word for word, true in (("exclusive", not shared), ("retained", retain)) if true)
