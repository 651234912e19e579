"""Named tokens are ServiceAccounts, bindings and token requests, which every Kubernetes has."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from trimtab.api.core import ConfigMap, Secret
from trimtab.client import Client, Forbidden, HttpTransport, users
from trimtab.client.errors import ApiError
from trimtab.client.kubeconfig import ClusterAccess, read_kubeconfig


async def test_a_named_token_reads_what_its_role_says_until_it_is_revoked(kubeconfig: Path, namespace: str) -> None:
    access = read_kubeconfig(kubeconfig)
    name = namespace
    async with HttpTransport.for_kubeconfig(kubeconfig) as transport:
        admin = Client(transport)
        made, token = await users.create(admin, name, "view", [namespace], timedelta(hours=1))
        assert (made.role, made.namespaces, made.is_expired()) == ("view", (namespace,), False)
        assert name in [known.name for known in await users.tokens(admin)]

        async with HttpTransport(ClusterAccess(access.server, ca=access.ca, token=token)) as their_transport:
            theirs = Client(their_transport)
            await _allowed(theirs, namespace)
            with pytest.raises(Forbidden):
                await theirs.list(Secret, namespace)
            with pytest.raises(Forbidden):
                await theirs.list(ConfigMap, "kube-system")

            await users.revoke(admin, name)

            assert await _refusal(theirs, namespace) in (401, 403)
        assert name not in [known.name for known in await users.tokens(admin)]


async def _allowed(client: Client, namespace: str) -> None:
    """Waits until a reader is let in: the real server sees a new binding a moment later."""
    async with asyncio.timeout(60):
        while True:
            try:
                await client.list(ConfigMap, namespace)
                return
            except Forbidden:
                continue


async def _refusal(client: Client, namespace: str) -> int:
    """The status with which a reader is refused, once it is: the real server remembers a valid token for some seconds."""
    async with asyncio.timeout(60):
        while True:
            try:
                await client.list(ConfigMap, namespace)
            except ApiError as err:
                return err.status
