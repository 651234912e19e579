"""From what the API server saw to the journal: who created, changed, deleted or entered what.

    WriteNote -> skip what has its own entry or is bookkeeping -> Entry -> journal

The reconcilers' own writes stand in the journal already, with their cause and duration. What people and other programs do is
told here, with the user whom the server knows; so is what the server's garbage collection removes, because of its owner.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from trimtab.api import Ref
from trimtab.client.users import NAMESPACE
from trimtab.engine import access_roles, bootstrap
from trimtab.runtime.journal import Entry, Journal
from trimtab.runtime.process import QUIET_KINDS
from trimtab.server.audit import Asking, WriteNote

ADMIN = "system:admin"
GARBAGE_COLLECTION = "garbage collection"
_ACCOUNT = "system:serviceaccount:"
_NODE = "system:node:"
_QUIET = frozenset({*QUIET_KINDS, "EndpointSlice", "Endpoints", "ControllerRevision"})


def recorder(journal: Journal) -> Callable[[WriteNote], None]:
    """What the API server is given to tell of each change."""

    def record(note: WriteNote) -> None:
        entry = entry_of(note)
        if entry is not None:
            journal.append(entry)

    return record


def entry_of(note: WriteNote) -> Entry | None:
    """The entry of a change; None where there is nothing to tell, or somebody else tells it."""
    if note.kind.kind in _QUIET or note.subresource == "status" or note.manager == bootstrap.MANAGER:
        return None
    user = note.asking.user.name if note.asking is not None else ""
    if user == access_roles.CONTROLLERS or user.startswith(_NODE):
        return None
    if note.asking is None and note.verb not in ("deleting", "deleted"):
        return None
    if note.verb == "changed" and not note.changes and not note.annotations:
        return None
    api_version, kind, name = note.owner or ("", "", "")
    is_consequence = note.owner is not None and note.asking is None
    who = person(user)
    return Entry(
        at=datetime.now(UTC),
        component="api",
        actor=_actor(note),
        verb=note.verb,
        object=Ref(note.kind.api_version, note.kind.kind, note.namespace or None, note.name),
        cause=Ref(api_version, kind, note.namespace or None, name) if is_consequence else None,
        message=note.subresource if note.verb == "entered" else ", ".join((*note.changes, *note.annotations)),
        data={"user": who} if who else None,
    )


def person(user: str) -> str:
    """What a user is called: a named token by its name, a ServiceAccount as `namespace/name`; nothing for the administrator."""
    if user in ("", ADMIN):
        return ""
    namespace, _, name = user.removeprefix(_ACCOUNT).partition(":")
    if not user.startswith(_ACCOUNT):
        return user
    return name if namespace == NAMESPACE else f"{namespace}/{name}"


def _actor(note: WriteNote) -> str:
    """The program: its field manager, else what it calls itself."""
    if note.asking is None:
        return GARBAGE_COLLECTION
    return note.manager or _program(note.asking)


def _program(asking: Asking) -> str:
    return asking.agent or asking.user.name
