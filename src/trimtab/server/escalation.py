"""Nobody may give away, by writing a role or a binding, more than they have; `escalate` and `bind` are the exceptions that
RBAC itself knows."""

from __future__ import annotations

from collections.abc import Iterable
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
    lacking = [_shown(rule) for rule in wanted if not authorizer.covers(user, (rule,), namespace)]
    if lacking:
        raise errors.forbidden(
            kind.plural,
            kind.group,
            name,
            f'user "{user.name}" (groups={_strings(user.groups)}) is attempting to grant RBAC permissions not currently '
            f"held:\n{chr(10).join(lacking)}",
        )


def _shown(rule: Rule) -> str:
    """A rule as Kubernetes' refusal shows it."""
    parts = {
        "APIGroups": rule.api_groups,
        "Resources": rule.resources,
        "ResourceNames": rule.resource_names,
        "NonResourceURLs": rule.non_resource_urls,
        "Verbs": rule.verbs,
    }
    return "{" + ", ".join(f"{name}:{_strings(values)}" for name, values in parts.items() if values) + "}"


def _strings(values: Iterable[str]) -> str:
    return "[" + " ".join(f'"{value}"' for value in values) + "]"
