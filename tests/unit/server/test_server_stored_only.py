"""Kinds that are only stored say so."""

from __future__ import annotations

from trimtab.server.builtin_kinds import BUILTIN_KINDS
from trimtab.server.honest import STORED_ONLY, warnings_of
from trimtab.server.strategies.stored import STORED


def test_every_kind_that_is_only_stored_is_warned_of_when_it_is_made() -> None:
    kinds = {(kind.api_version, kind.kind) for kind in BUILTIN_KINDS if (kind.group, kind.kind) in STORED}
    assert kinds - {("node.k8s.io/v1", "RuntimeClass")} == STORED_ONLY  # that one is acted upon
    for api_version, kind in STORED_ONLY:
        made = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "a"}}
        assert warnings_of(made, None) == [f"{kind}: nothing acts on objects of this kind, they are only stored"]
        assert warnings_of(made, made) == []
