"""Tokens of ServiceAccounts for the containers of this node.

    projected volume -> the token that lies on disk, read without trust -> good for long enough? -> it stays
                                                                        -> else: TokenRequest -> API -> a new one

A token is bound to its pod and dies with it. What lies on disk decides, nothing is remembered: a restarted agent asks for no new
tokens.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from trimtab.api.core import Pod, ServiceAccount
from trimtab.client.client import Client
from trimtab.client.errors import ApiError
from trimtab.components.node.environment import ConfigProblem

RENEWED_AT = 0.8
"""The share of its life after which a token is renewed, and the most that it lies unrenewed: as the kubelet does."""
RENEWED_AFTER_MAX = timedelta(hours=24)
LIFE_S = 3600
"""The API's default."""


@dataclass(frozen=True)
class Claims:
    """What a token says of itself, not verified."""

    issued_at: datetime
    expires_at: datetime
    audiences: tuple[str, ...]
    account_uid: str
    pod_uid: str

    @property
    def renew_at(self) -> datetime:
        return min(self.issued_at + (self.expires_at - self.issued_at) * RENEWED_AT, self.issued_at + RENEWED_AFTER_MAX)


def claims_of(token: bytes) -> Claims | None:
    """The claims of a JWT; None for anything else."""
    parts = token.split(b".")
    if len(parts) != 3:
        return None
    try:
        said: dict[str, Any] = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4)))
        private: Mapping[str, Any] = said["kubernetes.io"]
        return Claims(
            datetime.fromtimestamp(said["iat"], UTC),
            datetime.fromtimestamp(said["exp"], UTC),
            tuple(said["aud"]),
            str(private["serviceaccount"]["uid"]),
            str(private["pod"]["uid"]),
        )
    except (binascii.Error, ValueError, KeyError, TypeError):
        return None


def still_good(token: bytes, pod: Pod, account: ServiceAccount, audience: str, now: datetime) -> datetime | None:
    """Until when a token that lies on disk needs no renewal; None: it needs it now, or is somebody else's."""
    claims = claims_of(token)
    if claims is None or now >= claims.renew_at:
        return None
    if (claims.pod_uid, claims.account_uid) != (pod.metadata.uid, account.metadata.uid):
        return None
    return claims.renew_at if not audience or audience in claims.audiences else None


class TokenRequests:
    """Asks the API for tokens. `client` is set when the node's process is put together."""

    def __init__(self) -> None:
        self.client: Client | None = None

    async def request(self, pod: Pod, audience: str, seconds: int) -> bytes:
        """A new token of the pod's account, bound to the pod.

        Raises:
            ConfigProblem: the API does not give one (now).
        """
        account = pod.spec.service_account_name or "default"
        if self.client is None:
            raise ConfigProblem("the node agent is not connected to the API yet")
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [audience] if audience else [],
                "expirationSeconds": seconds,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod.name, "uid": pod.metadata.uid},
            },
        }
        path = f"/api/v1/namespaces/{pod.namespace}/serviceaccounts/{account}/token"
        try:
            answer = await self.client.raw("POST", path, body=msgspec.json.encode(body))
        except (ApiError, OSError) as err:
            raise ConfigProblem(f"the API gave no token for the service account {account}: {err}") from None
        token: str = msgspec.json.decode(answer.body)["status"]["token"]
        return token.encode()
