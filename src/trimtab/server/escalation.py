"""Nobody may give away, by writing a role or a binding, more than they have; `escalate` and `bind` are the exceptions that
RBAC itself knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from trimtab.api import JSON
from trimtab.server import errors
from trimtab.server.authentication import MASTERS, User
from trimtab.server.authorization import Attributes, Rule
from trimtab.server.builtin_kinds import RBAC
from trimtab.server.kinds import Kind

if TYPE_CHECKING:
    from trimtab.server.server import ApiServer


def refuse_escalation(server: ApiServer, kind: Kind, namespace: str, obj: JSON, live: JSON | None, user: User) -> None:
    """Raises `StatusError` 403 when the write would grant what the user does not have."""
    if MASTERS in user.groups:
        return
    authorizer = server.authorizer
    name = (obj.get("metadata") or {}).get("name") or ""
    if kind.kind in ("Role", "ClusterRole"):
        if live is not None and live.get("rules") == obj.get("rules") and "aggregationRule" not in obj:
            return
        if authorizer.allows(user, Attributes("escalate", RBAC, kind.plural, namespace, name)):
            return
        try:
            wanted = msgspec.convert(obj.get("rules") or [], tuple[Rule, ...])
        except msgspec.ValidationError:
            return  # the schema says it better
        if obj.get("aggregationRule"):
            wanted += (Rule(("*",), ("*",), ("*",)),)
    else:
        reference = obj.get("roleRef") or {}
        role_kind, role = str(reference.get("kind", "")), str(reference.get("name", ""))
        if live is not None and live.get("roleRef") == reference and live.get("subjects") == obj.get("subjects"):
            return
        plural = "clusterroles" if role_kind == "ClusterRole" else "roles"
        if authorizer.allows(user, Attributes("bind", RBAC, plural, namespace, role)):
            return
        wanted = authorizer.role_rules(role_kind, namespace, role)
    if not authorizer.covers(user, wanted, namespace):
        raise errors.forbidden(
            kind.plural,
            kind.group,
            name,
            f'user "{user.name}" is attempting to grant RBAC permissions not currently held',
        )
