"""Folded stacks, one a line, root first: `main;work;read 42`, what flamegraph.pl and most other tools read."""

from __future__ import annotations

from trimtab.components.profiling.formats.names import Symbolizer, stacks_of_names
from trimtab.components.profiling.storage.selection import Selection


def encode(selection: Selection, symbolizer: Symbolizer) -> bytes:
    """A selection in its unit; a `;`, a line break or a space at the end in a name is a `_`."""
    names, stacks = stacks_of_names(selection, symbolizer)
    texts = [" ".join(name.replace(";", "_").splitlines()).rstrip() or "_" for name, _, _ in names]
    sums: dict[str, int] = {}
    for stack, value in zip(stacks, selection.values.tolist(), strict=True):
        key = ";".join(texts[index] for index in reversed(stack))
        sums[key] = sums.get(key, 0) + value
    return "".join(f"{key} {value}\n" for key, value in sorted(sums.items()) if key).encode(errors="replace")
