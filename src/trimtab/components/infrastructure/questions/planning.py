"""Plans as people and programs read them.

    answers (asking.py), differences of other objects --object_lines, text--> lines in the style that everybody knows
                                                      --document--> JSON:

    {"objects": [{"apiVersion", "kind", "namespace", "name", "action", "changes": [{"path", "before", "after", "cause", "replaces"}],
                  "digest", "reason", "message", "warnings", "error"}],
     "summary": {"create", "update", "replace", "delete", "none", "error"}, "changes": true}

action is create, update, replace, delete, none, or empty when nobody can say, which `error` tells. cause is spec (what is given has
changed), drift (somebody changed it outside) or provider (the provider makes it so).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from trimtab.api import JSON

ACTIONS = ("create", "update", "replace", "delete")
SIGNS = {"create": "+", "update": "~", "replace": "-/+", "delete": "-", "none": " ", "": "!"}
ABSENT = "(absent)"
TEXTS = ("(known after apply)", "(sensitive)", ABSENT)
VALUE_CHARS_MAX = 200
ASKED_APART = "trimtab.dev/asked-apart"
"""Annotation of an object whose dry run need not answer a plan, where the API server does not say which program asks."""

EXIT_SAME, EXIT_ERROR, EXIT_CHANGES = 0, 1, 2


def wire(answer: Any) -> JSON:
    """An answer as JSON, with every field that `document` promises."""
    found: JSON = msgspec.to_builtins(answer, str_keys=True)
    found.pop("outputs", None)
    return found


def document(plans: Sequence[JSON]) -> JSON:
    """What `-o json` prints."""
    return {"objects": [_filled(one) for one in plans], "summary": summary(plans), "changes": exit_code(plans) == 2}


def _filled(plan: JSON) -> JSON:
    identity = {name: plan.get(name, "") for name in ("apiVersion", "kind", "namespace", "name")}
    said = {name: plan.get(name, "") for name in ("digest", "reason", "message", "error")}
    lines = [
        {"path": one["path"], "before": one.get("before"), "after": one.get("after")}
        | {"cause": one.get("cause", "provider"), "replaces": one.get("replaces", False)}
        for one in plan.get("changes") or []
    ]
    warnings = plan.get("warnings") or []
    return {**identity, "action": plan.get("action", "none"), "changes": lines, **said, "warnings": warnings}


def summary(plans: Iterable[JSON]) -> dict[str, int]:
    """How many objects there are of each action; `error` of those of which nobody can say."""
    out = dict.fromkeys((*ACTIONS, "none", "error"), 0)
    for one in plans:
        out[one.get("action", "none") or "error"] += 1
    return out


def exit_code(plans: Iterable[JSON]) -> int:
    """0 nothing would change, 2 something would, 1 of something nobody can say."""
    counts = summary(plans)
    if counts["error"]:
        return EXIT_ERROR
    return EXIT_CHANGES if any(counts[action] for action in ACTIONS) else EXIT_SAME


def text(plans: Sequence[JSON]) -> str:
    """A plan for people: objects of which something is to be said, and a summary."""
    out = [
        "\n".join(object_lines(one))
        for one in plans
        if one.get("action", "none") != "none" or one.get("reason") or one.get("message") or one.get("warnings")
    ]
    return "\n\n".join([*out, summary_line(plans)])


def summary_line(plans: Iterable[JSON]) -> str:
    """`Plan: 2 to create, 1 to update; 3 are as they should be.`"""
    counts = summary(plans)
    parts = [f"{counts[action]} to {action}" for action in ACTIONS if counts[action]]
    line = f"Plan: {', '.join(parts)}" if parts else "No changes"
    if counts["none"]:
        line += f"; {counts['none']} {'is' if counts['none'] == 1 else 'are'} as {'it' if counts['none'] == 1 else 'they'} should be"
    if counts["error"]:
        line += f"; {counts['error']} cannot be planned"
    return f"{line}."


def object_lines(plan: JSON) -> list[str]:
    """The lines of one object: what would be done with it, each change with its cause, and what holds it back."""
    action = plan.get("action", "none")
    place = f"{plan['namespace']}/{plan['name']}" if plan.get("namespace") else plan["name"]
    what = {"none": "nothing to do", "": "cannot be planned"}.get(action, action)
    out = [f"{SIGNS[action]:>3} {plan['kind']} {place}: {what}"]
    if plan.get("error"):
        out.append(f"      {plan['error']}")
    said = [one for one in plan.get("changes") or [] if action != "create" or one.get("after") not in ([], {})]
    out += [f"    {change_line(one, action)}" for one in said]
    out += [f"      warning: {one}" for one in plan.get("warnings") or []]
    if plan.get("message"):
        out.append(f"      {_held(plan.get('reason', ''), action)}{plan['message']}")
    return out


def _held(reason: str, action: str) -> str:
    match reason:
        case "":
            return ""
        case "Unchecked":
            return "not checked yet: "
        case "Waiting" | "SecretMissing" | "Deferred" | "WaitsForMore":
            return "waits: "
        case "ApprovalNeeded":
            return ""
    return "not done: " if action in ACTIONS else ""


def change_line(change: Mapping[str, Any], action: str) -> str:
    """`~ size: "small" -> "large"  # spec`; what is made or goes is said without what was before."""
    before, after = change.get("before"), change.get("after")
    cause = change.get("cause", "provider")
    note = "# forces replacement, " + cause if change.get("replaces") else f"# {cause}"
    if before in (None, ABSENT):
        sign, shown = "+", _shown(after)
    elif after in (None, ABSENT):
        sign, shown = "-", _shown(before)
    else:
        sign, shown = "~", f"{_shown(before)} -> {_shown(after)}"
    return f"{sign} {change['path']}: {shown}" + ("" if action in ("create", "delete") else f"  {note}")


def _shown(value: Any) -> str:
    if isinstance(value, str) and value in TEXTS:
        return value
    line = json.dumps(_texts(value), ensure_ascii=False)
    return line if len(line) <= VALUE_CHARS_MAX else f"{line[:VALUE_CHARS_MAX]}... ({len(line)} characters)"


def _texts(value: Any) -> Any:
    """A value without what is null in it: providers name every field."""
    if isinstance(value, dict):
        return {key: _texts(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_texts(one) for one in value]
    return value


__all__ = [
    "ASKED_APART",
    "change_line",
    "document",
    "exit_code",
    "object_lines",
    "summary",
    "summary_line",
    "text",
    "wire",
]
