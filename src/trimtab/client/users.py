"""Named tokens: who may use the API beside the administrator, for what, and until when.

    NAME -> ServiceAccount trimtab-users/NAME -> bindings to the ClusterRole of a preset -> a bound token that expires

All of it is what any Kubernetes has, so the same tokens exist on a real cluster. A token is kept nowhere: it is shown once,
and dies with its ServiceAccount. Renewing makes the account anew, so the token before it dies at that moment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from trimtab.api import ObjectMeta, Resource
from trimtab.api.cluster import ClusterRole, ClusterRoleBinding, RoleBinding, RoleRef, Subject
from trimtab.api.core import Namespace, ServiceAccount
from trimtab.client.client import Client
from trimtab.client.errors import AlreadyExists, ApiError

K = TypeVar("K", bound=Resource)

NAMESPACE = "trimtab-users"
MANAGER = "trimtab-token"
TOKEN_OF = "trimtab.dev/token"
"""Label on the account and on its bindings: the token's name."""
ROLE = "trimtab.dev/role"
NAMESPACES = "trimtab.dev/namespaces"
EXPIRES = "trimtab.dev/expires"
PRESETS = {"view": "view", "deploy": "trimtab:deploy", "admin": "admin"}
"""Preset -> ClusterRole. `admin` of all namespaces is `cluster-admin`."""
MIN_LIFE = timedelta(minutes=10)
MAX_LIFE = timedelta(days=3650)


class UserError(Exception):
    """One line: what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class NamedToken:
    """What is known of a token. `namespaces`: empty for all."""

    name: str
    role: str
    namespaces: tuple[str, ...]
    created: datetime | None
    expires: datetime | None

    def is_expired(self, now: datetime | None = None) -> bool:
        return self.expires is not None and self.expires <= (now or datetime.now(UTC))

    def wire(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "role": self.role,
            "namespaces": list(self.namespaces),
            "created": self.created,
            "expires": self.expires,
            "expired": self.is_expired(),
        }


async def create(
    client: Client, name: str, role: str, namespaces: Sequence[str], life: timedelta
) -> tuple[NamedToken, str]:
    """Makes a named token; returns it with its text.

    Raises:
        UserError: the name is taken or not allowed, a namespace or the role does not exist, the life is too short or long.
        ApiError: whoever asks may not.
    """
    _check_name(name)
    _check_life(life)
    cluster_role = _cluster_role(role, namespaces)
    if await client.get(ClusterRole, cluster_role) is None:
        raise UserError(
            f"this cluster has no ClusterRole {cluster_role}: only the embedded engine makes it; apply it there first"
        )
    for namespace in namespaces:
        if await client.get(Namespace, namespace) is None:
            raise UserError(f"there is no namespace {namespace}: create it first, or leave out -n for all of them")
    if await client.get(Namespace, NAMESPACE) is None:
        await client.apply(Namespace(metadata=ObjectMeta(name=NAMESPACE)), manager=MANAGER)
    try:
        account = await client.create(_account(name, role, namespaces, life), manager=MANAGER)
    except AlreadyExists:
        raise UserError(
            f"there is a token {name} already: `trimtab token renew {name}` replaces it, `trimtab token revoke {name}` ends it"
        ) from None
    try:
        for binding in _bindings(name, cluster_role, namespaces):
            await client.apply(binding, manager=MANAGER)
        return _named(account), await _issue(client, name, life)
    except ApiError:
        await _remove(client, name)
        raise


async def renew(client: Client, name: str, life: timedelta) -> tuple[NamedToken, str]:
    """A new token of the same name and rights; the one before it ends at this moment.

    Raises:
        UserError: there is no such token, or the life is too short or long.
    """
    _check_life(life)
    old = await _get(client, name)
    known = _named(old)
    await client.delete(old)
    account = await client.create(_account(name, known.role, known.namespaces, life), manager=MANAGER)
    return _named(account), await _issue(client, name, life)


async def revoke(client: Client, name: str) -> None:
    """Ends a token, what it has open, and its rights.

    Raises:
        UserError: there is no such token.
    """
    await _get(client, name)
    await _remove(client, name)


async def tokens(client: Client) -> list[NamedToken]:
    """All named tokens, by name."""
    found = (await client.list(ServiceAccount, NAMESPACE, labels=TOKEN_OF)).items
    return sorted((_named(account) for account in found), key=lambda token: token.name)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
        raise UserError(f"{name!r} cannot name a token: write at most 63 of a-z, 0-9 and -, such as anna or ci-web")


def _check_life(life: timedelta) -> None:
    if not MIN_LIFE <= life <= MAX_LIFE:
        raise UserError("a token lives between 10 minutes and 10 years: write --expires 10m, 8h, 90d or 3650d")


def _cluster_role(role: str, namespaces: Sequence[str]) -> str:
    return "cluster-admin" if role == "admin" and not namespaces else PRESETS[role]


def _account(name: str, role: str, namespaces: Sequence[str], life: timedelta) -> ServiceAccount:
    expires = (datetime.now(UTC) + life).replace(microsecond=0)
    return ServiceAccount(
        metadata=ObjectMeta(
            name=name,
            namespace=NAMESPACE,
            labels={TOKEN_OF: name},
            annotations={
                ROLE: role,
                NAMESPACES: ",".join(namespaces),
                EXPIRES: expires.isoformat().replace("+00:00", "Z"),
            },
        ),
        automount_service_account_token=False,
    )


def _bindings(name: str, cluster_role: str, namespaces: Sequence[str]) -> list[ClusterRoleBinding | RoleBinding]:
    role = RoleRef(kind="ClusterRole", name=cluster_role)
    subjects = [Subject(kind="ServiceAccount", name=name, namespace=NAMESPACE)]

    def meta(namespace: str = "") -> ObjectMeta:
        return ObjectMeta(name=f"{NAMESPACE}:{name}", namespace=namespace, labels={TOKEN_OF: name})

    if not namespaces:
        return [ClusterRoleBinding(metadata=meta(), role_ref=role, subjects=subjects)]
    return [RoleBinding(metadata=meta(namespace), role_ref=role, subjects=subjects) for namespace in namespaces]


def _named(account: ServiceAccount) -> NamedToken:
    notes = account.metadata.annotations
    expires = notes.get(EXPIRES, "")
    return NamedToken(
        account.name,
        notes.get(ROLE, ""),
        tuple(filter(None, notes.get(NAMESPACES, "").split(","))),
        account.metadata.creation_timestamp,
        datetime.fromisoformat(expires.replace("Z", "+00:00")) if expires else None,
    )


async def _get(client: Client, name: str) -> ServiceAccount:
    found = await client.get(ServiceAccount, name, NAMESPACE)
    if found is None or TOKEN_OF not in found.metadata.labels:
        raise UserError(f"there is no token {name}: `trimtab token list` shows all")
    return found


async def _issue(client: Client, name: str, life: timedelta) -> str:
    path = f"{ServiceAccount.resource_type.path(NAMESPACE, name)}/token"
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": int(life.total_seconds())},
    }
    answer = await client.raw("POST", path, body=json.dumps(body).encode())
    return str(json.loads(answer.body)["status"]["token"])


async def _remove(client: Client, name: str) -> None:
    """Takes the account first: with it the token is dead."""
    await client.delete(ServiceAccount(metadata=ObjectMeta(name=name, namespace=NAMESPACE)))
    for binding in (await client.list(ClusterRoleBinding, labels=f"{TOKEN_OF}={name}")).items:
        await client.delete(binding)
    for bound in (await client.list(RoleBinding, labels=f"{TOKEN_OF}={name}")).items:
        await client.delete(bound)
