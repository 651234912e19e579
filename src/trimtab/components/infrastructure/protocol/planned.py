"""What a provider plans, judged: what is given has to stay as it was given.

From the published description of a resource's life between core and provider: where something is given, the plan has it, or what was
there before when that means the same to the provider; where nothing is given and the provider computes nothing, the plan has nothing.
Providers of the older SDK ("legacy type system") are let off, and may say "", 0 or an empty list where nothing is meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from trimtab.components.infrastructure.protocol.schema import Attribute, Block, NestedBlock
from trimtab.components.infrastructure.protocol.types import Type
from trimtab.components.infrastructure.protocol.values import UNKNOWN, Value, ValueFault, fingerprint, plain, same


def nonsense(block: Block, prior: Value, config: Value, planned: Value) -> str:
    """What is wrong with a plan, in one clause that names the field; empty when nothing is."""
    if config is None or planned is UNKNOWN:
        return ""
    try:
        _block(block, prior, config, planned, "")
    except ValueFault as err:
        return str(err)
    return ""


def _block(block: Block, prior: Value, config: Value, planned: Value, path: str) -> None:
    if not isinstance(planned, dict):
        raise ValueFault(path, "it plans nothing where something is given")
    before = prior if isinstance(prior, dict) else {}
    _attributes(block.attributes, before, config, planned, path)
    for name, nested in block.blocks.items():
        _nested(nested, before.get(name), config.get(name), planned.get(name), _at(path, name))


def _attributes(
    attributes: Mapping[str, Attribute],
    prior: Mapping[str, Value],
    config: Mapping[str, Value],
    planned: Mapping[str, Value],
    path: str,
) -> None:
    for name, one in attributes.items():
        given, there = config.get(name), planned.get(name)
        if one.write_only or given is UNKNOWN or (there is UNKNOWN and (given is None and one.computed)):
            continue
        if given is None:
            if not one.computed and there is not None:
                raise ValueFault(_at(path, name), "nothing is given, and it plans something that it does not compute")
        elif (
            one.nested is None and not same(one.implied, given, there) and not same(one.implied, prior.get(name), there)
        ):
            raise ValueFault(_at(path, name), f"given is {_shown(one, given)}, planned is {_shown(one, there)}")


def _nested(nested: NestedBlock, prior: Value, config: Value, planned: Value, path: str) -> None:
    if config is UNKNOWN or planned is UNKNOWN:
        return
    match nested.nesting, config, planned:
        case (("list" | "set"), list(), list()) if len(config) == len(planned):
            if nested.nesting == "list":
                priors = prior if isinstance(prior, list) else []
                for i, one in enumerate(config):
                    if isinstance(one, dict):
                        _block(nested.block, priors[i] if i < len(priors) else None, one, planned[i], f"{path}[{i}]")
        case "map", dict(), dict() if config.keys() == planned.keys():
            for key, one in config.items():
                _block(
                    nested.block,
                    prior.get(key) if isinstance(prior, dict) else None,
                    one,
                    planned[key],
                    f"{path}.{key}",
                )
        case (("list" | "set" | "map"), _, _):
            raise ValueFault(path, f"{_count(config)} given, {_count(planned)} planned")
        case "single", None, None:
            return
        case "single", None, _:
            raise ValueFault(path, "nothing is given, and it plans something")
        case _, dict(), _:
            _block(nested.block, prior, config, planned, path)


def _count(value: Value) -> int:
    return len(value) if isinstance(value, list | dict) else 0


def _shown(attribute: Attribute, value: Value) -> str:
    return "(sensitive)" if attribute.sensitive else f"{plain(value)!r:.80}"


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def alike(of: Type, a: Value, b: Value) -> bool:
    """Whether two values mean the same to a provider that takes "", 0, false and what is empty for nothing."""
    return same(of, _bare(of, a), _bare(of, b))


def softened(of: Type, before: Value, after: Value) -> Value:
    """What comes after, but as it was wherever both are alike."""
    if before is None or after is None or after is UNKNOWN:
        return after if not alike(of, before, after) else before
    if of.kind == "object" and isinstance(before, dict) and isinstance(after, dict):
        return {n: softened(of.attributes[n], before.get(n), v) if n in of.attributes else v for n, v in after.items()}
    if of.kind == "list" and of.element is not None and isinstance(before, list) and isinstance(after, list):
        pairs = zip(before, after, strict=False)
        return [softened(of.element, a, b) for a, b in pairs] + after[len(before) :]
    if of.kind == "set" and of.element is not None and isinstance(before, list) and isinstance(after, list):
        element = of.element
        known = {fingerprint(element, _bare(element, one)): one for one in before}
        return [known.get(fingerprint(element, _bare(element, one)), one) for one in after]
    return before if alike(of, before, after) else after


def _bare(of: Type, value: Value) -> Value:
    """A value with null for everything that is empty, as deep as its objects go."""
    match value:
        case dict() if of.kind == "object":
            return {
                name: _bare(of.attributes[name], one) if name in of.attributes else one for name, one in value.items()
            }
        case list() if of.element is not None and value:
            return [_bare(of.element, one) for one in value]
        case bool() | str() | int() | float() | Decimal() | list() | dict() if not value:
            return None
    return value


__all__ = ["alike", "nonsense", "softened"]
