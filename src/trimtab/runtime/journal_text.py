"""The journal as text for people: one line an entry, and a tree for `why`. Pure functions; no colours, no terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, tzinfo

from trimtab.api import JSON, Ref
from trimtab.runtime.journal import Entry
from trimtab.runtime.journal_read import Why
from trimtab.runtime.ownership import MANAGER_PREFIX

COMMAND_LINE = f"{MANAGER_PREFIX}cli"
COMMANDS = frozenset(f"{MANAGER_PREFIX}{name}" for name in ("up", "profile", "provider", "composition", "remote"))
"""Field managers of commands with a name of their own: `trimtab up` is what was typed."""
SOMEBODY = "somebody"
"""On a real cluster: who deleted an object is recorded nowhere in its API."""
WRITES = ("created", "changed", "deleted")
"""Their duration is that of a call of the API: nobody waits for that."""
TELLS_READINESS = frozenset(("Pod", "App", "Node"))
COMPLETED = "PodCompleted"
"""The reason of a pod that is not ready since it has done its work, which its Job says."""
SAID_TWICE = frozenset(
    (kind, reason)
    for kind in ("ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob")
    for reason in ("SuccessfulCreate", "SuccessfulDelete")
)
"""Events beside which the entry of the object itself stands, which has its cause, too."""
KEPT_BY_OTHERS = frozenset(("Endpoints", "EndpointSlice", "ControllerRevision", "ReplicaSet"))
"""What controllers write for other controllers; a Deployment says itself how it scales its ReplicaSets."""
SAID_IN_WORDS = frozenset((("Pod", "spec.nodeName"), ("PersistentVolumeClaim", "spec.volumeName")))
BOOKKEEPING = (
    "metadata.finalizers",
    "metadata.ownerReferences",
    "metadata.annotations[deployment.kubernetes.io/",
    "metadata.annotations[pv.kubernetes.io/",
    "metadata.annotations[volume.kubernetes.io/",
)
WAITING_MAX = 4096
"""Objects that are not ready yet: more are not remembered."""
_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")


def entry_line(entry: Entry, *, zone: tzinfo | None = None, dated: bool = False) -> str:
    """`12:00:03.120  App shop/web changed spec.image by kubectl  because Secret shop/key changed  (12 ms)`. Times in
    `zone` (default: the machine's), with the date when `dated`."""
    return f"{time_text(entry.at, zone=zone, dated=dated)}  {in_words(entry)}"


def in_words(entry: Entry) -> str:
    """What, because of what, and how long it took; a readiness with its time first: `is ready after 3.2 s  because of ...`."""
    if entry.verb == "status":
        return f"{what(entry)}{took(entry)}{because(entry)}"
    return f"{what(entry)}{because(entry)}{took(entry)}"


def short(text: str) -> str:
    """With the first 12 digits of every sha256, as other tools show them."""
    return _DIGEST.sub(r"\1", text)


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
            message = entry.message.replace(f" of pod {about.partition(' ')[2]}", "", 1)  # it stands before it
            return f"{about}: {'warning: ' if entry.verb == 'warned' else ''}{_sentence(reason, message)}"
        case "failed":
            return f"{actor} failed: {entry.message}"
        case "effect" | "undone":
            return f"{about}: effect {entry.message}{' undone' if entry.verb == 'undone' else ''} by {actor}"
        case "status" if (turned := readiness(entry)) is not None:
            return f"{about} is {turned}"
        case "status":
            return f"{about} status{_detail(entry.message, 'status.')} by {actor}"
        case "deleting":
            return f"{about} is being deleted by {actor}"
        case "entered":
            return f"{about} entered ({entry.message}) by {actor}"
    return f"{about} {entry.verb}{_detail(entry.message)} by {actor}"


def readiness(entry: Entry) -> str | None:
    """`ready`, or `not ready: why`, where an entry says that a pod, app or node became so; None of every other, and of a pod that has
    done its work."""
    turned = (entry.data or {}).get("ready") if entry.verb == "status" else None
    if turned is None or entry.object is None or entry.object.kind not in TELLS_READINESS:
        return None
    if turned:
        return "ready"
    reason, message = (str((entry.data or {}).get(name, "")) for name in ("reason", "message"))
    if reason == COMPLETED:
        return None
    why = _sentence(reason, message) if message else reason
    return f"not ready: {why}" if why else "not ready"


class Story:
    """What of the journal people are told: each change once. Fed with its entries in order, a dictionary of what waits for what is all it keeps.

    Left out is what another entry tells in better words: statuses but for readiness, the endpoints of a Service (its pods become ready and
    end), bookkeeping in metadata, the Events "Created pod" and "Deleted pod". Of what becomes ready it is said how long that took: since it was
    made, deleted (a StatefulSet's pod comes back by its name), or not ready any more.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forgets what was told: entries of before come again, with older ones."""
        self._since: dict[Ref, datetime] = {}
        self._leaving: set[Ref] = set()

    def told(self, entry: Entry) -> Entry | None:
        """The entry as people are told it, with the time that it took; None: it is a detail."""
        about = entry.object
        if about is None:
            return entry
        if about.kind in TELLS_READINESS and entry.verb in ("created", "deleting"):
            self._wait(about, entry.at)
            (self._leaving.add if entry.verb == "deleting" else self._leaving.discard)(about)
        if (turned := readiness(entry)) is None:
            return None if told_elsewhere(entry) else entry
        if turned != "ready":
            self._wait(about, entry.at)
            return None if about in self._leaving else replace(entry, duration_ms=None)
        began = self._since.pop(about, None)
        took_ms = (entry.at - began).total_seconds() * 1000 if began is not None else None
        return replace(entry, duration_ms=took_ms)

    def _wait(self, about: Ref, at: datetime) -> None:
        if about not in self._leaving:  # else it waits since it was deleted
            self._since[about] = at
        if len(self._since) > WAITING_MAX:  # pods whose names do not come back
            gone = next(iter(self._since))
            del self._since[gone]
            self._leaving.discard(gone)


def told_elsewhere(entry: Entry) -> bool:
    """Whether another entry says the same in better words."""
    if entry.object is None:
        return False
    kind, ours = entry.object.kind, entry.actor.startswith(MANAGER_PREFIX)
    match entry.verb:
        case "status":
            return readiness(entry) is None
        case "said":
            reason = (entry.data or {}).get("reason", "")
            return (kind, reason) in SAID_TWICE or (
                reason == "Killing" and entry.message.endswith(": the pod is deleted")
            )
        case "created" | "changed" | "deleted" if ours and kind in KEPT_BY_OTHERS:
            return True
        case "changed" if ours and entry.message:
            return all(
                field.startswith(BOOKKEEPING) or (kind, field) in SAID_IN_WORDS for field in entry.message.split(", ")
            )
    return False


def because(entry: Entry) -> str:
    """Its cause, where that says more than the entry itself."""
    if isinstance(entry.cause, Ref):
        if entry.cause == entry.object:
            return ""
        return f"  because of {entry.cause}"
    return f"  because {entry.cause}" if entry.cause else ""


def took(entry: Entry) -> str:
    if entry.duration_ms is None or entry.verb in WRITES or (entry.verb == "status" and readiness(entry) is None):
        return ""
    text = duration_text(entry.duration_ms)
    if entry.verb == "status":
        return f" after {text}"
    return "" if entry.message.endswith(text) else f"  ({text})"


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
    """`apps-app` for our own managers, `trimtab` or `trimtab up` for our command line, who else as they are."""
    if actor == COMMAND_LINE:
        return "trimtab"
    if actor in COMMANDS:
        return actor.replace("-", " ", 1)
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
