"""Which of the API server's notes reach the journal, and in what words."""

from __future__ import annotations

import pytest

from trimtab.api import Ref
from trimtab.engine.audit import entry_of
from trimtab.runtime.journal_text import what
from trimtab.server.audit import Asking, WriteNote
from trimtab.server.authentication import User
from trimtab.server.builtin_kinds import BUILTIN_KINDS

KINDS = {kind.kind: kind for kind in BUILTIN_KINDS}
ANNA = "system:serviceaccount:trimtab-users:anna"


def note(
    verb: str = "changed",
    kind: str = "Deployment",
    user: str = "system:admin",
    agent: str = "kubectl",
    manager: str = "",
    subresource: str = "",
    changes: tuple[str, ...] = ("spec.replicas 2 -> 3",),
    owner: tuple[str, str, str] | None = None,
) -> WriteNote:
    changes = changes if verb == "changed" else ()
    asked = Asking(User(user), agent) if user else None
    return WriteNote(verb, KINDS[kind], "shop", "web", asked, manager, subresource, changes, owner)


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (note(manager="kubectl-edit"), "Deployment shop/web changed (spec.replicas 2 -> 3) by kubectl-edit"),
        (note("deleting", "Pod", ANNA), "Pod shop/web is being deleted by anna with kubectl"),
        (note("deleting", "Pod", user=""), "Pod shop/web is being deleted by garbage collection"),
        (
            note("created", user="system:serviceaccount:ci:runner", manager="helm", changes=()),
            "Deployment shop/web created by ci/runner with helm",
        ),
        (note("entered", "Pod", ANNA, subresource="exec"), "Pod shop/web entered (exec) by anna with kubectl"),
        (note("deleted", "ReplicaSet", user=""), "ReplicaSet shop/web deleted by garbage collection"),
    ],
)
def test_what_is_told_names_the_person_and_the_program(told: WriteNote, line: str) -> None:
    entry = entry_of(told)

    assert entry is not None
    assert what(entry) == line


def test_the_collector_deletes_because_of_the_owner() -> None:
    entry = entry_of(note("deleted", "ReplicaSet", user="", owner=("apps/v1", "Deployment", "shop")))

    assert entry is not None
    assert entry.cause == Ref("apps/v1", "Deployment", "shop", "shop")


@pytest.mark.parametrize(
    "quiet",
    [
        note(user="system:trimtab:controllers"),
        note(user="system:node:node-1"),
        note(kind="Lease"),
        note(kind="EndpointSlice"),
        note(subresource="status"),
        note(manager="trimtab-engine"),
        note("created", "ConfigMap", user=""),
        note(changes=()),
    ],
    ids=["controllers", "node", "leases", "slices", "status", "engine", "furnishing", "nothing"],
)
def test_bookkeeping_and_what_others_tell_is_left_out(quiet: WriteNote) -> None:
    assert entry_of(quiet) is None
