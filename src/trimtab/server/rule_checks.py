"""The validation rules of a CRD, checked when it is written: form, types, and what they can cost.

Each rule is compiled against its part of the schema and its highest cost estimated; what a rule costs counts as often as the lists
and maps around it can hold its value. The rules, limits and words are those of apiextensions-apiserver
(`pkg/apis/apiextensions/validation`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from trimtab.server.cel.types import Declared
from trimtab.server.rule_paths import RulePathError, schema_at
from trimtab.server.rule_types import REQUEST_MAX_BYTES, declared_of, escaped
from trimtab.server.rules import Rule, compile_rules
from trimtab.server.structural import FORBIDDEN, INVALID, JSON, NOT_SUPPORTED, REQUIRED, FieldError, value_text

RULE_COST_MAX = 10_000_000
"""What one rule may cost at most."""
CRD_COST_MAX = 100_000_000
"""What all rules of one schema may cost at most."""
NAMED_MAX = 4
"""The most expensive rules are named when their sum is too much."""

_COST_MOST = 2**64 - 1
_REASONS = ("FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired")
_ADVICE = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
_KEYWORD = "x-kubernetes-validations"


def form_errors(schema: JSON, path: str) -> Iterator[FieldError]:
    """What is wrong with the form of rules, anywhere in a schema."""
    rules = schema.get(_KEYWORD) or ()
    if not isinstance(rules, list | tuple):
        yield FieldError(f"{path}.{_KEYWORD}", f"Invalid value: {value_text(rules)}: must be a list of rules")
        return
    for index, rule in enumerate(rules):
        yield from _form_of(rule, schema, f"{path}.{_KEYWORD}[{index}]")
    for name, child in (schema.get("properties") or {}).items():
        yield from form_errors(child, f"{path}.properties[{name}]")
    for keyword in ("items", "additionalProperties", "not"):
        if isinstance(schema.get(keyword), dict):
            yield from form_errors(schema[keyword], f"{path}.{keyword}")
    for keyword in ("allOf", "anyOf", "oneOf"):
        for index, child in enumerate(schema.get(keyword) or ()):
            yield from form_errors(child, f"{path}.{keyword}[{index}]")


def _form_of(rule: Any, schema: JSON, path: str) -> Iterator[FieldError]:
    texts = ("rule", "message", "messageExpression", "reason", "fieldPath")
    if not isinstance(rule, dict) or not all(isinstance(rule.get(name) or "", str) for name in texts):
        yield FieldError(path, f"Invalid value: {value_text(rule)}: must be a rule: an object whose fields are strings")
        return
    text, message = rule.get("rule") or "", rule.get("message") or ""
    if not text.strip():
        yield FieldError(f"{path}.rule", "Required value: rule is not specified", REQUIRED)
    elif message and not message.strip():
        yield _invalid(f"{path}.message", message, "must be non-empty if specified")
    elif re.search(r"[\n\r]", message.strip()):
        yield _invalid(f"{path}.message", message, "must not contain line breaks")
    elif re.search(r"[\n\r]", text.strip()) and not message.strip():
        problem = "Required value: message must be specified if rule contains line breaks"
        yield FieldError(f"{path}.message", problem, REQUIRED)
    if rule.get("messageExpression") and not rule["messageExpression"].strip():
        problem = "Required value: messageExpression must be non-empty if specified"
        yield FieldError(f"{path}.messageExpression", problem, REQUIRED)
    if rule.get("reason") is not None and rule["reason"] not in _REASONS:
        supported = ", ".join(map(value_text, _REASONS))
        problem = f"Unsupported value: {value_text(rule['reason'])}: supported values: {supported}"
        yield FieldError(f"{path}.reason", problem, NOT_SUPPORTED)
    where = rule.get("fieldPath") or ""
    if where and not where.strip():
        yield _invalid(f"{path}.fieldPath", where, "must be non-empty if specified")
    if re.search(r"[\n\r]", where):
        yield _invalid(f"{path}.fieldPath", where, "must not contain line breaks")
    if where:
        try:
            schema_at(where, schema)
        except RulePathError:
            yield _invalid(f"{path}.fieldPath", where, "must be a valid path")


def _invalid(path: str, value: object, problem: str) -> FieldError:
    return FieldError(path, f"Invalid value: {value_text(value)}: {problem}", INVALID)


def rule_errors(schema: JSON, path: str = "openAPIV3Schema") -> list[FieldError]:
    """What is wrong with the rules of a schema that is valid apart from them."""
    walk = _Walk()
    walk.check(schema, path, declared_of(schema, root=True), 1, "")
    if walk.total > CRD_COST_MAX:
        for where, _ in sorted(walk.expensive, key=lambda found: -found[1])[:NAMED_MAX]:
            text = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
            walk.errors.append(FieldError(where, f"Forbidden: {text}", FORBIDDEN))
        name = f"{_KEYWORD} estimated rule cost total for entire OpenAPIv3 schema"
        walk.errors.append(_too_expensive(path, name, walk.total, CRD_COST_MAX))
    return walk.errors


class _Walk:
    def __init__(self) -> None:
        self.errors: list[FieldError] = []
        self.total = 0
        self.expensive: list[tuple[str, int]] = []

    def check(self, schema: JSON, path: str, declared: Declared | None, count: int | None, apart: str) -> None:
        """`count`: how many such values an object can have at most, None when nothing bounds it; `apart`: the path of what
        keeps old and new values from being told apart."""
        inner = _times(count, _held(schema))
        additional, items = schema.get("additionalProperties"), schema.get("items")
        element = declared.element if declared is not None else None
        if isinstance(additional, dict):
            self.check(additional, f"{path}.additionalProperties", element or declared_of(additional), inner, apart)
        for name, child in (schema.get("properties") or {}).items():
            typed = declared.fields.get(escaped(name) or "") if declared is not None else None
            self.check(child, f"{path}.properties[{name}]", typed or declared_of(child), inner, apart)
        if isinstance(items, dict):
            unordered = "" if schema.get("x-kubernetes-list-type") == "map" else path
            self.check(items, f"{path}.items", element or declared_of(items), inner, apart or unordered)
        self._rules(schema, path, declared, count, apart)

    def _rules(self, schema: JSON, path: str, declared: Declared | None, count: int | None, apart: str) -> None:
        written = schema.get(_KEYWORD) or ()
        if not written:
            return
        for index, rule in enumerate(compile_rules(schema, declared, written)):
            where = f"{path}.{_KEYWORD}[{index}]"
            self._cost(rule, where, declared, count)
            if rule.error:
                self.errors.append(_refused(f"{where}.rule", written[index], rule.error))
            if rule.message_error:
                self.errors.append(_refused(f"{where}.messageExpression", written[index], rule.message_error))
            if rule.uses_old and apart:
                problem = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {apart}"
                self.errors.append(_invalid(f"{where}.rule", rule.text, problem))
            elif not rule.uses_old and written[index].get("optionalOldSelf") is not None:
                value = written[index]["optionalOldSelf"]
                self.errors.append(
                    _invalid(f"{where}.optionalOldSelf", value, "may not be set if oldSelf is not used in rule")
                )

    def _cost(self, rule: Rule, where: str, declared: Declared | None, count: int | None) -> None:
        if rule.program is None or rule.error or declared is None:
            return
        if count is None:
            count = REQUEST_MAX_BYTES // (declared.min_size + 1)
        cost = min(rule.program.greatest_cost(declared) * count, _COST_MOST)
        self._observe(f"{where}.rule", "estimated rule cost", cost)
        if rule.message_program is not None:
            cost = rule.message_program.greatest_cost(declared)
            self._observe(f"{where}.messageExpression", "estimated messageExpression cost", cost)

    def _observe(self, where: str, name: str, cost: int) -> None:
        if cost > RULE_COST_MAX:
            self.errors.append(_too_expensive(where, name, cost, RULE_COST_MAX))
        self.total = min(self.total + cost, _COST_MOST)
        if cost >= CRD_COST_MAX // 100:
            self.expensive.append((where, cost))


def _held(schema: JSON) -> int | None:
    """How many values below it one value can hold; None when nothing bounds it."""
    if schema.get("type") == "array":
        most = schema.get("maxItems")
    elif schema.get("type") == "object" and schema.get("additionalProperties") is not None:
        most = schema.get("maxProperties")
    else:
        return 1
    return None if most is None else max(most, 0)


def _times(count: int | None, held: int | None) -> int | None:
    return None if count is None or held is None else min(count * held, _COST_MOST)


def _refused(where: str, rule: JSON, problem: str) -> FieldError:
    """A rule that does not compile; shown as the real server shows it, which is as Go writes its struct."""
    shown = {
        "Rule": rule["rule"],
        "Message": rule.get("message") or "",
        "MessageExpression": rule.get("messageExpression") or "",
        "Reason": rule.get("reason"),
        "FieldPath": rule.get("fieldPath") or "",
        "OptionalOldSelf": rule.get("optionalOldSelf"),
    }
    text = value_text(shown)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return FieldError(where, f"Invalid value: {text}: {problem}")


def _too_expensive(where: str, name: str, cost: int, limit: int) -> FieldError:
    times = cost / limit
    factor = "more than 100x" if times > 100 else f"{times:.6f}x" if times < 1.5 else f"{times:.1f}x"
    return FieldError(where, f"Forbidden: {name} exceeds budget by factor of {factor} {_ADVICE}", FORBIDDEN)
