"""The journal as text for people: one line an entry, and a tree for `why`. Pure functions; no colours, no terminal."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, tzinfo

from trimtab.api import JSON, Ref
from trimtab.runtime.journal import Entry
from trimtab.runtime.journal_read import Why
from trimtab.runtime.ownership import MANAGER_PREFIX

COMMAND_LINE = f"{MANAGER_PREFIX}cli"
SOMEBODY = "somebody"
"""On a real cluster: who deleted an object is recorded nowhere in its API."""


def entry_line(entry: Entry, *, zone: tzinfo | None = None, dated: bool = False) -> str:
    """`12:00:03.120  App shop/web changed spec.image by kubectl  because Secret shop/key changed  (12 ms)`. Times in
    `zone` (default: the machine's), with the date when `dated`."""
    return f"{time_text(entry.at, zone=zone, dated=dated)}  {what(entry)}{because(entry)}{took(entry)}"


def time_text(at: datetime, *, zone: tzinfo | None = None, dated: bool = False) -> str:
    local = at.astimezone(zone)
    form = "%Y-%m-%d %H:%M:%S" if dated else "%H:%M:%S"
    return f"{local.strftime(form)}.{local.microsecond // 1000:03d}"


def what(entry: Entry) -> str:
    """What happened, without when and why."""
    about = str(entry.object) if entry.object else entry.component
    actor = _who(entry)
    match entry.verb:
        case "said" | "warned":
            reason = (entry.data or {}).get("reason", "")
            return f"{about}: {'warning: ' if entry.verb == 'warned' else ''}{_sentence(reason, entry.message)}"
        case "failed":
            return f"{actor} failed: {entry.message}"
        case "effect" | "undone":
            return f"{about}: effect {entry.message}{' undone' if entry.verb == 'undone' else ''} by {actor}"
        case "status":
            return f"{about} status{_detail(entry.message, 'status.')} by {actor}"
        case "deleting":
            return f"{about} is being deleted by {actor}"
        case "entered":
            return f"{about} entered ({entry.message}) by {actor}"
    return f"{about} {entry.verb}{_detail(entry.message)} by {actor}"


def because(entry: Entry) -> str:
    """Its cause, where that says more than the entry itself."""
    if isinstance(entry.cause, Ref):
        if entry.cause == entry.object:
            return ""
        return f"  because of {entry.cause}"
    return f"  because {entry.cause}" if entry.cause else ""


def took(entry: Entry) -> str:
    if entry.duration_ms is None or entry.verb in ("created", "changed", "deleted", "status"):
        return ""
    return f"  ({duration_text(entry.duration_ms)})"


def duration_text(ms: float) -> str:
    """`3.2 ms`, `640 ms`, `12.3 s`, `4 min 5 s`."""
    if ms < 10:
        return f"{ms:.1f} ms"
    if ms < 1000:
        return f"{ms:.0f} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    return f"{minutes} min {seconds} s"


def _who(entry: Entry) -> str:
    """`anna with kubectl`, where it is known who was behind the program."""
    actor = short_actor(entry.actor)
    user = (entry.data or {}).get("user")
    return f"{user} with {actor}" if user and user != actor else actor


def short_actor(actor: str) -> str:
    """`apps-app` for our own managers, `trimtab` for our command line, who else as they are."""
    if actor == COMMAND_LINE:
        return "trimtab"
    return actor.removeprefix(MANAGER_PREFIX) if actor else SOMEBODY


def why_text(ref: Ref, found: Iterable[Why], *, zone: tzinfo | None = None) -> str:
    """A tree: the last changes of `ref`, newest first, and below each what led to it. A change that stands below a newer one is
    not told again."""
    lines = [str(ref)]
    roots: list[Why] = []
    told: set[int] = set()
    for root in found:
        if root.entry.id not in told:
            roots.append(root)
            told |= _ids(root)
    if not roots:
        return f"{ref}: the journal has nothing about it; is the name right? (trimtab timeline shows what there is)"
    for i, root in enumerate(roots):
        _branch(root, "", i == len(roots) - 1, lines, zone)
    return "\n".join(lines)


def _ids(node: Why) -> set[int]:
    return {node.entry.id}.union(*(_ids(reason) for reason in node.reasons))


def _branch(node: Why, indent: str, last: bool, lines: list[str], zone: tzinfo | None) -> None:
    entry = node.entry
    cause = "" if node.reasons else because(entry)
    lines.append(
        f"{indent}{'└─' if last else '├─'} {time_text(entry.at, zone=zone)}  {what(entry)}{cause}{took(entry)}"
    )
    for i, reason in enumerate(node.reasons):
        _branch(reason, indent + ("   " if last else "│  "), i == len(node.reasons) - 1, lines, zone)


def entry_json(entry: Entry) -> JSON:
    """The entry for `-o json`: times in RFC 3339, references in their printed form (`Deployment shop/web`)."""
    return {
        "id": entry.id,
        "at": entry.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "component": entry.component,
        "actor": entry.actor,
        "verb": entry.verb,
        "object": str(entry.object) if entry.object else None,
        "cause": str(entry.cause) if entry.cause else None,
        "subject": str(entry.subject) if entry.subject else None,
        "message": entry.message,
        "duration_ms": entry.duration_ms,
        "data": entry.data,
    }


def why_json(found: Iterable[Why]) -> list[JSON]:
    return [{**entry_json(node.entry), "reasons": why_json(node.reasons)} for node in found]


def _detail(message: str, prefix: str = "") -> str:
    if not message:
        return ""
    parts = (part.removeprefix(prefix) for part in message.split(", "))
    return f" ({', '.join(parts)})"


def _sentence(reason: str, message: str) -> str:
    return message if not reason or reason.lower() in message.lower() else f"{reason}: {message}"
