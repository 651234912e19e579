"""The validation rules of a CRD (`x-kubernetes-validations`), compiled from its schema and applied to objects.

`RuleSet` mirrors the schema: at each level its rules, and below it those of fields, items and values that have any. A rule sees the
value as `self`, and as `oldSelf` what stood in its place before, where lists of type map and objects tell what that was. A rule that
does not look at `oldSelf` is not held against a value that the update leaves as it was (ratcheting): it becomes a warning. The
words are those of apiextensions-apiserver (`pkg/apiserver/schema/cel/validation.go`).

One object's rules may cost `OBJECT_COST_MAX` in all, one evaluation `CALL_COST_MAX`; `writing.py` runs them in a thread as soon as they
take longer than a moment, so that nobody waits for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.server.cel import (
    BOOL,
    CALL_COST_MAX,
    STRING,
    CompileError,
    CostExceeded,
    Declared,
    Environment,
    EvaluationError,
    Optional,
    Program,
    value_of,
)
from trimtab.server.cel.types import optional_of
from trimtab.server.cel.values import NONE
from trimtab.server.rule_paths import RulePathError, schema_at
from trimtab.server.rule_types import declared_of, escaped
from trimtab.server.structural import (
    DUPLICATE,
    FORBIDDEN,
    INVALID,
    JSON,
    REQUIRED,
    FieldError,
    Path,
    path_text,
    value_text,
)

OBJECT_COST_MAX = 10_000_000
"""What all rules of one object may cost (Kubernetes' RuntimeCELCostBudget)."""
MESSAGE_MAX_BYTES = 5 * 1024


@dataclass(slots=True)
class Rule:
    """One rule, compiled. `error` says why it could not be."""

    text: str
    program: Program | None = None
    error: str = ""
    message: str = ""
    message_program: Program | None = None
    message_error: str = ""
    reason: str = ""
    field_path: str = ""
    optional_old: bool = False
    uses_old: bool = False
    declared: Declared | None = None

    @property
    def shown(self) -> str:
        """What errors call it."""
        return self.message or self.text.strip()


def compile_rules(schema: JSON, declared: Declared | None, rules: Sequence[JSON]) -> list[Rule]:
    """The rules that stand at a schema whose values have the type `declared`."""
    if declared is None:
        return [Rule(rule["rule"], error="failed to convert to declType for CEL validation rules") for rule in rules]
    typed = declared.named("selfType")
    plain = Environment({"self": typed, "oldSelf": typed})
    optional = Environment({"self": typed, "oldSelf": _optional(typed)})
    return [_compiled(rule, schema, typed, optional if rule.get("optionalOldSelf") else plain) for rule in rules]


class _Held(Declared):
    """The type of an optional; what it may hold is declared in it."""

    __slots__ = ()

    def objects(self) -> dict[str, Declared]:
        return self.element.objects() if self.element is not None else {}


def _optional(declared: Declared) -> Declared:
    return _Held(optional_of(declared.type), element=declared)


def _compiled(rule: JSON, schema: JSON, declared: Declared, environment: Environment) -> Rule:
    made = Rule(
        rule["rule"],
        message=(rule.get("message") or "").strip(),
        reason=rule.get("reason") or "",
        optional_old=bool(rule.get("optionalOldSelf")),
        declared=declared,
    )
    try:
        made.program = environment.compile(rule["rule"])
    except CompileError as err:
        made.error = f"compilation failed: {err}"
        return made
    fault = made.program.constant_fault()
    if made.program.type != BOOL:
        made.error = "cel expression must evaluate to a bool"
    elif fault:
        made.error = f"program instantiation failed: {fault}"
    if made.error:
        return made
    made.uses_old = "oldSelf" in made.program.names
    if rule.get("messageExpression"):
        try:
            made.message_program = environment.compile(rule["messageExpression"])
            fault = made.message_program.constant_fault()
            if made.message_program.type != STRING:
                made.message_program, made.message_error = None, "messageExpression must evaluate to a string"
            elif fault:
                made.message_program, made.message_error = None, f"messageExpression instantiation failed: {fault}"
        except CompileError as err:
            made.message_error = f"messageExpression compilation failed: {err}"
    if rule.get("fieldPath"):
        try:
            made.field_path = schema_at(rule["fieldPath"], schema)[0]
        except RulePathError:
            made.field_path = ""
    return made


@dataclass(slots=True)
class RuleSet:
    """The rules of a value and of all below it."""

    kind: str
    rules: list[Rule] = field(default_factory=list)
    fields: dict[str, RuleSet] = field(default_factory=dict)
    values: RuleSet | None = None
    items: RuleSet | None = None
    all_of: list[RuleSet] = field(default_factory=list)
    map_keys: tuple[str, ...] = ()
    """Of a list of type map."""


def rule_set(schema: JSON, *, root: bool = True) -> RuleSet | None:
    """All rules of a schema; None where it has none."""
    if not _has_rules(schema):
        return None
    return _rule_set(schema, schema, declared_of(schema, root=root))


def _has_rules(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False
    if schema.get("x-kubernetes-validations"):
        return True
    inner = [schema.get("items"), schema.get("additionalProperties"), *(schema.get("allOf") or ())]
    return any(map(_has_rules, (*inner, *(schema.get("properties") or {}).values())))


def _rule_set(restricted: JSON, schema: JSON, declared: Declared | None) -> RuleSet | None:
    """`restricted` is where rules stand: the schema itself, or one in its `allOf`."""
    made = RuleSet(schema.get("type") or "")
    rules = restricted.get("x-kubernetes-validations") or ()
    if rules:
        made.rules = compile_rules(schema, declared, rules)
    if schema.get("x-kubernetes-list-type") == "map":
        made.map_keys = tuple(schema.get("x-kubernetes-list-map-keys") or ())
    element = declared.element if declared is not None else None
    made.items = _below(restricted.get("items"), schema.get("items"), element)
    made.values = _below(restricted.get("additionalProperties"), schema.get("additionalProperties"), element)
    for name, child in (restricted.get("properties") or {}).items():
        own = (schema.get("properties") or {}).get(name)
        known_as = escaped(name)
        if known_as is None and isinstance(own, dict):
            typed = declared_of(own)
        else:
            typed = declared.fields.get(known_as or "") if declared is not None else None
        found = _below(child, own, typed) if typed is not None else None
        if found is not None:
            made.fields[name] = found
    for part in restricted.get("allOf") or ():
        found = _rule_set(part, schema, declared)
        if found is not None:
            made.all_of.append(found)
    filled = made.rules or made.items or made.values or made.fields or made.all_of
    return made if filled else None


def _below(restricted: Any, schema: Any, declared: Declared | None) -> RuleSet | None:
    if not isinstance(restricted, dict) or not isinstance(schema, dict):
        return None
    return _rule_set(restricted, schema, declared)


# Applying them


class _Spent(Exception):
    """The budget is used up; the error was noted."""


class Check:
    """One object held against its rules. `errors` and `warnings` are what came of it."""

    def __init__(self, budget: int = OBJECT_COST_MAX) -> None:
        self.errors: list[FieldError] = []
        self.warnings: list[FieldError] = []
        self.budget = budget
        self.ended_early = False
        """The budget, or one evaluation's, was used up."""

    def run(self, rules: RuleSet, new: Any, old: Any = None) -> None:
        """`old` is the object before the update; None when it is being created."""
        try:
            self._check(rules, new, old, None, old is not None, False)
        except _Spent:
            self.ended_early = True

    def _check(self, rules: RuleSet, new: Any, old: Any, path: Path, comparable: bool, unchanged: bool) -> None:
        """`comparable`: `old` is what stood here before, so equal values may be left as they are; `unchanged`: a value
        around this one is as it was."""
        if new is None:
            return
        ratchets = unchanged or (comparable and old is not None and new == old)
        if rules.rules:
            self._apply(rules, new, old, path, ratchets)
        for part in rules.all_of:
            self._check(part, new, old, path, False, unchanged)
        if isinstance(new, dict):
            before = old if isinstance(old, dict) else {}
            for key, value in new.items():
                below = rules.fields.get(key) or rules.values
                if below is None:
                    continue
                step = key if key in rules.fields else f"[{key}]"
                same_type = path is not None or key not in ("apiVersion", "kind")
                known = comparable and key in before and same_type
                self._check(below, value, before.get(key), (path, step), known, unchanged and same_type)
        elif isinstance(new, list) and rules.items is not None:
            places = _by_keys(old, rules.map_keys) if rules.map_keys and isinstance(old, list) else {}
            for index, value in enumerate(new):
                found = places.get(_keys_of(value, rules.map_keys)) if places else None
                known = comparable and found is not None
                self._check(rules.items, value, found, (path, index), known, ratchets)

    def _apply(self, rules: RuleSet, new: Any, old: Any, path: Path, ratchets: bool) -> None:
        where = path_text(path) or "<nil>"
        made: dict[str, Any] = {}
        for rule in rules.rules:
            if rule.error:
                self._note(where, rules, f"rule compile error: {rule.error}")
                continue
            if rule.program is None or rule.declared is None:
                continue
            if rule.uses_old and old is None and not rule.optional_old:
                continue
            variables = self._variables(rule, made, new, old)
            if variables is None:
                continue
            passed = self._evaluate(rules, rule, variables, where)
            if passed is False:
                error = self._failed(rules, rule, variables, new, where)
                (self.warnings if ratchets and not rule.uses_old else self.errors).append(error)

    def _variables(self, rule: Rule, made: dict[str, Any], new: Any, old: Any) -> dict[str, Any] | None:
        assert rule.declared is not None
        try:
            if "self" not in made:
                made["self"] = value_of(new, rule.declared)
            if rule.uses_old and old is not None and "old" not in made:
                made["old"] = value_of(old, rule.declared)
        except EvaluationError as err:
            made["self"] = err
        variables = {"self": made["self"]}
        if rule.uses_old:
            previous = made.get("old")
            if rule.optional_old:
                variables["oldSelf"] = NONE if old is None else Optional(True, previous)
            else:
                variables["oldSelf"] = previous
        return variables

    def _evaluate(self, rules: RuleSet, rule: Rule, variables: dict[str, Any], where: str) -> bool | None:
        """The rule's verdict; None when there is none and the error was noted. Raises `_Spent`."""
        assert rule.program is not None
        if self.budget <= 0:
            self._spent(where, rules)
        try:
            value, cost = rule.program.evaluate(variables, min(CALL_COST_MAX, self.budget))
        except CostExceeded as err:
            if self.budget < CALL_COST_MAX:
                self._spent(where, rules)
            text = f"'{err}': no further validation rules will be run due to call cost exceeds limit for rule: {rule.shown}"
            self._note(where, rules, text)
            raise _Spent from None
        except EvaluationError as err:
            self.budget -= err.cost
            if str(err).startswith("no such overload"):
                text = (
                    f"'{err}': call arguments did not match a supported operator, function or macro signature for rule: "
                    f"{rule.shown}"
                )
            else:
                text = f"{err} evaluating rule: {rule.shown}"
            self._note(where, rules, text)
            return None
        self.budget -= cost
        return value is True

    def _failed(self, rules: RuleSet, rule: Rule, variables: dict[str, Any], new: Any, where: str) -> FieldError:
        message = self._message(rules, rule, variables, where) or (
            rule.message if rule.message else f"failed rule: {rule.shown}"
        )
        if rule.field_path:
            below = rule.field_path.lstrip(".")
            where = below if where == "<nil>" else f"{where}.{below}"
        shown = "" if rules.kind in ("object", "array") else f"{value_text(new)}: "
        match rule.reason:
            case "FieldValueForbidden":
                return FieldError(where, f"Forbidden: {message}", FORBIDDEN)
            case "FieldValueRequired":
                return FieldError(where, f"Required value: {message}", REQUIRED)
            case "FieldValueDuplicate":
                return FieldError(where, f"Duplicate value{': ' + shown[:-2] if shown else ''}", DUPLICATE)
        return FieldError(where, f"Invalid value: {shown}{message}", INVALID)

    def _message(self, rules: RuleSet, rule: Rule, variables: dict[str, Any], where: str) -> str:
        """What the rule's messageExpression says; empty where it says nothing of use. Raises `_Spent`."""
        if rule.message_program is None:
            return ""
        try:
            value, cost = rule.message_program.evaluate(variables, min(CALL_COST_MAX, max(self.budget, 0)))
        except CostExceeded:
            what = "messageExpression evaluation failed due to running out of cost budget"
            self._note(where, rules, f"{what}, no further validation rules will be run")
            raise _Spent from None
        except EvaluationError as err:
            self.budget -= err.cost
            return ""
        self.budget -= cost
        message = value.strip() if isinstance(value, str) else ""
        return "" if "\n" in message or len(message.encode()) > MESSAGE_MAX_BYTES else message

    def _spent(self, where: str, rules: RuleSet) -> None:
        self._note(
            where, rules, "validation failed due to running out of cost budget, no further validation rules will be run"
        )
        raise _Spent

    def _note(self, where: str, rules: RuleSet, text: str) -> None:
        self.errors.append(FieldError(where, f"Invalid value: {value_text(rules.kind)}: {text}", INVALID))


def _keys_of(value: Any, keys: Sequence[str]) -> tuple[Any, ...] | None:
    if not isinstance(value, dict) or not all(isinstance(value.get(key), str | int | float) for key in keys):
        return None
    return tuple((type(value[key]).__name__, value[key]) for key in keys)


def _by_keys(values: list[Any], keys: Sequence[str]) -> dict[tuple[Any, ...] | None, Any]:
    found: dict[tuple[Any, ...] | None, Any] = {}
    for value in values:
        key = _keys_of(value, keys)
        if key is not None:
            found.setdefault(key, value)
    return found
