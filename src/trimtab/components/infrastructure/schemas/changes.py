"""What differs between two values of a kind, field by field, and because of whom.

prior (what we last knew), live (what is there), config (what is given), planned (what the provider would make of it)
    live -> planned: the changes;  each is `drift`, `spec` or `provider`
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from trimtab.components.infrastructure.protocol.schema import Block
from trimtab.components.infrastructure.protocol.types import DYNAMIC, Type
from trimtab.components.infrastructure.protocol.values import (
    UNKNOWN,
    Dynamic,
    Value,
    fingerprint,
    implied,
    plain,
    same,
)

Cause = Literal["drift", "spec", "provider"]
"""drift: it was as planned, and somebody changed it. spec: what is given has changed. provider: the provider makes it so."""

SENSITIVE = "(sensitive)"
ABSENT = "(absent)"


class Difference(Struct, frozen=True):
    """One place in which two values differ. path is in the provider's names; before and after are as `plain` gives them."""

    path: str
    before: Any
    after: Any


class Change(Struct, frozen=True, rename="camel", omit_defaults=True):
    """One line of a plan."""

    path: str
    before: Any = None
    after: Any = None
    cause: Cause = "provider"
    replaces: bool = False
    """Whether the resource has to be made anew for it."""


def differences(of: Type, before: Value, after: Value, path: str = "") -> Iterator[Difference]:
    """Every place that differs, as deep as both have structure. Of a set its members are compared, each whole."""
    if same(of, before, after):
        return
    if isinstance(before, Dynamic) or isinstance(after, Dynamic) or of.kind == "dynamic":
        yield from _dynamic(before, after, path)
    elif of.kind == "object" and isinstance(before, dict) and isinstance(after, dict):
        for name, inner in of.attributes.items():
            yield from differences(inner, before.get(name), after.get(name), _at(path, name))
    elif of.kind == "map" and isinstance(before, dict) and isinstance(after, dict):
        assert of.element is not None
        for key in sorted(before.keys() | after.keys()):
            at = f"{path}[{json.dumps(key)}]"
            if key in before and key in after:
                yield from differences(of.element, before[key], after[key], at)
            else:
                yield Difference(at, plain(before.get(key, ABSENT)), plain(after.get(key, ABSENT)))
    elif of.kind in ("list", "tuple") and isinstance(before, list) and isinstance(after, list):
        for i in range(max(len(before), len(after))):
            inner = of.element or of.elements[min(i, len(of.elements) - 1)]
            if i < len(before) and i < len(after):
                yield from differences(inner, before[i], after[i], f"{path}[{i}]")
            else:
                gone, come = (plain(v[i]) if i < len(v) else ABSENT for v in (before, after))
                yield Difference(f"{path}[{i}]", gone, come)
    elif of.kind == "set" and isinstance(before, list) and isinstance(after, list):
        yield from _members(of, before, after, path)
    else:
        yield Difference(path, plain(before), plain(after))


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _dynamic(before: Value, after: Value, path: str) -> Iterator[Difference]:
    a = before if isinstance(before, Dynamic) else Dynamic(implied(before), before)
    b = after if isinstance(after, Dynamic) else Dynamic(implied(after), after)
    if a.type == b.type and a.type != DYNAMIC:
        yield from differences(a.type, a.value, b.value, path)
    else:
        yield Difference(path, plain(before), plain(after))


def _members(of: Type, before: list[Value], after: list[Value], path: str) -> Iterator[Difference]:
    assert of.element is not None
    left: dict[str, list[Value]] = {}
    for one in after:
        left.setdefault(fingerprint(of.element, one), []).append(one)
    for one in before:
        if alike := left.get(fingerprint(of.element, one)):
            alike.pop()
        else:
            yield Difference(f"{path}[]", plain(one), ABSENT)
    for alike in left.values():
        for one in alike:
            yield Difference(f"{path}[]", ABSENT, plain(one))


def changes(
    block: Block,
    *,
    prior: Value,
    live: Value,
    config: Value,
    planned: Value,
    replace: tuple[str, ...] = (),
) -> list[Change]:
    """The lines of a plan, in order of their paths; what is sensitive is said only to change.

    prior: the state as we last kept it; None when it was made for the first time. live: what is there now. config: what is given.
    """
    of, hidden = block.implied, sensitive(block)
    drifted = {d.path for d in differences(of, prior, live)} if prior is not None and live is not None else set()
    # Also where a set is in another order: by what differs, not by how it is written.
    moved = (
        {d.path.removesuffix("[]") for d in differences(of, prior, planned)}
        if drifted and planned is not None
        else set()
    )
    out = []
    # What is made, or goes, is said field by field.
    for one in differences(of, live or {}, planned or {}):
        cause: Cause = "provider"
        if any(overlap(path, one.path) for path in drifted) and not any(
            overlap(path, one.path.removesuffix("[]")) for path in moved
        ):
            cause = "drift"
        elif given_at(config, one.path) or one.after in (None, ABSENT):
            cause = "spec"
        masked = bare(one.path) in hidden or any(within(path, bare(one.path)) for path in hidden)
        before, after = (SENSITIVE if masked and v not in (None, ABSENT) else v for v in (one.before, one.after))
        makes_anew = any(overlap(path, one.path) for path in replace)
        out.append(Change(one.path, before, after, cause, makes_anew))
    return sorted(out, key=lambda c: c.path)


def overlap(a: str, b: str) -> bool:
    """Whether one of two places is within the other."""
    return within(a, b) or within(b, a)


def within(outer: str, inner: str) -> bool:
    """Whether a place is another, or in it."""
    return inner == outer or inner.startswith((f"{outer}.", f"{outer}["))


def bare(path: str) -> str:
    """A path without its indexes: `pool[0].key` -> `pool.key`."""
    out, inside, quoted = [], False, False
    for i, letter in enumerate(path):
        if quoted:
            quoted = not (letter == '"' and path[i - 1] != "\\")
        elif inside:
            if letter == '"':
                quoted = True
            inside = letter != "]"
        elif letter == "[":
            inside = True
        else:
            out.append(letter)
    return "".join(out)


def sensitive(block: Block, path: str = "") -> frozenset[str]:
    """Bare paths of all fields that may not be shown."""
    out: set[str] = set()
    for name, attribute in block.attributes.items():
        at = _at(path, name)
        if attribute.secret:
            out.add(at)
        elif attribute.nested is not None:
            out |= sensitive(Block(attributes=attribute.nested.attributes), at)
    for name, nested in block.blocks.items():
        out |= sensitive(nested.block, _at(path, name))
    return frozenset(out)


def given_at(config: Value, path: str) -> bool:
    """Whether the user gives something at this place."""
    return at(config, path.removesuffix("[]")) is not None


def steps(path: str) -> list[str | int]:
    """`pool[0].labels["a.b"]` -> pool, 0, labels, a.b. Raises `ValueError`: one line."""
    out: list[str | int] = []
    rest = path
    while rest:
        if rest[0] == "[":
            if rest[1:2] == '"':
                try:
                    key, end = json.JSONDecoder().raw_decode(rest[1:])
                except ValueError:
                    raise ValueError(f"{path} is no path of a field") from None
                out.append(key)
                rest = rest[end + 2 :]
            else:
                number, _, rest = rest[1:].partition("]")
                if not (number.isascii() and number.isdigit()):
                    raise ValueError(f"{path} is no path of a field")
                out.append(int(number))
        else:
            rest = rest.removeprefix(".")
            cut = min((i for i in (rest.find("."), rest.find("[")) if i >= 0), default=len(rest))
            out.append(rest[:cut])
            rest = rest[cut:]
    return out


def at(value: Value, path: str) -> Value:
    """The value at a place; None where there is none."""
    for step in steps(path):
        if isinstance(value, Dynamic):
            value = value.value
        if value is UNKNOWN:
            return UNKNOWN
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and step < len(value) else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def put(value: Value, path: str, new: Value) -> Value:
    """A copy with another value at a place; unchanged when the place is not there."""
    return _put(value, steps(path), new)


def _put(value: Value, where: list[str | int], new: Value) -> Value:
    if not where:
        return new
    step, *rest = where
    if isinstance(value, dict) and isinstance(step, str):
        return value | {step: _put(value.get(step), rest, new)} if step in value or not rest else value
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return [_put(one, rest, new) if i == step else one for i, one in enumerate(value)]
    return value


def ignoring(block: Block, live: Value, config: Value, patterns: Sequence[str]) -> Value:
    """The configuration, with what is there now at every place that a pattern names: `pool[*].count`, in the provider's names.
    Places that are not there are left alone."""
    for pattern in patterns:
        for path in _matching(live, steps(pattern.replace("[*]", '["*"]')), ""):
            config = put(config, path, at(live, path))
    return config


def _matching(value: Value, where: list[str | int], path: str) -> Iterator[str]:
    if not where:
        yield path
        return
    step, *rest = where
    if step == "*" and isinstance(value, list):
        for i, one in enumerate(value):
            yield from _matching(one, rest, f"{path}[{i}]")
    elif step == "*" and isinstance(value, dict):
        for key, one in value.items():
            yield from _matching(one, rest, f"{path}[{json.dumps(key)}]")
    elif isinstance(step, int) and isinstance(value, list) and step < len(value):
        yield from _matching(value[step], rest, f"{path}[{step}]")
    elif isinstance(step, str) and isinstance(value, dict) and step in value:
        yield from _matching(
            value[step], rest, _at(path, step) if step.isidentifier() else f"{path}[{json.dumps(step)}]"
        )


def digest(action: str, lines: list[Change], config: Value, key: bytes) -> str:
    """What an approval names: the same plan for the same configuration has the same digest. What is hidden in the lines counts, by a
    key of the resource's own, so that nobody finds a short secret by trying."""
    raw = msgspec.json.encode([action, lines, plain(config)], order="deterministic")
    return "hmac-sha256:" + hmac.new(key, raw, hashlib.sha256).hexdigest()


__all__ = [
    "Cause",
    "Change",
    "Difference",
    "at",
    "bare",
    "changes",
    "differences",
    "digest",
    "ignoring",
    "overlap",
    "put",
    "sensitive",
    "within",
]
