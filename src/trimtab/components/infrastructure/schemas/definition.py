"""From a provider's schema to CustomResourceDefinitions: no code is generated, and a kind costs nothing until it is enabled.

    spec.forProvider     what a user may give, all the time      spec.initProvider   what only making it needs
    spec.references      fields that are another resource's output
    status.atProvider    what the provider says, without what is sensitive

A sensitive field that is given is `nameSecretRef`; one that comes back is in the connection Secret alone. What a provider checks beyond
types (ranges, "exactly one of") its schema does not say: it is asked when an object is admitted.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from trimtab.api import JSON
from trimtab.components.infrastructure.protocol.schema import Attribute, Block, NestedBlock, NestedType, Nesting, Schema
from trimtab.components.infrastructure.protocol.types import Type
from trimtab.components.infrastructure.schemas import naming

LEVELS = 12
"""So many levels of blocks are said; deeper ones are open: some providers' nest in themselves (rules of firewalls within rules)."""
LEVELS_LEAST = 3
BYTES_MAX = 700_000
"""Of a definition as JSON: an API server keeps no object above 1.5 MB, and every client reads this one. A bigger one has fewer levels."""
OPEN: JSON = {"x-kubernetes-preserve-unknown-fields": True}
DESCRIPTION_MAX = 400
CATEGORIES = ("infrastructure", "managed")
"""What `kubectl get` takes for all of them, beside the provider's name; who comes from Crossplane types `managed`."""
FOR_PROVIDER = "What it should be, by the provider's fields."
INIT_PROVIDER = "Fields that only making it needs: what becomes of them later is nobody's concern."
AT_PROVIDER = "What the provider says of it, without what is sensitive."

CEL_WORDS = frozenset(
    [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ]
)

SECRET_KEY: JSON = {
    "type": "object",
    "required": ["name", "key"],
    "properties": {"name": {"type": "string"}, "key": {"type": "string"}},
    "description": "A key of a Secret in this namespace.",
}


def definition(provider: str, resource: str, schema: Schema, common: JSON, status: JSON) -> JSON:
    """The CustomResourceDefinition of one resource of a provider.

    common: properties of `spec` that every kind has beside its own; status: those of `status`.
    """
    for levels in range(LEVELS, LEVELS_LEAST, -1):
        made = _definition(provider, resource, schema, common, status, levels)
        if len(msgspec.json.encode(made)) <= BYTES_MAX:
            return made
    return _definition(provider, resource, schema, common, status, LEVELS_LEAST)


def _definition(provider: str, resource: str, schema: Schema, common: JSON, status: JSON, levels: int) -> JSON:
    kind, group = naming.kind_name(provider, resource), naming.group(provider)
    top = schema.block
    given = block_schema(top, given=True, levels=levels)
    shallow = block_schema(top, given=True, levels=1)
    spec: JSON = {
        "type": "object",
        "properties": {
            **common,
            "forProvider": {**given, "description": FOR_PROVIDER},
            "initProvider": {**shallow, "description": INIT_PROVIDER},
        },
        "required": ["forProvider"],
    }
    if rules := required_rules(top):
        spec["x-kubernetes-validations"] = rules
    shown = {**block_schema(top, given=False, levels=levels), "description": AT_PROVIDER}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{naming.plural(kind)}.{group}",
            "labels": {"trimtab.dev/provider": provider},
            "annotations": {"trimtab.dev/resource": resource},
        },
        "spec": {
            "group": group,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": naming.plural(kind),
                "singular": kind.lower(),
                "categories": [*CATEGORIES, provider],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": naming.VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": _short(schema.block.description),
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": spec,
                                "status": {"type": "object", "properties": {**status, "atProvider": shown}},
                            },
                        }
                    },
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": COLUMNS,
                }
            ],
        },
    }


COLUMNS: list[JSON] = [
    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"},
    {"name": "Synced", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Synced')].status"},
    {"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Synced')].reason"},
    {"name": "Id", "type": "string", "jsonPath": ".status.id"},
    {"name": "Plan", "type": "string", "jsonPath": ".status.plan.action"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]


def required_rules(block: Block) -> list[JSON]:
    """What must be given at the top, given or referred to: one rule a field, so that the refusal names it."""
    rules = []
    for name, attribute in sorted(block.attributes.items()):
        if not attribute.required or attribute.implied.kind in ("dynamic", "tuple"):
            continue  # of an untyped field no rule can speak: the provider says that it is missing
        plainly = naming.of_block(block)[name]
        mine = plainly + (naming.SECRET_REF if attribute.secret else "")
        first = f" || r.field == '{mine}[0]'" if attribute.implied.kind in ("list", "set") else ""
        fresh = f" || (has(self.ephemeral) && '{plainly}' in self.ephemeral)" if attribute.write_only else ""
        rules.append(
            {
                "rule": f"has(self.forProvider.{cel(mine)}) || (has(self.initProvider) && has(self.initProvider.{cel(mine)}))"
                f" || (has(self.references) && self.references.exists(r, r.field == '{mine}'{first})){fresh}",
                "message": f"forProvider.{mine} is required: give it here, in initProvider, or as a reference",
            }
        )
    return rules


def cel(name: str) -> str:
    """A field's name as a rule spells it: words of the language are escaped."""
    if name in CEL_WORDS:
        return f"__{name}__"
    return name.replace("__", "__underscores__")


def block_schema(block: Block, *, given: bool, levels: int, top: bool = True) -> JSON:
    """The schema of a block: of what may be given, or of what is shown (all but what is sensitive)."""
    if levels <= 0:
        return {"type": "object", **OPEN}
    names = naming.of_block(block)
    out = _fields(block.attributes, names, given=given, levels=levels)
    for name, nested in block.blocks.items():
        out["properties"][names[name]] = _nested_block(nested, given=given, levels=levels - 1, top=top)
        if given and not top and nested.min_items and nested.nesting in ("list", "set"):
            out.setdefault("required", []).append(names[name])
    if block.description and not top:
        out["description"] = _short(block.description)
    return out


def _fields(attributes: Mapping[str, Attribute], names: Mapping[str, str], *, given: bool, levels: int) -> JSON:
    """What is required may be a reference, of which no rule can speak here: `required_rules`, `mapping.configured`."""
    properties: JSON = {}
    for name, attribute in attributes.items():
        if given and not attribute.given:
            continue
        if not given and attribute.secret:
            continue
        mine = names[name]
        if given and attribute.secret:
            mine, schema = mine + naming.SECRET_REF, dict(SECRET_KEY)
        else:
            schema = _attribute(attribute, given=given, levels=levels - 1)
        if described := _described(attribute):
            schema["description"] = described
        properties[mine] = schema
    return {"type": "object", "properties": properties}


def _attribute(attribute: Attribute, *, given: bool, levels: int) -> JSON:
    if attribute.nested is not None:
        return _nested_type(attribute.nested, given=given, levels=levels)
    assert attribute.type is not None
    return type_schema(attribute.type, levels)


def _nested_type(nested: NestedType, *, given: bool, levels: int) -> JSON:
    if levels <= 0:
        return _nest(nested.nesting, {"type": "object", **OPEN})
    element = _fields(nested.attributes, naming.of_attributes(nested.attributes), given=given, levels=levels)
    return _nest(nested.nesting, element)


def _nested_block(nested: NestedBlock, *, given: bool, levels: int, top: bool) -> JSON:
    out = _nest(nested.nesting, block_schema(nested.block, given=given, levels=levels, top=False))
    if given and out["type"] == "array":
        if nested.min_items and not top:
            out["minItems"] = nested.min_items
        if nested.max_items:
            out["maxItems"] = nested.max_items
    return out


def _nest(nesting: Nesting, element: JSON) -> JSON:
    match nesting:
        case "list" | "set":
            return {"type": "array", "x-kubernetes-list-type": "atomic", "items": element}
        case "map":
            return {"type": "object", "additionalProperties": element}
        case _:
            return element


def type_schema(of: Type, levels: int = LEVELS) -> JSON:
    """The schema of values of a type. Objects within have their fields named as everywhere."""
    match of.kind:
        case "string" | "number":
            return {"type": of.kind}
        case "bool":
            return {"type": "boolean"}
        case "object" if levels <= 0:
            return {"type": "object", **OPEN}
        case "list":
            return {"type": "array", "items": _element(of, levels)}
        case "set":
            assert of.element is not None
            scalar = of.element.kind in ("string", "number", "bool")
            return {
                "type": "array",
                "x-kubernetes-list-type": "set" if scalar else "atomic",
                "items": _element(of, levels),
            }
        case "map":
            return {"type": "object", "additionalProperties": _element(of, levels)}
        case "object" if of.attributes:
            names = naming.of_object(of.attributes)
            return {
                "type": "object",
                "properties": {names[name]: type_schema(one, levels - 1) for name, one in of.attributes.items()},
            }
        case _:
            return dict(OPEN)


def _element(of: Type, levels: int) -> JSON:
    assert of.element is not None
    return type_schema(of.element, levels - 1)


def _described(attribute: Attribute) -> str:
    text = _short(attribute.description)
    if attribute.deprecated:
        note = attribute.deprecated if attribute.deprecated != "deprecated" else "the provider names no substitute"
        text = f"{text} Deprecated: {_short(note)}".strip()
    return text


def _short(text: str) -> str:
    """The first sentences of a description: schemas are read by every client."""
    line = " ".join(text.split())
    if len(line) <= DESCRIPTION_MAX:
        return line
    cut = line.rfind(". ", 0, DESCRIPTION_MAX)
    return line[: cut + 1] if cut > 0 else line[: DESCRIPTION_MAX - 1] + "…"
