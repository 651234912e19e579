"""A provider's schema -> a Python file with a class for each of its kinds, so that a type checker knows a function's fields.

    cloud_server {name, disk {size}}  -->  class ServerDisk(Fields), class ServerFields(Fields), class Server(Managed[ServerFields])

The file is the function's own from then on: it needs nothing but `trimtab.compose`, and goes into its package, or above its source.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable

from trimtab.components.infrastructure.protocol.schema import Attribute, Block, NestedBlock, NestedType, ProviderSchema
from trimtab.components.infrastructure.protocol.types import Type
from trimtab.components.infrastructure.schemas import naming
from trimtab.compose import camel

LEVELS = 8
"""So many levels of blocks have classes; what is deeper is open."""
TEXT_MAX = 160
SCALARS = {"string": "str", "number": "float", "bool": "bool"}
OPEN = "Any"


def stubs(provider: str, version: str, schema: ProviderSchema, resources: Iterable[str]) -> str:
    """The file. Raises `KeyError`: a resource that the provider has not."""
    file = _File()
    for resource in sorted(resources):
        file.kind(provider, resource, schema.resources[resource].block)
    head = (
        f'"""Kinds of the provider {provider} {version}: written by `trimtab provider stubs {provider}`, to be written again after an upgrade."""\n\n'
        "from __future__ import annotations\n\nfrom collections.abc import Mapping\nfrom dataclasses import dataclass\n"
        "from typing import Any, ClassVar\n\nfrom trimtab.compose import Fields, Managed, SecretKey\n"
    )
    listed = "".join(f'    "{name}",\n' for name in sorted(file.names))
    body = "".join(file.parts)
    for unused in ("SecretKey", "Mapping", "Any"):  # a linter's word on files that are kept
        if not re.search(rf"\b{unused}\b", body):
            head = head.replace(f", {unused}", "").replace(
                "from collections.abc import Mapping\n",
                "" if unused == "Mapping" else "from collections.abc import Mapping\n",
            )
            head = head.replace("import Any, ClassVar", "import ClassVar") if unused == "Any" else head
    return head + body + f"\n\n__all__ = [\n{listed}]\n"


class _File:
    def __init__(self) -> None:
        self.parts: list[str] = []
        self.names: set[str] = set()

    def kind(self, provider: str, resource: str, block: Block) -> None:
        kind = naming.kind_name(provider, resource)
        fields = self._block(f"{kind}Fields", kind, block, f"{resource}. {_text(block.description)}".strip(), LEVELS)
        self.names.add(kind)
        self.parts.append(
            f"\n\nclass {kind}(Managed[{fields}]):\n    API_VERSION: ClassVar[str] = "
            f'"{naming.group(provider)}/{naming.VERSION}"\n    KIND: ClassVar[str] = "{kind}"\n'
        )

    def _block(self, name: str, path: str, block: Block, doc: str, levels: int) -> str:
        names = naming.of_block(block)
        lines = [
            line
            for one, attribute in sorted(block.attributes.items())
            if attribute.given
            for line in self._attribute(one, names[one], attribute, path, levels)
        ]
        for one, nested in sorted(block.blocks.items()):
            inner = self._nested(nested, path, one, levels)
            lines += _field(names[one], one, inner, nested.min_items > 0 and nested.nesting in ("list", "set"), "")
        return self._class(name, doc, lines)

    def _class(self, name: str, doc: str, lines: list[tuple[str, str, str]]) -> str:
        while name in self.names:
            name += "_"
        self.names.add(name)
        other = {attribute: mine for attribute, mine, _ in lines if camel(attribute) != mine}
        body = [f'    """{_text(doc)}"""\n\n'] if doc else []
        if other:
            body.append(f"    NAMES: ClassVar[Mapping[str, str]] = {other!r}\n")
        body += [line for _, _, line in sorted(lines, key=lambda line: " = None" in line[2])]
        self.parts.append(f"\n\n@dataclass(kw_only=True)\nclass {name}(Fields):\n" + ("".join(body) or "    pass\n"))
        return name

    def _attribute(
        self, name: str, mine: str, attribute: Attribute, path: str, levels: int
    ) -> list[tuple[str, str, str]]:
        doc = _text(attribute.description)
        if attribute.secret:
            return _field(mine + naming.SECRET_REF, f"{name}_secret_ref", "SecretKey", attribute.required, doc)
        if attribute.nested is not None:
            of = self._nested_type(attribute.nested, path, name, levels)
        else:
            assert attribute.type is not None
            of = self._type(attribute.type, path, name, levels)
        return _field(mine, name, of, attribute.required, doc)

    def _nested(self, nested: NestedBlock, path: str, name: str, levels: int) -> str:
        if levels <= 1:
            return _within(nested.nesting, OPEN)
        inner = self._block(
            _joined(path, name), _joined(path, name), nested.block, nested.block.description, levels - 1
        )
        return _within(nested.nesting, inner)

    def _nested_type(self, nested: NestedType, path: str, name: str, levels: int) -> str:
        if levels <= 1:
            return _within(nested.nesting, OPEN)
        names = naming.of_attributes(nested.attributes)
        whole = _joined(path, name)
        lines = [
            line
            for one, attribute in sorted(nested.attributes.items())
            if attribute.given
            for line in self._attribute(one, names[one], attribute, whole, levels - 1)
        ]
        return _within(nested.nesting, self._class(whole, "", lines))

    def _type(self, of: Type, path: str, name: str, levels: int) -> str:
        if of.kind in SCALARS:
            return SCALARS[of.kind]
        if of.element is not None:
            return _within(of.kind, self._type(of.element, path, name, levels - 1))
        if of.kind == "object" and of.attributes and levels > 1:
            names = naming.of_object(of.attributes)
            whole = _joined(path, name)
            lines: list[tuple[str, str, str]] = []
            for one, inner in sorted(of.attributes.items()):
                lines += _field(names[one], one, self._type(inner, whole, one, levels - 1), False, "")
            return self._class(whole, "", lines)
        return OPEN


def _joined(path: str, name: str) -> str:
    mine = camel(re.sub(r"\W", "_", name))
    return path + mine[:1].upper() + mine[1:]


def _within(nesting: str, inner: str) -> str:
    match nesting:
        case "list" | "set":
            return f"list[{inner}]"
        case "map":
            return f"Mapping[str, {inner}]"
        case _:
            return inner


def _field(mine: str, name: str, of: str, required: bool, doc: str) -> list[tuple[str, str, str]]:
    """(attribute, name in the API, lines)."""
    attribute = re.sub(r"\W", "_", name)
    if attribute[:1].isdigit():
        attribute = f"_{attribute}"
    if keyword.iskeyword(attribute) or attribute == "NAMES":
        attribute += "_"
    optional = "" if required else (" = None" if of == OPEN else " | None = None")
    return [(attribute, mine, f"    {attribute}: {of}{optional}\n" + (f'    """{doc}"""\n' if doc else ""))]


def _text(text: str) -> str:
    """A description as it can stand between quotes."""
    line = " ".join(text.replace("\\", "/").replace('"', "'").split())
    return line if len(line) <= TEXT_MAX else line[: TEXT_MAX - 1] + "…"


__all__ = ["stubs"]
